"""Names for new nodes and tensors, and the patterns by which a user means some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of the patterns (fnmatch) or fits one; a name with brackets in it is always itself."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


class Taken(set[str]):
    """Names that are taken; it remembers the last number of each, so that many of one name take linear time."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Take some names."""
        super().__init__(names)
        self.last: dict[str, int] = {}


def taken_in(graph: gs.Graph) -> Taken:
    """The names of all tensors and nodes of a graph."""
    return Taken([*graph.tensors(), *(node.name for node in graph.nodes)])


def names_in(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name of a tensor or a node in the graph and its subgraphs."""
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        yield value.name
    for sparse in graph.sparse_initializer:
        yield sparse.values.name
    for node in graph.node:
        yield node.name
        yield from [*node.input, *node.output]
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from names_in(inner)


def unique_name(name: str, taken: set[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... if it is taken; the result is added to `taken`.

    A plain set is searched from 2 on each time; use `Taken` where a name may come often.
    """
    last = taken.last if isinstance(taken, Taken) else {}
    candidate, number = name, last.get(name, 1)
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    last[name] = number
    taken.add(candidate)
    return candidate
