"""The files of `gpu_table.py`: networks of the test assets and a ResNet-50 of random weights, in every form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from onnx_udfc import compress
from onnx_udfc.options import Options
from tools.measure import gpu_table
from tools.measure.form_latency import ResNet18
from tools.places import ASSETS


@dataclass(frozen=True)
class File:
    """A row of the table.

    Attributes:
        label: what it is called there.
        options: of the compression.
        settings: more rows of the same file: label → what its session is given (`session`, `provider_option`).
    """

    label: str
    options: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)


NHWC = {"with prefer_nhwc=1": {"provider_option": {"prefer_nhwc": "1"}}}
FOLDED = {"with session.disable_quant_qdq=1": {"session": {"session.disable_quant_qdq": "1"}}}
FILES = (
    File("cuda 8 bit", {"bits": 8, "target": "cuda"}),
    File("cuda 4 bit", {"bits": 4, "target": "cuda"}),
    File("cuda 8 bit, half pruned", {"bits": 8, "prune": 0.5, "target": "cuda"}),
    File("cpu 6 bit (words)", {"bits": 6, "target": "cpu"}),
    File("portable 8 bit", {"bits": 8, "target": "portable"}, FOLDED),
    File("cpu W8A8", {"bits": 8, "activations": 8, "target": "cpu"}),
    File("tensorrt W8A8", {"bits": 8, "activations": 8, "target": "tensorrt"}),
    File("float16, 8 bit", {"float16": True, "bits": 8, "target": "cuda"}, NHWC),
    File("float16, 8 bit, half pruned", {"float16": True, "bits": 8, "prune": 0.5, "target": "cuda"}, NHWC),
)


class ResNet50(ResNet18):
    """A ResNet-50 with batch norm folded, He-initialized, for any batch."""

    def model(self) -> onnx.ModelProto:
        """Return the network, input x (N, 3, 224, 224), output y (N, 1000)."""
        found = super().model()
        found.graph.name = "resnet50"
        for value in (*found.graph.input, *found.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "N"
        return found

    def stages(self) -> Sequence[tuple[int, int]]:
        """Output channels and stride of each block."""
        blocks = ((256, 3), (512, 4), (1024, 6), (2048, 3))
        return [(out, 2 if i == 0 and out > 256 else 1) for out, number in blocks for i in range(number)]

    def _block(self, x: str, channels: int, out: int, stride: int) -> str:
        inner = out // 4
        main = self._op("Relu", [self._conv(x, channels, inner, 1, 1)])
        main = self._op("Relu", [self._conv(main, inner, inner, 3, stride)])
        main = self._conv(main, inner, out, 1, 1)
        shortcut = x if stride == 1 and channels == out else self._conv(x, channels, out, 1, stride)
        return self._op("Relu", [self._op("Add", [main, shortcut])])


def _asset(name: str) -> Callable[[], onnx.ModelProto]:
    return lambda: onnx.load(ASSETS / "models" / f"{name}.onnx")


NETWORKS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "resnet56": _asset("resnet56_cifar10_folded"),
    "resnet50": lambda: ResNet50().model(),
    "mobilenet_v2": _asset("mobilenet_v2_imagenet_folded"),
    "squeezenet": _asset("squeezenet_v1.1_imagenet"),
}


def make(folder: Path, names: Sequence[str] | None = None, networks: Mapping[str, Any] = NETWORKS) -> None:
    """Write the files, their list, and the script that runs them.

    Args:
        folder: made if it is not there.
        names: of networks; None for all.
        networks: name → what makes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = [_network(folder, name, networks[name]()) for name in names or networks]
    (folder / gpu_table.LIST).write_text(json.dumps(made, indent=1), encoding="utf-8")
    shutil.copy(gpu_table.__file__, folder)


def _network(folder: Path, name: str, model: onnx.ModelProto) -> dict[str, Any]:
    """Write all files of a network; returns its entry of the list."""
    constants = {tensor.name for tensor in model.graph.initializer}
    (given,) = (value for value in model.graph.input if value.name not in constants)
    assert given.type.tensor_type.elem_type == TensorProto.FLOAT, helper.printable_value_info(given)
    onnx.save(model, folder / f"{name}.onnx")
    rows: list[dict[str, Any]] = []
    for number, file in enumerate(FILES):
        path = folder / f"{name}.{number}.onnx"
        print(path, flush=True)
        # How well it is repaired does not change its time.
        result = compress(model, Options(method="none", force=True, images="formula", **file.options))
        onnx.save(result.model, path)
        rows.append({"label": file.label, "file": path.name})
        rows += [{"label": f"{file.label} {how}", "file": path.name, **what} for how, what in file.settings.items()]
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    return {"name": name, "original": f"{name}.onnx", "input": given.name, "shape": shape, "files": rows}
