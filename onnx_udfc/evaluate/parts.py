"""How near one part of an output is: what reports hold of it, which imports nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PartFidelity:
    """How near one part of an output moves with the input, column by column (class, channel or coordinate).

    All figures are None where the original does not move on the inputs that were fed: nothing was measured.

    Attributes:
        part: values, scores (as logits where they lie between 0 and 1) or boxes.
        moving: Share of the columns that move in the original.
        sqnr_db: Signal to noise of the median column, the signal being its movement.
        worst_db: The same of the worst column.
        worst_column: Its index.
        cosine: Of the movements (a correlation), of the median column.
        worst_cosine: The same of the worst column.
        still: Whether the compressed network does not move at all where the original does.
    """

    part: str
    moving: float = 0.0
    sqnr_db: float | None = None
    worst_db: float | None = None
    worst_column: int | None = None
    cosine: float | None = None
    worst_cosine: float | None = None
    still: bool = False
