"""Weights that several layers share, and what belongs to an initializer besides its values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc import compress
from onnx_udfc.evaluate.inspection import inspect_model
from onnx_udfc.model.saving import model_bytes
from onnx_udfc.options import Options
from onnx_udfc.repair.alike import side_by_side
from tests.quantized_graphs import run
from tests.small_graphs import small_model
from tests.stored_codes import stored

TIED = """g (float[N,32] x, float[32,32] W) => (float[N,32] y) {
    c = Sigmoid(x) a = MatMul(c, W) r = Relu(a) b = MatMul(r, W) s = Relu(b) y = MatMul(s, W) }"""


@pytest.mark.parametrize("activations", [None, 8])
@pytest.mark.parametrize("target", ["cpu", "portable", "tensorrt"])
@pytest.mark.parametrize("bits", [8, 6, 4])
def test_tied_weights_are_written_once(bits: int, target: str, activations: int | None) -> None:
    model = small_model(TIED)
    options = Options(bits=bits, target=target, activations=activations, method="none")
    result = compress(model, options).model
    codes = {codes.name for codes, _ in stored(result).values() if np.prod(codes.dims) > 64}
    apart = target == "tensorrt" or (target == "portable" and activations is None)  # MatMulNBits takes them away
    assert len(codes) == (3 if apart else 1)
    assert len(inspect_model(result).layers) == 3
    x = {"x": np.random.default_rng(0).uniform(size=(3, 32)).astype(np.float32)}
    before, after = run(model, x)[0], run(result, x)[0]
    assert np.square(before - after).mean() < 0.02 * np.square(before).mean()
    np.testing.assert_allclose(after, run(result, x, optimize=False)[0], rtol=0.05, atol=0.05 * np.abs(before).max())


DEPTHWISE = """f = Conv(x, A) e = Relu(f) a = Conv<group=64>(e, W) r = Relu(a)
    b = Conv<group=64>(r, {}) s = Relu(b) y = Conv(s, V)"""


@pytest.mark.parametrize("target", ["cpu", "portable"])
@pytest.mark.parametrize("second", ["W", "U"])
def test_codes_that_onnxruntime_may_make_unsigned_have_one_reader(second: str, target: str) -> None:
    """By session.x64quantprecision, where a processor's products clip; it fails at a second reader, of zeros too."""
    other = "" if second == "W" else ", float[64,1,3,3] U"
    inputs = f"float[1,64,9,9] x, float[64,64,1,1] A, float[64,1,3,3] W{other}, float[8,64,1,1] V"
    model = small_model(f"g ({inputs}) => (float[1,8,5,5] y) {{ {DEPTHWISE.format(second)} }}")
    result = compress(model, Options(bits=8, activations=8, target=target, method="none", input_range=(0, 1))).model
    dequantized = [node.input for node in result.graph.node if node.op_type == "DequantizeLinear"]
    codes = {codes.name: numpy_helper.to_array(codes) for codes, _ in stored(result).values()}
    wide = [inputs for inputs in dequantized if inputs[0] in codes and np.abs(codes[inputs[0]].astype(int)).max() > 64]
    assert [codes[name].shape for name, *_ in wide] == [(64, 1, 3, 3)] * 2, "the 1 x 1 convolutions take 7 bits"
    assert len({name for inputs in wide for name in inputs}) == 6


@pytest.mark.parametrize("bits", [32, 8, 4])
def test_ties_survive_the_repair(bits: int) -> None:
    text = """g (float[N,16] x, float[16,32] A, float[32,32] W) => (float[N,32] y) {
        p = MatMul(x, A) q = Relu(p) a = MatMul(q, W) r = Relu(a) b = MatMul(r, W) s = Relu(b) y = MatMul(s, W) }"""
    model = small_model(text)
    result = compress(model, Options(bits=bits, method="moments", images=64)).model
    weights = [t for t in result.graph.initializer if np.prod(t.dims, dtype=int) == 1024]
    assert len(weights) == 1
    x = {"x": np.random.default_rng(0).uniform(size=(64, 16)).astype(np.float32)}
    before, after = run(model, x)[0], run(result, x)[0]
    assert np.square(before - after).mean() < (0.1 if bits == 4 else 0.01) * np.square(before).mean()


