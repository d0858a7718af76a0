"""Names for new nodes and tensors, and the patterns by which a user means some of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import onnx

from onnx_udfc.errors import RequestError
from onnx_udfc.model.protos import subgraphs

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

_LOOKED_AT = 2000  # names that are compared with one that nothing has


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of the patterns (fnmatch) or fits one; a name with brackets in it is always itself."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


class Taken(set[str]):
    """Names that are taken; it remembers the last number of each, so that many of one name take linear time."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Take some names."""
        super().__init__(names)
        self.last: dict[str, int] = {}


def unique_name(name: str, taken: set[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... if it is taken; the result is added to `taken`.

    Args:
        name: as wanted.
        taken: a plain set is searched from 2 on each time; use `Taken` where a name may come often.
    """
    last = taken.last if isinstance(taken, Taken) else {}
    candidate, number = name, last.get(name, 1)
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    last[name] = number
    taken.add(candidate)
    return candidate


def check_named(option: str, patterns: Sequence[str], model: onnx.ModelProto, network: Network) -> None:
    """Refuse a pattern that nothing has: what it was meant for would silently be compressed.

    Args:
        option: that has the patterns.
        patterns: of node and tensor names.
        model: whose names count, also of what reading it folds away.
        network: whose names count too: nodes without one get theirs on reading.

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
            raise RequestError(f"--{option} {pattern}: no node or tensor has such a name{meant}")


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of nodes and tensors, also inside of If and Loop."""
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for inner in subgraphs(node):
            yield from _names(inner)
