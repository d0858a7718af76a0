"""Float16 networks with weights in few bits against the float16 originals: graphs, bytes and time, measured in turn.

    python -m tools half_latency [FILE ...] [--seconds 6] [--bits 8 6 4] [--targets cpu cuda]

Files in float32 are brought to float16 first, by onnxruntime's own converter; without files, three networks of the test
assets. A row names what the loaded graph has more of than the original's (nothing, where weights are folded), and the
median ratio of the processor's times, on one thread, with its 95 % interval. The exit code is 1 where a file is slower
than LONGEST times the original, or its weights are computed in every run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from onnx_udfc import compress
from onnx_udfc.inputs.kinds import one_feed
from onnx_udfc.inputs.sizes import wanted_inputs
from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from onnx_udfc.runtime.kernels import optimized_graph
from onnx_udfc.runtime.latency import Latency, Round, summarize
from onnx_udfc.runtime.sessions import open_session
from tools.places import ASSETS

LONGEST = 1.03
RESTARTS, LEAST = 6, 5  # sessions are made anew: where their memory lies moves their time; rounds of each
NETWORKS = (
    "models/resnet56_cifar10_folded.onnx", "zoo/squeezenet_v1.1_fp16_opset7.onnx",
    "models/mobilenet_v2_imagenet_folded.onnx",
)  # fmt: skip
OF_WEIGHTS = ("Cast", "Mul", "DequantizeLinear", "Div", "Mod", "Gather", "Slice", "Reshape")


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        network: its name.
        target: it was written for.
        bits: of its weights.
        share: its bytes as a share of the float16 original's.
        more: operators that its loaded graph has more of, of those that weights are computed by.
        time: against the original.
    """

    network: str
    target: str
    bits: int
    share: float
    more: Counter[str]
    time: Latency

    @property
    def passes(self) -> bool:
        """Whether it costs nothing to run."""
        return not self.more and self.time.ratio <= LONGEST


def in_half(path: Path) -> onnx.ModelProto:
    """A network in float16: as it is in the file, or converted."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # slow to import

    model = onnx.load(path)
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer):
        return model
    converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=False)
    return converted


def weight_operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator that weights may be computed by is in the loaded graph."""
    counts = Counter(node.op_type for node in optimized_graph(model).graph.node)
    return Counter({op: counts[op] for op in OF_WEIGHTS if counts[op]})


def processor_time(
    original: onnx.ModelProto, model: onnx.ModelProto, feed: Mapping[str, Any], seconds: float
) -> Latency:
    """Time of this thread that each takes, in turn: what else the machine does is not in it."""
    rounds = []
    for restart in range(RESTARTS):
        order = (original, model) if restart % 2 else (model, original)
        sessions = [open_session(m, "cpu", 1) for m in order]
        for session in sessions:
            session.run(None, dict(feed))
        until, number = time.monotonic() + seconds / RESTARTS, 0
        while number < LEAST or time.monotonic() < until:
            taken = [_run_time(session, feed) for session in sessions]
            rounds.append(Round(*(taken if restart % 2 else reversed(taken))))
            number += 1
    return summarize(rounds)


def _run_time(session: Any, feed: Mapping[str, Any]) -> float:
    start = time.thread_time()
    session.run(None, dict(feed))
    return time.thread_time() - start


def rows(paths: Sequence[Path], targets: Sequence[str], bits: Sequence[int], seconds: float) -> Iterator[Row]:
    """Every network, target and width."""
    for path in paths:
        original = in_half(path)
        plain = compress(original, threads=1).model  # the same network in today's operators
        before, feed = weight_operators(plain), one_feed(wanted_inputs(read(load(original).model)))
        for target in targets:
            for width in bits:
                model = compress(original, bits=width, target=target, method="none", threads=1).model
                taken = processor_time(original, model, feed, seconds)
                share = model.ByteSize() / original.ByteSize()
                yield Row(path.stem, target, width, share, weight_operators(model) - before, taken)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 6, 4])
    parser.add_argument("--targets", nargs="+", default=["cpu", "cuda"])
    args = parser.parse_args()
    passed = True
    print("network", "target", "bits", "bytes", "more in every run", "time", sep="\t")
    for row in rows(args.files or [ASSETS / n for n in NETWORKS], args.targets, args.bits, args.seconds):
        passed &= row.passes
        more = ", ".join(f"{count} {op}" for op, count in row.more.items()) or "nothing"
        ratio = f"{row.time.ratio:.3f} ({row.time.low:.3f} to {row.time.high:.3f})"
        print(row.network, row.target, row.bits, f"{row.share:.3f}", more, ratio, sep="\t", flush=True)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
