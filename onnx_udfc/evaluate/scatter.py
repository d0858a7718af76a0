"""A scatter plot of words and lines that stay sharp and readable at any width: no letter and no dot is stretched.

The field is a box whose dots and ticks are placed in percent of it. Dots that stand out carry a number, and a list
below says what each is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

MOST_TICKS = 6
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
MARGIN = 0.06  # of the span, beyond the outermost dots


@dataclass(frozen=True)
class Dot:
    """A point.

    Attributes:
        x: To the right, from 0 up.
        y: Upward.
        title: What it is, and its figures.
        kind: `plain`, `front` (nothing is better and cheaper), `chosen`, or `original`.
        mark: What stands in it; empty for nothing.
    """

    x: float
    y: float
    title: str
    kind: Literal["plain", "front", "chosen", "original"] = "plain"
    mark: str = ""


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers within low and high (low < high), at most MOST_TICKS."""
    rough = (high - low) / (MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(s for s in STEPS if s * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def scatter(dots: Sequence[Dot], across: str, up: str) -> str:
    """Return the plot of one or more dots.

    Later dots lie above earlier ones. `across` and `up` say what is to the right and upward, and its unit.
    """
    right = (1 + MARGIN) * max(d.x for d in dots) or 1.0
    least, most = min(d.y for d in dots), max(d.y for d in dots)
    margin = MARGIN * (most - least) or 0.05 * abs(most) or 0.5
    low, high = least - margin, most + margin
    columns, rows = ticks(0.0, right), ticks(low, high)

    def left(x: float) -> str:
        return f"left:{100 * x / right:.2f}%"

    def top(y: float) -> str:
        return f"top:{100 * (high - y) / (high - low):.2f}%"

    lines = "".join(f'<i class=down style="{left(x)}"></i>' for x in columns)
    lines += "".join(f'<i class=over style="{top(y)}"></i>' for y in rows)
    points = "".join(
        f'<b class="dot {d.kind}" style="{left(d.x)};{top(d.y)}" title="{escape(d.title)}">{escape(d.mark)}</b>'
        for d in dots
    )
    marks = "".join(f'<li style="{top(y)}">{y:g}</li>' for y in rows)
    below = "".join(f'<li style="{left(x)}">{x:g}</li>' for x in columns)
    told = escape(f"{up} against {across}: " + "; ".join(d.title for d in dots if d.kind != "plain"))
    return (
        f"<figure class=plot><p class=up>{escape(up)}</p><ol class=up>{marks}</ol>"
        f'<div class=field role=img aria-label="{told}">{lines}{points}</div>'
        f"<ol class=across>{below}</ol><p class=across>{escape(across)}</p></figure>"
    )