HEADS = """g (float[N,3,32,32] x, float[32,3,3,3] A, float[32,32,3,3] B, float[48,32,3,3] W, float[12,48,1,1] U)
    => (float[N,12,16,16] y, float[N,12,8,8] z) {
    a = Conv<strides = [2,2], pads = [1,1,1,1]>(x, A) b = Relu(a) c = Conv<strides = [2,2], pads = [1,1,1,1]>(b, B)
    d = Relu(c) h = Conv<pads = [1,1,1,1]>(b, W) i = Relu(h) y = Conv(i, U) j = Conv<pads = [1,1,1,1]>(d, W)
    k = Relu(j) z = Conv(k, U) }"""


def heads_errors(model: onnx.ModelProto, result: onnx.ModelProto) -> list[float]:
    """Of each output, in parts of its movement."""
    x = {"x": np.random.default_rng(0).uniform(size=(16, 3, 32, 32)).astype(np.float32)}
    pairs = zip(run(model, x), run(result, x), strict=True)
    return [float(np.square(a - b).mean() / np.square(a - a.mean((0, 2, 3), keepdims=True)).mean()) for a, b in pairs]


@pytest.mark.parametrize("request_", [{"prune": 0.25}, {"budget": {"macs": 0.7}}])
def test_a_head_at_two_scales_loses_the_same_channels_and_stays_one(request_: Any) -> None:
    """Apart, the file was a quarter larger than the original, and nothing was written."""
    model = small_model(HEADS)
    result = compress(model, images=32, input_range=(0, 1), **request_)
    weights = {t.name: tuple(t.dims) for t in result.model.graph.initializer if len(t.dims) == 4}
    assert sorted(weights) == ["A", "B", "U", "W"]
    assert weights["W"][0] == weights["U"][1] < 48
    assert result.report.after.bytes < 0.75 * result.report.before.bytes
    assert max(heads_errors(model, result.model)) < 0.25


def test_a_shared_weight_is_fitted_to_all_that_it_reads() -> None:
    model = small_model(HEADS)
    result = compress(model, prune=0.4, images=32, input_range=(0, 1), factor="off")
    first, second = heads_errors(model, result.model)
    assert second < 2 * first  # 3.1 times, fitted to the first scale alone


def test_inspect_says_why_a_shared_weight_never_becomes_two() -> None:
    rows = {row.name: row.stays_one for row in inspect_model(small_model(HEADS)).layers}
    assert [name for name, why in rows.items() if why == "weight of several layers"] == ["n4", "n7"]


def test_layers_of_a_family_come_one_after_another_where_none_hangs_on_another() -> None:
    order, beside = side_by_side(small_model(HEADS), [("n4", "n7"), ("n6", "n9")])
    assert order.index("n7") == order.index("n4") + 1
    assert order.index("n9") == order.index("n6") + 2  # what it reads comes before it
    assert beside == {"n4": ["n7"], "n6": ["n9"]}
    model = small_model(TIED)
    assert side_by_side(model, [("n1", "n3", "n5")]) == ([n.name for n in model.graph.node], {"n1": []})


def test_names_of_exporters_do_not_outweigh_small_weights() -> None:
    text = "g (float[1,8,6,6] x, float[16,8,3,3] W) => (float[1,16,4,4] y) { y = Conv(x, W) }"
    model = small_model(text)
    long = "model/" + "block/" * 40
    model.graph.initializer[0].name = model.graph.node[0].input[1] = f"{long}weight"
    result = compress(model, Options(bits=8, activations=8, method="none", input_range=(0, 1))).model
    names = [n for node in result.graph.node for n in [node.name, *node.output]] + [
        t.name for t in result.graph.initializer
    ]
    assert [n for n in names if len(n) > 60] == [f"{long}weight"]


@pytest.mark.parametrize("options", [Options(), Options(bits=8), Options(bits=6), Options(prune=0.5)], ids=str)
def test_remarks_of_initializers_survive(options: Options) -> None:
    body = "a = MatMul(x, W) r = Relu(a) y = MatMul(r, V)"
    model = small_model(f"g (float[N,32] x, float[32,32] W, float[32,8] V) => (float[N,8] y) {{ {body} }}")
    for tensor in model.graph.initializer:
        tensor.doc_string = f"weight {tensor.name}"
        tensor.metadata_props.append(onnx.StringStringEntryProto(key="k", value=tensor.name))
        info = onnx.helper.make_tensor_value_info(tensor.name, 1, list(tensor.dims))
        info.metadata_props.append(onnx.StringStringEntryProto(key="of", value=tensor.name))
        model.graph.value_info.append(info)
    result = compress(model, options).model
    found = {t.doc_string: t.metadata_props[0].value for t in result.graph.initializer if t.doc_string}
    assert found == {"weight W": "W", "weight V": "V"}
    infos = {i.name: i for i in result.graph.value_info}
    assert {name: infos[name].metadata_props[0].value for name in "WV"} == {"W": "W", "V": "V"}
    width = 16 if options.prune else 32
    dims = {name: [d.dim_value for d in infos[name].type.tensor_type.shape.dim] for name in "WV"}
    assert dims == {"W": [32, width], "V": [width, 8]}


