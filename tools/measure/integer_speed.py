"""How fast `--bits 8 --activations 8` is: beside the quantize_static of onnxruntime and beside the original, in turn.

    python -m tools integer_speed ../shared/realnets/models/*.onnx --threads 1

The peer makes its file as in `peers.py` and is calibrated on the inputs that onnx-udfc makes up. Both files run in
turn; what is printed are medians of paired ratios with their intervals (see onnx_udfc.validate).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnxruntime as ort

from onnx_udfc import Options, compress, validate
from onnx_udfc.errors import UdfcError
from onnx_udfc.inputs.network_inputs import make_inputs
from onnx_udfc.original import read_original
from onnx_udfc.runtime.latency import Latency
from tools.measure.peers import static

WISHES = Options(bits=8, activations=8)
CALIBRATED_WITH = 16  # inputs


def main() -> None:
    """Print a row a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each comparison")
    given = parser.parse_args()
    print(
        f"| network | against quantize_static | against the original | quantize_static against it | ({given.threads})"
    )
    print("|---|---|---|---|", flush=True)
    for network in given.networks:
        with tempfile.TemporaryDirectory() as folder:
            print(row(network, Path(folder), given.threads, given.seconds), flush=True)


def row(network: Path, folder: Path, threads: int, seconds: float) -> str:
    """The ratios of one network, or why there are none."""
    ours, theirs = folder / "ours.onnx", folder / "static.onnx"
    try:
        compress(network, WISHES).save(ours)
    except UdfcError as error:
        return f"| {network.stem} | {error} |"
    pairs = [(network, ours)]
    try:
        made = make_inputs(read_original(network, WISHES).network, WISHES).values
        static(network, theirs, next(iter(made.values()))[:CALIBRATED_WITH], lambda: None)
        ort.InferenceSession(str(theirs), providers=["CPUExecutionProvider"])  # what it wrote may not load
        pairs = [(theirs, ours), (network, ours), (network, theirs)]
    except Exception as error:  # whatever a peer raises: its cell says so
        print(f"quantize_static on {network.stem}: {type(error).__name__}: {error}".splitlines()[0])
    cells = [_ratio(*pair, threads, seconds) for pair in pairs]
    return f"| {network.stem} | {' | '.join(cells if len(cells) > 1 else ['-', *cells, '-'])} |"


def _ratio(first: Path, second: Path, threads: int, seconds: float) -> str:
    """The time of the second file in units of the first's."""
    timed = validate(first, second, threads=threads, seconds=seconds, memory=False).latency
    assert isinstance(timed, Latency)
    return f"{timed.ratio:.3f} ({timed.low:.3f} to {timed.high:.3f})"


if __name__ == "__main__":
    main()
