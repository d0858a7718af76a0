from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from onnx_udfc import pipeline
from onnx_udfc.errors import CheckError, GateError
from onnx_udfc.evaluate import final_check
from onnx_udfc.evaluate.final_check import answer, check_result
from onnx_udfc.evaluate.movement import MAX_DB
from onnx_udfc.inputs.how_many import FEWEST_JUDGED, MOST_JUDGED
from onnx_udfc.inputs.network_inputs import settle_sizes
from onnx_udfc.model.network import read
from onnx_udfc.options import Options, parse_requirement
from onnx_udfc.pipeline import compress
from onnx_udfc.runtime.sessions import open_session
from tests.normed_graphs import CHAIN, parameter, scaled_model, with_parameters
from tests.small_graphs import small_model


def test_the_same_network_is_identical() -> None:
    model = scaled_model(CHAIN)
    found = check_result(model, read(model), model, Options())
    assert found.notes == ()
    assert found.fidelity is not None
    assert found.fidelity.sqnr_db == MAX_DB
    assert found.fidelity.cosine == pytest.approx(1)


def test_a_worse_network_is_further_away() -> None:
    model = scaled_model(CHAIN)
    weight = parameter(model, "W3")
    noise = np.random.default_rng(0).normal(size=weight.shape) * weight.std()
    quality = []
    for level in (0.01, 0.1, 1.0):
        result = check_result(model, read(model), with_parameters(model, {"W3": weight + level * noise}), Options())
        assert result.fidelity is not None
        quality.append(result.fidelity.sqnr_db or 0.0)
    assert quality[0] == pytest.approx(37, abs=4)  # the weights are 40 dB away; outputs vary less than they are large
    assert quality[0] > quality[1] + 15 > quality[2] + 30


def test_two_heavy_networks_are_never_open_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scaled_model(CHAIN)
    other = with_parameters(model, {"W3": parameter(model, "W3") * 1.1})
    opened: list[weakref.ref[Any]] = []

    def watched(*args: Any, **options: Any) -> Any:
        assert not [session for session in opened if session() is not None]
        session = open_session(*args, **options)
        opened.append(weakref.ref(session))
        return session

    plain = check_result(model, read(model), other, Options(threads=1))
    monkeypatch.setattr(final_check, "HEAVY", 1)
    monkeypatch.setattr(final_check, "open_session", watched)
    assert check_result(model, read(model), other, Options(threads=1)) == plain
    assert len(opened) == 2


@pytest.mark.parametrize(("options", "lean"), [(Options(bits=4), True), (Options(bits=8, activations=8), False)])
def test_codes_of_a_large_network_are_not_unpacked_at_once(
    options: Options, lean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = scaled_model(CHAIN), list[bool]()

    def opened(*args: Any, **named: Any) -> Any:
        asked.append(named.get("lean", False))
        return open_session(*args, **named)

    monkeypatch.setattr(final_check, "UNPACKED", 1)
    monkeypatch.setattr(final_check, "open_session", opened)
    assert check_result(model, read(model), model, options).fidelity is not None
    assert asked == [False, lean]  # the original has no codes


def test_values_that_are_not_finite_are_refused() -> None:
    model = scaled_model(CHAIN)
    broken = with_parameters(model, {"B3": np.full(5, np.inf)})
    with pytest.raises(CheckError, match="finite") as caught:
        check_result(model, read(model), broken, Options())
    assert "\n" not in str(caught.value)


def test_another_output_shape_is_refused() -> None:
    model = scaled_model(CHAIN)
    other = scaled_model(CHAIN.replace("y = Conv(r2, W3, B3)", "y = Conv<pads = [1, 1, 1, 1]>(r2, W3, B3)"))
    other.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, None))
    with pytest.raises(CheckError):
        check_result(model, read(model), other, Options())


def test_a_network_that_is_no_onnx_is_refused() -> None:
    model = scaled_model(CHAIN)
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[0].input[1] = "no such weight"
    with pytest.raises(CheckError, match="nothing was written") as caught:
        check_result(model, read(model), broken, Options())
    assert "\n" not in str(caught.value)


def test_a_network_that_does_not_load_is_refused() -> None:
    model = scaled_model(CHAIN)
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[0].op_type = "NoSuchOperator"
    broken.graph.node[0].domain = "custom"  # valid for onnx, which does not know the domain
    with pytest.raises(CheckError, match="does not load"):
        check_result(model, read(model), broken, Options())


