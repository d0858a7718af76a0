"""Variants of a few real pictures: parts of one beside another, one over another, parts of one made larger.

A layer is fitted on the positions that its inputs show. Of a few small pictures these are fewer than the layer has
channels, so that it fits them and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.breeding import children

if TYPE_CHECKING:
    from onnx_udfc.inputs.kinds import Wanted


def with_variants(
    wanted: tuple[Wanted, ...], values: dict[str, NDArray[Any]], count: int, seed: int
) -> dict[str, NDArray[Any]]:
    """The values of a network with one input of pictures, and variants of them up to `count`; others as they are.

    Real values have their samples along the first axis.
    """
    if len(wanted) != 1 or wanted[0].kind not in ("picture", "bytes") or wanted[0].spec.axis != 0:
        return values
    ((name, real),) = values.items()
    batch = wanted[0].spec.batch or 1
    missing = count // batch * batch - len(real)
    if missing <= 0 or len(real) < 2 or real.ndim != 4:
        return values
    rng = np.random.default_rng(seed)
    pictures = np.moveaxis(real, -1, 1) if wanted[0].channels_last else real
    first, second = rng.integers(len(real), size=(2, missing))
    born = np.clip(children(pictures[first], pictures[second], rng), real.min(), real.max())
    born = np.moveaxis(born, 1, -1) if wanted[0].channels_last else born
    return {name: np.concatenate([real, born.astype(real.dtype)])}
