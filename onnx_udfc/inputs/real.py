"""The user's own inputs: from files, or in Python from arrays, feeds, or a data reader of onnxruntime.

A network with one input takes images (a folder, a zip, one file), an .npy, or an .npz with one array under any name
(`x` where there are several). A network with several takes an .npz with an array for each input, by its name. Pixels
(uint8, or image files) are preprocessed; all other arrays are what the network takes already. The samples' axis is
found by the shape: that of an input `state` (2, batch, 128) is the second; a scalar is one value for all runs, or,
given as (n,), one for each of n runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.feeds import evenly_spaced, take
from onnx_udfc.inputs.image_files import (
    ImageSet,
    Preprocessing,
    array_names,
    as_image,
    images_of,
    is_arrays,
    open_images,
    read_arrays,
)
from onnx_udfc.inputs.image_labels import read_labels
from onnx_udfc.inputs.kinds import Wanted, made
from onnx_udfc.options.row import InMemory, specs
from onnx_udfc.runtime.runs import InputSpec, sample_count

Arrays = Mapping[str, NDArray[Any]]

_LOOKED_AT = 16  # images whose size is compared


class Samples(InMemory):
    """Arrays of real inputs in memory, by input name; the name None stands for the one input of a network."""

    def __init__(self, arrays: Mapping[str | None, NDArray[Any]]) -> None:
        """Hold arrays."""
        self.arrays = dict(arrays)

    def __str__(self) -> str:
        """What a report says of them: names, shapes, and a hash of the values."""
        digest = hashlib.sha256()
        for array in self.arrays.values():
            digest.update(np.ascontiguousarray(array).tobytes())
        shapes = ", ".join(f"{name or 'input'} {'x'.join(map(str, a.shape))}" for name, a in self.arrays.items())
        return f"arrays ({shapes}) sha256:{digest.hexdigest()[:16]}"

    __repr__ = __str__  # options are keys of results

    def __deepcopy__(self, _memo: object) -> Samples:
        """Options are copied with their values; these are not changed."""
        return self


@dataclass(frozen=True)
class Real:
    """Real inputs, cut to the shapes of the network's inputs.

    Samples lie along the axes of the inputs; `missing` are those that were not given.
    """

    values: dict[str, NDArray[Any]]
    samples: int
    missing: tuple[str, ...]


def with_data(table: type, keywords: Mapping[str, object]) -> dict[str, object]:
    """Keywords of Python whose data, where they are no path, are held as samples; `table` has their options.

    Raises:
        RequestError: they are nothing of use.
    """
    rows = specs(table)
    given = {k: v for k, v in keywords.items() if k in rows and rows[k].is_data}
    held = {k: gathered(v, k) for k, v in given.items() if not isinstance(v, str | os.PathLike | None)}
    return {**keywords, **held}


def gathered(data: Any, name: str = "calibrate") -> Samples:
    """Data as Python gives them: an array, arrays by name, feeds, arrays, a CalibrationDataReader, or (x, labels).

    Raises:
        RequestError: there is nothing in them, or nothing of use; `name` is the option's.
    """
    if isinstance(data, Samples):
        return data
    if isinstance(data, np.ndarray):
        return Samples({None: data})
    if isinstance(data, Mapping):
        return Samples({str(k): np.asarray(v) for k, v in data.items()})
    if isinstance(data, tuple) and len(data) == 2 and np.shape(data[1]) == np.shape(data[0])[:1]:
        return Samples({"x": np.asarray(data[0]), "y": np.asarray(data[1])})
    if hasattr(data, "get_next"):
        return _joined(list(iter(data.get_next, None)), name)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return _joined(list(data), name)
    raise RequestError(f"{name}: {type(data).__name__} is no path, array, dict of arrays, or iterable of feeds")


def _joined(feeds: list[Any], name: str) -> Samples:
    """Feeds one after another; what is the same in all of them and has no samples is held once."""
    if not feeds:
        raise RequestError(f"{name}: there is not one feed in it")
    if not isinstance(feeds[0], Mapping):
        arrays = [np.asarray(f) for f in feeds]
        if any(a.shape != arrays[0].shape for a in arrays):
            raise RequestError(f"{name}: the arrays differ in shape")
        return Samples({None: np.stack(arrays)})
    inputs = set(feeds[0])
    if any(set(f) != inputs for f in feeds):
        raise RequestError(f"{name}: the feeds differ in their inputs")
    return Samples({str(k): _Feeds.of([np.asarray(f[k]) for f in feeds], name) for k in feeds[0]})


class _Feeds(np.ndarray):
    """An array (feeds, ...) whose first axis counts feeds, each with samples of its own."""

    @staticmethod
    def of(parts: list[NDArray[Any]], name: str) -> NDArray[Any]:
        """Stack the parts.

        Raises:
            RequestError: they differ in shape.
        """
        if any(p.shape != parts[0].shape for p in parts):
            raise RequestError(f"{name}: feeds of different shapes; give batches of one size")
        return np.stack(parts).view(_Feeds)


@dataclass(frozen=True)
class Labelled:
    """Where labelled images are and how a network wants them; small, and passes between processes."""

    images: str | InMemory
    labels: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    limit: int | None = None

    def open(self) -> ImageSet:
        """Open the images.

        Raises:
            RequestError: As `opened`, or there are no labels.
        """
        found = opened(self.images, self.labels)
        if not isinstance(found, ImageSet) or found.labels is None:
            raise RequestError(
                f"{self.images}: no labels; give --labels CSV, a folder per class, or index_label.jpg names, or y"
            )
        return found


def opened(data: Any, labels: str | Path | None = None) -> ImageSet | Samples:
    """Images of a network with one input, from a path or arrays; feeds, each with samples of its own, as they are.

    Raises:
        RequestError: They cannot be read.
    """
    if not isinstance(data, Samples):
        return open_images(data, labels)
    if labels is None and any(isinstance(array, _Feeds) for array in data.arrays.values()):
        return data
    images = images_of(data.arrays, "arrays")
    return images if labels is None else replace(images, labels=read_labels(Path(labels), images.names))


def real_inputs(wanted: Sequence[Wanted], data: Any, preprocessing: Preprocessing, most: int | None) -> Real:
    """Read real inputs, evenly from all where there are more than `most`.

    `data` is a path, or what `gathered` takes; `most` is None for all.

    Raises:
        RequestError: they cannot be read, or do not fit.
    """
    if not isinstance(data, str | Path):
        return _from_arrays(wanted, _of_inputs(gathered(data).arrays, wanted, "calibrate"), preprocessing, most)
    path = Path(data)
    if is_arrays(path):
        return _from_arrays(wanted, _of_inputs(read_arrays(path), wanted, str(path)), preprocessing, most)
    images = open_images(path)
    pictures = [w for w in wanted if len(w.shape) == 4]
    if len(pictures) != 1:
        names = ", ".join(w.spec.name for w in wanted)
        raise RequestError(f"{path}: images are for a network with one picture as input; give an .npz with {names}")
    chosen = evenly_spaced(len(images), most)
    values = {pictures[0].spec.name: _images(images, chosen, pictures[0], preprocessing)}
    return _complete(wanted, values)


def real_shapes(given: Sequence[InputSpec], data: Any) -> dict[str, tuple[int, ...]]:
    """Shapes (1, ...) of real inputs, for the sizes that a network leaves open; images of many sizes say nothing.

    Raises:
        RequestError: the data cannot be read.
    """
    if not isinstance(data, str | Path):
        arrays: Arrays = {str(k or given[0].name): v for k, v in gathered(data).arrays.items()}
    elif is_arrays(Path(data)):
        arrays = _named(read_arrays(Path(data)), given)
    else:
        return image_shapes(given, open_images(data))
    return {s.name: shape for s in given if s.name in arrays and (shape := _one(arrays[s.name], s))}


def image_shapes(given: Sequence[InputSpec], images: ImageSet) -> dict[str, tuple[int, ...]]:
    """The shape (1, ...) of images for the one input that is a picture; nothing where their sizes differ."""
    if not len(images) or images.source[0].dtype != np.uint8:
        return {}
    sizes = {np.shape(images.source[int(i)])[:2] for i in evenly_spaced(len(images), _LOOKED_AT)}
    pictures = [s for s in given if len(s.shape) == 4]
    if len(sizes) != 1 or len(pictures) != 1:
        return {}
    height, width = sizes.pop()
    return {pictures[0].name: _image_shape(pictures[0], height, width)}


def _image_shape(spec: InputSpec, height: int, width: int) -> tuple[int, ...]:
    """The shape of one image of that size as the input declares it."""
    last = spec.shape[3] in (1, 3) and spec.shape[1] not in (1, 3)
    shape = (1, height, width, spec.shape[3]) if last else (1, spec.shape[1], height, width)
    return tuple(int(declared or d or 3) for declared, d in zip(spec.shape, shape, strict=True))


def _one(array: NDArray[Any], spec: InputSpec) -> tuple[int, ...]:
    """The shape of one sample of an array as the input declares it, or () where the two do not fit."""
    if array.dtype == np.uint8 and len(spec.shape) == 4 and array.ndim in (3, 4) and len(array):
        height, width = as_image(array[0]).shape[:2]
        return _image_shape(spec, height, width)
    shape = array.shape[1:] if isinstance(array, _Feeds) or array.ndim == len(spec.shape) + 1 else array.shape
    if len(shape) != len(spec.shape) or any(
        d is not None and d != s for i, (d, s) in enumerate(zip(spec.shape, shape, strict=True)) if i != spec.axis
    ):
        return ()
    return tuple(1 if i == spec.axis and spec.batch is None else d for i, d in enumerate(shape))


def _of_inputs(arrays: Mapping[Any, NDArray[Any]], wanted: Sequence[Wanted], place: str) -> Arrays:
    """The arrays of the network's inputs."""
    found = _named(arrays, [w.spec for w in wanted])
    if not found:
        names = ", ".join(w.spec.name for w in wanted)
        raise RequestError(f"{place}: holds {', '.join(map(str, arrays)) or 'nothing'}; expected an array for {names}")
    return found


