"""Passes tests with the oldest and the newest dependencies that pyproject.toml allows, on several versions of Python.

    python -m tools dependency_matrix                                    Python 3.11 to 3.14, as far as they are here
    python -m tools dependency_matrix --python 3.11 3.13 --set oldest --tests tests/test_api.py

Needs uv (`pip install uv`), which finds interpreters and resolves to the lowest versions. The wheel is built once; each
environment holds what the wheel asks for, at its lowest or highest version, and the newest tools for testing. The exit
code is 1 if tests fail anywhere; a Python that is not here is said, and no failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.places import ROOT

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SETS = {"oldest": "lowest-direct", "newest": "highest"}
TESTERS = ("pytest>=8", "hypothesis>=6.100", "jsonschema>=4.20")
SHOWN = ("numpy", "onnx", "onnxruntime", "msgspec", "click", "rich", "pillow")
# what depends most on others' versions: files, sessions, integer kernels, numerics, images, and the whole in a notebook
TESTS = (
    "tests/emit/test_notes_against_the_loaded_graph.py",
    "tests/evaluate/test_report.py",
    "tests/inputs/test_image_files.py",
    "tests/model/test_export.py",
    "tests/model/test_layer_bytes.py",
    "tests/model/test_pads.py",
    "tests/numerics/test_products.py",
    "tests/numerics/test_moments.py",
    "tests/runtime/test_blas.py",
    "tests/runtime/test_layer_times.py",
    "tests/runtime/test_on_device.py",
    "tests/test_examples.py",
)


@dataclass(frozen=True)
class Cell:
    """One environment: a version of Python and the set of dependencies."""

    python: str
    versions: str


def _run(words: Sequence[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, check=False)


def interpreter(version: str) -> str | None:
    """Return the path of this version of Python, from PATH or from pyenv, or None where there is none."""
    found = _run(("uv", "python", "find", "--no-project", "--no-python-downloads", "--system", version))
    if found.returncode == 0:
        return found.stdout.strip()
    root = _run(("pyenv", "root")).stdout.strip() if shutil.which("pyenv") else ""
    kept = sorted(Path(root).glob(f"versions/{version}.*/bin/python{version}")) if root else []
    return str(kept[-1]) if kept else None


def build_wheel(folder: Path) -> Path:
    """Return the wheel of this checkout.

    Raises:
        SystemExit: It cannot be built.
    """
    done = _run(("uv", "build", "--wheel", "--out-dir", str(folder), str(ROOT)))
    if done.returncode:
        raise SystemExit(done.stderr)
    (wheel,) = folder.glob("*.whl")
    return wheel


def prepared(cell: Cell, python: str, wheel: Path, folder: Path) -> Path:
    """Return the interpreter of a fresh environment with the wheel and its dependencies.

    Raises:
        SystemExit: They cannot be installed.
    """
    here = folder / f"{cell.python}-{cell.versions}"
    inside = here / "bin" / "python"
    install = ("uv", "pip", "install", "--python", str(inside), "--only-binary", ":all:")
    steps = (
        ("uv", "venv", "--quiet", "--python", python, str(here)),
        (*install, "--resolution", SETS[cell.versions], "-r", str(ROOT / "pyproject.toml"), "--extra", "images"),
        (*install, "--no-deps", str(wheel)),
        (*install, *TESTERS),
    )
    for step in steps:
        done = _run(step)
        if done.returncode:
            raise SystemExit(f"{cell}: {' '.join(step)}\n{done.stderr}")
    return inside


def versions_in(python: Path) -> str:
    """Return the versions that count, in a line."""
    code = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {SHOWN}))"
    return _run((str(python), "-c", code)).stdout.strip()


def passes(python: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Return whether the tests pass there, and the last line that pytest printed, or all of it."""
    words = (str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests)
    done = _run(words, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        return False, "\n".join([*lines[-40:], done.stderr])
    return True, lines[-1]


def main() -> None:
    """Run the matrix and print a line for each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS)
    parser.add_argument("--set", nargs="+", default=tuple(SETS), choices=tuple(SETS), dest="sets")
    parser.add_argument("--tests", nargs="+", default=TESTS)
    args = parser.parse_args()
    if shutil.which("uv") is None:
        raise SystemExit("no uv here: pip install uv")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        for cell in (Cell(python, versions) for python in args.python for versions in args.sets):
            found = interpreter(cell.python)
            if found is None:
                print(f"{cell.python} {cell.versions}: not run, no Python {cell.python} here", flush=True)
                continue
            inside = prepared(cell, found, wheel, Path(folder))
            good, told = passes(inside, args.tests)
            failed |= not good
            print(f"{cell.python} {cell.versions}: {'passed' if good else 'FAILED'}: {told}", flush=True)
            print(f"    {versions_in(inside)}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
