"""Which nodes another provider runs than the one that was asked for: from the profile of one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx_udfc.runtime.profiles import Event, of_nodes, profile
from onnx_udfc.runtime.providers import Provider
from onnx_udfc.runtime.sessions import Source


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