def _named(arrays: Mapping[Any, NDArray[Any]], given: Sequence[InputSpec]) -> Arrays:
    """Arrays by input name; the one array that is no label, or a common name, where the network has one input."""
    found = {s.name: arrays[s.name] for s in given if s.name in arrays}
    if found or len(given) != 1:
        return found
    names = array_names(arrays)
    return {given[0].name: arrays[names[0]]} if names else {}


def _from_arrays(wanted: Sequence[Wanted], arrays: Arrays, preprocessing: Preprocessing, most: int | None) -> Real:
    values = {}
    for w in wanted:
        if w.spec.name in arrays:
            values[w.spec.name] = _fitted(np.asarray(arrays[w.spec.name]), arrays[w.spec.name], w, preprocessing, most)
    return _complete(wanted, values)


def _fitted(
    plain: NDArray[Any], array: NDArray[Any], wanted: Wanted, preprocessing: Preprocessing, most: int | None
) -> NDArray[Any]:
    """One input's values from an array; pixels are preprocessed."""
    if plain.dtype.kind not in "fiub":
        raise RequestError(f"{wanted.spec.name}: an array of {plain.dtype} cannot be fed to a network")
    if plain.dtype == np.uint8 and len(wanted.shape) == 4 and not isinstance(array, _Feeds):
        return _images(ImageSet(plain, (), None), evenly_spaced(len(plain), most), wanted, preprocessing)
    values = _aligned(plain, wanted, feeds=isinstance(array, _Feeds))
    axis = wanted.spec.axis
    if most is not None and axis is not None and not wanted.spec.by_run:
        values = np.take(values, evenly_spaced(values.shape[axis], most), axis)
    return values.astype(wanted.spec.dtype)


