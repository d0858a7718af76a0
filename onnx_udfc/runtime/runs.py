"""A network's declared inputs, and arrays of many samples cut into single runs of it.

Samples lie along one axis of each input: the first where it is open or the network's fixed batch; another one that the
file calls by the batch's name (a recurrent state may be layers x batch x units, a sequence steps x batch x values);
none in a scalar, a flag, or what else belongs to a whole run. An array of values for an input has

- the declared number of axes: samples along that axis, cut run by run, or one value that goes into every run;
- one axis more: one value for each run along the first of them, the first again after the last.

So a scalar that is given eight values makes eight runs of an eighth of the samples each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_udfc.errors import ModelError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

Dims = Sequence[int | str | None]

FAILED = (
    "onnxruntime cannot run the network on the inputs it was given (WHY); give others with --calibrate, or take"
    " --method udfc, which runs nothing"
)
BATCH = 16  # samples of a run where the network leaves it open
RUN_VALUES = 1 << 21  # of the inputs of a run that only asks: 4 pictures of 416 x 416
_STEPS, _BATCH = re.compile(r"seq|time|step|frame|^[tls]$", re.I), re.compile(r"batch|^[bn]$", re.I)
_TYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8, "tensor(uint16)": np.uint16, "tensor(int16)": np.int16, "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32, "tensor(int64)": np.int64, "tensor(uint64)": np.uint64, "tensor(bool)": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class InputSpec:
    """A declared input.

    Attributes:
        name: of the input.
        shape: its sizes; an open one is None.
        dtype: of its values.
        axis: the axis along which samples lie; None where there is one value for a whole run.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    axis: int | None = 0

    @property
    def batch(self) -> int | None:
        """The fixed number of samples of a run, or None where it is open or the input has none."""
        return self.shape[self.axis] if self.shape and self.axis is not None else None

    @property
    def by_run(self) -> bool:
        """Whether its value belongs to a whole run."""
        return not self.shape or self.axis is None


def specs(declared: Sequence[tuple[str, Dims, np.dtype[Any]]]) -> tuple[InputSpec, ...]:
    """Inputs from (name, sizes, type); a size that is no whole number above 0 is open, a text its name."""
    axes = _sample_axes([dims for _, dims, _ in declared])
    return tuple(
        InputSpec(name, tuple(d if _fixed(d) else None for d in dims), dtype, axis)  # type: ignore[misc]
        for (name, dims, dtype), axis in zip(declared, axes, strict=True)
    )


def input_specs(session: InferenceSession) -> tuple[InputSpec, ...]:
    """The inputs that a session must be given.

    Raises:
        ModelError: an input is not a numeric tensor.
    """
    for given in session.get_inputs():
        if given.type not in _TYPES:
            raise ModelError(f"input {given.name!r} is a {given.type}; only numeric tensors can be made up")
    return specs([(g.name, g.shape, np.dtype(_TYPES[g.type])) for g in session.get_inputs()])


def model_specs(model: onnx.ModelProto, names: Sequence[str]) -> tuple[InputSpec, ...]:
    """Those inputs of a model, in its order, that have the given names."""
    found = []
    for info in model.graph.input:
        if info.name in names:
            tensor = info.type.tensor_type
            dims = [d.dim_value or d.dim_param or None for d in tensor.shape.dim]
            found.append((info.name, dims, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))))
    return specs(found)


def _fixed(dim: int | str | None) -> bool:
    return isinstance(dim, int | np.integer) and dim > 0


def _sample_axes(shapes: Sequence[Dims]) -> list[int | None]:
    """The axis of the samples in each of the shapes."""
    firsts = [dims[0] for dims in shapes if dims]
    behind = [_steps_first(dims) for dims in shapes]
    names = {d for d in firsts if isinstance(d, str) and d}
    if any(not _fixed(d) for d in firsts):
        return [1 if later else _open_axis(dims, names) for dims, later in zip(shapes, behind, strict=True)]
    sizes = Counter(dims[0] for dims in shapes if len(dims) > 1) or Counter(firsts)
    batch = max(sizes, key=lambda size: (sizes[size], _widest(shapes, size))) if sizes else None
    return [0 if dims and dims[0] == batch else None for dims in shapes]


def _steps_first(dims: Dims) -> bool:
    """Whether the file calls the first axis that of steps, and the second that of samples."""
    first, second = (str(d) for d in (*dims, "", "")[:2])
    return bool(_STEPS.search(first) and _BATCH.search(second)) and not _BATCH.search(first)


def _widest(shapes: Sequence[Dims], first: int | str | None) -> int:
    """Most elements of the shapes that begin with a size: of states and images, images tell the batch."""
    return max(math.prod(d for d in dims if isinstance(d, int)) for dims in shapes if dims and dims[0] == first)


