"""Peak memory of running a model, measured in a process of its own.

The figure is what loading and one run add to a process that has already imported onnxruntime; on a GPU, what they take
of the GPU's memory (onnxruntime keeps what it has once taken; other programs must leave it alone meanwhile).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_udfc.outputs import child_process, scratch_folder
from onnx_udfc.runtime.device_memory import DeviceMemory
from onnx_udfc.runtime.providers import CPU, Provider

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONGEST = 600  # seconds
_ROOT = Path(__file__).resolve().parents[2]
# not -m, which would take modules from the folder that the user happens to be in
_CHILD = f"import sys; sys.path.append(sys.argv.pop(1)); from {__name__} import main; main(*sys.argv[1:])"


def peak_memory(
    model: Path, feed: Mapping[str, NDArray[Any]], threads: int = 1, provider: Provider = CPU
) -> int | None:
    """Return the bytes that loading and running a model takes at its peak, or None where that cannot be known."""
    told = json.dumps({"name": provider.name, "settings": dict(provider.settings)})
    with scratch_folder() as folder:
        for i, value in enumerate(feed.values()):
            np.save(folder / f"{i}.npy", value)
        command = [sys.executable, "-P", "-c", _CHILD, str(_ROOT), str(model), str(threads), told, str(folder), *feed]
        try:
            with child_process(command) as child:
                return int(child.communicate(timeout=_LONGEST)[0])
        except (OSError, ValueError, subprocess.SubprocessError):
            return None


def _status(key: str) -> int:
    """Return a line of /proc/self/status in bytes; the peak there, unlike getrusage's, starts anew at exec."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")


def main(model: str, threads: str, told: str, folder: str, *names: str) -> None:
    """Write the bytes to standard output; the inputs of these names are 0.npy, 1.npy and so on in the folder."""
    from onnx_udfc.runtime.sessions import open_session

    provider = Provider(**json.loads(told))
    now, peak = _meters(provider)
    before = now()
    session = open_session(model, provider, int(threads), arena=True)
    session.run(None, {name: np.load(Path(folder) / f"{i}.npy") for i, name in enumerate(names)})
    sys.stdout.write(str(max(0, peak() - before)))


def _meters(provider: Provider) -> tuple[Callable[[], int], Callable[[], int]]:
    """What tell the bytes taken now and at the peak, of the memory that the provider works in, up to a constant."""
    if provider.name == "cpu":
        return partial(_status, "VmRSS"), partial(_status, "VmHWM")
    memory = DeviceMemory(int(provider.settings.get("device_id", "0")))

    def taken() -> int:
        return -memory.free()

    return taken, taken
