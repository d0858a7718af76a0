"""States: inputs that take what the same network gave in the run before.

Recurrent networks that are run step by step (speech, video, noise suppression) have an input for each state and an
output for the next one. Nothing in a file says which belong together but their names and shapes: `h` and `hn`, `state`
and `stateN`, `r1i` and `r1o`, `cache_in` and `cache_out`, `hidden` and `new_hidden`. A pair is taken to be one where
the names differ by such a mark alone, the types are equal and no declared size contradicts, and where some other input
is left that is fed from outside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network


_PLACES = frozenset(("in", "out", "input", "output", "inputs", "outputs"))  # images go in and out, too
_TIMES = frozenset((
    "new", "next", "prev", "previous", "last", "past", "present", "cur", "current", "updated", "init", "initial",
    "final",
))  # fmt: skip
_STATES = re.compile(r"state|hidden|cache|mem|rnn|gru|lstm|buf|carry|context|^[hc]$")
_BEFORE, _AFTER = ("i", "0", "in"), ("o", "n", "1", "out")  # ends of names of a state and of the next one


def carried(network: Network) -> dict[str, str]:
    """Input name → the output that is fed back to it in the next run; empty where the network has no states."""
    inputs = {t.name: t for t in network.graph.inputs}
    outputs = {t.name: t for t in network.graph.outputs if t.name not in inputs}
    found: dict[str, str] = {}
    for belongs in (_same_but_for_marks, _same_but_for_ends):
        for name, tensor in inputs.items():
            free = (o for o in outputs.values() if name not in found and o.name not in found.values())
            alike = (o for o in free if tensor.dtype == o.dtype and _may_be_equal(tensor.shape, o.shape))
            next_one = next((o.name for o in alike if belongs(name, o.name)), None)
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


def _same_but_for_marks(name: str, output: str) -> bool:
    """Whether two names are one but for words like `new` or `out`, and those of a state."""
    first, before = _stem(name)
    second, after = _stem(output)
    marks = before | after
    return first == second != "" and bool(marks) and bool(marks & _TIMES or _STATES.search(first))


def _same_but_for_ends(name: str, output: str) -> bool:
    """Whether two names are one but for a last letter or digit that says which comes first."""
    first, second = _stem(name)[0], _stem(output)[0]
    starts = {first, *(first.removesuffix(end) for end in _BEFORE)} - {""}
    return any(second.endswith(end) and second.removesuffix(end) in starts for end in _AFTER)


def _stem(name: str) -> tuple[str, frozenset[str]]:
    """A name without the marks of what comes before or after, in small letters, and these marks."""
    last = re.split(r"[/:]", name.strip("/:"))[-1]
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", last)
    small = [word.lower() for word in words]
    return "".join(w for w in small if w not in _PLACES | _TIMES), frozenset(w for w in small if w in _PLACES | _TIMES)
