"""Damaged files, random and mutated graphs through the whole command line; OUT must stay or become whole.

    python -m tools fuzz --damaged 500 --graphs 300 --mutated 1000 --assets ../shared/assets

Every case runs `inspect` and a compression in this process, as the command line would. A fault is what a user must
never see: an internal error, more than one line on standard error, a case that takes longer than a minute or more than
2 GB, an OUT that is neither what it was nor a model that runs, an output lost, or anything left beside it. Of a mutated
graph the result is also compared with the original where nothing was asked: it must give the same numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from onnx_udfc.cli import commands
from onnx_udfc.inputs.kinds import made
from onnx_udfc.inputs.sizes import undescribed
from onnx_udfc.runtime.machine import release
from onnx_udfc.runtime.runs import input_specs, split
from onnx_udfc.runtime.sessions import open_session, run_limited
from tests.random_graphs import RandomGraph
from tests.random_structures import StructureGraph
from tools.check.mutations import mutated
from tools.places import ASSETS

SECONDS, GIGABYTES = 60.0, 2.0
NOTHING = ("--prune", "0", "--bits", "32")
SAME = 1e-3  # of the largest value of an output: folding a batch norm moves the last places, deep graphs add them up
PRECIOUS = b"what was there before, a result with onnx_udfc.version"
ZOO = (
    "conv_single", "fuse_conv_bn_mul_add", "fuse_conv_bn_no_bias", "loop_control_flow", "lstm_bidirectional_cntk",
    "matmul_2layer", "mnist_cntk_opset7", "resnet_block_sum",
)  # fmt: skip
REQUESTS = (
    ("--prune", "0.3", "--bits", "8"),
    ("--prune", "0.5", "--bits", "4", "--method", "udfc", "--align", "1"),
    ("--prune", "0.3", "--bits", "8", "--activations", "8"),
    ("--bits", "6", "--method", "none"),
    ("--prune", "0.5", "--prune-stream", "on", "--align", "1"),
)


@dataclass
class Tally:
    """What became of the cases: counts of outcomes, seconds of the slowest, and the faults."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line for a person."""
        counts = ", ".join(f"{number} {name}" for name, number in sorted(self.outcomes.items()))
        return f"{sum(self.outcomes.values())} cases: {counts}; slowest {self.slowest:.1f} s; {len(self.faults)} faults"


def call(*words: str) -> tuple[int, str]:
    """Exit code and standard error of the command line, run in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = commands.run(lambda: commands.app.main(list(words), standalone_mode=False), debug=False)
    return code, errors.getvalue()


def examine(content: bytes, request: tuple[str, ...], folder: Path, tally: Tally) -> None:
    """Run one case and put what became of it into the tally."""
    source, out = folder / "in.onnx", folder / "out.onnx"
    source.write_bytes(content)
    out.write_bytes(PRECIOUS)
    held = _forget_peak()
    start = time.process_time()  # others on the machine do not lengthen it
    seen, said = call("inspect", str(source))
    code, errors = call(str(source), str(out), *request, "--threads", "1", "--image-count", "4", "--quiet")
    seconds = time.process_time() - start
    tally.slowest = max(tally.slowest, seconds)
    tally.outcomes["compressed" if code == 0 else "refused"] += 1
    faults = [*_faults(seen, said), *_faults(code, errors)]
    if seconds > SECONDS:
        faults.append(f"took {seconds:.0f} s")
    if _peak() - held > GIGABYTES:
        faults.append(f"took {_peak() - held:.1f} GB")
    if code == 0:
        faults += [f"changed: {line}" for line in _changes(source, out, request == NOTHING)]
    if code != 0 and out.read_bytes() != PRECIOUS:
        faults.append(f"exit code {code}, but OUT was written")
    if code == 0 and not _loads(out) and _loads(source):
        faults.append("exit code 0, but OUT does not load")
    left = sorted(p.name for p in folder.iterdir() if p not in (source, out))
    if left:
        faults.append(f"left behind: {', '.join(left)}")
    case = sum(tally.outcomes.values()) - 1
    tally.faults += [f"case {case} ({' '.join(request)}): {fault}" for fault in faults]


def _faults(code: int, errors: str) -> Iterator[str]:
    lines = errors.splitlines()
    if code == 0:  # of what was written, warnings may be said
        lines = [line for line in lines if "warning:" not in line]
    if code not in (0, 1, 3):
        yield f"exit code {code}"
    if "internal error" in errors or "Traceback" in errors:
        yield errors.strip()
    if (code != 0) != (len(lines) == 1):
        yield f"exit code {code} with {len(lines)} lines: {errors[:200]}"


def _forget_peak() -> float:
    """Let the system measure the peak of this process anew; gigabytes that it holds by now."""
    gc.collect()
    release(0.0)  # what others left behind, and what could be taken without being seen
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> float:
    """Gigabytes that this process took at most since."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    return 0.0


