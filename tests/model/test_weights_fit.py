"""Nodes whose weights do not fit them: one line that names the node, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_udfc.errors import ModelError
from onnx_udfc.evaluate.inspection import inspect_model
from onnx_udfc.model.checks import check
from onnx_udfc.model.network import read
from tests.small_graphs import small_model

CONV = "y = Conv<{}>(x, W, B)"
TRANSPOSED = "y = ConvTranspose<{}>(x, W, B)"


def fault(body: str, weights: str, opset: int = 21) -> str:
    """What is said about a graph of one node."""
    with pytest.raises(ModelError) as error:
        check(small_model(f"g (float[1,4,8,8] x, {weights}) => (float[a,b,c,d] y) {{ {body} }}", opset))
    assert "node 'n0'" in str(error.value)
    assert str(error.value).endswith("; the file is damaged, export it again")
    return str(error.value).split(") has ")[1].split(";")[0]


@pytest.mark.parametrize(
    ("body", "weights", "said"),
    [
        ("y = Conv(x, W)", "float[6] W", "a weight with 1 axes, of at least 3"),
        ("y = Conv(x, W)", "float[6,4] W", "a weight with 2 axes, of at least 3"),
        (CONV.format("group = 4"), "float[6,1,3,3] W, float[6] B", "4 groups for 6 channels"),
        (CONV.format("group = 0"), "float[6,4,3,3] W, float[6] B", "0 groups for 6 channels"),
        (CONV.format("group = -1"), "float[6,4,3,3] W, float[6] B", "-1 groups for 6 channels"),
        ("y = Conv(x, W, B)", "float[6,4,3,3] W, float[5] B", "a bias of shape [5] for 6 channels"),
        ("y = Conv(x, W, B)", "float[6,4,3,3] W, float[6,1,1] B", "a bias of shape [6, 1, 1] for 6 channels"),
        ("y = Conv(x, W, B)", "float[6,4,3,3] W, float[1] B", "a bias of shape [1] for 6 channels"),
        ("y = Conv<strides = [2]>(x, W)", "float[6,4,3,3] W", "1 strides for 2 dimensions"),
        ("y = Conv<strides = [0, 1]>(x, W)", "float[6,4,3,3] W", "strides of 0"),
        ("y = Conv<dilations = [1, -1]>(x, W)", "float[6,4,3,3] W", "dilations of -1"),
        ("y = Conv<pads = [1, 1]>(x, W)", "float[6,4,3,3] W", "2 pads for 2 dimensions"),
        ("y = Conv<kernel_shape = [5, 3]>(x, W)", "float[6,4,3,3] W", "a kernel_shape of [5, 3], but a weight"),
        (TRANSPOSED.format("group = 2"), "float[4,3,2,2] W, float[3] B", "a bias of shape [3] for 6 channels"),
        (TRANSPOSED.format("group = 3"), "float[4,3,2,2] W, float[9] B", "3 groups for 4 channels"),
        ("y = Conv(x, W)", "float[0,4,3,3] W", "a weight without any values"),
        ("f = Flatten(x) y = Gemm(f, W)", "float[256] W", "a weight with 1 axes, not 2"),
        ("y = BatchNormalization(x, V, V, V, V2)", "float[4] V, float[5] V2", "parameters of shapes [4], [4], [4]"),
        ("y = BatchNormalization(x, V, V, V2, V)", "float[4] V, float[4,1] V2", "parameters of shapes [4], [4]"),
        ("y = InstanceNormalization(x, V, V2)", "float[4] V, float[1,4] V2", "parameters of shapes [4], [1, 4]"),
        ("y = GroupNormalization<num_groups = 3>(x, V, V)", "float[4] V", "3 groups for parameters of shape [4]"),
        ("y = GroupNormalization<num_groups = -1>(x, V, V)", "float[4] V", "-1 groups for parameters of shape [4]"),
        ("y = MaxPool<kernel_shape = [2, 2], strides = [2]>(x)", "float W", "1 strides for 2 dimensions"),
    ],
)  # fmt: skip
def test_a_node_with_weights_that_do_not_fit_is_named(body: str, weights: str, said: str) -> None:
    model = small_model(f"g (float[1,4,8,8] x, {weights}) => (float[a,b,c,d] y) {{ {body} }}")
    with pytest.raises(ModelError) as error:
        check(model)
    assert f") has {said}" in str(error.value)
    assert str(error.value).endswith("; the file is damaged, export it again")
    assert "node 'n" in str(error.value)


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("f = Flatten(x) y = Gemm<transB = 1>(f, W, B)", "float[6,256] W, float[1,6] B"),
        ("f = Flatten(x) y = Gemm(f, W, B)", "float[256,6] W, float B"),
        ("f = Flatten(x) y = Gemm(f, W, B)", "float[256,6] W, float[1,1] B"),
        ("y = ConvTranspose<group = 2, strides = [2, 2]>(x, W, B)", "float[4,3,2,2] W, float[6] B"),
        ("y = ConvTranspose<output_shape = [16, 16], strides = [2, 2]>(x, W)", "float[4,3,2,2] W"),
        ("y = GroupNormalization<num_groups = 2>(x, V, V)", "float[4] V"),
        ("y = Conv<strides = [2, 1], pads = [0, 0, 1, 1], group = 4>(x, W, B)", "float[8,1,3,3] W, float[8] B"),
    ],
)  # fmt: skip
def test_what_fits_is_read(body: str, weights: str) -> None:
    check(small_model(f"g (float[1,4,8,8] x, {weights}) => (float[a,b,c,d] y) {{ {body} }}"))


def test_group_normalization_of_opset_18_has_parameters_of_its_groups() -> None:
    weights = "float[2] V, float[4] V4"
    check(small_model(f"g (float[1,4,8,8] x, {weights}) => (float[a,b,c,d] y) {{"
                      " y = GroupNormalization<num_groups = 2>(x, V, V) }", 18))  # fmt: skip
    said = fault("y = GroupNormalization<num_groups = 2>(x, V4, V4)", weights, 18)
    assert said == "parameters of shape [4] for 2 groups"


@pytest.mark.parametrize("name", ["strides", "pads", "dilations", "kernel_shape"])
def test_an_emptied_list_of_a_convolution_is_none(name: str) -> None:
    model = small_model("g (float[1,4,8,8] x, float[6,4,3,3] W) => (float[a,b,c,d] y) { y = Conv(x, W) }")
    model.graph.node[0].attribute.append(helper.make_attribute(name, [], attr_type=onnx.AttributeProto.INTS))
    check(model)
    assert name not in read(model).graph.nodes[0].attrs


def _no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def _opset(version: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def _large(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 62


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_no_outputs, "the model has no outputs, so nothing that it computes is used; export it again"),
        (_opset(1 << 31), "the model declares opset 2147483648; the file is damaged, export it again"),
        (_opset(0), "the model declares opset 0; the file is damaged, export it again"),
        (_opset(-3), "the model declares opset -3; the file is damaged, export it again"),
        (_large, "input 'x' has more than 2^34 elements; make it smaller"),
    ],
)
def test_what_nothing_can_come_of_is_refused_in_one_line(change: Callable[[onnx.ModelProto], None], said: str) -> None:
    model = small_model("g (float[1,4,8,8] x, float[6,4,3,3] W) => (float[a,b,c,d] y) { y = Conv(x, W) }")
    change(model)
    with pytest.raises(ModelError) as error:
        inspect_model(model)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("body", "weights", "said"),
    [
        ("y = Conv(x, W)", "float[6,3,3,3] W", "'n0' (Conv) reads a tensor of shape [1, 4, 8, 8]"),
        ("y = BatchNormalization(x, V, V, V, V)", "float[5] V", "'n0' (BatchNormalization) reads a tensor of shape [1"),
        ("y = InstanceNormalization(x, V, V)", "float[3] V", "'n0' (InstanceNormalization) reads a tensor of shape [1"),
        ("f = Flatten(x) y = Gemm(f, W)", "float[255,6] W", "'n1' (Gemm) reads a tensor of shape [1, 256], but has"),
        ("y = MatMul(x, W)", "float[7,6] W", "'n0' (MatMul) reads a tensor of shape [1, 4, 8, 8]"),
    ],
)  # fmt: skip
def test_a_node_that_reads_another_number_of_channels_is_named(body: str, weights: str, said: str) -> None:
    with pytest.raises(ModelError) as error:
        inspect_model(small_model(f"g (float[1,4,8,8] x, {weights}) => (float[a,b,c,d] y) {{ {body} }}"))
    assert str(error.value).startswith(f"node {said}")


def test_a_sparse_weight_beyond_any_memory_is_refused() -> None:
    model = small_model("g (float[1,4,8,8] x, float[6,4,3,3] W) => (float[a,b,c,d] y) { y = Conv(x, W) }")
    del model.graph.initializer[:]
    held = numpy_helper.from_array(np.ones(2, np.float32), "W")
    places = numpy_helper.from_array(np.asarray([3, 5]), "W.places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(held, places, [1 << 20, 1 << 20, 3, 3]))
    with pytest.raises(ModelError, match="sparse weight 'W' has shape"):
        check(model)