def _open_axis(dims: Dims, names: set[str]) -> int | None:
    """The axis of the samples beside inputs whose first axis is open."""
    if not dims or not _fixed(dims[0]):
        return 0 if dims else None
    named = [i for i, d in enumerate(dims) if isinstance(d, str) and d in names]
    unfixed = [i for i, d in enumerate(dims) if not _fixed(d)]
    if named:
        return named[0]
    return 1 if len(dims) > 2 and unfixed == [1] else None


@dataclass(frozen=True)
class Runs:
    """Arrays cut into runs.

    Attributes:
        feeds: what each run is given.
        samples: how many of their samples count; a last run of a fixed batch is filled up with its last sample.
        size: samples of a run; of the last one they may be fewer.
    """

    feeds: tuple[dict[str, NDArray[Any]], ...]
    samples: int
    size: int


def cut(given: Sequence[InputSpec], arrays: Mapping[str, NDArray[Any]], batch: int | None = None) -> Runs:
    """Cut arrays into runs of the network's fixed batch, else of at most `batch` samples, else into as few as can be.

    Arrays are as the module's first lines say; `batch` is None for all at once.
    """
    sliced = [s for s in given if not s.by_run and arrays[s.name].ndim == len(s.shape)]
    fixed = next((s.batch for s in sliced if s.batch is not None), None)
    by_run = {s.name: arrays[s.name] for s in given if arrays[s.name].ndim == len(s.shape) + 1}
    most = max((len(values) for values in by_run.values()), default=1)
    samples = min((arrays[s.name].shape[s.axis or 0] for s in sliced), default=most)
    size = fixed or min(batch or samples, math.ceil(samples / most)) or 1
    whole = {s.name: np.asarray(arrays[s.name]) for s in given if s not in sliced and s.name not in by_run}
    feeds = []
    for number, start in enumerate(range(0, samples, size)):
        feed = dict(whole) | {name: np.asarray(v[number % len(v)]) for name, v in by_run.items()}
        feeds.append(feed | {s.name: _samples(arrays[s.name], s, start, size, fixed is not None) for s in sliced})
    return Runs(tuple(feeds), samples, size)


def asked_at_once(given: Sequence[InputSpec], arrays: Mapping[str, NDArray[Any]], most: int) -> int:
    """Samples of a run that only asks what a network says: so many, or fewer of large ones, one at least."""
    sizes = [arrays[s.name][:1].size for s in given if not s.by_run and s.axis == 0]
    return max(1, min(most, RUN_VALUES // max([1, *sizes])))


def _samples(values: NDArray[Any], spec: InputSpec, start: int, size: int, fill: bool) -> NDArray[Any]:
    """So many samples from `start` on; past the end the last one again, or none."""
    axis = spec.axis or 0
    length = values.shape[axis]
    if fill and start + size > length:
        return np.asarray(np.take(values, np.minimum(np.arange(start, start + size), length - 1), axis))
    index = (slice(None),) * axis + (slice(start, start + size),)
    part: NDArray[Any] = values[index]
    return part


def split(
    given: Sequence[InputSpec], arrays: Mapping[str, NDArray[Any]], batch: int = BATCH
) -> Iterator[dict[str, NDArray[Any]]]:
    """Runs of the network's fixed batch, or of at most `batch` samples; a last incomplete fixed one is dropped."""
    runs = cut(given, arrays, batch)
    whole = runs.samples // runs.size if any(s.batch is not None for s in given) else len(runs.feeds)
    yield from runs.feeds[:whole]


def samples_first(output: NDArray[Any], batch: int, declared: Dims = ()) -> NDArray[Any]:
    """An output of a run of `batch` samples with them along its first axis.

    Recurrent layers, and readers of text that end with one, give (steps, samples, values). Where there are as many
    steps as samples, the `declared` sizes tell: steps are a number, samples are open.
    """
    told = len(declared) == 3 and ((_fixed(declared[0]) and not _fixed(declared[1])) or _steps_first(declared))
    later = output.ndim == 3 and output.shape[1] == batch and (output.shape[0] != batch or told)
    return np.moveaxis(output, 1, 0) if later else output


def sample_count(given: Sequence[InputSpec], arrays: Mapping[str, NDArray[Any]]) -> int:
    """How many samples arrays hold."""
    counts = [arrays[s.name].shape[s.axis or 0] for s in given if not s.by_run and s.name in arrays]
    return min(counts, default=1)


def outputs_of(
    segment: Any, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]], failed: str = FAILED
) -> list[NDArray[Any]]:
    """Run a session.

    Raises:
        ModelError: it fails on these values; says what `failed` does, with the reason in place of WHY.
    """
    try:
        return list(segment.run(list(outputs), dict(inputs)))
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise ModelError(failed.replace("WHY", one_line(error))) from error
