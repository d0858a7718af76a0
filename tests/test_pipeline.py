from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

from onnx_udfc import compress
from onnx_udfc.decide import counts_and_bits
from onnx_udfc.errors import GateError, ModelError, RequestError
from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from onnx_udfc.numerics.rounding import quantize_layer
from onnx_udfc.options import METHODS, Options, parse_requirement
from onnx_udfc.original import MANY_LAYERS, MOST_SAMPLES, SAMPLES, samples_for
from onnx_udfc.progress import Silent
from onnx_udfc.runtime.sessions import open_session
from tests.normed_graphs import CHAIN, RESIDUAL, parameter, scaled_model, settled
from tests.small_graphs import small_model

KEYS = {"tool", "options", "before", "after", "groups", "layers", "fidelity", "runtime", "timings"}
GROUP = {"name", "channels", "kept", "producers", "consumers", "status", "reason"}
LAYER = {"name", "op_type", "bits", "parameters_before", "parameters_after", "relative_error"}


def trained(text: str) -> onnx.ModelProto:
    x = np.random.default_rng(1).normal(size=(64, 3, 12, 12)).astype(np.float32)
    return settled(scaled_model(text), {"x": x})


@pytest.mark.parametrize(
    "request_", [{"prune": 0.5}, {"bits": 4}, {"prune": 0.3, "bits": 3}, {"bits": 8, "activations": 8}], ids=str
)
@pytest.mark.parametrize("method", METHODS)
def test_the_same_bytes_twice(method: str, request_: dict[str, Any]) -> None:
    model, options = trained(RESIDUAL), Options(method=method, threads=1, **request_)
    first, second = (compress(model, options).model.SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_another_seed_gives_other_weights() -> None:
    model = trained(CHAIN)
    first, second = (compress(model, prune=0.5, seed=s).model.SerializeToString(deterministic=True) for s in (0, 1))
    assert first != second


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_of_latency_is_of_the_file_as_it_is(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is superfluous in it is not in the network that is compressed, but in its time."""
    model = trained(CHAIN)
    seen: list[onnx.ModelProto] = []
    last = model.graph.node[-1]
    name, last.output[0] = last.output[0], "before"
    model.graph.node.append(onnx.helper.make_node("Identity", ["before"], [name]))

    def timed(*given: Any) -> None:
        seen.append(given[-1])
        raise RequestError("timed")

    monkeypatch.setattr(counts_and_bits, "layer_times", timed)
    with pytest.raises(RequestError, match="timed"):
        compress(model, budget={"latency": "0.5"}, method=method)
    assert [node.op_type for node in seen[0].graph.node] == [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("method", METHODS)
def test_the_given_model_is_never_changed(method: str) -> None:
    model = trained(RESIDUAL)
    before = model.SerializeToString(deterministic=True)
    result = compress(model, prune=0.5, bits=4, method=method)
    result.model.graph.node[0].name = "changed"
    del result.model.graph.initializer[:]
    assert model.SerializeToString(deterministic=True) == before


def test_path_bytes_and_model_give_the_same(tmp_path: Path) -> None:
    model = trained(CHAIN)
    data = model.SerializeToString()
    (tmp_path / "in.onnx").write_bytes(data)
    sources = (model, data, tmp_path / "in.onnx", str(tmp_path / "in.onnx"))
    results = [compress(source, Options(prune=0.5, bits=4, threads=1)) for source in sources]
    assert len({r.model.SerializeToString(deterministic=True) for r in results}) == 1
    assert {r.report.before.bytes for r in results} == {len(data)}


def test_keywords_replace_options() -> None:
    result = compress(trained(CHAIN), Options(prune=0.5, bits=4, align=1), prune=0.25, method="none")
    assert {k: result.report.options[k] for k in ("prune", "bits", "method", "align")} == {
        "prune": 0.25, "bits": 4, "method": "none", "align": 1,
    }  # fmt: skip
    assert [g.kept for g in result.report.groups] == [12, 9]


def test_the_report_has_its_keys() -> None:
    result = compress(trained(RESIDUAL), prune=0.5, bits=4)
    report = result.report.to_dict()
    assert set(report) >= KEYS
    assert set(report["before"]) >= {"parameters", "macs", "bytes"}
    assert set(report["fidelity"]) >= {"inputs", "sqnr_db", "cosine", "agreement"}
    assert set(report["runtime"]) >= {"opset", "ir_version", "onnxruntime_min", "notes"}
    assert all(set(group) >= GROUP for group in report["groups"])
    assert all(set(layer) >= LAYER for layer in report["layers"])
    assert {g["status"] for g in report["groups"]} <= {"pruned", "kept", "skipped"}
    assert report["after"]["bytes"] == len(result.model.SerializeToString())
    assert report["runtime"]["opset"] == result.model.opset_import[0].version
    assert report["runtime"]["ir_version"] == result.model.ir_version
    assert report["fidelity"]["inputs"] == "synthetic"
    assert all(layer["relative_error"] >= 0 for layer in report["layers"])
    assert {"read", "write", "check"} <= set(report["timings"])


def conv(out: int, into: int, taps: int, bias: bool = True) -> int:
    return out * into * taps + (out if bias else 0)


class Counted(NamedTuple):
    """A network whose counts for a and b channels in its two groups were worked out by hand."""

    text: str
    parameters: Callable[[int, int], int]
    macs: Callable[[int, int], int]
    channels: tuple[int, int]


DEPTHWISE = """g (float[N,3,12,12] x, float[16,3,1,1] W1, float[16] B1, float[16,1,3,3] W2, float[6,16,1,1] W3,
    float[6] B3, float[10,6] W4) => (float[N,10] y) {
    a = Conv(x, W1, B1) b = Conv<group = 16, strides = [2, 2], pads = [1, 1, 1, 1]>(a, W2) c = Relu(b)
    d = Conv(c, W3, B3) e = Relu(d) p = GlobalAveragePool(e) f = Flatten(p) y = Gemm<transB = 1>(f, W4) }"""
FLAT = """g (float[N,3,4,5] x, float[3,8,2,2] W1, float[8] B1, float[8,6,3,3] W2, float[594,7] W3) => (float[N,7] y) {
    a = ConvTranspose<strides = [2, 2]>(x, W1, B1) r = Relu(a)
    b = ConvTranspose<pads = [1, 1, 0, 0]>(r, W2) s = Relu(b) f = Flatten(s) y = MatMul(f, W3) }"""
THREE = {
    "chain": Counted(
        CHAIN,
        lambda a, b: conv(a, 3, 9) + conv(b, a, 9) + conv(5, b, 9),
        lambda a, b: 100 * a * 27 + 64 * b * a * 9 + 36 * 5 * b * 9,
        (16, 12),
    ),
    "depthwise": Counted(
        DEPTHWISE,
        lambda a, b: conv(a, 3, 1) + conv(a, 1, 9, False) + conv(b, a, 1) + 10 * b,
        lambda a, b: 144 * a * 3 + 36 * a * 9 + 36 * b * a + 10 * b,
        (16, 6),
    ),
    "transposed and flat": Counted(
        FLAT,
        lambda a, b: conv(a, 3, 4) + conv(b, a, 9, False) + 99 * b * 7,
        lambda a, b: 20 * 3 * a * 4 + 80 * a * b * 9 + 99 * b * 7,
        (8, 6),
    ),
}


@pytest.mark.parametrize("prune", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("name", THREE)
def test_parameters_and_macs_are_what_the_kept_channels_imply(name: str, prune: float) -> None:
    text, parameters, macs, channels = THREE[name]
    report = compress(scaled_model(text), Options(prune=prune, align=1, method="none")).report
    kept = tuple(c - round(c * prune) for c in channels)
    assert tuple(g.channels for g in report.groups) == channels
    assert tuple(g.kept for g in report.groups) == kept
    assert (report.before.parameters, report.before.macs) == (parameters(*channels), macs(*channels))
    assert (report.after.parameters, report.after.macs) == (parameters(*kept), macs(*kept))
    assert sum(x.parameters_after for x in report.layers) == report.after.parameters


def test_the_file_holds_as_many_weights_as_the_report_says() -> None:
    result = compress(trained(RESIDUAL), prune=0.5, method="merge")
    stored = sum(math.prod(t.dims) for t in result.model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert stored == result.report.after.parameters


def test_a_skipped_layer_is_left_alone() -> None:
    model = trained(RESIDUAL)
    result = compress(model, Options(prune=0.5, bits=4, skip=("n3",)))
    before, after = read(model), read(load(result.model).model)
    layer = next(x for x in result.report.layers if x.name == "n3")
    assert layer.bits == 32
    assert layer.parameters_before == layer.parameters_after
    assert before.layers["n3"].weight.shape == after.layers["n3"].weight.shape


def test_what_belongs_to_the_file_survives() -> None:
    model = trained(CHAIN)
    model.doc_string, model.producer_name, model.domain, model.model_version = "for tests", "somebody", "a.b", 7
    model.graph.doc_string = "about the graph"
    model.graph.node[-1].doc_string = "the last"
    model.metadata_props.add(key="author", value="she")
    result = compress(model, prune=0.5, bits=4).model
    assert (result.doc_string, result.producer_name, result.domain, result.model_version) == (
        "for tests",
        "somebody",
        "a.b",
        7,
    )
    assert result.graph.doc_string == "about the graph"
    assert {p.key: p.value for p in result.metadata_props}["author"] == "she"
    assert result.graph.input == model.graph.input
    assert result.graph.output == model.graph.output
    assert next(n for n in result.graph.node if n.output[0] == "y").doc_string == "the last"
    assert any(p.key.startswith("onnx_udfc.") for p in result.metadata_props)


def test_a_result_can_be_compressed_again() -> None:
    model = trained(CHAIN)
    once = compress(model, prune=0.5)
    twice = compress(once.model, prune=0.5)
    assert twice.report.before.parameters == once.report.after.parameters
    assert twice.report.after.parameters < once.report.after.parameters
    assert open_session(twice.model, threads=1).run(None, {"x": np.zeros((1, 3, 12, 12), np.float32)})[0].shape == (
        1,
        5,
        6,
        6,
    )


def test_saved_is_what_was_made(tmp_path: Path) -> None:
    result = compress(trained(CHAIN), bits=4)
    result.save(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == result.model
    assert {p.name for p in tmp_path.iterdir()} == {"out.onnx"}


IMPOSSIBLE: list[dict[str, Any]] = [
    {"prune": 1.0},
    {"bits": 9},
    {"method": "magic"},
    {"select": "magic", "prune": 0.5},
    {"select": "obs", "method": "udfc", "prune": 0.5},
]


@pytest.mark.parametrize("asked", IMPOSSIBLE, ids=str)
def test_impossible_requests_are_one_line(asked: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        compress(trained(CHAIN), Options(**asked))
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_numbers_are_refused() -> None:
    model = trained(CHAIN)
    broken = np.full(parameter(model, "W2").shape, np.nan, np.float32)
    next(t for t in model.graph.initializer if t.name == "W2").CopyFrom(onnx.numpy_helper.from_array(broken, "W2"))
    with pytest.raises(ModelError) as caught:
        compress(model, bits=8)
    assert "\n" not in str(caught.value)


def test_a_gate_that_is_not_met() -> None:
    options = Options(bits=2, require=(parse_requirement("sqnr>=150"),))
    with pytest.raises(GateError, match="sqnr"):
        compress(trained(CHAIN), options)
    assert compress(trained(CHAIN), Options(bits=8, require=(parse_requirement("sqnr>=5"),))).report.fidelity.sqnr_db


def test_a_network_without_layers_comes_back() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }'
    for method in METHODS:
        result = compress(onnx.parser.parse_model(text), prune=0.5, bits=4, method=method)
        assert [n.op_type for n in result.model.graph.node] == ["Relu"]
        assert result.report.layers == ()


class Listener(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.layers: list[str] = []

    def stage(self, name: str, steps: int | None = None) -> None:
        assert steps is None or steps >= 0
        self.stages.append(name)

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.layers += [note] * steps


def test_stages_are_told_and_timed() -> None:
    listener = Listener()
    result = compress(trained(CHAIN), Options(prune=0.5, allocate="uniform"), listener)
    assert list(result.report.timings) == listener.stages
    assert listener.stages[0] == "read"
    assert listener.layers == 2 * [layer.name for layer in result.report.layers]


@pytest.mark.parametrize(("bits", "limit"), [(8, 0.30), (4, 0.18)])
@pytest.mark.parametrize("kind", ["bn", "folded"])
def test_bytes_of_a_real_network(assets: Path, kind: str, bits: int, limit: float) -> None:
    path = assets / "models" / f"resnet56_cifar10_{kind}.onnx"
    result = compress(path, bits=bits, method="none")
    assert len(result.model.SerializeToString()) <= limit * path.stat().st_size
    assert result.report.before.bytes == path.stat().st_size


def test_more_samples_where_layers_are_few() -> None:
    counts = [samples_for(layers) for layers in (0, 1, 18, 40, 56, 300)]
    assert counts == [MOST_SAMPLES, MOST_SAMPLES, MOST_SAMPLES, SAMPLES * MANY_LAYERS // 40, SAMPLES, SAMPLES]


@pytest.mark.parametrize(
    ("target", "kind", "body", "opset", "reason"),
    [
        ("cuda", "float", "y = Conv(x, W)", 21, "no integer convolution on CUDA"),
        ("cpu", "float16", "y = Conv(x, W)", 21, "layer n0 computes in float16"),
        ("cpu", "float", "c = Conv(x, W) y = Hardmax<axis = 1>(c)", 12, "kept at 12"),
    ],
)
def test_activations_that_cannot_be_quantized_are_refused_before_any_work(
    target: str, kind: str, body: str, opset: int, reason: str
) -> None:
    text = f"g ({kind}[1,2,4,4] x, {kind}[3,2,1,1] W) => ({kind}[1,3,4,4] y) {{ {body} }}"
    listener = Listener()
    with pytest.raises(RequestError, match=reason):
        compress(small_model(text, opset), Options(bits=8, activations=8, target=target), listener)
    assert listener.stages in ([], ["read"])


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_what_cannot_be_measured_is_done_otherwise_and_said(threads: int) -> None:
    """Between two layers the values are around 1e18: their squares are beyond float32, the outputs are not."""
    text = """g (float[N,3,12,12] x, float[8,3,3,3] W1, float[6,8,3,3] W2, float[5,6,1,1] W3) => (float[N,5,8,8] y) {
        a = Conv(x, W1) b = Relu(a) c = Conv(b, W2) d = Relu(c) y = Conv(d, W3) }"""

    def notes(factor: float) -> list[str]:
        model = small_model(text)
        for tensor, times in zip(model.graph.initializer[:2], (factor, 1 / factor), strict=True):
            values = onnx.numpy_helper.to_array(tensor) * np.float32(times)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return list(compress(model, Options(prune=0.5, bits=4, threads=threads)).report.runtime.notes)

    large = notes(1e18)
    assert any("channels of n0: ordered by their weights alone: what n2 reads" in n for n in large)
    assert any("n2" in n and "not refitted" in n and "too large" in n for n in large)
    assert not any("too large" in n or "by their weights" in n for n in notes(1.0))


def test_a_gram_that_cannot_be_used_is_said() -> None:
    gram = np.full((1, 4, 4), np.inf)
    params, reason = quantize_layer(np.eye(4)[None], gram, 4, np.dtype(np.float32))
    assert "not finite" in reason
    np.testing.assert_allclose(params.dequantize()[0], np.eye(4), atol=1e-6)
    assert quantize_layer(np.eye(4)[None], np.eye(4)[None], 4, np.dtype(np.float32))[1] == ""


def test_a_classifier_that_names_no_class_is_fed_unbalanced_inputs_and_says_so() -> None:
    text = """g (float[N,3,12,12] x, float[8,3,3,3] W1, float[5,8,1,1] W2, float[1] V) => (float[N,5,1,1] y) {
        a = Conv(x, W1) r = Relu(a) p = GlobalAveragePool(r) b = Conv(p, W2) n = Neg(V) l = Log(n) y = Add(b, l) }"""
    report = compress(small_model(text), Options(bits=4, threads=1, force=True)).report
    assert any("not balanced over the classes" in n for n in report.runtime.notes)
