"""Where a network spends its time: the slowest nodes of the graph that onnxruntime made of it, from its own profile."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_udfc.errors import ModelError, one_line
from onnx_udfc.outputs import temporary_folder
from onnx_udfc.runtime.layer_times import KERNEL, LEAST, MOST
from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.sessions import Source, described, made_session, session_options

COUNT = 10


@dataclass(frozen=True)
class NodeTime:
    """A node of the optimized graph.

    Attributes:
        name: Of the node; fused ones have that of their first or of what they write.
        op_type: The operator that runs.
        milliseconds: Of one run, the median.
        share: Of what all nodes take, 0 to 1.
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
    options = session_options(threads)
    options.enable_profiling = True
    with temporary_folder(tempfile.gettempdir()) as folder:
        options.profile_file_prefix = str(folder / "profile")
        session = made_session(model, options, provider)
        start, done = time.perf_counter(), 0
        try:
            while done <= LEAST or (done < MOST and time.perf_counter() - start < seconds):
                session.run(None, dict(feed))
                done += 1
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise ModelError(f"{described(model)}: onnxruntime cannot run it ({one_line(error)})") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return ranked(events)


def ranked(events: Iterable[Mapping[str, Any]]) -> tuple[NodeTime, ...]:
    """The slowest nodes of a profile's events; of a node's first run, which warms up, nothing is taken."""
    taken, operators = defaultdict[str, list[float]](list), dict[str, str]()
    for event in events:
        name = str(event["name"])
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            node = name.removesuffix(KERNEL)
            taken[node].append(event["dur"] / 1000)
            operators[node] = str(event.get("args", {}).get("op_name", ""))
    middle = {node: statistics.median(times[1:] or times) for node, times in taken.items()}
    total = sum(middle.values())
    first = sorted(middle, key=lambda node: (-middle[node], node))[:COUNT]
    return tuple(NodeTime(n, operators[n], round(middle[n], 4), middle[n] / total if total else 0.0) for n in first)
