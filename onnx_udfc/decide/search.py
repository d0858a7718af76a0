"""The smallest network that still passes a gate: bisection over the size that a budget allows.

`--budget macs=0.6 --require agreement>=0.97`: the network at the budget must pass. Then budgets between nothing and it
are halved, and the smallest network that passes is the result. Every try is a whole compression, but the original is
read and traced once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from onnx_udfc.errors import GateError, RequestError

if TYPE_CHECKING:
    from onnx_udfc.options import Budget, Options

R = TypeVar("R")

FIDELITY = ("agreement", "sqnr", "cosine")
TRIES = 5  # after the first: the budget is found to 1/32 of what was asked for


def asks_for_search(options: Options) -> bool:
    """Whether there is a budget to shrink and a lower bound on fidelity that stops it."""
    return bool(options.budget) and any(r.key in FIDELITY and r.op in (">=", ">") for r in options.require)


def smallest(options: Options, compressed: Callable[[Options], R]) -> tuple[R, Options]:
    """Find the smallest network that passes the gates.

    Budgets are upper limits; all are shrunk by the same factor. `compressed` raises GateError where a gate is not met.

    Returns:
        The network, and the options that gave it.

    Raises:
        GateError: the gates are not met even at the budgets that were asked for.
        RequestError: the budgets cannot be reached.
    """
    best, found = compressed(options), options
    low, high = 0.0, 1.0
    for _ in range(TRIES):
        middle = (low + high) / 2
        trial = scaled(options, middle)
        try:
            best, found = compressed(trial), trial
            high = middle
        except (GateError, RequestError):
            low = middle
    return best, found


def scaled(options: Options, factor: float) -> Options:
    """The same with budgets times a factor."""
    return replace(options, budget={b.key: _amount(b, factor) for b in options.budgets()})


def _amount(budget: Budget, factor: float) -> str:
    """A budget's amount times a factor, as it is written on the command line."""
    value = budget.amount * factor
    return f"{value:.6g}" if budget.fraction else f"{value:.0f}"


def search_note(asked: Options, found: Options) -> str:
    """What was found, in words."""
    gates = ", ".join(str(r) for r in asked.require)
    budget = ", ".join(f"{key}={value}" for key, value in found.budget.items())
    return (
        f"the smallest network that keeps {gates} on inputs of the check, of {TRIES + 1} tried: --budget {budget}"
        " (agreement on synthetic inputs is a weak guide to accuracy: docs/allocation.md)"
    )