def _changes(source: Path, out: Path, same: bool) -> Iterator[str]:
    """What the result lacks of the original, where that can be run; with `same` its numbers, too."""
    before, after = onnx.load(source, load_external_data=False), onnx.load(out, load_external_data=False)
    names = [o.name for o in before.graph.output]
    if names != [o.name for o in after.graph.output]:
        yield f"outputs {[o.name for o in after.graph.output]} in place of {names}"
        return
    if not same:
        return
    try:
        feeds = _feeds(source)
        expected = run_limited(source, names, feeds, SECONDS / 2)
    except Exception:
        return  # onnxruntime does not run the original, or not on these inputs
    try:
        found = run_limited(out, names, feeds, SECONDS / 2)
    except Exception as error:
        yield f"it does not run ({error})"
        return
    yield from (f"output '{n}' is another" for n, a, b in zip(names, expected, found, strict=True) if not _equal(a, b))


def _feeds(source: Path) -> dict[str, np.ndarray]:
    """Noise for every input; small numbers where it takes integers."""
    specs = input_specs(open_session(source, threads=1))
    feeds = made(undescribed(specs), 1, 0, {})
    return next(iter(split(specs, feeds, batch=1)))


def _equal(expected: Any, found: Any) -> bool:
    if not isinstance(expected, np.ndarray) or not isinstance(found, np.ndarray):
        return type(expected) is type(found)
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if expected.dtype.kind not in "fiub" or not expected.size:
        return bool(np.array_equal(expected, found))
    with np.errstate(all="ignore"):
        a, b = expected.astype(np.float64), found.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        largest = np.abs(a[finite]).max(initial=0.0)
        return bool((np.isfinite(a) == np.isfinite(b)).all() and np.allclose(a[finite], b[finite], 0, SAME * largest))


def _loads(path: Path) -> bool:
    try:
        open_session(path, threads=1)
    except Exception:
        return False
    return True


def damaged_files(zoo: Path, count: int, seed: int = 0) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """Real files with a few bits or bytes changed, pieces cut out, doubled or zeroed, or the end missing."""
    originals = [(zoo / f"{name}.onnx").read_bytes() for name in ZOO]
    rng = np.random.default_rng(seed)
    for i in range(count):
        content = bytearray(originals[i % len(originals)])
        DAMAGES[i // len(originals) % len(DAMAGES)](content, rng)
        yield bytes(content), REQUESTS[int(rng.integers(len(REQUESTS)))]


def _bits(content: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))


def _bytes(content: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 10))):
        content[rng.integers(len(content))] = int(rng.integers(256))


def _ends(content: bytearray, rng: np.random.Generator) -> None:
    """Bits near the beginning and the end, where names, nodes and shapes are rather than weights."""
    for _ in range(int(rng.integers(1, 4))):
        near = int(rng.integers(min(len(content), 1500)))
        content[near if rng.integers(2) else len(content) - 1 - near] ^= 1 << int(rng.integers(8))


