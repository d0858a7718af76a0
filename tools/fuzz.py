"""Damaged files and random graphs through the whole command line, against an OUT that must stay or become whole.

    python -m tools.fuzz --damaged 500 --graphs 300 --assets ../shared/assets

Every case runs `inspect` and a compression in this process, as the command line would. A fault is what a user must
never see: an internal error, more than one line on standard error, a case that takes longer than a minute, an OUT that
is neither what it was nor a model that runs, or anything left beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from onnx_udfc import cli
from onnx_udfc.runtime.sessions import open_session
from tests.random_graphs import RandomGraph

SECONDS = 60.0
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
        code = cli.run(lambda: cli.app.main(list(words), standalone_mode=False), debug=False)
    return code, errors.getvalue()


def examine(content: bytes, request: tuple[str, ...], folder: Path, tally: Tally) -> None:
    """Run one case and put what became of it into the tally."""
    source, out = folder / "in.onnx", folder / "out.onnx"
    source.write_bytes(content)
    out.write_bytes(PRECIOUS)
    start = time.perf_counter()
    seen, said = call("inspect", str(source))
    code, errors = call(str(source), str(out), *request, "--threads", "1", "--images", "4", "--quiet")
    seconds = time.perf_counter() - start
    tally.slowest = max(tally.slowest, seconds)
    tally.outcomes["compressed" if code == 0 else "refused"] += 1
    faults = [*_faults(seen, said), *_faults(code, errors)]
    if seconds > SECONDS:
        faults.append(f"took {seconds:.0f} s")
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
    if code not in (0, 1, 3):
        yield f"exit code {code}"
    if "internal error" in errors or "Traceback" in errors:
        yield errors.strip()
    if (code != 0) != (len(errors.splitlines()) == 1):
        yield f"exit code {code} with {len(errors.splitlines())} lines: {errors[:200]}"


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
        @given(st.data(), st.integers(0, 2**16), st.integers(1, 12), st.sampled_from(REQUESTS))
        def one(data: st.DataObject, seed: int, steps: int, request: tuple[str, ...]) -> None:
            model = RandomGraph(lambda n: data.draw(st.integers(0, n - 1)), seed).grow(steps)
            before = tally.outcomes["refused"]
            examine(model.SerializeToString(), request, Path(folder), tally)
            if tally.outcomes["refused"] > before:
                onnx.save(model, Path(tempfile.gettempdir()) / "refused.onnx")
                tally.faults.append(f"a whole graph was refused ({' '.join(request)}); it is in refused.onnx")

        one()
    return tally


def main() -> None:
    """Run both and print a line for each, and every fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damaged", type=int, default=500)
    parser.add_argument("--graphs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--assets", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "assets")
    asked = parser.parse_args()
    damaged = fuzz_damaged(asked.assets / "zoo", asked.damaged, asked.seed)
    print(f"damaged files: {damaged.line()}", *damaged.faults, sep="\n", flush=True)
    graphs = fuzz_graphs(asked.graphs) if asked.graphs else Tally()
    print(f"random graphs: {graphs.line()}", *graphs.faults, sep="\n", flush=True)
    sys.exit(bool(damaged.faults or graphs.faults))


if __name__ == "__main__":
    main()
