"""Peak memory on a GPU is the GPU's, by its driver."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from onnx_udfc.evaluate import peak_memory
from onnx_udfc.runtime.device_memory import DeviceMemory
from onnx_udfc.runtime.providers import Provider


class Driver:
    """A driver with one GPU, of which as much is free as is said."""

    def __init__(self, free: list[int], broken: str = "") -> None:
        self.calls: list[str] = []
        self._free, self._broken = free, broken

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any) -> int:
            self.calls.append(name)
            if name == "cuMemGetInfo_v2":
                given[0]._obj.value, given[1]._obj.value = self._free.pop(0), 1 << 40
            if name == "cuDeviceGet":
                given[0]._obj.value = given[1].value
            return 100 if name == self._broken else 0

        return call


def test_bytes_that_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver([5_000_000_000])
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    assert DeviceMemory().free() == 5_000_000_000
    assert driver.calls == ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuMemGetInfo_v2"]


def test_what_the_driver_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver([], "cuInit"))
    with pytest.raises(OSError, match="cuInit gives 100"):
        DeviceMemory()


def test_what_a_network_takes_is_what_is_no_longer_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver([9_000, 2_500]))
    now, peak = peak_memory._meters(Provider("cuda", {"device_id": "0"}))
    before = now()
    assert peak() - before == 6_500
