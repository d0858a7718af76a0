"""What the peers do with a file: one function each, run by tools/measure/benchmark.py in a process of its own.

    python -m tools peers NAME IN.onnx OUT.onnx --inputs calibration.npz

This file needs only numpy and the peer, so that each peer can live in its own environment (`PEERS[...].install`). What
the function itself took, without the import of the peer, is printed as the last line, in seconds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Timer = Callable[[], None]


@dataclass(frozen=True)
class Peer:
    """One way to make a smaller file.

    Attributes:
        run: Called with (source, out, inputs (n, ...) in the network's own values, started); it calls `started` when
            its imports are done.
        label: What a table calls it.
        inputs: What it is calibrated with: `none`, `gaussian` or `real`.
        environment: Name of the environment it lives in; several peers may share one.
        install: Arguments of successive `pip install`s that make the environment.
    """

    run: Callable[[Path, Path, np.ndarray, Timer], None]
    label: str
    inputs: str
    environment: str = ""
    install: tuple[tuple[str, ...], ...] = ()


class Reader:
    """A calibration data reader, as onnxruntime, Quark and ModelOpt know it: one image at a time."""

    def __init__(self, name: str, inputs: np.ndarray) -> None:
        """Gives each of `inputs` once under the graph input's name."""
        self.name, self.inputs = name, inputs
        self.rows: Iterator[np.ndarray] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch of one, or None at the end."""
        row = next(self.rows, None)
        return None if row is None else {self.name: row[None]}

    def rewind(self) -> None:
        """Starts again."""
        self.rows = iter(self.inputs)


def _input_name(source: Path) -> str:
    """The first graph input that is no weight."""
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return next(str(value.name) for value in graph.input if value.name not in weights)


def onnxsim_prune(source: Path, out: Path, _: np.ndarray, started: Timer) -> None:
    """Half of the channels by onnxsim; it prunes only what it has simplified (batch norm folded) first."""
    import onnx
    import onnxsim

    started()
    simplified = onnxsim.simplify(onnx.load(source))
    model = simplified[0] if isinstance(simplified, tuple) else simplified
    onnx.save(onnxsim.apply_structured_pruning(model, sparsity=0.5), out)


def onnxsim_prune_refit(source: Path, out: Path, inputs: np.ndarray, started: Timer) -> None:
    """The same, then onnxsim's own repair, which fits the matrix layers (no convolutions) on inputs."""
    import onnx
    import onnxsim

    started()
    simplified = onnxsim.simplify(onnx.load(source))
    model = simplified[0] if isinstance(simplified, tuple) else simplified
    pruned = onnxsim.apply_structured_pruning(model, sparsity=0.5)
    batches = [{_input_name(source): inputs}]
    onnx.save(onnxsim.apply_pruning_finetune(model, pruned, calibration_data=batches), out)


def _quantized(prepared: Path, out: Path, reader: Reader) -> None:
    """The quantize_static of onnxruntime: QDQ, int8 weights per channel, uint8 activations."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        str(prepared),
        str(out),
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _raise_opset(path: Path, least: int = 13) -> None:
    """Scales per channel came with opset 13; files of an older one would not load afterwards."""
    import onnx
    from onnx import version_converter

    model = onnx.load(path)
    if next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < least:
        onnx.save(version_converter.convert_version(model, least), path)


def static(source: Path, out: Path, inputs: np.ndarray, started: Timer) -> None:
    """The quantize_static of onnxruntime: QDQ, int8 weights per channel, uint8 activations, its own preprocessing."""
    from onnxruntime.quantization import quant_pre_process

    started()
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)  # which would need sympy
        _raise_opset(prepared)
        _quantized(prepared, out, Reader(_input_name(source), inputs))


def dynamic(source: Path, out: Path, _: np.ndarray, started: Timer) -> None:
    """The quantize_dynamic of onnxruntime with uint8 weights, the type its integer convolution takes."""
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    started()
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)  # which would need sympy
        quantize_dynamic(str(prepared), str(out), weight_type=QuantType.QUInt8)


def aimet(source: Path, out: Path, inputs: np.ndarray, started: Timer) -> None:
    """AIMET's cross-layer equalization and high-bias fold, then onnxruntime quantize_static with the same inputs."""
    import onnx
    from aimet_onnx.cross_layer_equalization import equalize_model

    started()
    model = onnx.load(source)
    equalize_model(model)
    with tempfile.TemporaryDirectory() as folder:
        equalized = Path(folder) / "equalized.onnx"
        onnx.save(model, equalized)
        _quantized(equalized, out, Reader(_input_name(source), inputs))


def modelopt(source: Path, out: Path, inputs: np.ndarray, started: Timer) -> None:
    """NVIDIA ModelOpt's int8 quantization, calibrated on the CPU; its file is placed for TensorRT."""
    from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found, unused-ignore]

    started()
    quantize(
        str(source),
        quantize_mode="int8",
        calibration_data={_input_name(source): inputs},
        calibration_method="entropy",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
        log_level="ERROR",
    )


