"""The smallest file whose loss stays below a bound: bisection over a budget, on a scale of ratios.

Every try is a whole compression of the same original, which is read and run once. A loss that is measured on labelled
inputs has an error of its own, and the smallest file that passes is the one that was lucky: a standard error of the
changed answers is added before it is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from onnx_udfc.decide.search import scaled
from onnx_udfc.errors import CheckError, GateError, RequestError

if TYPE_CHECKING:
    from onnx_udfc.evaluate.report import Report
    from onnx_udfc.goal import R
    from onnx_udfc.options import Options

TRIES = 8
LEAST, MOST = 0.03, 0.6  # of the bytes: between them the answer is looked for, where there is no budget
NEAR = 1.07  # two budgets of this ratio are one


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
