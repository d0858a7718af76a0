"""What onnxruntime's own profile tells of runs of a network: an event for each run of each node that it made.

Read off it are what nodes take, the slowest of them, and which another provider ran than the one that was asked for.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_udfc.errors import ModelError, one_line
from onnx_udfc.outputs import no_scratch, scratch_folder
from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.sessions import Source, described, made_session, session_options

KERNEL = "_kernel_time"  # ends the name of a node's event
COUNT = 10  # nodes that are the slowest
LEAST, MOST = 3, 200  # runs that are counted, beside the first, which warms up

Event = Mapping[str, Any]


def profile(
    model: Source,
    feed: Mapping[str, Any],
    provider: Provider = CPU,
    threads: int | None = 1,
    *,
    seconds: float | None = None,
) -> list[Event]:
    """Events of one run, or of at least 1 + LEAST runs for so many `seconds`.

    Raises:
        ModelError: It does not load or run.
        RequestError: The provider does not load, or there is no room for the profile.
    """
    options = session_options(threads)
    options.enable_profiling = True
    with scratch_folder() as folder:
        options.profile_file_prefix = str(folder / "profile")
        session = made_session(model, options, provider)
        start, done = time.perf_counter(), 0
        try:
            while not done or (seconds is not None and _goes_on(done, time.perf_counter() - start, seconds)):
                session.run(None, dict(feed))
                done += 1
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise ModelError(f"{described(model)}: onnxruntime cannot run it ({one_line(error)})") from error
        try:
            events: list[Event] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # onnxruntime does not mind what it cannot write
            raise no_scratch("onnxruntime's profile is not whole") from error
        return events


def _goes_on(done: int, passed: float, seconds: float) -> bool:
    return done <= LEAST or (done < MOST and passed < seconds)


def of_nodes(events: Iterable[Event]) -> Iterator[tuple[str, Event]]:
    """Name of a node of the graph that runs, and an event of its kernel."""
    for event in events:
        name = str(event["name"])
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            yield name.removesuffix(KERNEL), event


def durations(events: Iterable[Event]) -> dict[str, list[float]]:
    """Name of a node → milliseconds of every run."""
    taken: dict[str, list[float]] = {}
    for node, event in of_nodes(events):
        taken.setdefault(node, []).append(event["dur"] / 1000)
    return taken


@dataclass(frozen=True)
class Fallbacks:
    """What one run of a network did elsewhere.

    Attributes:
        nodes: names of the nodes of the loaded graph that another provider ran, in order.
        operators: how many of them there are of each operator.
        copies: how often a tensor was copied between the device and the processor, but for inputs and outputs.
    """

    nodes: tuple[str, ...]
    operators: Mapping[str, int]
    copies: int


def fallbacks(model: Source, feed: Mapping[str, Any], provider: Provider, threads: int | None = None) -> Fallbacks:
    """Run a network once and look where its nodes ran.

    Raises:
        RequestError: The provider does not load.
        ModelError: The network does not load or run.
    """
    return read_profile(profile(model, feed, provider, threads), provider.chain[0])


def read_profile(events: Iterable[Event], asked: str) -> Fallbacks:
    """What a profile tells."""
    nodes: dict[str, str] = {}
    copies = 0
    for node, event in of_nodes(events):
        told = event.get("args", {})
        operator = str(told.get("op_name", ""))
        if operator.startswith("Memcpy"):
            copies += 1
        elif told.get("provider") != asked:
            nodes[node] = operator
    return Fallbacks(tuple(nodes), dict(sorted(Counter(nodes.values()).items())), copies)


@dataclass(frozen=True)
class NodeTime:
    """A node of the optimized graph.

    Fused ones have the name of their first or of what they write. The time is the median of one run; the share, 0 to 1,
    is of what all nodes take.
    """

    name: str
    op_type: str
    milliseconds: float
    share: float


def slowest(
    model: Source, feed: Mapping[str, Any], provider: Provider = CPU, threads: int = 1, seconds: float = 0.25
) -> tuple[NodeTime, ...]:
    """Return the COUNT nodes that take longest, the slowest first.

    Three runs are counted at least.

    Raises:
        ModelError: It does not load or run.
        RequestError: The provider does not load.
    """
    return ranked(profile(model, feed, provider, threads, seconds=seconds))


def ranked(events: Iterable[Event]) -> tuple[NodeTime, ...]:
    """The slowest nodes of a profile's events; of a node's first run, which warms up, nothing is taken."""
    events = list(events)
    operators = {node: str(event.get("args", {}).get("op_name", "")) for node, event in of_nodes(events)}
    middle = {node: statistics.median(times[1:] or times) for node, times in durations(events).items()}
    total = sum(middle.values())
    first = sorted(middle, key=lambda node: (-middle[node], node))[:COUNT]
    return tuple(NodeTime(n, operators[n], round(middle[n], 4), middle[n] / total if total else 0.0) for n in first)
