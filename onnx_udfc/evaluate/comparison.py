"""How near one network's outputs are to another's, summed over batches in float64.

SQNR   = 10·log10(Σ y² / Σ (y − ŷ)²)  in dB, within ±MAX_DB (identical is MAX_DB)
cosine = Σ y·ŷ / √(Σ y² · Σ ŷ²)
agreement = share of samples with the same argmax, where an output looks like class scores
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnx_udfc.errors import CheckError
from onnx_udfc.evaluate.report import MAX_DB, Fidelity

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

Feeds = Iterable[Mapping[str, "NDArray[Any]"]]


@dataclass(frozen=True)
class OutputComparison:
    """One output of both networks over all samples; `agreement` is None where it does not look like class scores."""

    name: str
    sqnr_db: float
    cosine: float
    max_difference: float
    agreement: float | None


@dataclass
class Running:
    """Sums over batches for one output; see the module's equations."""

    name: str
    signal: float = 0.0
    noise: float = 0.0
    other: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    same: int = 0
    samples: int = 0
    classes: bool = True

    def add(self, y: NDArray[Any], z: NDArray[Any]) -> None:
        """Take in a batch of the original's output y and of the compressed one's z, of the same shape.

        Raises:
            CheckError: The shapes differ, or z is not finite where y is.
        """
        if y.shape != z.shape:
            raise CheckError(f"output {self.name!r}: shape {z.shape} instead of the original's {y.shape}")
        self._count(y, z)
        a, b = y.astype(np.float64).ravel(), z.astype(np.float64).ravel()
        finite = np.isfinite(a)
        a, b = a[finite], b[finite]
        if not np.isfinite(b).all():
            raise CheckError(f"output {self.name!r} is not finite after compression")
        self.signal += float(a @ a)
        self.other += float(b @ b)
        self.product += float(a @ b)
        difference = a - b
        self.noise += float(difference @ difference)
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))

    def _count(self, y: NDArray[Any], z: NDArray[Any]) -> None:
        self.classes = self.classes and looks_like_scores(y)
        if self.classes:
            first, second = y.reshape(len(y), -1).argmax(axis=1), z.reshape(len(z), -1).argmax(axis=1)
            self.same += int((first == second).sum())
            self.samples += len(y)

    def result(self) -> OutputComparison:
        """Return the figures of what was taken in."""
        agreement = self.same / self.samples if self.classes and self.samples else None
        sqnr = decibels(self.signal, self.noise)
        return OutputComparison(self.name, sqnr, _cosine(self), self.largest, agreement)


def decibels(signal: float, noise: float) -> float:
    """Return 10·log10(signal / noise) of two sums of squares, within ±MAX_DB."""
    if noise <= 0:
        return MAX_DB
    if signal <= 0:
        return -MAX_DB
    return min(MAX_DB, max(-MAX_DB, 10 * (math.log10(signal) - math.log10(noise))))


def _cosine(sums: Running) -> float:
    if sums.noise == 0:
        return 1.0
    scale = math.sqrt(sums.signal) * math.sqrt(sums.other)
    return min(1.0, max(-1.0, sums.product / scale)) if scale else 0.0


def looks_like_scores(y: NDArray[Any]) -> bool:
    """Return whether y is (samples, classes) of a floating type, trailing axes of length 1 allowed."""
    return y.ndim >= 2 and y.dtype.kind == "f" and y.shape[1] > 1 and math.prod(y.shape[2:]) == 1


@dataclass
class Comparator:
    """Compares both networks' outputs batch by batch."""

    names: Sequence[str]
    runs: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs = [Running(n) for n in self.names]

    def add(self, first: Sequence[Any], second: Sequence[Any]) -> None:
        """Take in one run's outputs of both; what is not a numeric tensor is passed over.

        Raises:
            CheckError: As Running.add.
        """
        for run, y, z in zip(self.runs, first, second, strict=True):
            if isinstance(y, np.ndarray) and isinstance(z, np.ndarray) and y.dtype.kind in "fiub":
                run.add(y, z)

    def results(self) -> tuple[OutputComparison, ...]:
        """Return one comparison for each output."""
        return tuple(r.result() for r in self.runs)


def output_names(original: InferenceSession, compressed: InferenceSession) -> list[str]:
    """Return the common output names, which must be all.

    Raises:
        CheckError: They differ.
    """
    first, second = [o.name for o in original.get_outputs()], [o.name for o in compressed.get_outputs()]
    if sorted(first) != sorted(second):
        raise CheckError(f"the outputs differ: {', '.join(first)} against {', '.join(second)}")
    return first


def compare(original: InferenceSession, compressed: InferenceSession, feeds: Feeds) -> tuple[OutputComparison, ...]:
    """Run both networks on the same feeds and compare every output.

    Raises:
        CheckError: Outputs differ in name or shape, or are not finite.
    """
    names = output_names(original, compressed)
    comparator = Comparator(names)
    for feed in feeds:
        comparator.add(original.run(names, dict(feed)), compressed.run(names, dict(feed)))
    return comparator.results()


def fidelity(
    original: InferenceSession,
    compressed: InferenceSession,
    feeds: Feeds,
    inputs: Literal["synthetic", "calibration"] = "synthetic",
) -> Fidelity:
    """Return the worst output's figures over all feeds (see `feeds.split` to cut arrays into runs).

    Raises:
        CheckError: Outputs differ in name or shape, or are not finite.
    """
    counted = _Counted(feeds)
    return worst(compare(original, compressed, counted.each()), inputs, counted.count)


def worst(outputs: Sequence[OutputComparison], inputs: Literal["synthetic", "calibration"], count: int) -> Fidelity:
    """Summarize outputs by the worst of each figure."""
    agreements = [o.agreement for o in outputs if o.agreement is not None]
    return Fidelity(
        inputs=inputs,
        sqnr_db=min((o.sqnr_db for o in outputs), default=MAX_DB),
        cosine=min((o.cosine for o in outputs), default=1.0),
        agreement=min(agreements) if agreements else None,
        count=count,
        max_difference=max((o.max_difference for o in outputs), default=0.0),
    )


@dataclass
class _Counted:
    """Feeds that count the samples passing through."""

    feeds: Feeds
    count: int = 0

    def each(self) -> Feeds:
        for feed in self.feeds:
            self.count += max((len(v) for v in feed.values() if v.ndim), default=1)
            yield feed
