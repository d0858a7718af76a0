"""Refusing patterns of names that nothing in a model has."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import onnx

from onnx_udfc.errors import RequestError
from onnx_udfc.model.names import matches
from onnx_udfc.model.protos import subgraphs

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

_LOOKED_AT = 2000  # names that are compared with one that nothing has


def check_named(patterns: Sequence[str], model: onnx.ModelProto, network: Network) -> None:
    """Refuse a pattern that nothing has: what it was meant for would silently be compressed.

    Names of the model count that reading it folds away, and those that nodes without one get on reading.

    Raises:
        RequestError: nothing is named so; the message has the name that comes nearest.
    """
    if not patterns:
        return
    names = set(_names(model.graph)) | {n.name for n in network.graph.nodes} | set(network.graph.tensors())
    for pattern in patterns:
        if not any(matches(name, (pattern,)) for name in names):
            near = difflib.get_close_matches(pattern.strip("*?"), sorted(names)[:_LOOKED_AT], 1)
            meant = f"; did you mean {near[0]}?" if near else "; see onnx-udfc inspect"
            raise RequestError(f"--skip {pattern}: no node or tensor has such a name{meant}")


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of nodes and tensors, also inside of If and Loop."""
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for inner in subgraphs(node):
            yield from _names(inner)
