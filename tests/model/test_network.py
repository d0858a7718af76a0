from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from onnx_udfc.errors import ModelError
from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from onnx_udfc.runtime.sessions import open_session

ONNX_MODELS = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").glob("**/*.onnx"))


def same_outputs(before: onnx.ModelProto | Path, after: onnx.ModelProto, tolerance: float) -> None:
    """Both compute the same on random inputs, relative to the largest output; the same names and shapes."""
    first, second = open_session(before, threads=1), open_session(after, threads=1)
    for a, b in zip(first.get_inputs() + first.get_outputs(), second.get_inputs() + second.get_outputs(), strict=True):
        assert (a.name, a.type, a.shape) == (b.name, b.type, b.shape)
    rng, feeds = np.random.default_rng(0), {}
    for tensor in first.get_inputs():
        shape = [d if isinstance(d, int) else 1 for d in tensor.shape]
        feeds[tensor.name] = rng.standard_normal(shape).astype(
            {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}[tensor.type]
        )
    for x, y in zip(first.run(None, feeds), second.run(None, feeds), strict=True):
        assert np.abs(x - y.astype(np.float64)).max() <= tolerance * np.abs(x).max()


@pytest.mark.parametrize(
    ("name", "layers", "norms"),
    [
        ("models/mobilenet_v1_0.25_imagenet_bn", 28, 27),
        ("models/resnet20_cifar10_bn", 20, 19),
        ("models/resnet20_cifar10_folded", 20, 0),
        ("models/vgg16half_cifar10_bn", 14, 13),
        ("zoo/ultraface_slim_320", 42, 25),
        ("zoo/fuse_conv_bn_mul_add", 1, 1),
        ("zoo/fuse_conv_bn_no_bias", 1, 1),
        ("zoo/resnet_block_sum", 5, 5),
        ("zoo/mnist_cntk_opset7", 3, 0),
        ("zoo/squeezenet_v1.1_fp16_opset7", 26, 0),
        ("zoo/lstm_bidirectional_cntk", 0, 0),
        ("zoo/loop_control_flow", 0, 0),
    ],
)
def test_real_models(assets: Path, name: str, layers: int, norms: int) -> None:
    path = assets / f"{name}.onnx"
    network = read(load(path).model)
    assert len(network.layers) == layers
    assert sum(layer.batch_norm is not None for layer in network.layers.values()) == norms
    same_outputs(path, network.to_model(), 1e-5)


@pytest.mark.parametrize("path", [p for p in ONNX_MODELS if "light" not in p.parts], ids=lambda p: p.parent.name)
def test_models_of_the_onnx_package_are_read_and_load_where_they_did(path: Path) -> None:
    model = read(load(path).model).copy().to_model()
    try:
        open_session(path, threads=1)
    except ModelError:
        return
    open_session(model, threads=1)


def test_two_reads_write_the_same_bytes(assets: Path) -> None:
    path = assets / "zoo" / "ultraface_slim_320.onnx"
    first, second = (read(load(path).model).to_model().SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_a_copy_is_independent_of_the_original() -> None:
    model = parser.parse_model('<ir_version: 10, opset_import: ["": 21]> g (float[N,L,4] x) => (float[N,L,4] y) '
                               "{ [a] h = MatMul(x, w) [b] i = Add(h, c) [d] y = MatMul(i, w) }")  # fmt: skip
    for name, shape in (("w", (4, 4)), ("c", (4,))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    network = read(model)
    twin = network.copy()
    assert list(twin.layers) == list(network.layers) == ["a", "d"]
    assert not {id(n) for n in twin.graph.nodes} & {id(n) for n in network.graph.nodes}
    for layer in twin.layers.values():
        assert layer.node in twin.graph.nodes
        layer.set(layer.matrix() * 3, layer.bias + 1)
    twin.graph.nodes[0].name = "renamed"
    twin.graph.inputs[0].shape[0] = 7
    assert network.to_model() == model
    assert np.array_equal(network.layers["a"].bias, np.ones(4))
    assert np.array_equal(twin.layers["a"].bias, np.full(4, 2))
    assert [n.op_type for n in twin.to_model().graph.node] == ["MatMul", "Add", "MatMul", "Add"]


def test_arrays_cannot_be_written_to_in_place() -> None:
    model = parser.parse_model('<ir_version: 10, opset_import: ["": 21]> g (float[N,4] x) => (float[N,4] y) '
                               "{ y = Gemm(x, w) }")  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "w"))
    (layer,) = read(model).layers.values()
    with pytest.raises(ValueError, match="read-only"):
        layer.constant.values[0] = 2
    assert layer.matrix().flags.writeable


def test_large_weights_are_read_anew_and_small_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = parser.parse_model('<ir_version: 10, opset_import: ["": 21]> g (float[N,4] x) => (float[N,2] y) '
                               "{ h = Gemm(x, w) y = Gemm(h, v) }")  # fmt: skip
    for name, shape in (("w", (4, 4)), ("v", (4, 2))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    monkeypatch.setattr("onnx_udfc.model.lossless.KEPT", 32)
    network = read(model)
    for layer in network.layers.values():
        layer.matrix()
    large, small = (network.origin.stored[name] for name in ("w", "v"))
    assert large.array is None
    assert small.array is not None
    used = large.load()
    assert large.load() is used
    assert np.array_equal(used, np.ones((4, 4)))
    first = next(iter(network.layers.values()))
    assert first.constant.values is used
    assert list(network.to_model().graph.initializer) == list(model.graph.initializer)


def test_a_computed_weight_that_is_not_finite() -> None:
    model = parser.parse_model('<ir_version: 10, opset_import: ["": 21]> g (float[N,4] x) => (float[N,4] y) '
                               "{ v = Div(w, z) [a] y = Gemm(x, v) }")  # fmt: skip
    for name, value in (("w", 1), ("z", 0)):
        model.graph.initializer.append(numpy_helper.from_array(np.full((4, 4), value, np.float32), name))
    with pytest.raises(ModelError, match="weights of 'a' are not finite"):
        read(model)


def test_a_damaged_attribute_is_blamed_on_the_file() -> None:
    model = parser.parse_model('<ir_version: 10, opset_import: ["": 21]> g (float[1,4,3,3] x) => (float[1,4,3,3] y) '
                               "{ h = Conv(x, w) y = BatchNormalization<epsilon = \"a\">(h, s, s, s, s) }")  # fmt: skip
    for name, shape in (("w", (4, 4, 1, 1)), ("s", (4,))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    with pytest.raises(ModelError, match="the model is damaged"):
        read(model)


Step = tuple[str, list[tuple[int, ...]], dict[str, Any]]


def steps(channels: int) -> dict[str, Step]:
    """Name → operator, shapes of its constants, attributes; all keep the number of channels."""
    return {
        "conv": ("Conv", [(channels, channels, 1, 1)], {}),
        "grouped": ("Conv", [(channels, 1, 1, 1), (channels,)], {"group": channels}),
        "transpose": ("ConvTranspose", [(channels, channels, 2, 1)], {"pads": [0, 0, 1, 0]}),
        "norm": ("BatchNormalization", [(channels,)] * 4, {}),
        "scale": ("Mul", [(channels, 1, 1)], {}),
        "shift": ("Add", [(1, channels, 1, 1)], {}),
        "factor": ("Mul", [()], {}),
        "relu": ("Relu", [], {}),
        "pool": ("MaxPool", [], {"kernel_shape": [1, 1]}),
        "residual": ("Add", [], {}),
    }


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Random chains of layers and of what surrounds them, with opset, names, channels and outputs at random."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    channels = draw(st.sampled_from([1, 2, 4]))
    table = steps(channels)
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    written = ["x"]
    for i, step in enumerate(draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=8))):
        op, shapes, attributes = table[step]
        arrays = [np.asarray(rng.random(shape) + 0.1, np.float32) for shape in shapes]
        tensors += [numpy_helper.from_array(a, f"{step}{i}.{j}") for j, a in enumerate(arrays)]
        others = [draw(st.sampled_from(written))] if step == "residual" else [t.name for t in tensors[-len(shapes) :]]
        inputs = [written[-1], *(others if shapes or step == "residual" else [])]
        nodes.append(helper.make_node(op, inputs, [f"t{i}"], draw(st.sampled_from(["", f"n{i}"])), **attributes))
        written.append(f"t{i}")
    info = helper.make_tensor_value_info("x", 1, ["N", channels, 5, 5])
    outputs = sorted({written[-1], draw(st.sampled_from(written[1:]))})
    graph = helper.make_graph(nodes, "g", [info], [helper.make_tensor_value_info(o, 1, None) for o in outputs], tensors)
    opset = draw(st.sampled_from([9, 11, 13, 17, 21]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(networks())
def test_random_networks_compute_the_same(model: onnx.ModelProto) -> None:
    network = read(load(model).model)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    feeds = {"x": np.random.default_rng(0).standard_normal((2, channels, 5, 5)).astype(np.float32)}
    for a, b in zip(
        *(open_session(m, threads=1).run(None, feeds) for m in (model, network.copy().to_model())), strict=True
    ):
        assert np.abs(a - b).max() <= 1e-5 * max(np.abs(a).max(), 1e-3)
