"""Sessions of parts of a network, one for all parts that compute the same.

Networks repeat their blocks, and a compressed one is run like its original: most of what lies between two layers was
opened before under other names. Parts are told apart by what is in them, with tensors numbered as they appear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.sessions import open_session, packed

LARGEST = 1 << 20  # bytes of a part that is remembered
MOST = 64  # sessions that are remembered


class Piece:
    """An open part of a network under the names of its first user, and what they are called by the others."""

    def __init__(self, session: Any, names: Mapping[str, str]) -> None:
        """Args: the session, and name of a tensor → its name in the session."""
        self._session, self._names = session, names

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> list[Any]:
        """The outputs for some inputs, as a session gives them."""
        fed = {self._names.get(name, name): value for name, value in inputs.items()}
        return list(self._session.run([self._names.get(name, name) for name in outputs], fed))


class Pieces:
    """The sessions that are open."""

    def __init__(self, provider: Provider = CPU) -> None:
        """Start with none; args: what runs them."""
        self._provider = provider
        self._open: dict[bytes, Any] = {}

    def piece(self, part: onnx.ModelProto) -> Piece:
        """An open part; the model may be changed.

        Raises:
            RequestError: the provider does not load, or does not take it.
            ModelError: onnxruntime does not load it.
        """
        tensors, attributes = part.graph.initializer, [a for node in part.graph.node for a in node.attribute]
        large = sum(tensor.ByteSize() for tensor in tensors) > LARGEST or any(t.external_data for t in tensors)
        if large or len(self._open) >= MOST or any(a.HasField("g") or a.graphs for a in attributes):
            return Piece(open_session(packed(part), self._provider, 1), {})
        names = _number(part.graph)
        key = part.SerializeToString(deterministic=True)
        if key not in self._open:
            self._open[key] = open_session(key, self._provider, 1)
        return Piece(self._open[key], names)


def _number(graph: onnx.GraphProto) -> dict[str, str]:
    """Call the tensors of a graph by their numbers; gives their names before → after."""
    names: dict[str, str] = {}
    for i, node in enumerate(graph.node):
        node.name, node.doc_string = f"n{i}", ""
        for side in (node.input, node.output):
            for at, name in enumerate(side):
                if name:
                    side[at] = names.setdefault(name, f"t{len(names)}")
    for values in (graph.input, graph.output, graph.initializer):
        for value in values:
            value.name = names.setdefault(value.name, f"t{len(names)}")
    for kept in (graph.input, graph.initializer):
        ordered = sorted(kept, key=lambda value: int(value.name[1:]))
        del kept[:]
        kept.extend(ordered)
    return names
