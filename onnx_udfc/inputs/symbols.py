"""How much a reader of text reads: the different symbols that it names in lines of one kind.

A classifier's inputs are balanced over its classes; the classes of a reader are symbols, and a third of the lines shows
few of those of a reader of Chinese.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.inputs.reaction import probabilities, read_steps

SURE = 0.5  # probability above which a symbol counts as read


def different_symbols(values: NDArray[Any]) -> int:
    """Number of different symbols that are read in lines, by scores (n, steps, C); 0 where they are none."""
    steps = read_steps(values)
    p = probabilities(steps.astype(np.float64)) if steps.ndim == 3 else None
    if p is None or p.shape != (steps.shape[0] * steps.shape[1], steps.shape[2]):
        return 0
    return len(np.unique(p.argmax(1)[p.max(1) > SURE]))
