"""Values of tensors: read from the model or, memory-mapped, from the files beside it; and whether they are numbers."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_udfc.errors import ModelError
from onnx_udfc.model.outline import span_of

Array = NDArray[Any]

CHUNK = 1 << 22


def values(tensor: TensorProto) -> Array:
    """The values of a tensor, read-only; a view on its file if it is in one that `resolve` has left alone.

    Raises:
        ModelError: there are more or fewer values than the shape says.
    """
    try:
        if tensor.data_location != TensorProto.EXTERNAL:
            array = numpy_helper.to_array(tensor)
        else:
            path, offset, length, own = span_of(tensor)
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            # In the model's own file they begin anywhere, and arithmetic wants them at multiples of their size.
            read = np.fromfile(path, np.uint8, length, offset=offset) if own else None
            span = np.memmap(path, np.uint8, "r", offset, (length,)) if read is None else read
            array = span.view(dtype).reshape(tuple(tensor.dims))
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError, OSError) as error:
        raise ModelError(f"tensor '{tensor.name}' is damaged ({_line(error)}); export the model again") from error
    array.flags.writeable = False
    return array


def forget(array: Array) -> None:
    """Gives back the memory that a view on a file takes; the values are read again when they are needed."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def has_nan(array: Array) -> bool:
    """Whether any value is NaN; a memory-mapped array is read piece by piece."""
    flat = array.reshape(-1)
    return any(bool(np.isnan(flat[i : i + CHUNK]).any()) for i in range(0, flat.size, CHUNK))


def all_finite(array: Array) -> bool:
    """Whether all values are finite."""
    flat = array.reshape(-1)
    return all(bool(np.isfinite(flat[i : i + CHUNK]).all()) for i in range(0, flat.size, CHUNK))


def _line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