def _aligned(array: NDArray[Any], wanted: Wanted, *, feeds: bool) -> NDArray[Any]:
    """An array with its samples along the input's axis, or with one value for each run along the first."""
    spec, rank = wanted.spec, len(wanted.spec.shape)
    if array.ndim == rank + 1 and _fits(array.shape[1:], spec):
        if spec.by_run:
            return array if len(np.unique(array, axis=0)) > 1 else np.asarray(array[0])
        return np.concatenate(list(array), axis=spec.axis or 0)
    if array.ndim == rank and _fits(array.shape, spec) and (not feeds or (spec.axis, spec.batch) == (0, 1)):
        return array
    if not feeds and array.ndim == rank and spec.by_run and rank:
        cut = _cut_to(array, spec)
        if cut is not None:
            return cut
    if (
        not feeds
        and array.ndim == rank - 1
        and spec.axis is not None
        and _fits((*array.shape[: spec.axis], 1, *array.shape[spec.axis :]), spec)
    ):
        return np.expand_dims(array, spec.axis)  # a single sample
    declared = ", ".join("?" if d is None else str(d) for d in spec.shape)
    ways = ((0, 3, 1, 2), (0, 2, 3, 1)) if array.ndim == 4 else ()
    turned = next((way for way in ways if _fits(tuple(array.shape[i] for i in way), spec)), None)
    advice = f"; turn its axes: array.transpose{turned}" if turned else ""
    raise RequestError(f"an array of shape {array.shape} does not fit the input {spec.name} ({declared}){advice}")


