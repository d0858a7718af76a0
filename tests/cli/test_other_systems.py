"""Without what only some systems have, the command line runs all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What Windows lacks with Python 3.11, taken away; there a file that wakes need not be told not to block.
LACKING = """
import os

os.supports_dir_fd.clear()  # before shutil is read: it opens folders with O_NONBLOCK where there is any

import ctypes, signal, sys

set_wakeup_fd, set_blocking, library = signal.set_wakeup_fd, os.set_blocking, ctypes.CDLL

def woken(number, **keywords):
    set_blocking(number, False)
    return set_wakeup_fd(number, **keywords)

def load(name, *rest, **keywords):
    if name is None and sys._getframe(1).f_globals["__name__"].startswith("onnx_udfc"):
        raise TypeError("bad argument type for built-in operation")
    return library(name, *rest, **keywords)

import multiprocessing, concurrent.futures.process, numpy, onnx, onnxruntime

signal.set_wakeup_fd, ctypes.CDLL, sys.platform = woken, load, "other"
for name in ("set_blocking", "sched_getaffinity", "sysconf", "geteuid", "getuid", "chown", "statvfs", "O_NONBLOCK"):
    delattr(os, name)
for name in ("SIGHUP", "SIGSTOP", "SIGALRM", "SIGPIPE"):
    delattr(signal, name)
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None

from onnx_udfc.__main__ import main

sys.argv[0] = "onnx-udfc"
main()
"""


def test_compress_without_what_windows_lacks(tmp_path: Path, models: Path) -> None:
    words = [str(models / "digits_resnet_bn.onnx"), "out.onnx", "--prune", "0.3", "--method", "udfc", "--memory", "1GB"]
    done = subprocess.run([sys.executable, "-c", LACKING, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
