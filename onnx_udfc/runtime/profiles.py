"""What onnxruntime's own profile tells of runs of a network: an event for each run of each node that it made."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from onnx_udfc.errors import ModelError, one_line
from onnx_udfc.outputs import no_scratch, scratch_folder
from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.sessions import Source, described, made_session, session_options

KERNEL = "_kernel_time"  # ends the name of a node's event
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
