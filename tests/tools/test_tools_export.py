import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from tools.train import export  # noqa: E402  # after torch is known to be there
from tools.train.networks import NETWORKS  # noqa: E402

SPEC = export.InputSpec(3, 32, 32)


def network(name: str) -> Any:
    """A network whose batch norm does something."""
    torch.manual_seed(0)
    module = NETWORKS[name]()
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    return module.eval()


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("fold", "norms"), [(False, 19), (True, 0)])
def test_batch_norm_is_kept_or_folded(tmp_path: Path, fold: bool, norms: int) -> None:
    model = export.to_onnx(network("resnet20"), tmp_path / "net.onnx", SPEC, fold=fold)
    assert operators(model)["BatchNormalization"] == norms
    assert operators(model)["Conv"] == 19


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_file_computes_what_the_module_does(tmp_path: Path, fold: bool, batch: int) -> None:
    module = network("mobilenetv2half")
    export.to_onnx(module, tmp_path / "net.onnx", SPEC, fold=fold)
    x = np.random.default_rng(0).standard_normal((batch, 3, 32, 32)).astype(np.float32)
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(["logits"], {"input": x})[0], expected, rtol=1e-3, atol=1e-5)


def test_the_file_says_what_the_network_takes(tmp_path: Path) -> None:
    model = export.to_onnx(network("densenet22"), tmp_path / "net.onnx", SPEC, fold=False)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["preprocessing"])["mean"] == list(export.IMAGENET_MEAN)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_a_fixed_batch_is_fixed(tmp_path: Path) -> None:
    model = export.to_onnx(network("densenet22"), tmp_path / "net.onnx", SPEC, fold=False, batch=4)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4


def test_equal_weights_are_written_once_each(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fresh = NETWORKS["resnet20"]()  # every batch norm of a width has the same parameters
    model = export.to_onnx(fresh, tmp_path / "net.onnx", SPEC, fold=False)
    assert operators(model)["Identity"] == 0


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(SystemExit, match="torchvision:NAME"):
        export.load("keras:resnet", pretrained=False)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *, pretrained: bool) -> None:
        raise ModuleNotFoundError(f"No module named {name!r} {pretrained}", name="timm")

    monkeypatch.setitem(export.SOURCES, "timm", missing)
    with pytest.raises(SystemExit, match="pip install timm"):
        export.load("timm:resnet18", pretrained=False)


def test_torchvision_architectures_export_without_a_download(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    module, spec = export.load("torchvision:squeezenet1_1", pretrained=False)
    model = export.to_onnx(module, tmp_path / "net.onnx", spec, fold=False)
    assert operators(model)["Conv"] == 26


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            export.InputSpec(3, 224, 224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1 / 255),
        ),
        (
            {"size": {"height": 192, "width": 160}, "do_rescale": False},
            export.InputSpec(3, 192, 160, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0),
        ),
        (
            {"size": {"shortest_edge": 224}, "do_normalize": False},
            export.InputSpec(3, 224, 224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1 / 255),
        ),
    ],
)
def test_an_image_processor_is_read_as_preprocessing(processor: dict[str, object], expected: export.InputSpec) -> None:
    values = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, **processor}
    assert export.hugging_face_spec(values) == expected
