"""A network of more than 2 GB with external data, compressed by the command line: seconds and peak memory.

    python -m tools large_model FOLDER --gigabytes 2.2 -- --bits 8
    python -m tools large_model FOLDER --gigabytes 2.4 -- --prune 0.1 --method udfc

The network is a VGG with wide layers and random weights, written layer by layer into FOLDER/large.onnx.data; the result
is run once and removed. FOLDER needs room for both. The process fails if the peak is above three times the size.
"""

import argparse
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

LIMIT = 3.0
WIDTHS = (64, 256, 512, 1024, 2048)  # of the stages; each halves the image
SIZE = 32
HIDDEN = 4096
CLASSES = 100


@dataclass(frozen=True)
class Outcome:
    """One compression: seconds, peak memory of its process, and bytes of the model before and after."""

    seconds: float
    memory: int
    before: int
    after: int


class Writer:
    """Writes weights into one file, a piece at a time."""

    def __init__(self, path: Path) -> None:
        """Start the file of external data."""
        self.path, self.tensors, self.nodes = path, list[onnx.TensorProto](), list[onnx.NodeProto]()
        self.rng = np.random.default_rng(0)
        self.file = path.open("wb")

    def layer(self, op: str, source: str, *shape: int, **attributes: Any) -> str:
        """Add a layer and its ReLU; returns the output's name."""
        name = f"layer{len(self.tensors)}"
        tensor = TensorProto(name=f"{name}.weight", data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        offset, fan_in = self.file.tell(), int(np.prod(shape[1:]))
        for _ in range(shape[0]):
            row = self.rng.standard_normal(fan_in, np.float32) * np.float32(np.sqrt(2 / fan_in))
            self.file.write(row.tobytes())
        for key, value in (("location", self.path.name), ("offset", offset), ("length", self.file.tell() - offset)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        self.nodes.append(helper.make_node(op, [source, tensor.name], [f"{name}.y"], name, **attributes))
        self.nodes.append(helper.make_node("Relu", [f"{name}.y"], [f"{name}.a"]))
        return f"{name}.a"

    def node(self, op: str, source: str, **attributes: Any) -> str:
        """Add another node; returns the output's name."""
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [source], [name], **attributes))
        return name


def build(folder: Path, gigabytes: float) -> Path:
    """Write the network; as many layers of the widest stage as make the size full."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = Writer(folder / "large.onnx.data")
    x, channels = "x", 3
    for width in WIDTHS:
        x = writer.node("MaxPool", writer.layer("Conv", x, width, channels, 3, 3, pads=[1] * 4), kernel_shape=[2, 2],
                        strides=[2, 2])  # fmt: skip
        channels = width
    head = 4 * HIDDEN * (channels + HIDDEN + CLASSES)
    while writer.file.tell() + head < gigabytes * 1e9:
        x = writer.layer("Conv", x, channels, channels, 3, 3, pads=[1] * 4)
    x = writer.node("Flatten", x)
    x = writer.layer("Gemm", writer.layer("Gemm", x, HIDDEN, channels, transB=1), HIDDEN, HIDDEN, transB=1)
    writer.layer("Gemm", x, CLASSES, HIDDEN, transB=1)
    writer.file.close()
    last = writer.nodes.pop(-1)
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE]),
        helper.make_tensor_value_info(last.input[0], TensorProto.FLOAT, ["N", CLASSES]),
    ]
    graph = helper.make_graph(writer.nodes, "large", ends[:1], ends[1:], writer.tensors)
    path = folder / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def size(path: Path) -> int:
    """Bytes of a model with its data."""
    return sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}.data")) if file.exists())


def compress(source: Path, out: Path, options: list[str]) -> Outcome:
    """Run the command line in a process of its own.

    Raises:
        SystemExit: it fails.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", "onnx_udfc", str(source), str(out), *options]
    done = subprocess.run(command, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return Outcome(seconds, memory, size(source), size(out))


def runs(path: Path) -> bool:
    """Whether onnxruntime gives finite values for zeros and ones."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return bool(np.isfinite(session.run(None, {"x": np.ones((1, 3, SIZE, SIZE), np.float32)})[0]).all())


def main() -> None:
    """Build, compress, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=2.2)
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    given, options = parser.parse_args(words[:split]), words[split + 1 :]
    source, out = given.folder / "large.onnx", given.folder / "out.onnx"
    if not (given.keep and source.exists()):
        build(given.folder, given.gigabytes)
    try:
        found = compress(source, out, options)
        ratio = found.memory / found.before
        print(
            f"{' '.join(options)}: {found.before / 1e9:.2f} GB to {found.after / 1e9:.2f} GB in "
            f"{found.seconds:.0f} s, peak {found.memory / 1e9:.2f} GB = {ratio:.2f} times the file, "
            f"runs: {'yes' if runs(out) else 'NO'}"
        )
    finally:
        for path in (out, out.with_name(f"{out.name}.data"), *(() if given.keep else (source, Path(f"{source}.data")))):
            path.unlink(missing_ok=True)
    if ratio > LIMIT:
        raise SystemExit(f"more than {LIMIT:g} times the size of the file")


if __name__ == "__main__":
    main()