@pytest.mark.parametrize("target", ["cpu", "cuda", "portable", "tensorrt"])
@pytest.mark.parametrize("bits", [8, 4])
def test_tied_convolutions_share_codes_where_the_form_can(bits: int, target: str) -> None:
    body = "a = Conv(x, W) r = Relu(a) b = Conv(r, W) s = Relu(b) y = Conv(s, W)"
    model = small_model(f"g (float[1,16,9,9] x, float[16,16,3,3] W) => (float[1,16,3,3] y) {{ {body} }}")
    x = {"x": np.random.default_rng(0).uniform(size=(1, 16, 9, 9)).astype(np.float32)}
    before = run(model, x)[0]
    for activations in (None, 8) if target != "cuda" else (None,):
        options = Options(bits=bits, target=target, activations=activations, method="none", input_range=(0, 1))
        result = compress(model, options).model
        codes = {codes.name for codes, _ in stored(result).values() if np.prod(codes.dims) > 64}
        plain = target == "tensorrt" or (
            target == "portable" and not activations
        )  # a DequantizeLinear of its own codes
        assert len(codes) == (3 if plain else 1)
        after = run(result, x)[0]
        assert np.square(before - after).mean() < 0.05 * np.square(before).mean()


def test_a_weight_that_branches_read_too_is_written_once() -> None:
    model = small_model("""g (float[N,16] x, float[16,64] A, float[64,16] B, bool c) => (float[N,16] y) {
        a = MatMul(x, A) r = Relu(a) z = MatMul(r, B)
        y = If(c) <then_branch = t () => (float[N,16] p) { h = MatMul(z, A) p = MatMul(h, B) },
                   else_branch = e () => (float[N,16] q) { k = MatMul(x, A) q = MatMul(k, B) }> }""")
    result = compress(model, Options()).model
    assert {t.name: tuple(t.dims) for t in result.graph.initializer} == {"A": (16, 64), "B": (64, 16)}
    assert model_bytes(result) < 1.02 * model_bytes(model)
    for c in (True, False):
        feeds = {"x": np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32), "c": np.array(c)}
        assert np.array_equal(run(model, feeds)[0], run(result, feeds)[0])


def test_a_weight_that_branches_read_too_keeps_its_values_there() -> None:
    model = small_model("""g (float[N,16] x, float[16,64] A, float[64,16] B, bool c) => (float[N,16] y, float[N,16] z) {
        a = MatMul(x, A) r = Relu(a) z = MatMul(r, B)
        y = If(c) <then_branch = t () => (float[N,16] p) { h = MatMul(x, A) p = MatMul(h, B) },
                   else_branch = e () => (float[N,16] q) { q = Identity(x) }> }""")
    feeds = {"x": np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32), "c": np.array(True)}
    before = run(model, feeds)
    after = run(compress(model, Options(prune=0.5, method="none", force=True)).model, feeds)
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])
    rounded = compress(model, Options(prune=0.5, bits=8, method="none")).model
    for wanted, quantized in ((before[0], run(rounded, feeds)[0]), (after[1], run(rounded, feeds)[1])):
        assert np.square(wanted - quantized).mean() < 2e-4 * np.square(wanted).mean()
    assert model_bytes(rounded) < 0.75 * model_bytes(model)


def test_tied_weights_are_counted_once() -> None:
    """A cell that was unrolled over steps was counted at each of them."""
    assert inspect_model(small_model(TIED)).size.parameters == 32 * 32
    report = compress(small_model(TIED), Options(bits=4, method="none")).report
    assert (report.before.parameters, report.after.parameters) == (32 * 32, 32 * 32)
    assert [layer.parameters_before for layer in report.layers] == [32 * 32] * 3