def _piece(content: bytearray, rng: np.random.Generator) -> None:
    start, length = int(rng.integers(len(content))), int(rng.integers(1, 64))
    piece = content[start : start + length]
    content[start : start + length] = (b"", piece * 2, bytes(len(piece)))[int(rng.integers(3))]


def _cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(len(content))) :]


DAMAGES: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (_bits, _bytes, _ends, _piece, _ends, _cut)


def fuzz_damaged(zoo: Path, count: int, seed: int = 0) -> Tally:
    """So many damaged files."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for content, request in damaged_files(zoo, count, seed):
            examine(content, request, Path(folder), tally)
    return tally


def fuzz_graphs(count: int) -> Tally:
    """So many graphs by hypothesis; every one must be compressed, and what onnxruntime runs must still run."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:

        @settings(
            max_examples=count, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(
            st.data(), st.integers(0, 2**16), st.integers(1, 12), st.sampled_from(REQUESTS),
            st.sampled_from([RandomGraph, StructureGraph]),
        )  # fmt: skip
        def one(data: st.DataObject, seed: int, steps: int, request: tuple[str, ...], kind: type[RandomGraph]) -> None:
            model = kind(lambda n: data.draw(st.integers(0, n - 1)), seed).grow(steps)
            before = tally.outcomes["refused"]
            examine(model.SerializeToString(), (*request, "--force"), Path(folder), tally)  # small files may grow
            if tally.outcomes["refused"] > before:
                onnx.save(model, Path(tempfile.gettempdir()) / "refused.onnx")
                tally.faults.append(f"a whole graph was refused ({' '.join(request)}); it is in refused.onnx")

        one()
    return tally


def fuzz_mutated(zoo: Path | None, count: int, seed: int = 0, first: int = 0) -> Tally:
    """So many mutated graphs: random ones, and real ones where there are some."""
    tally = Tally()
    real = [onnx.load(zoo / f"{name}.onnx") for name in ZOO] if zoo else []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(first, first + count):
            rng = np.random.default_rng((seed, i))
            if real and i % 3 == 0:
                model = real[int(rng.integers(len(real)))]
            else:
                kind = StructureGraph if i & 2 else RandomGraph
                model = kind(lambda n: int(rng.integers(n)), i).grow(int(rng.integers(1, 10)))  # noqa: B023
            content = mutated(model, rng).SerializeToString()
            request = NOTHING if i % 2 else REQUESTS[int(rng.integers(len(REQUESTS)))]
            known = len(tally.faults)
            examine(content, request, Path(folder), tally)
            if len(tally.faults) > known:
                kept = Path(tempfile.gettempdir()) / f"mutated_{seed}_{i}.onnx"
                kept.write_bytes(content)
                tally.faults[known:] = [f"{fault}; it is in {kept}" for fault in tally.faults[known:]]
    return tally


def main() -> None:
    """Run all three and print a line for each, and every fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damaged", type=int, default=500)
    parser.add_argument("--graphs", type=int, default=300)
    parser.add_argument("--mutated", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutated graph")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--assets", type=Path, default=ASSETS)
    asked = parser.parse_args()
    zoo = asked.assets / "zoo"
    damaged = fuzz_damaged(zoo, asked.damaged, asked.seed) if asked.damaged else Tally()
    print(f"damaged files: {damaged.line()}", *damaged.faults, sep="\n", flush=True)
    graphs = fuzz_graphs(asked.graphs) if asked.graphs else Tally()
    print(f"random graphs: {graphs.line()}", *graphs.faults, sep="\n", flush=True)
    changed = fuzz_mutated(zoo if zoo.is_dir() else None, asked.mutated, asked.seed, asked.first)
    print(f"mutated graphs: {changed.line()}", *changed.faults, sep="\n", flush=True)
    sys.exit(bool(damaged.faults or graphs.faults or changed.faults))


if __name__ == "__main__":
    main()
