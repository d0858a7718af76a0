"""Pad, Resize and CenterCropPad over named axes mean the same when they are written out, and run beside integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_udfc import compress
from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from tests.quantized_graphs import run
from tests.small_graphs import small_model

PAD = "p = Constant<value = int64[4] {1, 2, 0, 1}>() a = Constant<value = int64[2] {-1, 2}>()"
COMPUTED = "s = Shape<start = 2>(x) two = Constant<value = int64 {2}>()"
CASES = {
    "pad": f'{PAD} v = Constant<value = float {{1.5}}>() y = Pad(x, p, v, a)',
    "no value": f'{PAD} y = Pad<mode = "reflect">(x, p, , a)',
    "cropped": "p = Constant<value = int64[4] {-1, 2, 0, -2}>() a = Constant<value = int64[2] {2, 3}>() "
               "y = Pad(x, p, , a)",
    "one axis": 'p = Constant<value = int64[2] {2, 1}>() a = Constant<value = int64[1] {2}>() '
                'y = Pad<mode = "edge">(x, p, , a)',
    "computed pads": f"{COMPUTED} p = Div(s, two) q = Concat<axis = 0>(p, p) "
                     "a = Constant<value = int64[2] {2, 3}>() y = Pad(x, q, , a)",
    "scales": "s = Constant<value = float[2] {2.0, 1.5}>() y = Resize<axes = [2, 3]>(x, , s)",
    "scales, turned": 's = Constant<value = float[2] {2.0, 0.5}>() y = Resize<axes = [3, 2], mode = "linear">(x, , s)',
    "computed scales": 's = Constant<value = float[2] {2.0, 0.5}>() t = ReduceMax<keepdims = 0>(x) z = Sub(t, t) '
                       'u = Add(s, z) y = Resize<axes = [3, 2], mode = "linear">(x, , u)',
    "sizes": 's = Constant<value = int64[2] {9, 5}>() y = Resize<axes = [-2, -1], mode = "cubic">(x, , , s)',
    "one size": "s = Constant<value = int64[1] {9}>() y = Resize<axes = [2]>(x, , , s)",
    "computed sizes": f"{COMPUTED} z = Mul(s, two) y = Resize<axes = [2, 3]>(x, , , z)",
    "not larger": 's = Constant<value = int64[2] {12, 20}>() y = Resize<axes = [2, 3], mode = "linear", '
                  'keep_aspect_ratio_policy = "not_larger">(x, , , s)',
    "not smaller": 's = Constant<value = int64[2] {12, 20}>() y = Resize<axes = [2, 3], mode = "linear", '
                   'keep_aspect_ratio_policy = "not_smaller">(x, , , s)',
    "roi": 'r = Constant<value = float[4] {0.1, 0.2, 0.8, 0.9}>() s = Constant<value = int64[2] {5, 4}>() y = Resize<'
           'axes = [2, 3], mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(x, r, , s)',
    "antialias": 's = Constant<value = int64[2] {3, 4}>() y = Resize<axes = [2, 3], mode = "linear", antialias = 1>'
                 "(x, , , s)",
    "both cropped": "s = Constant<value = int64[2] {3, 2}>() y = CenterCropPad<axes = [2, 3]>(x, s)",
    "both padded": "s = Constant<value = int64[2] {9, 11}>() y = CenterCropPad<axes = [2, 3]>(x, s)",
    "one of each": "s = Constant<value = int64[2] {9, 3}>() y = CenterCropPad<axes = [-1, -2]>(x, s)",
    "left as it is": "s = Constant<value = int64[2] {6, 8}>() y = CenterCropPad<axes = [2, 3]>(x, s)",
    "computed size": f"{COMPUTED} o = Sub(s, two) w = Constant<value = int64[2] {{0, 5}}>() z = Add(o, w) "
                     "y = CenterCropPad<axes = [2, 3]>(x, z)",
}  # fmt: skip


def model_of(body: str, dims: str) -> onnx.ModelProto:
    model = small_model(f"g (float[{dims}] x) => (float y) {{ {body} }}")
    model.graph.output[0].ClearField("type")
    return model


def named(model: onnx.ModelProto) -> list[str]:
    found = [n.op_type for n in model.graph.node if any(a.name == "axes" for a in n.attribute)]
    return found + [n.op_type for n in model.graph.node if n.op_type == "Pad" and len(n.input) > 3]


@pytest.mark.parametrize("dims", ["2,3,6,8", "n,3,h,w"])
@pytest.mark.parametrize("name", CASES)
def test_the_same_values(name: str, dims: str) -> None:
    model = model_of(CASES[name], dims)
    assert named(model)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 6, 8)).astype(np.float32)}
    loaded = load(model).model
    if name.startswith("not ") and dims != "2,3,6,8":
        assert named(loaded)  # the scale is not known
    else:
        assert not named(loaded)
    expected = run(model, feeds)[0]
    for written in (loaded, read(loaded).to_model()):
        result = run(written, feeds)[0]
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dims", ["1,3,6,8", "n,3,6,8"])
@pytest.mark.parametrize("name", [name for name in CASES if "not " not in name])
def test_between_integer_convolutions(name: str, dims: str) -> None:
    body = CASES[name].replace("(x,", "(act,").replace("Shape<start = 2>(x)", "Shape<start = 2>(act)")
    body = (
        body.replace("u = Add", "k = Add")
        .replace(", u)", ", k)")
        .replace("y = ", "u = ")
        .replace("ReduceMax<keepdims = 0>(x)", "ReduceMax<keepdims = 0>(act)")
    )
    text = f"g (float[{dims}] x, float[16,3,3,3] W, float[5,16,1,1] V) => (float y) {{ " + (
        f"c = Conv<pads = [1,1,1,1]>(x, W) act = Relu(c) {body} y = Conv(u, V) }}"
    )
    model = small_model(text)
    model.graph.output[0].ClearField("type")
    result = compress(model, bits=8, activations=8)
    kinds = [n.op_type for n in result.model.graph.node]
    assert kinds.count("QuantizeLinear") >= 2
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 6, 8)).astype(np.float32)}
    before, after = (run(m, feeds)[0] for m in (model, result.model))
    assert before.shape == after.shape
    assert np.square(before).mean() > 100 * np.square(before - after).mean()


def test_what_cannot_be_known_stays() -> None:
    rank = model_of("s = Constant<value = float[2] {2.0, 2.0}>() y = Resize<axes = [2, 3]>(x, , s)", "1,3,6,8")
    rank.graph.input[0].type.tensor_type.ClearField("shape")
    computed = model_of("t = Shape(x) p = Constant<value = int64[2] {1, 1}>() z = Constant<value = int64[1] {3}>() "
                        "o = Constant<value = int64[1] {1}>() a = ReduceMin<keepdims = 1>(t, z) y = Pad(x, p, , a)",
                        "1,3,6,8")  # fmt: skip
    for model in (rank, computed):
        before = [n.SerializeToString() for n in model.graph.node]
        assert [n.SerializeToString() for n in load(model).model.graph.node] == before


def test_names_and_remarks_stay() -> None:
    model = model_of(CASES["one of each"], "2,3,6,8")
    model.graph.node[-1].doc_string = "the middle"
    model.graph.node[-1].metadata_props.append(onnx.StringStringEntryProto(key="k", value="v"))
    node = next(n for n in load(model).model.graph.node if list(n.output) == ["y"])
    assert (node.op_type, node.name, node.doc_string) == ("Slice", "n1", "the middle")
    assert node.metadata_props[0].value == "v"
