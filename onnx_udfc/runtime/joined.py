"""Values put together as their parts come: beside the whole there is never more than the parts at work."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.runtime.rows import Kind, counted

Value = NDArray[Any]


class Room:
    """Memory for outputs: that of inputs that are spent, where one is alike, for a part is written when it was read."""

    def __init__(self, spent: Sequence[Value]) -> None:
        """Args: values that nobody reads any more when their parts are read."""
        self._spent = [value for value in spent if value.flags.c_contiguous and value.flags.writeable]

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Value:
        """Memory of this shape and type, with any values."""
        found = next((i for i, value in enumerate(self._spent) if value.shape == shape and value.dtype == dtype), None)
        return np.empty(shape, dtype) if found is None else self._spent.pop(found)


class Joined:
    """Outputs of parts that begin at any row."""

    def __init__(self, rows: int, spent: Sequence[Value]) -> None:
        """Args: rows of the whole; see `Room`."""
        self.values: dict[str, Value] = {}
        self._rows, self._lock, self._room = rows, threading.Lock(), Room(spent)

    def take(self, start: int, names: Sequence[str], parts: Sequence[Value], kinds: Mapping[str, Kind]) -> None:
        """Put rows from `start` on into their places; what is no sample is the same, or counts them."""
        with self._lock:
            for name, value in zip(names, parts, strict=True):
                if name not in self.values:
                    apart, room = kinds[name].apart, (self._rows, *value.shape[1:])
                    made = self._room.take(room, value.dtype) if apart else counted(value, kinds[name], self._rows)
                    self.values[name] = made
        for name, value in zip(names, parts, strict=True):
            if kinds[name].apart:
                self.values[name][start : start + len(value)] = value


class JoinedRuns:
    """An output of several runs of as many samples each; what has other sizes in some of them is left as it is."""

    def __init__(self, runs: int, size: int, room: Room) -> None:
        """Args: how many runs there are, samples of each; see `Room`."""
        self._runs, self._size, self._room, self._lock = runs, size, room, threading.Lock()
        self._whole: Value | None = None

    def take(self, number: int, value: Any) -> Any:
        """What a run gave: rows of the whole where it fits."""
        if not isinstance(value, np.ndarray) or value.ndim < 2 or len(value) != self._size:
            return value
        with self._lock:
            if self._whole is None:
                self._whole = self._room.take((self._runs * self._size, *value.shape[1:]), value.dtype)
        if self._whole.shape[1:] != value.shape[1:] or self._whole.dtype != value.dtype:
            return value
        rows = self._whole[number * self._size : (number + 1) * self._size]
        rows[...] = value
        return rows

    def whole(self, parts: Sequence[Value]) -> Value:
        """All runs' values, one after another."""
        if self._whole is not None and all(np.may_share_memory(part, self._whole) for part in parts):
            return self._whole
        return np.stack(parts) if parts[0].ndim == 0 else np.concatenate(parts)
