"""Inputs for any network: its declared inputs, synthetic values for them, and the cutting of arrays into runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_udfc.errors import ModelError, RequestError
from onnx_udfc.inputs.image_files import ImageSet, Preprocessing
from onnx_udfc.numerics.images import synthetic_images

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

SIDE = 64  # of an image whose size the network leaves open
LENGTH = 16  # of any other axis that it leaves open
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32,
    "tensor(int64)": np.int64,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class InputSpec:
    """A declared input; an open axis is None."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where it is open."""
        return self.shape[0] if self.shape else 1

    def is_image(self) -> bool:
        """Return whether it looks like (batch, channels, …): floating, three axes or more."""
        return len(self.shape) in (3, 4, 5) and self.dtype.kind == "f"


def input_specs(session: InferenceSession) -> tuple[InputSpec, ...]:
    """Return the inputs that must be given.

    Raises:
        ModelError: An input is not a numeric tensor.
    """
    specs = []
    for given in session.get_inputs():
        if given.type not in _TYPES:
            raise ModelError(f"input {given.name!r} is a {given.type}; only numeric tensors can be made up")
        shape = tuple(d if isinstance(d, int) and d > 0 else None for d in given.shape)
        specs.append(InputSpec(given.name, shape, np.dtype(_TYPES[given.type])))
    return tuple(specs)


def synthetic_feeds(
    specs: Sequence[InputSpec], count: int, seed: int, preprocessing: Preprocessing | None = None
) -> dict[str, NDArray[Any]]:
    """Return at least `count` samples for every input: images by formula, noise, or small whole numbers.

    Images are in normalized units (mean 0, deviation about 1), or, where the preprocessing is known, what it makes of
    images in that range of pixels.
    """
    count = max([count, *(s.batch or 1 for s in specs)])
    return {s.name: _synthetic(s, count, seed + i, preprocessing) for i, s in enumerate(specs)}


def _synthetic(spec: InputSpec, count: int, seed: int, preprocessing: Preprocessing | None) -> NDArray[Any]:
    if not spec.shape:
        return np.zeros((), spec.dtype)
    if spec.is_image():
        return _images(spec, count, seed, preprocessing)
    rng = np.random.default_rng(seed)
    shape = (count, *(d or LENGTH for d in spec.shape[1:]))
    if spec.dtype.kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype)
    return rng.integers(0, 2, shape).astype(spec.dtype)  # 0 and 1 are valid as indices, counts and flags


def _images(spec: InputSpec, count: int, seed: int, preprocessing: Preprocessing | None) -> NDArray[Any]:
    wanted = spec.shape[1:]
    last = len(wanted) == 3 and wanted[2] in (1, 3) and wanted[0] not in (1, 3)
    channels = (wanted[2] if last else wanted[0]) or 3
    size = tuple(d or SIDE for d in (wanted[:2] if last else wanted[1:]))
    x = synthetic_images(count, channels, size, seed)
    if preprocessing is not None and len(size) == 2 and channels in (1, 3):
        pixels = np.clip(x * 64 + 118, 0, 255).astype(np.uint8)  # the contrast of photographs
        x = preprocessing.apply(pixels.transpose(0, 2, 3, 1))
    return (np.moveaxis(x, 1, -1) if last else x).astype(spec.dtype)


def evenly(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Return `count` samples (or all, if they are fewer), evenly from first to last: images come kind after kind."""
    if not values.ndim or len(values) <= count:
        return values
    chosen: NDArray[Any] = values[np.linspace(0, len(values) - 1, count).round().astype(np.int64)]
    return chosen


def image_feeds(
    specs: Sequence[InputSpec],
    images: ImageSet,
    preprocessing: Preprocessing,
    limit: int | None = None,
    batch: int = 16,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the images as feeds of a network with one input; a fixed batch is filled up by repeating the last image.

    Raises:
        RequestError: The network has several inputs.
    """
    if len(specs) != 1:
        raise RequestError(f"images fit a network with one input; this one has {', '.join(s.name for s in specs)}")
    spec = specs[0]
    for x in images.batches(spec.shape, preprocessing, spec.batch or batch, limit):
        missing = (spec.batch or len(x)) - len(x)
        yield {spec.name: np.concatenate([x, *[x[-1:]] * missing]).astype(spec.dtype)}


def split(
    specs: Sequence[InputSpec], arrays: Mapping[str, NDArray[Any]], batch: int = 16
) -> Iterator[dict[str, NDArray[Any]]]:
    """Cut arrays (n, …) into runs of the network's fixed batch, or of `batch`; a last incomplete fixed one is dropped.

    Inputs without axes, or whose fixed first axis differs from the others', go into every run as they are.
    """
    fixed = [s.batch for s in specs if s.shape and s.batch is not None]
    size = fixed[0] if fixed else batch
    sliced = [s for s in specs if s.shape and s.batch in (None, size)]
    count = min((len(arrays[s.name]) for s in sliced), default=1)
    whole = {s.name: arrays[s.name][: s.batch] if s.shape else arrays[s.name] for s in specs if s not in sliced}
    for start in range(0, count, size):
        if fixed and start + size > count:
            return
        yield whole | {s.name: arrays[s.name][start : min(start + size, count)] for s in sliced}
