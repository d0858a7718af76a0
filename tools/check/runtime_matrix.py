"""Loads and runs every quantized form in several releases of onnxruntime, each in a virtual environment of its own.

    python -m tools runtime_matrix [--folder FOLDER] [VERSION ...]

Writes small models (a residual network with every kind of layer) in every form, makes one environment a version under
FOLDER (pip downloads onnxruntime there), runs the models in it, and compares with this environment's results. A form
that a release older than the report's `onnxruntime_min` does not load is in order; anything else that fails is not, and
the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_udfc.emit.placement import Placement
from onnx_udfc.emit.writer import TARGETS, activation_tensors, emit
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics.activation_grids import ActivationParams, search_range
from onnx_udfc.numerics.grids import FORMATS, QuantParams, round_nearest, search_scale
from onnx_udfc.runtime.kernels import INTEGER_KERNELS
from onnx_udfc.runtime.sessions import open_session

VERSIONS = ("1.20.1", "1.22.1", "1.23.2", "1.24.4", "1.26.0", "newest")
GRAPH = """
g (float[1,8,12,12] x) => (float[1,10] y)
<int64[2] flat = {1, -1}, float zero = {0}, float six = {6}> {
    a = Conv <pads=[1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    d = Conv <group=16, pads=[1,1,1,1]> (r, w2, b2)
    c = Clip (d, zero, six)
    e = Conv (c, w3, b3)
    s = Add (e, r)
    m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (s)
    t = ConvTranspose <strides=[2,2]> (m, w4, b4)
    u = Relu (t)
    v = Concat <axis=1> (u, s)
    f = Conv <group=2> (v, w5, b5)
    p = GlobalAveragePool (f)
    h = Reshape (p, flat)
    i = MatMul (h, w6)
    j = Relu (i)
    y = Gemm <transB=1> (j, w7, b7)
}
"""
SHAPES = {
    "w1": (16, 8, 3, 3), "w2": (16, 1, 3, 3), "w3": (16, 16, 1, 1), "w4": (16, 16, 2, 2), "w5": (12, 16, 1, 1),
    "w6": (12, 16), "w7": (10, 16),
}  # fmt: skip
RUNNER = """
import json, sys, numpy, onnxruntime
from pathlib import Path
folder = Path(sys.argv[1])
feeds = {"x": numpy.load(folder / "x.npy")}
found = {"version": onnxruntime.__version__}
for path in sorted(folder.glob("*.onnx")):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    try:
        running = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found[path.stem] = running.run(None, feeds)[0].tolist()
    except Exception as error:
        found[path.stem] = str(error).splitlines()[0]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Written:
    """A model, and the onnxruntime that it is said to need."""

    model: onnx.ModelProto
    oldest: str


def network() -> Network:
    """The network with seeded weights and biases."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {GRAPH}')
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        bias = rng.normal(size=shape[0] if name != "w4" else shape[1]) * 0.1
        model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), name.replace("w", "b")))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    return read(model)


def forms(image: NDArray[np.float32]) -> dict[str, Written]:
    """Every width × target, weights only and with activations."""
    written = {}
    original = network()
    for bits in sorted(FORMATS):
        weights = {}
        for name, layer in original.layers.items():
            scale = search_scale(layer.matrix(), FORMATS[bits])
            weights[name] = QuantParams(bits, round_nearest(layer.matrix(), scale, FORMATS[bits]), scale)
        for target in sorted(TARGETS):
            key = f"opset21-{target}-W{bits}"
            emitted = emit(original, weights, None, target)
            written[key] = Written(emitted.model, emitted.onnxruntime_min)
            if target == "cuda":
                continue
            placement = activation_tensors(original, weights, target)
            emitted = emit(original, weights, _ranges(original, placement, image), target, placement)
            written[f"{key}A8"] = Written(emitted.model, emitted.onnxruntime_min)
    return written


def _ranges(original: Network, placement: Placement, image: NDArray[np.float32]) -> dict[str, ActivationParams]:
    model = original.to_model()
    names = [name for name in placement.tensors if name != "x"]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    values = dict(zip(names, open_session(model, threads=1).run(names, {"x": image}), strict=True)) | {"x": image}
    return {t: search_range(values[t], placement.dtype, placement.caps.get(t)) for t in placement.tensors}


def results(version: str, folder: Path, models: Path) -> dict[str, object]:
    """What a release makes of the models: outputs, or the first line of its error."""
    environment = folder / version
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        package = "onnxruntime" if version == "newest" else f"onnxruntime=={version}"
        subprocess.run([python, "-m", "pip", "install", "--quiet", package, "numpy"], check=True)
    ran = subprocess.run([python, "-c", RUNNER, models], check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def verdict(found: object, expected: NDArray[np.float32], oldest: str, version: str) -> str:
    """`runs`, `too old` (as the report says), or what is wrong."""
    due = [int(part) for part in version.split(".")[:2]] >= [int(part) for part in oldest.split(".")]
    if isinstance(found, str):
        return "too old" if not due else f"FAILS: {found[:90]}"
    difference = float(np.abs(np.array(found, np.float32) - expected).max() / np.abs(expected).max())
    early = "" if due else " (though older than said)"
    return f"runs{early}" if difference < 0.05 else f"DIFFERS by {difference:.3f} of the largest output"


def integer_layers(optimized: Path) -> int:
    """How many integer layer kernels are in a graph that onnxruntime wrote."""
    if not optimized.exists():
        return 0
    kernels = [node.op_type for node in onnx.load(str(optimized), format="protobuf").graph.node]
    optimized.unlink()
    return sum(kernel in INTEGER_KERNELS for kernel in kernels)


def main() -> int:
    """Write, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "onnx_udfc_runtimes")
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    arguments = parser.parse_args()
    image = np.random.default_rng(1).normal(size=(1, 8, 12, 12)).astype(np.float32)
    written, wrong = forms(image), 0
    with tempfile.TemporaryDirectory() as name:
        models = Path(name)
        np.save(models / "x.npy", image)
        for key, form in written.items():
            onnx.save(form.model, models / f"{key}.onnx")
        expected = {
            key: open_session(form.model, threads=1).run(None, {"x": image})[0] for key, form in written.items()
        }
        for version in arguments.versions:
            found = results(version, arguments.folder, models)
            release = str(found["version"])
            verdicts = {key: verdict(found[key], expected[key], form.oldest, release) for key, form in written.items()}
            integer = integer_layers(models / "opset21-cpu-W4A8.optimized")
            print(f"onnxruntime {release}: {sum(text == 'runs' for text in verdicts.values())} of {len(verdicts)} run,")
            print(f"    opset21-cpu-W4A8: {integer} of 6 layers with integer kernels run as integers")
            for key, text in verdicts.items():
                if text != "runs":
                    print(f"    {key} (needs {written[key].oldest}): {text}")
                wrong += text[0].isupper()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