def _fits(shape: tuple[int, ...], spec: InputSpec) -> bool:
    """Whether an array of that shape is values of an input, however many samples there are."""
    if len(shape) != len(spec.shape):
        return False
    return all(i == spec.axis or d in (None, s) for i, (d, s) in enumerate(zip(spec.shape, shape, strict=True)))


def _cut_to(array: NDArray[Any], spec: InputSpec) -> NDArray[Any] | None:
    """Values of whole runs that lie along one axis, cut to the declared size and stacked; None where they do not."""
    longer = [i for i, (d, s) in enumerate(zip(spec.shape, array.shape, strict=True)) if d is not None and d != s]
    if len(longer) != 1 or array.shape[longer[0]] % (spec.shape[longer[0]] or 1):
        return None
    axis, size = longer[0], spec.shape[longer[0]] or 1
    return np.stack(np.split(array, array.shape[axis] // size, axis))


def _images(images: ImageSet, chosen: NDArray[np.int64], wanted: Wanted, preprocessing: Preprocessing) -> NDArray[Any]:
    """Pixels of images as the network takes them."""
    if not len(chosen):
        raise RequestError("there are no images among the real inputs")
    shape, last, dtype = wanted.shape, wanted.channels_last, wanted.spec.dtype
    values = [images.fitted(int(i), shape, preprocessing, last, dtype) for i in chosen]
    return np.moveaxis(np.stack(values), 0, wanted.spec.axis or 0)


def _complete(wanted: Sequence[Wanted], values: dict[str, NDArray[Any]]) -> Real:
    """Count the samples."""
    for name, array in values.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RequestError(f"the real inputs hold values that are not finite (NaN or infinite), in {name}")
    counts = {
        w.spec.name: values[w.spec.name].shape[w.spec.axis or 0]
        for w in wanted
        if w.spec.name in values and not w.spec.by_run
    }
    if len(set(counts.values())) > 1:
        raise RequestError(f"numbers of samples differ: {', '.join(f'{n} has {c}' for n, c in counts.items())}")
    samples = next(iter(counts.values()), 1)
    if not samples:
        raise RequestError("there is not one sample among the real inputs")
    return Real(values, samples, tuple(w.spec.name for w in wanted if w.spec.name not in values))


def real_values(
    wanted: tuple[Wanted, ...], data: Any, preprocessing: Preprocessing, most: int | None, seed: int
) -> dict[str, NDArray[Any]]:
    """Real inputs, and made-up ones for the inputs that they lack; see `real_inputs`.

    Raises:
        RequestError: they cannot be read, or do not fit.
    """
    found = real_inputs(wanted, data, preprocessing, most)
    return found.values | made_up(wanted, found, seed)


def made_up(wanted: tuple[Wanted, ...], found: Real, seed: int) -> dict[str, NDArray[Any]]:
    """Values for the inputs that real ones lack."""
    rest = tuple(w for w in wanted if w.spec.name in found.missing)
    if not rest:
        return {}
    values = made(rest, found.samples, seed, {})
    return take(
        [w.spec for w in rest], values, evenly_spaced(sample_count([w.spec for w in rest], values), found.samples)
    )
