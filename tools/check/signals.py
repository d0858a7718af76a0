"""Signals at random moments: whether each command ends within two seconds, with OUT whole or untouched.

    python -m tools signals --runs 40

Prints, for each command and signal, the longest time from the signal to the end, the exit codes, and the faults: an end
that took over two seconds, a temporary file that was left, a traceback, an exit code other than 0 (it was quicker than
the signal) and 130, or an OUT that is not what the exit code says. Exits with 1 if there were any.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import onnx

from tests.bombs import loop
from tests.command_line import CLI, PRECIOUS
from tools.places import MODELS

NETWORK = MODELS / "digits_resnet_folded.onnx"
LIMIT = 2.0  # seconds
COMMANDS = {  # words, and the seconds within which the signal comes: those that the command takes, and some
    "compress": (("in.onnx", "out.onnx", "--prune", "0.5", "--bits", "4", "--quiet"), 6.0),
    "inspect": (("inspect", "loop.onnx", "--quiet"), 5.0),
    "sweep": (("sweep", "in.onnx", "dir", "--prune", "0,0.5", "--bits", "8,4", "--jobs", "2", "--quiet"), 8.0),
}


def main() -> int:
    """Run the commands and print what became of them; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="of each command and signal")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    moments, wrong = random.Random(given.seed), 0
    for command, (words, within) in COMMANDS.items():
        for how in (signal.SIGINT, signal.SIGTERM):
            codes: Counter[int] = Counter()
            slowest, faults = 0.0, []
            for _ in range(given.runs):
                code, took, found = interrupted(words, how, moments.uniform(0.1, within))
                codes[code] += 1
                slowest = max(slowest, took)
                faults += found
            wrong += len(faults)
            print(f"{command} {how.name}: {given.runs} runs, {slowest:.2f} s at most, exit codes {dict(codes)}, "
                  f"{len(faults)} faults", *faults, sep="\n  ", flush=True)  # fmt: skip
    return int(wrong > 0)


def interrupted(words: tuple[str, ...], how: signal.Signals, after: float) -> tuple[int, float, list[str]]:
    """Exit code, seconds from the signal to the end, and what was wrong, of one run in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(NETWORK, folder / "in.onnx")
        onnx.save(loop(), folder / "loop.onnx")
        (folder / "out.onnx").write_bytes(PRECIOUS)
        process = subprocess.Popen(
            [*CLI, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(after)
        process.send_signal(how)
        start = time.monotonic()
        _, errors = process.communicate(timeout=60)
        took = time.monotonic() - start
        return process.returncode, took, _faults(folder, process.returncode, errors, took)


def _faults(folder: Path, code: int, errors: str, took: float) -> list[str]:
    """What is not as it should be after a run."""
    found = []
    if took > LIMIT:
        found.append(f"{took:.2f} s to end")
    if code not in (0, 130) or "Traceback" in errors:
        found.append(f"exit code {code}: {errors[-200:]!r}")
    if left := [p.name for p in folder.rglob(".onnx-udfc*")]:
        found.append(f"left: {left}")
    if code == 130 and (folder / "out.onnx").read_bytes() != PRECIOUS:
        found.append("OUT was written, and the exit code says it was not")
    for written in (p for p in folder.rglob("*.onnx") if p.read_bytes() != PRECIOUS):
        try:
            onnx.checker.check_model(onnx.load(written))
        except (onnx.checker.ValidationError, ValueError) as error:
            found.append(f"{written.name} is no model: {error}")
    return found


if __name__ == "__main__":
    sys.exit(main())
