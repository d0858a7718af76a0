"""How errors of a layer's outputs count: in units of each channel, or by what the network's answers make of them.

With J the derivative of the answers by the outputs at a position, an error e there moves the answers by |J e|². On the
mean over positions and inputs that is eᵀ F e, F = E[JᵀJ], the Fisher information where the answers are log
probabilities (natural gradient, Amari 1998; by layers: Martens and Grosse, arXiv 1503.05671). Few inputs do not show
all directions that matter, so

    M = (1 − α) F / tr(F Σ) + α D / tr(D Σ)        D = diag(1 / unit²), Σ the outputs' covariance

counts all of a layer's variance as one. What two halves of the inputs do not agree on is not believed: with F₁ and F₂
of either, o their parts off the diagonal,

    F = diag(F) + w o        w = ⟨o₁, o₂⟩ / ‖(o₁ + o₂) / 2‖²

(the linear filter with the least squared error; a thousand classes and a few dozen inputs leave nearly nothing of it).
Its root R, Rᵀ R = M, makes errors plain: |R e|².

Between layers, tr(F Σ) says how far errors as large as all that a layer writes move the answers, if they are another
at every position. Where layers behind read many positions together it is little, for they cancel; where what is passed
on is a small part of what is written (the tail of a Swish behind one large common direction) it is much. With m that
of a layer, over the geometric mean of all, and d the share of the layers that lie before it,

    w = max(1, m)^d

is what a lost share of the layer's variance counts: the refits of the layers behind repair much of what is lost early,
and what is lost in parts that hang together does not cancel, so that no layer counts less than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics import products
from onnx_udfc.numerics.moments import Array, column_variances

Double = NDArray[np.float64]
Index = NDArray[np.int64]

ROWS, WIDE = 1024, 256  # rows that a mean is taken over, of so many channels and more
ALONE = 0.3  # α: the part of what counts that hangs on no answer


@dataclass(frozen=True)
class Metric:
    """How errors of the outputs count.

    Attributes:
        unit: (O,) the error of each channel that counts as one, where the answers' part is not known.
        matrix: (O, O) M of the module's equation; None where it is not known.
        groups: of the layer, whose outputs do not mix.
    """

    unit: Double
    matrix: Double | None = None
    groups: int = 1

    def among(self, kept: Index) -> Metric:
        """Of some of the channels of a layer with one group."""
        return Metric(self.unit[kept], None if self.matrix is None else self.matrix[np.ix_(kept, kept)])

    def scaled(self, rows: Double) -> Double:
        """Rows (g, o, n) of the outputs such that their errors count as they are."""
        if self.matrix is None:
            return np.asarray(rows / self.unit.reshape(self.groups, -1, 1))
        return np.asarray(np.stack([root @ part for root, part in zip(self._roots, rows, strict=True)]))

    def of_outputs(self, rows: Array) -> Array:
        """Samples (n, O) of the outputs of a layer with one group such that their errors count as they are."""
        if self.matrix is None:
            return np.asarray(rows / self.unit.astype(np.float32), np.float32)
        return np.asarray(products.product(rows, self._roots[0].T.astype(np.float32)), np.float32)

    def unscaled(self, rows: Double) -> Double:
        """The inverse of `scaled`: rows (g, o, n) again as they are."""
        if self.matrix is None:
            return np.asarray(rows * self.unit.reshape(self.groups, -1, 1))
        return np.asarray(np.stack([np.linalg.solve(r, part) for r, part in zip(self._roots, rows, strict=True)]))

    @cached_property
    def _roots(self) -> list[Double]:
        """R of each group's outputs, upper triangular."""
        assert self.matrix is not None
        each = len(self.unit) // self.groups
        blocks = [self.matrix[i : i + each, i : i + each] for i in range(0, len(self.unit), each)]
        return [np.asarray(np.linalg.cholesky(block).T, np.float64) for block in blocks]


def agreed(first: Double, second: Double) -> Double:
    """F (O, O) from those of two halves of the inputs."""
    whole = (first + second) / 2
    off = 1 - np.eye(len(whole))
    power = float(np.square(whole * off).sum())
    weight = float((first * second * off).sum()) / power if power > 0 else 0.0
    return np.asarray(whole * (off * min(1.0, max(0.0, weight)) + np.eye(len(whole))))


def movement(outputs: Array, information: Array | Double) -> float:
    """tr(F Σ): how far all that a layer writes, (n, O), moves the answers.

    `information` is F (O, O), or only its diagonal (O,); what is not finite gives no finite number.
    """
    if information.ndim == 1:
        return float(information.astype(np.float64) @ column_variances(outputs))
    some = _some(_centred(outputs))
    return float(np.vdot(products.product(some, information.astype(outputs.dtype)), some)) / max(1, len(some))


def importances(movements: Sequence[float]) -> list[float]:
    """The weights w of the module's equation of layers in their order, from the movement of each, which is above 0."""
    logs = np.log(np.asarray(movements, np.float64))
    above = np.maximum(logs - logs.mean(), 0.0) if len(logs) else logs
    return [float(w) for w in np.exp(above * np.arange(len(logs)) / max(1, len(logs)))]


def metric(
    unit: Double, outputs: Array, information: Array | Double | None, groups: int = 1, moved: float | None = None
) -> Metric:
    """The metric of a layer.

    Args:
        unit: (O,) the error of each channel that counts as one by itself.
        outputs: (n, O) what the layer writes to.
        information: (O, O) F of the module's equation, in the outputs' units; None if it is not known.
        groups: of the layer.
        moved: tr(F Σ), where it is known: see `movement`.
    """
    if information is None or information.ndim == 1 or not np.isfinite(information).all():
        return Metric(unit, None, groups)
    moved, centred = movement(outputs, information) if moved is None else moved, _centred(outputs)
    alone = float((np.square(centred / unit.astype(outputs.dtype)).mean(0, dtype=np.float64)).sum())
    if not (np.isfinite(moved) and moved > 0 and alone > 0):
        return Metric(unit, None, groups)
    floor = np.diag(ALONE / (np.square(unit) * alone))
    return Metric(unit, np.asarray((1 - ALONE) * information / moved + floor), groups)


def _centred(outputs: Array) -> Array:
    return np.asarray(outputs - outputs.mean(0, dtype=np.float64).astype(outputs.dtype))


def _some(rows: Array) -> Array:
    """Rows (n, O) as they are, or ROWS of them at random where their products would take long.

    The mean that is taken over them is known to 3 % then; it only says how much the part that hangs on no answer
    weighs beside the others.
    """
    if len(rows) <= ROWS or rows.shape[1] < WIDE:
        return rows
    return rows[np.sort(np.random.default_rng(len(rows)).permutation(len(rows))[:ROWS])]
