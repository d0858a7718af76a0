"""Arrays of many samples: thinned, and made of images for a network with one input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_udfc.errors import RequestError
from onnx_udfc.runtime.runs import BATCH, InputSpec, sample_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnx_udfc.inputs.image_files import ImageSet, Preprocessing


def evenly_spaced(count: int, most: int | None) -> NDArray[np.int64]:
    """Positions of at most `most` of `count` samples, evenly from the first to the last: images come kind by kind."""
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def take(
    given: Sequence[InputSpec], values: Mapping[str, NDArray[Any]], chosen: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Those samples; of what belongs to whole runs those of the same number, where there is one for each sample."""
    count = sample_count(given, values)
    result = {}
    for spec in given:
        value = values[spec.name]
        if not spec.by_run and value.ndim == len(spec.shape):
            result[spec.name] = np.take(value, chosen, spec.axis or 0)
        elif spec.by_run and value.ndim == len(spec.shape) + 1 and len(value) == count:
            result[spec.name] = value[chosen]
        else:
            result[spec.name] = value
    return result


def image_feeds(
    specs: Sequence[InputSpec],
    images: ImageSet,
    preprocessing: Preprocessing,
    limit: int | None = None,
    shape: Sequence[int | None] | None = None,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the images as feeds of a network with one input; a fixed batch is filled up by repeating the last image.

    A run has BATCH images where the network leaves it open. `shape` are sizes of the input, also where the network
    leaves them open; otherwise each image keeps its own.

    Raises:
        RequestError: The network has several inputs, or the images do not fit.
    """
    if len(specs) != 1:
        names = ", ".join(s.name for s in specs)
        raise RequestError(f"images fit a network with one input; give an .npz with an array for each of {names}")
    spec, count = specs[0], min(limit or len(images), len(images))
    together = spec.batch or BATCH
    for start in range(0, count, together):
        chosen = range(start, min(start + together, count))
        items = [images.fitted(i, shape or spec.shape, preprocessing, None, spec.dtype) for i in chosen]
        items += items[-1:] * ((spec.batch or len(items)) - len(items))
        yield {spec.name: np.stack(items).astype(spec.dtype)}
