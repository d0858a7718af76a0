"""Large weights stay in a model's file, and what is computed and written is the same."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_udfc import compress
from onnx_udfc.errors import ModelError
from onnx_udfc.model import files
from onnx_udfc.model import outline as outlining
from onnx_udfc.model.files import load
from onnx_udfc.model.outline import outline
from onnx_udfc.model.protos import INLINE_TENSOR, bring, left
from onnx_udfc.model.saving import model_bytes, serialized
from onnx_udfc.model.values import values

LARGE = (INLINE_TENSOR // 4 // 512 + 1, 512)


def _model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    first = rng.normal(size=LARGE).astype(np.float32)
    second = rng.normal(size=(LARGE[1], LARGE[0])).astype(np.float32)
    listed = TensorProto(name="listed", data_type=TensorProto.FLOAT, dims=LARGE, float_data=first.reshape(-1).tolist())
    weights = [numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b"), listed]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "one"), helper.make_node("Relu", ["h"], ["r"], "two"),
        helper.make_node("MatMul", ["r", "b"], ["y"], "three"), helper.make_node("Sub", ["a", "listed"], ["z"], "four"),
    ]  # fmt: skip
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", LARGE[0]])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", LARGE[0]])]
    outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, LARGE))
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "VIEWED", 1 << 20)
    made = tmp_path / "large.onnx"
    made.write_bytes(_model().SerializeToString(deterministic=True))
    return made


def test_only_large_raw_weights_are_stepped_over(path: Path) -> None:
    found, whole = outline(path, INLINE_TENSOR), onnx.load(path)
    assert found is not None
    assert sorted(found.spans) == [0, 1]
    light, data = onnx.ModelProto.FromString(found.content), path.read_bytes()
    assert all(not light.graph.initializer[i].raw_data for i in (0, 1))
    for i, (start, length) in found.spans.items():
        light.graph.initializer[i].raw_data = data[start : start + length]
    assert light == whole


@pytest.mark.parametrize("cut", [1, 1000, INLINE_TENSOR])
def test_a_file_that_ends_early_is_left_to_the_parser(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    assert outline(path, INLINE_TENSOR) is None
    with pytest.raises(ModelError, match="not a whole ONNX model"):
        load(path)


def test_a_loaded_model_is_as_large_as_its_file_and_has_its_values(path: Path) -> None:
    loaded, whole = load(path), onnx.load(path)
    assert [t.name for t in left(loaded.model)] == ["a", "b"]
    assert loaded.bytes == path.stat().st_size == model_bytes(loaded.model) == len(serialized(loaded.model))
    for tensor, other in zip(loaded.model.graph.initializer, whole.graph.initializer, strict=True):
        assert np.array_equal(values(tensor), numpy_helper.to_array(other))
        assert values(tensor).flags.aligned
    assert bring(loaded.model) == whole
    assert not left(loaded.model)


def test_a_file_that_was_written_to_is_not_read_on(path: Path) -> None:
    loaded = load(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ModelError, match="was changed"):
        values(loaded.model.graph.initializer[0])
    with pytest.raises(ModelError, match="was changed"):
        bring(loaded.model)


@pytest.mark.parametrize("keywords", [{"bits": 8}, {"bits": 8, "skip": ("one",)}, {"bits": 8, "float16": True}])
def test_results_are_those_of_a_file_that_was_read_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch, keywords: dict[str, object]
) -> None:
    light = compress(path, method="none", **keywords)  # type: ignore[arg-type]
    monkeypatch.setattr(outlining, "_outlined", lambda *_: None)
    whole = compress(path, method="none", **keywords)  # type: ignore[arg-type]
    assert light.model == whole.model
    assert light.report.before == whole.report.before
    assert light.report.after.bytes == len(light.model.SerializeToString(deterministic=True))
