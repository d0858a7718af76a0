"""Peak memory of running a model, measured in a process of its own: python -m onnx_udfc.evaluate.peak_memory MODEL.

The figure is what loading and one run add to a process that has already imported onnxruntime.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from onnx_udfc.outputs import child_process

_LONGEST = 600  # seconds


def peak_memory(model: Path, threads: int = 1) -> int | None:
    """Return the bytes that loading and running a model takes at its peak, or None where that cannot be known."""
    command = [sys.executable, "-m", "onnx_udfc.evaluate.peak_memory", str(model), str(threads)]
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


def main(model: str, threads: str) -> None:
    """Write the bytes to standard output."""
    from onnx_udfc.inputs.feeds import input_specs, split, synthetic_feeds
    from onnx_udfc.runtime.sessions import open_session

    before = _status("VmRSS")
    session = open_session(model, threads=int(threads))
    specs = input_specs(session)
    session.run(None, next(iter(split(specs, synthetic_feeds(specs, 1, seed=0), batch=1))))
    sys.stdout.write(str(max(0, _status("VmHWM") - before)))


if __name__ == "__main__":
    main(*sys.argv[1:])
