"""Where a network spends its time: the slowest nodes of the graph that onnxruntime made of it, from its own profile."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx_udfc.runtime.profiles import Event, durations, of_nodes, profile
from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.sessions import Source

COUNT = 10


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