def quark(source: Path, out: Path, inputs: np.ndarray, started: Timer) -> None:
    """AMD Quark's A8W8 configuration with cross-layer equalization."""
    from quark.onnx import (  # type: ignore[import-not-found, unused-ignore]
        A8W8_QCONFIG,
        CLEConfig,
        ModelQuantizer,
        QConfig,
    )

    started()
    config = QConfig(global_config=A8W8_QCONFIG.global_config, algo_config=[CLEConfig()])
    ModelQuantizer(config).quantize_model(str(source), str(out), Reader(_input_name(source), inputs))


ONNXSIM = (("onnxsim",),)
AIMET = (
    ("--no-deps", "aimet-onnx", "onnx2torch"),  # its full dependencies bring much that equalization never uses
    ("PyYAML", "bokeh", "hvplot", "jsonschema", "onnx_ir", "onnxscript", "osqp", "pandas", "psutil", "tqdm"),
    ("scikit-learn", "torch"),  # imported, but not asked for
)
MODELOPT = (("nvidia-modelopt", "onnxscript", "onnxconverter-common", "onnxslim", "polygraphy", "lief", "cppimport"),)
QUARK = (
    ("onnx>=1.21,<=1.22", "evaluate", "ninja", "onnxscript", "onnxslim", "pandas", "plotly", "psutil", "pydantic"),
    ("--no-deps", "amd-quark"),
    ("joblib", "sentencepiece", "torch", "tqdm", "zstandard"),  # imported, but not asked for
)

PEERS: dict[str, Peer] = {
    "onnxsim": Peer(onnxsim_prune, "onnxsim, structured pruning 0.5", "none", "onnxsim", ONNXSIM),
    "onnxsim-refit": Peer(onnxsim_prune_refit, "onnxsim, pruning 0.5 + its repair", "real", "onnxsim", ONNXSIM),
    "static": Peer(static, "onnxruntime quantize_static", "real"),
    "static-gaussian": Peer(static, "onnxruntime quantize_static", "gaussian"),
    "dynamic": Peer(dynamic, "onnxruntime quantize_dynamic", "none"),
    "aimet": Peer(aimet, "AIMET equalization + quantize_static", "gaussian", "aimet", AIMET),
    "modelopt": Peer(modelopt, "NVIDIA ModelOpt int8", "real", "modelopt", MODELOPT),
    "quark": Peer(quark, "AMD Quark A8W8 + equalization", "real", "quark", QUARK),
}


def main() -> None:
    """Runs one peer and prints its seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--inputs", type=Path, required=True, help=".npz with x (n, ...) as the network takes it")
    args = parser.parse_args()
    with np.load(args.inputs) as archive:
        inputs: Any = archive["x"]
    begun: list[float] = []
    PEERS[args.peer].run(args.source, args.out, inputs, lambda: begun.append(time.perf_counter()))
    print(f"{time.perf_counter() - begun[0]:.3f}")


if __name__ == "__main__":
    main()
