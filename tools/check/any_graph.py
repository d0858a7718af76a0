"""Every file of the test assets, the real networks beside them and the onnx package through the command line.

Each is inspected, compressed, and run.

    python -m tools any_graph                                     (--prune 0.3 --bits 8, the default method)
    python -m tools any_graph --only "zoo/*" -- --prune 0.5 --method udfc
    python -m tools any_graph -- --factor on --budget macs=0.7

A file counts as compressed if the result has the inputs and outputs of the original, by name, type and declared shape,
and runs in onnxruntime with outputs of the original's shapes. A file that onnxruntime itself cannot load or run on
made-up inputs may be refused in one line, or compressed unchecked. With a budget a file may be left alone: refused in
one line that says the smallest that can be reached; and so may one that makes its weights as it is loaded, which would
only grow. Anything else is a failure.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import onnx

from onnx_udfc.cli import commands
from onnx_udfc.errors import UdfcError, one_line
from onnx_udfc.inputs.kinds import made
from onnx_udfc.inputs.sizes import undescribed
from onnx_udfc.runtime.runs import input_specs, split
from onnx_udfc.runtime.sessions import open_session
from tools.places import ASSETS, REALNETS

PACKAGE = Path(onnx.__file__).parent / "backend" / "test" / "data"
ZOO, REAL = ASSETS / "zoo", REALNETS / "models"
TOO_SMALL, GROWN = "the smallest that can be reached is", "the file would be larger than the original"
DEFAULT = ("--prune", "0.3", "--bits", "8")
SLOWEST = 5

Interface = list[tuple[str, str, list[object]]]


@dataclass(frozen=True)
class Row:
    """What became of a file: compressed, left alone, FAILED; where onnxruntime cannot load it, refused or unchecked."""

    name: str
    outcome: str
    seconds: float
    detail: str = ""


def files(pattern: str) -> Iterator[tuple[str, Path]]:
    """Name and path of every file that matches, those of the assets first, full-size architectures last."""
    found = [(f"zoo/{p.stem}", p) for p in sorted(ZOO.glob("*.onnx"))]
    found += [(f"real/{p.stem}", p) for p in sorted(REAL.glob("*.onnx"))]
    packaged = sorted(PACKAGE.rglob("*.onnx"), key=lambda p: ("light" in p.parts, p))
    found += [(str(p.relative_to(PACKAGE).with_suffix("")).removesuffix("/model"), p) for p in packaged]
    return ((name, path) for name, path in found if fnmatch(name, pattern))


def call(*words: str) -> tuple[int, str]:
    """Exit code and standard error of the command line, run in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = commands.run(lambda: commands.app.main(list(words), standalone_mode=False), debug=False)
    return code, errors.getvalue().strip()


def interface(path: Path) -> Interface:
    """Names, types and declared shapes of inputs and outputs."""
    session = open_session(path, threads=1)
    return [(a.name, a.type, list(a.shape)) for a in (*session.get_inputs(), *session.get_outputs())]


def shapes(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the outputs for made-up inputs.

    Raises:
        UdfcError: the inputs cannot be made up.
    """
    session = open_session(path, threads=1)
    specs = input_specs(session)
    feed = next(iter(split(specs, made(undescribed(specs), 1, 0, {}), batch=1)))
    return [np.shape(y) for y in session.run(None, feed)]


def examine(name: str, path: Path, options: tuple[str, ...], folder: Path) -> Row:
    """Inspect, compress and compare one file."""
    out = folder / "out.onnx"
    out.unlink(missing_ok=True)
    start = time.perf_counter()
    results = [call("inspect", str(path)), call(str(path), str(out), *options, "--quiet")]
    seconds = time.perf_counter() - start
    try:
        before = interface(path)
    except UdfcError as error:
        clean = all(code == 0 or (code == 1 and len(said.splitlines()) == 1) for code, said in results)
        outcome = ("unchecked" if results[1][0] == 0 else "refused") if clean else "FAILED"
        return Row(name, outcome, seconds, str(error) if clean else results[1][1])
    said = results[1][1]
    if len(said.splitlines()) == 1 and [code for code, _ in results] == [0, 1] and TOO_SMALL in said:
        return Row(name, "left alone", seconds, said)
    if len(said.splitlines()) == 1 and [code for code, _ in results] == [0, 3] and GROWN in said and _makes(path):
        return Row(name, "left alone", seconds, said)
    if any(code for code, _ in results):
        return Row(name, "FAILED", seconds, "; ".join(said for _, said in results if said))
    return Row(name, *_compared(path, out, before, seconds))


def _makes(path: Path) -> bool:
    """Whether a file makes weights as it is loaded, in place of holding them."""
    return any(node.op_type == "ConstantOfShape" for node in onnx.load(path).graph.node)


def _compared(path: Path, out: Path, before: Interface, seconds: float) -> tuple[str, float, str]:
    try:
        after = interface(out)
    except UdfcError as error:
        return "FAILED", seconds, str(error)
    if after != before:
        return "FAILED", seconds, f"{after} instead of {before}"
    try:
        expected = shapes(path)
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        return "compressed", seconds, f"loads; the original does not run on made-up inputs ({one_line(error)[:80]})"
    try:
        found = shapes(out)
    except Exception as error:  # as above
        return "FAILED", seconds, f"does not run: {one_line(error)}"
    return ("compressed", seconds, "") if found == expected else ("FAILED", seconds, f"{found} instead of {expected}")


def summary(rows: list[Row]) -> str:
    """Counts by folder, the slowest files, and every failure."""
    lines = []
    for group in dict.fromkeys(row.name.split("/")[0] for row in rows):
        counts = Counter(row.outcome for row in rows if row.name.split("/")[0] == group)
        lines.append(f"{group}: " + ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())))
    total = Counter(row.outcome for row in rows)
    lines.append(f"all {len(rows)} files: " + ", ".join(f"{n} {outcome}" for outcome, n in sorted(total.items())))
    slowest = sorted(rows, key=lambda row: -row.seconds)[:SLOWEST]
    lines.append("slowest: " + ", ".join(f"{row.name} {row.seconds:.0f} s" for row in slowest))
    return "\n".join(lines)


def main() -> None:
    """Examine all files; exit code 1 if one failed."""
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="pattern of names, e.g. zoo/*")
    parser.add_argument("--skip", default="", help="pattern of names")
    given, options = parser.parse_args(words[:at]), tuple(words[at + 1 :]) or DEFAULT
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files(given.only):
            if fnmatch(name, given.skip):
                continue
            row = examine(name, path, options, Path(folder))
            rows.append(row)
            print(f"{row.outcome:10} {row.seconds:6.1f} s  {row.name}  {row.detail}".rstrip(), flush=True)
    print(summary(rows))
    sys.exit(any(row.outcome == "FAILED" for row in rows))


if __name__ == "__main__":
    main()
