"""The smallest result that passes: bisection over the size that a budget allows.

`--budget macs=0.6 --require agreement>=0.97`: the network at the budget must pass. Then budgets between nothing and it
are halved, and the smallest network that passes is the result. `--max-loss 0.01`: the same on a scale of ratios, over
a budget of bytes if there is none. A loss that is measured on labelled inputs has an error of its own, and the smallest
file that passes is the one that was lucky: a standard error of the changed answers is added before it is compared.

Every try is a whole compression of the same original, which is read and run once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from onnx_udfc.errors import CheckError, GateError, RequestError

if TYPE_CHECKING:
    from onnx_udfc.evaluate.report import Report
    from onnx_udfc.goal import Reported
    from onnx_udfc.options import Budget, Options

T = TypeVar("T")
R = TypeVar("R", bound="Reported")

FIDELITY = ("agreement", "sqnr", "cosine")
TRIES = 8  # for a bound on the loss
LEAST, MOST = 0.03, 0.6  # of the bytes: between them the answer is looked for, where there is no budget
NEAR = 1.07  # two budgets of this ratio are one
HALVINGS = 5  # after the first: the budget is found to 1/32 of what was asked for


def asks_for_search(options: Options) -> bool:
    """Whether there is a budget to shrink and a lower bound on fidelity that stops it."""
    return bool(options.budget) and any(r.key in FIDELITY and r.op in (">=", ">") for r in options.require)


def smallest(options: Options, compressed: Callable[[Options], T]) -> tuple[T, Options]:
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
    for _ in range(HALVINGS):
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
        f"the smallest network that keeps {gates} on inputs of the check, of {HALVINGS + 1} tried: --budget {budget}"
        " (agreement on synthetic inputs is a weak guide to accuracy: docs/allocation.md)"
    )


def smallest_within(options: Options, compressed: Callable[[Options], R]) -> tuple[R, str]:
    """The smallest result whose loss stays below `max_loss`, and a note of how it was found.

    Budgets are upper limits.

    Raises:
        GateError: No try stayed below.
    """
    assert options.max_loss is not None
    base, low, high = _base(options)
    best: R | None = None
    lowest, made = math.inf, 0
    while made < TRIES - 1 and high > NEAR * low:
        middle, made = math.sqrt(low * high), made + 1
        found = _tried(scaled(base, middle), compressed)
        loss = None if found is None else upper_loss(found.report)
        lowest = min(lowest, math.inf if loss is None else loss)
        if loss is not None and loss <= options.max_loss:
            best, high = found, middle
        else:
            low = middle
    if best is None and not options.budget and options.bits == 32:
        found = _tried(replace(options, max_loss=None, bits=8), compressed)
        made += 1
        loss = None if found is None else upper_loss(found.report)
        if loss is not None and loss <= options.max_loss:
            best = found
    if best is None:
        known = "" if math.isinf(lowest) else f"; the least that was reached is {lowest:.3g}"
        raise GateError(f"--max-loss {options.max_loss:g}: no file that was tried stays below{known}")
    return best, f"--max-loss {options.max_loss:g}: the smallest of {made} files that were made"


def upper_loss(report: Report) -> float | None:
    """The loss of a result; one standard error above what labelled inputs show; None where it is unknown."""
    accuracy = report.accuracy
    if accuracy is None or not accuracy.original:
        return report.predicted_loss
    lost = max(0.0, 1 - accuracy.compressed / accuracy.original)
    agreement = report.fidelity.agreement
    changed = lost * accuracy.original if agreement is None else 1 - agreement
    return lost + math.sqrt(changed / accuracy.images) / accuracy.original


def _base(options: Options) -> tuple[Options, float, float]:
    """Options with a budget, and the factors of it between which to look."""
    plain = replace(options, max_loss=None)
    if options.budget:
        return plain, LEAST, 1.0
    return replace(plain, bits="auto" if options.bits == 32 else options.bits, budget={"bytes": "1.0"}), LEAST, MOST


def _tried(options: Options, compressed: Callable[[Options], R]) -> R | None:
    """The result; None where the budget cannot be met, or what came of it is certainly bad."""
    try:
        return compressed(options)
    except (RequestError, CheckError, GateError):
        return None