def test_a_fixed_batch_of_more_inputs_than_are_looked_at_is_run_whole() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[50,3,4,4] x) => (float[50,3,4,4] y) { y = Relu(x) }'
    model = parser.parse_model(text)
    found = check_result(model, read(model), model, Options())
    assert found.notes == ()
    assert found.fidelity is not None
    assert found.fidelity.count == 50


CUSTOM = """<ir_version: 10, opset_import: ["" : 21, "custom" : 1]>
g (float[N,3] x) => (float[N,3] y) { a = custom.Magic(x) y = Relu(a) }"""


def test_what_onnxruntime_cannot_run_is_not_compared() -> None:
    model = parser.parse_model(CUSTOM)
    found = check_result(model, read(model), model, Options())
    assert found.fidelity is None
    assert len(found.notes) == 1


def test_an_original_that_does_not_run_on_made_up_inputs_is_not_compared() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N,3] x, int64[2] s) => (float[] y) { y = Reshape(x, s) }'
    model = parser.parse_model(text)
    found = check_result(model, read(model), model, Options())
    assert found.fidelity is None
    assert "made-up inputs" in found.notes[0]


def test_the_original_s_own_faults_are_not_the_result_s() -> None:
    model = scaled_model(CHAIN)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("no_such_attribute", 1))
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    found = check_result(model, read(model), scaled_model(CHAIN), Options())  # onnxruntime does not load the original
    assert found.fidelity is None
    assert check_result(model, read(model), model, Options()).notes == found.notes


NAN = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N,3,8,8] x) => (float[N,3,8,8] y) { a = Relu(x) b = Sub(a, a) y = Div(b, b) }"""


def test_an_original_that_answers_only_nan_measures_nothing_and_passes_no_gate() -> None:
    model = parser.parse_model(NAN)
    found = check_result(model, read(model), model, Options()).fidelity
    assert found is not None
    assert (found.sqnr_db, found.cosine, found.agreement) == (None, None, None)
    assert "not finite" in found.unmeasured
    for gate in ("sqnr>=-200", "cosine>=-1", "agreement>=0"):
        with pytest.raises(GateError, match="not measured"):
            compress(model, Options(require=(parse_requirement(gate),)))


def test_a_network_whose_runs_take_long_is_checked_on_fewer_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scaled_model(CHAIN)
    counts = []
    for affordable in (10**6, 20, 1):
        monkeypatch.setattr("onnx_udfc.inputs.how_many.affordable", lambda _network, number=affordable: number)
        found = check_result(model, read(model), model, Options())
        assert found.fidelity is not None
        counts.append(found.fidelity.count)
    assert counts == [MOST_JUDGED, 40, FEWEST_JUDGED]


@pytest.mark.parametrize("threads", [1, 2])
def test_what_the_original_answers_is_found_once_beside_the_repair(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, made = scaled_model(CHAIN), final_check.answer
    asked: list[int] = []

    def counted(*given: Any) -> final_check.Answered:
        asked.append(1)
        return made(*given)

    monkeypatch.setattr(pipeline, "answer", counted)
    monkeypatch.setattr(final_check, "answer", lambda *_: pytest.fail("answers were there"))
    beside = compress(model, Options(prune=0.5, bits=4, threads=threads, force=True)).report
    monkeypatch.setattr(final_check, "answer", made)
    monkeypatch.setattr(pipeline, "LIGHT", 0)
    after = compress(model, Options(prune=0.5, bits=4, threads=threads, force=True)).report
    assert len(asked) == 1
    assert beside.fidelity == after.fidelity


@pytest.mark.parametrize(("runs", "count"), [(1, 4), (1000, 32)])
def test_what_takes_long_is_checked_on_few_of_what_else_its_inputs_may_be(
    runs: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_udfc.evaluate.final_check.affordable", lambda _: runs)
    model = small_model("""g (float[N,24] x, float[24,8] W1, float[8,5] W2) => (float[N,5] y) {
        a = MatMul(x, W1) r = Relu(a) y = MatMul(r, W2) }""")
    network = read(model)
    settle_sizes(network, Options(images="64"))
    others = answer(model, network, Options(images="64")).others
    assert others
    assert {sum(len(feed["x"]) for feed in other.feeds) for other in others} == {count}
