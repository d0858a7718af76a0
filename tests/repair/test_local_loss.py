"""What a grid takes of each tensor by itself, and what is left in float where the answers are ruined."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.emit.placement import Placement
from onnx_udfc.emit.targets import activation_tensors
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics.activation_grids import ActivationParams, as_they_are
from onnx_udfc.repair import harm
from onnx_udfc.repair.harm import Trial, spared
from onnx_udfc.repair.local_loss import before_depthwise, losses, lost_in
from onnx_udfc.repair.ranges import measure_ranges
from tests.normed_graphs import parameter, scaled_model, with_parameters

CHANNELS = 16
TEXT = f"""g (float[N,3,16,16] x, float[{CHANNELS},3,1,1] W1, float[{CHANNELS},1,3,3] W2, float[8,{CHANNELS},1,1] W3,
    float[8,8,3,3] W4, float[4,8,3,3] W5) => (float[N,4,10,10] y) {{
    a = Conv(x, W1) h = HardSwish(a) d = Conv<group = {CHANNELS}>(h, W2) r = Relu(d) p = Conv(r, W3) q = Relu(p)
    e = Conv(q, W4) s = Relu(e) y = Conv(s, W5) }}"""


def uneven() -> Network:
    """Two channels before the depthwise layer are a thousand times as wide as the others, and even behind it."""
    model = scaled_model(TEXT)
    spread = np.where(np.arange(CHANNELS) < 2, 1e3, 1.0).reshape(-1, 1, 1, 1)
    values = {"W1": parameter(model, "W1") * spread, "W2": parameter(model, "W2") / spread}
    return read(with_parameters(model, values))


def images(count: int = 8) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).normal(size=(count, 3, 16, 16)).astype(np.float32)}


def test_a_loss_counts_channels_where_they_are_read_apart_and_their_sum_elsewhere() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 3, 5, 5)) * np.reshape([10.0, 1.0, 0.01], (1, 3, 1, 1))
    grid = ActivationParams(0.25, 128)
    codes = np.clip(np.rint(values / 0.25) + 128, 0, 255)
    noise = ((values - (codes - 128) * 0.25) ** 2).mean((0, 2, 3))
    signal = values.var((0, 2, 3))
    apart = lost_in(values, grid, as_they_are, apart=True)
    assert apart == pytest.approx((noise / (noise + signal)).mean(), rel=1e-9)
    assert apart > 1 / 6  # one of three is gone: its error is as large as itself
    together = lost_in(values, grid, as_they_are, apart=False)
    assert together == pytest.approx(noise.sum() / (noise.sum() + signal.sum()), rel=1e-9)
    assert together < 1e-3
    assert lost_in(np.zeros((1, 2, 3)), grid, as_they_are, apart=True) == 0


def test_what_stands_before_a_depthwise_layer_loses_most_there() -> None:
    network = uneven()
    assert before_depthwise(network) == {"a", "h"}
    placement = activation_tensors(network, list(network.layers), "cpu")
    grids = measure_ranges(network, placement, images(), likeness="alike")
    exact = measure_ranges(network, placement, images(), likeness="alike", exact=True)
    assert max(losses(network, placement, exact, images())[name] for name in "xrqsy") < 0.01
    found = losses(network, placement, grids, images())
    assert set(found) == set(placement.tensors)
    assert sorted(found, key=lambda name: -found[name])[:2] in (["a", "h"], ["h", "a"])


def test_ruined_answers_are_worth_the_time_of_what_ruins_them(monkeypatch: pytest.MonkeyPatch) -> None:
    network, feeds = uneven(), images()
    layers = list(network.layers)
    placement = activation_tensors(network, layers, "cpu")
    grids = measure_ranges(network, placement, feeds, likeness="alike")
    trial = Trial(network, placement, grids, feeds, 4)
    monkeypatch.setattr(harm, "STEPS", (1, 2))
    monkeypatch.setattr(harm.Choices, "growing", lambda *_: [])  # what runs of a large network cannot tell
    assert (trial.harm(placement.tensors) or 0) > harm.RUINED

    def measure(changed: Placement, exact: bool) -> dict[str, ActivationParams]:
        return measure_ranges(network, changed, feeds, likeness="alike", exact=exact)

    left = spared(network, layers, "cpu", placement, grids, feeds, measure=measure)
    assert not {"a", "h"} & set(left.sites)
    assert len(left.integer) >= 2
    after = Trial(network, left, measure_ranges(network, left, feeds, likeness="alike"), feeds, 4)
    assert (after.harm(left.tensors) or 1) < 0.02
    assert "for the sake of the outputs" in left.reason
