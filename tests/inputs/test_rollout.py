"""Networks that carry states along: sequences against a loop by hand, and what the check then sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_udfc.evaluate.validate import validate
from onnx_udfc.inputs.kinds import MAKERS, Wanted
from onnx_udfc.inputs.network_inputs import make_inputs
from onnx_udfc.inputs.rollout import STEPS, Rollout, Stepping
from onnx_udfc.model.network import read
from onnx_udfc.options import Judging, Options
from onnx_udfc.pipeline import compress
from onnx_udfc.runtime.runs import input_specs, split
from onnx_udfc.runtime.sessions import open_session

WIDTH, UNITS = 512, 24
Feeds = list[dict[str, NDArray[Any]]]


def recurrent(batch: int | str = "n", seed: int = 0, keeps: float = 0.98) -> onnx.ModelProto:
    """Sound (batch, 1, WIDTH) and a state: two layers on the sound, a state that keeps most of itself, a yes or no."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (WIDTH, 48), "w2": (48, UNITS), "w3": (UNITS, 1)}
    weights = {k: (rng.standard_normal(s) / np.sqrt(s[0])).astype(np.float32) for k, s in shapes.items()}
    weights |= {
        "keep": np.float32(keeps),
        "add": np.float32(1 - keeps),
        "bias": np.full(48, 0.1, np.float32),
        "one": np.array([1]),
    }
    nodes = [
        helper.make_node("Squeeze", ["sound", "one"], ["flat"]), helper.make_node("MatMul", ["flat", "w1"], ["a"]),
        helper.make_node("Add", ["a", "bias"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]), helper.make_node("MatMul", ["c", "w2"], ["d"]),
        helper.make_node("Mul", ["d", "add"], ["e"]), helper.make_node("Mul", ["state", "keep"], ["f"]),
        helper.make_node("Add", ["e", "f"], ["stateN"]), helper.make_node("MatMul", ["stateN", "w3"], ["g"]),
        helper.make_node("Sigmoid", ["g"], ["said"]),
    ]  # fmt: skip
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "net",
        [info("sound", TensorProto.FLOAT, [batch, 1, WIDTH]), info("state", TensorProto.FLOAT, [batch, UNITS])],
        [info("said", TensorProto.FLOAT, [batch, 1]), info("stateN", TensorProto.FLOAT, [batch, UNITS])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(("batch", "sequences"), [("n", 5), (1, 1), (2, 2)])
def test_states_are_those_of_the_steps_before(batch: int | str, sequences: int) -> None:
    network = read(recurrent(batch))
    inputs = make_inputs(network, Options(images=5 * STEPS))
    assert inputs.rollout == Rollout({"state": "stateN"}, STEPS, sequences)
    specs = [(t.name, t.shape) for t in network.graph.inputs]
    assert [name for name, _ in specs] == ["sound", "state"]
    session = open_session(recurrent(batch))
    state = np.zeros((sequences, UNITS), np.float32)
    samples = len(inputs.values["sound"])
    assert samples == (4 if batch == 2 else 5) * STEPS
    for number, start in enumerate(range(0, samples, sequences)):
        part = slice(start, start + sequences)
        state = state if number % STEPS else np.zeros_like(state)
        np.testing.assert_allclose(inputs.values["state"][part], state, rtol=1e-5, atol=1e-7)
        state = session.run(["stateN"], {"sound": inputs.values["sound"][part], "state": state})[0]
    assert np.abs(inputs.values["state"]).max() > 0
    assert any("state is what stateN was" in note for note in inputs.note.split("; "))


def test_sounds_go_on_from_step_to_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def ramp(wanted: Wanted, count: int, _seed: int) -> NDArray[Any]:
        return np.broadcast_to(np.arange(max(wanted.sample)), (count, *wanted.sample))

    monkeypatch.setitem(MAKERS, "signal", ramp)
    sound = make_inputs(read(recurrent()), Options(images=4 * STEPS)).values["sound"].reshape(STEPS, 4, WIDTH)
    for sequence in range(4):
        np.testing.assert_array_equal(sound[:, sequence].reshape(-1), np.arange(STEPS * WIDTH))


def test_a_step_goes_on_from_its_own_state() -> None:
    class Doubles:
        """A session of one number: what is fed, and twice the state and one."""

        def get_outputs(self) -> list[Any]:
            return []

        get_inputs = get_outputs

        def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
            return [{"y": feed["x"] + feed["s"], "sn": 2 * feed["s"] + 1}[name] for name in names]

    session = Stepping(Doubles(), Rollout({"s": "sn"}, 3, 1))
    fed = [{"x": np.zeros(1), "s": np.full(1, 100.0 if i % 3 else 0.0)} for i in range(6)]
    assert [session.run(["y"], feed)[0].item() for feed in fed] == [0, 1, 3, 0, 1, 3]


def test_what_goes_wrong_little_by_little_is_seen() -> None:
    """A state that forgets a little too slowly differs little in a step, and much in what it comes to."""
    first, second = recurrent(keeps=0.5), recurrent(keeps=0.5)
    keep = next(t for t in second.graph.initializer if t.name == "keep")
    keep.CopyFrom(numpy_helper.from_array(np.asarray(np.float32(0.9)), "keep"))
    feeds = list(split(input_specs(open_session(first)), make_inputs(read(first), Options(images=2 * STEPS)).values, 2))
    apart = _difference(first, second, feeds, carry=False)
    together = _difference(first, second, feeds, carry=True)
    assert together > 3 * apart
    found = validate(first, second, Judging(seconds=0, memory=False))
    state = next(o for o in found.outputs if o.name == "stateN")
    assert state.state
    assert found.sqnr_db == next(o for o in found.outputs if o.name == "said").sqnr_db


def test_the_report_says_which_output_is_a_state() -> None:
    report = compress(recurrent(), bits=8, images=2 * STEPS, threads=1).report
    assert {o.name: o.state for o in report.fidelity.outputs} == {"said": False, "stateN": True}
    assert report.fidelity.sqnr_db == next(o.sqnr_db for o in report.fidelity.outputs if o.name == "said")
    assert any("sequences of" in note for note in report.runtime.notes)


def _difference(first: onnx.ModelProto, second: onnx.ModelProto, feeds: Feeds, *, carry: bool) -> float:
    """Squares of what the next states differ by."""
    one, other = open_session(first), open_session(second)
    stepping = Stepping(other, Rollout({"state": "stateN"}, STEPS, 2)) if carry else other
    return sum(float(((one.run(["stateN"], feed)[0] - stepping.run(["stateN"], feed)[0]) ** 2).sum()) for feed in feeds)
