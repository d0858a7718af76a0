"""How much memory of a GPU is free, from its driver: nothing but the driver need be installed."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


class DeviceMemory:
    """The memory of one GPU; whoever asks holds its primary context, which onnxruntime works in, too."""

    def __init__(self, device: int = 0) -> None:
        """Open the device.

        Raises:
            OSError: there is no driver, or no such device.
        """
        self._driver: Any = ctypes.CDLL(LIBRARY)
        self._call("cuInit", ctypes.c_uint(0))
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(handle), ctypes.c_int(device))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self._call("cuCtxSetCurrent", context)

    def free(self) -> int:
        """Bytes that nobody has taken.

        Raises:
            OSError: the driver does not say.
        """
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status:
            raise OSError(f"{name} gives {status}")
