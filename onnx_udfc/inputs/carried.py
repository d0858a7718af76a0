"""States: inputs that take what the same network gave in the run before.

Recurrent networks that are run step by step (speech, video, noise suppression) have an input for each state and an
output for the next one. Mostly their names tell which belong together: `h` and `hn`, `state` and `stateN`, `r1i` and
`r1o`, `cache_in` and `cache_out`, `hidden` and `new_hidden`. Where converters gave names of their own, the recurrent
layers tell: what they begin with comes from the input alone, and what they end with is all that the output holds. A
pair is taken to be one where the names differ by such a mark alone, or the layers are the same, the types are equal and
no declared size contradicts, and where some other input is left that is fed from outside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnx_udfc.model.graph import MOVES

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnx_udfc.model.network import Network


_PLACES = frozenset(("in", "out", "input", "output", "inputs", "outputs"))  # images go in and out, too
_TIMES = frozenset((
    "new", "next", "prev", "previous", "last", "past", "present", "cur", "current", "updated", "init", "initial",
    "final",
))  # fmt: skip
_STATES = re.compile(r"state|hidden|cache|mem|rnn|gru|lstm|buf|carry|context|^[hc]$")
RECURRENT = {"LSTM": (1, 2), "GRU": (1,), "RNN": (1,)}  # outputs of the last step: h, and c
_BEGINS = 4  # how much further back among the inputs lies what such an output begins with
_BEFORE, _AFTER = ("i", "0", "in"), ("o", "n", "1", "out")  # ends of names of a state and of the next one


def carried(network: Network) -> dict[str, str]:
    """Input name → the output that is fed back to it in the next run; empty where the network has no states."""
    inputs = {t.name: t for t in network.graph.inputs}
    outputs = {t.name: t for t in network.graph.outputs if t.name not in inputs}
    found: dict[str, str] = {}
    for belongs in (_same_but_for_marks, _same_but_for_ends, _same_memory):
        for name, tensor in inputs.items():
            free = (o for o in outputs.values() if name not in found and o.name not in found.values())
            alike = (o for o in free if tensor.dtype == o.dtype and _may_be_equal(tensor.shape, o.shape))
            next_one = next((o.name for o in alike if belongs(tensor, o)), None)
            if next_one is not None:
                found[name] = next_one
    return found if len(found) < len(inputs) else {}


def _may_be_equal(first: Sequence[Any] | None, second: Sequence[Any] | None) -> bool:
    """Whether declared shapes may be one; what is known of neither may be anything, but a state is no scalar."""
    if first is None or second is None:
        return first is not None and len(first) > 0
    return len(first) == len(second) > 0 and all(
        a == b for a, b in zip(first, second, strict=True) if isinstance(a, int) and isinstance(b, int)
    )


def _same_but_for_marks(before_it: gs.Tensor, after_it: gs.Tensor) -> bool:
    """Whether two names are one but for words like `new` or `out`, and those of a state."""
    first, before = _stem(before_it.name)
    second, after = _stem(after_it.name)
    marks = before | after
    return first == second != "" and bool(marks) and bool(marks & _TIMES or _STATES.search(first))


def _same_but_for_ends(before: gs.Tensor, after: gs.Tensor) -> bool:
    """Whether two names are one but for a last letter or digit that says which comes first."""
    first, second = _stem(before.name)[0], _stem(after.name)[0]
    starts = {first, *(first.removesuffix(end) for end in _BEFORE)} - {""}
    return any(second.endswith(end) and second.removesuffix(end) in starts for end in _AFTER)


def _same_memory(before: gs.Tensor, after: gs.Tensor) -> bool:
    """Whether an output holds what recurrent layers end with, and nothing else, that begin with an input."""
    begun = _begun_with(before)
    return bool(begun) and begun == _ended_with(after)


def _begun_with(tensor: gs.Tensor) -> set[tuple[int, int]]:
    """Recurrent nodes that begin with parts of a tensor, and which outputs follow; empty where others read it, too."""
    found, pending = set[tuple[int, int]](), [tensor]
    while pending:
        part = pending.pop()
        for node in part.outputs:
            ends = [k for k in RECURRENT.get(node.op, ()) if any(t is part for t in node.inputs[k + _BEGINS :][:1])]
            if node.op in MOVES:
                pending += node.outputs
            elif not ends:
                return set()
            found |= {(id(node), k) for k in ends}
    return found


def _ended_with(tensor: gs.Tensor) -> set[tuple[int, int]]:
    """Recurrent nodes whose last steps a tensor holds, and which of their outputs; empty where it holds more."""
    found, pending = set[tuple[int, int]](), [tensor]
    while pending:
        part = pending.pop()
        node = part.inputs[0] if part.inputs else None
        place = next(i for i, t in enumerate(node.outputs) if t is part) if node is not None else 0
        if node is not None and node.op in MOVES:
            pending += _moved(node)
        elif node is not None and place in RECURRENT.get(node.op, ()):
            found.add((id(node), place))
        else:
            return set()
    return found


def _moved(node: gs.Node) -> list[gs.Tensor]:
    """The inputs of an operator that moves values, less those that say where to."""
    return list(node.inputs if node.op == "Concat" else node.inputs[:1])


def _stem(name: str) -> tuple[str, frozenset[str]]:
    """A name without the marks of what comes before or after, in small letters, and these marks."""
    last = re.split(r"[/:]", name.strip("/:"))[-1]
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", last)
    small = [word.lower() for word in words]
    return "".join(w for w in small if w not in _PLACES | _TIMES), frozenset(w for w in small if w in _PLACES | _TIMES)
