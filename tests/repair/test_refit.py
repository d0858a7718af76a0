from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_udfc.channels.groups import Channels, find_groups
from onnx_udfc.channels.prune import Pruned, prune
from onnx_udfc.model.factored import Factor, bits_of_parts, factor
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics.factors import Split, evened
from onnx_udfc.numerics.grids import FORMATS
from onnx_udfc.numerics.joint_refit import Shared, refit_together
from onnx_udfc.numerics.moments import Window, sample_targets
from onnx_udfc.options import Options
from onnx_udfc.pipeline import compress
from onnx_udfc.repair import refit
from onnx_udfc.repair.absorb import absorb_copies
from onnx_udfc.repair.readers import affordable
from onnx_udfc.repair.reference import Reference, trace
from onnx_udfc.repair.refit import repair
from onnx_udfc.repair.repaired import Repaired, RepairSettings
from onnx_udfc.repair.splitting import both_of, split_matched
from tests.normed_graphs import CHAIN, RESIDUAL, norm, parameter, scaled_model, settled, with_parameters
from tests.quantized_graphs import fetch

Value = NDArray[Any]
Keep = Mapping[str, NDArray[np.int64]]


def images(count: int = 16, seed: int = 0, shape: tuple[int, ...] = (3, 12, 12)) -> dict[str, Value]:
    """Smooth inputs: sums of random waves."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *shape))
    for axis in range(2, x.ndim):
        x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
    return {"x": (x / x.std()).astype(np.float32)}


TRAINING = images(64, seed=100)


def trained(text: str) -> onnx.ModelProto:
    """A network whose batch norms have seen images like those that it is judged on."""
    return settled(scaled_model(text), TRAINING)


def traced(network: Network, channels: Channels, *, matched: bool = True) -> Reference:
    return trace(network, images(), channels.groups, matched=matched, samples=4096, seed=0, advance=lambda _: None)


def repaired(
    network: Network, reference: Reference, channels: Channels, keep: Keep, bits: Mapping[str, int] | None = None
) -> tuple[Pruned, Repaired]:
    """One pass of the repair on copies of both networks."""
    pruned = prune(network, channels, keep)
    matched = prune(reference.network, channels, keep).network
    settings = RepairSettings()
    return pruned, repair(pruned, matched, reference, bits or {}, settings, lambda _: None)


def half(channels: Channels, reference: Reference, kinds: tuple[str, ...] = ("inner",)) -> dict[str, NDArray[np.int64]]:
    return {g.name: reference.removals[g.name].kept(g.channels // 2) for g in channels.groups if g.kind in kinds}


def error(model: onnx.ModelProto, original: onnx.ModelProto, tensor: str = "y", seed: int = 5) -> float:
    """Root of the mean squared error over the deviation of the original's, on images that the repair has not seen."""
    wanted = fetch(original, tensor, images(seed=seed))
    return float(np.sqrt(np.square(fetch(model, tensor, images(seed=seed)) - wanted).mean()) / wanted.std())


@pytest.mark.parametrize("text", [CHAIN, RESIDUAL], ids=["chain", "residual"])
def test_with_nothing_to_do_the_weights_come_back(text: str) -> None:
    network = read(trained(text))
    channels = find_groups(network)
    pruned, result = repaired(network, traced(network, channels), channels, {})
    for name, layer in network.layers.items():
        assert np.array_equal(pruned.network.layers[name].weight, layer.weight)
        assert np.array_equal(pruned.network.layers[name].bias, layer.bias)
    assert result.weights == {}
    assert result.layers == {}


@pytest.mark.parametrize("matched", [True, False])
@pytest.mark.parametrize("text", [CHAIN, RESIDUAL], ids=["chain", "residual"])
def test_repair_beats_dropping_channels(text: str, matched: bool) -> None:
    model = trained(text)
    network = read(model)
    channels = find_groups(network)
    reference = traced(network, channels, matched=matched)
    keep = half(channels, reference)
    dropped = prune(network, channels, keep).network.to_model()
    pruned, result = repaired(network, reference, channels, keep)
    assert error(pruned.network.to_model(), model) < 0.75 * error(dropped, model)
    cut = [name for g in channels.groups if g.name in keep for name in g.consumers]
    for name in cut:
        found = result.layers[name]
        assert 0 <= found.error_refit < found.error_before
        assert found.error_after == found.error_refit  # nothing was rounded


def dead(model: onnx.ModelProto, channel: int, beta: float) -> onnx.ModelProto:
    """The first convolution of CHAIN with one channel that is `beta` whatever comes in."""
    values = {name: parameter(model, name) for name in ("S1", "D1")}
    values["S1"][channel], values["D1"][channel] = 0, beta
    return with_parameters(model, values)


@pytest.mark.parametrize("beta", [-0.5, 0.0, 0.7])
def test_a_constant_channel_goes_into_the_bias(beta: float) -> None:
    model = settled(dead(trained(CHAIN), 5, beta), TRAINING)
    network = read(model)
    channels = find_groups(network)
    reference = traced(network, channels)
    name = channels.groups[0].name
    assert reference.removals[name].order[0] == 5
    pruned, _ = repaired(network, reference, channels, {name: np.delete(np.arange(16), 5)})
    assert error(pruned.network.to_model(), model) < 1e-4


def test_a_copy_that_is_removed_costs_nothing() -> None:
    model = trained(CHAIN)
    values = {name: parameter(model, name) for name in ("W1", "S1", "D1", "M1", "V1")}
    for array in values.values():
        array[11] = array[3]
    model = with_parameters(model, values)
    network = read(model)
    channels = find_groups(network)
    reference = traced(network, channels)
    name = channels.groups[0].name
    assert reference.removals[name].order[0] in (3, 11)
    keep = {name: np.delete(np.arange(16), 11)}
    absorb_copies(reference.network, network, channels, keep)
    pruned, _ = repaired(network, reference, channels, keep)
    assert error(pruned.network.to_model(), model) < 1e-4


def test_what_is_missing_in_the_stream_is_asked_of_the_next_block() -> None:
    model = trained(RESIDUAL)
    network = read(model)
    channels = find_groups(network)
    reference = traced(network, channels, matched=False)
    keep = half(channels, reference)
    with_stream, _ = repaired(network, reference, channels, keep)
    matched = reference.network.to_model()
    for name, layer in reference.layers.items():
        if layer.addend is not None:
            window = Window((1, 1))  # of every place of an output
            stream = sample_targets(fetch(matched, layer.addend, images()), window, layer.positions)
            reference.layers[name] = replace(layer, addend=None, held=layer.target - stream)
    without, _ = repaired(network, reference, channels, keep)
    errors = [error(p.network.to_model(), model, "r5", seed=0) for p in (with_stream, without)]  # what was fitted
    assert errors[0] < 0.98 * errors[1]


def test_a_trace_that_is_spent_keeps_nothing_and_gives_the_same() -> None:
    network = read(trained(RESIDUAL))
    channels = find_groups(network)
    reference = traced(network, channels)
    keep = half(channels, reference)
    kept, _ = repaired(network, reference, channels, keep)
    pruned, matched = prune(network, channels, keep), prune(reference.network, channels, keep).network
    repair(pruned, matched, reference, {}, RepairSettings(), lambda _: None, spend=True)
    assert reference.network is matched
    assert not reference.layers
    first, second = (p.network.to_model().SerializeToString(deterministic=True) for p in (kept, pruned))
    assert first == second


@pytest.mark.parametrize("bits", sorted(FORMATS))
def test_the_written_weights_are_the_codes(bits: int) -> None:
    network = read(trained(RESIDUAL))
    channels = find_groups(network)
    pruned, result = repaired(network, traced(network, channels), channels, {}, dict.fromkeys(network.layers, bits))
    assert list(result.weights) == list(network.layers)
    for name, params in result.weights.items():
        assert params.bits == bits
        assert abs(params.codes).max() <= FORMATS[bits].qmax
        assert np.array_equal(pruned.network.layers[name].matrix(), params.dequantize().astype(np.float32))


ONE = "g (float[N,3,12,12] x, float[6,3,3,3] W, float[6] B) => (float[N,6,10,10] y) { y = Conv(x, W, B) }"


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_bias_takes_what_rounding_does_to_the_mean(bits: int) -> None:
    model = scaled_model(ONE)
    network = read(model)
    pruned, _ = repaired(network, traced(network, find_groups(network)), find_groups(network), {}, {"n0": bits})
    before, after = (fetch(m, "y", images()) for m in (model, pruned.network.to_model()))
    assert error(pruned.network.to_model(), model) > 1e-3
    np.testing.assert_allclose(after.mean((0, 2, 3)), before.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_a_matched_layer_ships_the_bias_of_its_batch_norm() -> None:
    """b = β - Q E[p] + ρ d with the weights Q that are shipped and d = W E[p] + b0 - β."""
    text = CHAIN[: CHAIN.index("r1 = Relu")].replace("[N,5,6,6] y", "[N,16,10,10] b1") + "}"
    model = scaled_model(text)
    network = read(model)
    channels = find_groups(network)
    pruned, result = repaired(network, traced(network, channels), channels, {}, {"n0": 4})
    windows = np.lib.stride_tricks.sliding_window_view(images()["x"], (3, 3), axis=(2, 3))
    mean_patch = windows.mean((0, 2, 3), dtype=np.float64).ravel()
    before, after, beta = network.layers["n0"], pruned.network.layers["n0"], parameter(model, "D1")
    drift = before.matrix()[0] @ mean_patch + before.bias - beta
    explained = 1 - result.layers["n0"].error_after
    expected = beta - after.matrix()[0] @ mean_patch + explained * drift
    np.testing.assert_allclose(after.bias, expected, rtol=1e-4, atol=1e-4)
    assert abs(drift).max() > 0.3


def test_images_of_another_mean_do_not_move_the_biases() -> None:
    model = trained(CHAIN)
    network = read(model)
    channels = find_groups(network)
    strange = {"x": images()["x"] * 2 + 1}
    reference = trace(network, strange, (), matched=True, samples=4096, seed=0, advance=lambda _: None)
    pruned, _ = repaired(network, reference, channels, {}, dict.fromkeys(network.layers, 8))
    assert error(pruned.network.to_model(), model) < 0.03


SEVERAL = """g (float[N,3,12,12] x, float[16,3,3,3] W1, float[16] B1, float[5,16,3,3] W2, float[4,16,1,1] W3,
    float[4] B3) => (float[N,5,8,8] y, float[N,4,10,10] z) {
    a = Conv(x, W1, B1) r = Relu(a) y = Conv(r, W2) z = Conv(r, W3, B3) }"""


def test_every_consumer_is_refitted() -> None:
    model = scaled_model(SEVERAL)
    network = read(model)
    channels = find_groups(network)
    assert len(channels.groups[0].consumers) == 2
    reference = traced(network, channels)
    keep = half(channels, reference)
    pruned, result = repaired(network, reference, channels, keep)
    dropped = prune(network, channels, keep).network.to_model()
    assert set(result.layers) == set(channels.groups[0].consumers)
    for output in ("y", "z"):
        assert error(pruned.network.to_model(), model, output) < 0.75 * error(dropped, model, output)


FORMS = {
    "grouped": """g (float[N,3,12,12] x, float[16,3,3,3] W1, float[16] B1, float[16,4,3,3] W2, float[16] B2,
        float[5,16,1,1] W3) => (float[N,5,8,8] y) {
        a = Conv(x, W1, B1) r = Relu(a) b = Conv<group = 4>(r, W2, B2) s = Relu(b) y = Conv(s, W3) }""",
    "depthwise": """g (float[N,3,12,12] x, float[16,3,1,1] W1, float[16] B1, float[16,1,3,3] W2, float[16] B2,
        float[6,16,1,1] W3) => (float[N,6,6,6] y) { a = Conv(x, W1, B1) r = Clip(a, zero, six)
        b = Conv<group = 16, strides = [2, 2], pads = [1, 1, 1, 1]>(r, W2, B2) s = Clip(b, zero, six)
        y = Conv(s, W3) }""",
    "transposed": """g (float[N,3,12,12] x, float[3,16,3,3] W1, float[16] B1, float[16,5,2,2] W2, float[5] B2)
        => (float[N,5,28,28] y) { a = ConvTranspose(x, W1, B1) r = LeakyRelu(a)
        y = ConvTranspose<strides = [2, 2]>(r, W2, B2) }""",
    "gemm": """g (float[N,40] x, float[32,40] W1, float[32] B1, float[32,24] W2, float[24] B2, float[24,10] W3)
        => (float[N,10] y) { a = Gemm<transB = 1>(x, W1, B1) r = Relu(a) b = MatMul(r, W2) c = Add(b, B2) s = Relu(c)
        y = MatMul(s, W3) }""",
    "flatten": """g (float[N,3,12,12] x, float[8,3,3,3] W1, float[8] B1, float[10,200] W2, float[10] B2)
        => (float[N,10] y) { a = Conv(x, W1, B1) r = Relu(a) p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
        f = Flatten(p) y = Gemm<transB = 1>(f, W2, B2) }""",
    "one dimension": """g (float[N,3,40] x, float[12,3,5] W1, float[12] B1, float[5,12,3] W2) => (float[N,5,34] y) {
        a = Conv(x, W1, B1) r = Relu(a) y = Conv(r, W2) }""",
    "three dimensions": """g (float[N,2,6,7,8] x, float[8,2,2,2,2] W1, float[8] B1, float[5,8,3,2,2] W2)
        => (float[N,5,3,5,6] y) { a = Conv(x, W1, B1) r = Relu(a) y = Conv(r, W2) }""",
    "fixed batch": """g (float[2,3,12,12] x, float[16,3,3,3] W1, float[16] B1, float[5,16,3,3] W2)
        => (float[2,5,8,8] y) { a = Conv(x, W1, B1) r = Relu(a) y = Conv(r, W2) }""",
    "batch of one": """g (float[1,3,12,12] x, float[16,3,3,3] W1, float[16] B1, float[6,1056] W2) => (float[1,6] y) {
        a = Conv<pads = [0, 0, 1, 1], strides = [1, 2]>(x, W1, B1) r = Relu(a) s = Constant<value_ints = [1, 1056]>()
        f = Reshape(r, s) y = Gemm<transB = 1>(f, W2) }""",
    "dynamic": """g (float[N,3,H,W] x, float[16,3,3,3] W1, float[16] B1, float[5,16,3,3] W2) => (float[N,5,h,w] y) {
        a = Conv(x, W1, B1) r = Relu(a) n = Shape(r) p = Resize<mode = "nearest">(r, , , n) y = Conv(p, W2) }""",
    "residual": RESIDUAL,
    "half precision": """g (float16[N,3,12,12] x, float16[16,3,3,3] W1, float16[16] B1, float16[5,16,3,3] W2)
        => (float16[N,5,8,8] y) { a = Conv(x, W1, B1) r = Relu(a) y = Conv(r, W2) }""",
}  # fmt: skip


def form(name: str) -> onnx.ModelProto:
    model = settled(scaled_model(FORMS[name]), TRAINING) if name == "residual" else scaled_model(FORMS[name])
    if name == "depthwise":
        limits = {"zero": 0.0, "six": 6.0}
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.array(v, np.float32), n) for n, v in limits.items()
        )
    return model


def asked(name: str, **given: Any) -> Options:
    """Options for a form; open sizes would be taken as 224 pixels, a hundred times as many as the others have."""
    return Options(threads=1, input_shape=("x=1x3x24x24",) if name == "dynamic" else (), **given)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_network_is_repaired(name: str) -> None:
    model = form(name)
    results = {
        m: compress(model, asked(name, prune=0.5, bits=6, method=m, align=1, allocate="uniform"))
        for m in ("none", "moments")
    }
    quality = {m: r.report.fidelity.sqnr_db for m, r in results.items()}
    assert quality["moments"] is not None
    assert quality["none"] is not None
    assert quality["moments"] > quality["none"] + (0 if name == "gemm" else 1)  # it sees each image once
    groups = results["moments"].report.groups
    assert all(g.kept < g.channels for g in groups if g.kind == "inner")
    before, after = (read(m) for m in (model, results["moments"].model))
    assert [(t.name, t.shape, t.dtype) for t in before.graph.outputs] == [
        (t.name, t.shape, t.dtype) for t in after.graph.outputs
    ]


@pytest.mark.parametrize("name", FORMS)
def test_more_bits_are_nearer(name: str) -> None:
    model = form(name)
    quality = [compress(model, asked(name, bits=b)).report.fidelity.sqnr_db or 0 for b in (2, 4, 8)]
    assert quality[0] < quality[1] < quality[2]
    assert quality[2] > 25


def half_dead(model: onnx.ModelProto, *names: str) -> Network:
    """The network with 0 in every second place of these parameters of its batch norms."""
    even = {name: parameter(model, name) for name in names}
    for values in even.values():
        values[1::2] = 0
    return read(with_parameters(model, even))


def test_what_a_reader_sees_through_a_pooling_is_what_it_computes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only dead channels went, the reader's own weights give its targets."""
    pooled = CHAIN.replace("y = Conv(r2,", "m2 = MaxPool<kernel_shape = [2, 2]>(r2) y = Conv(m2,")
    network = half_dead(trained(pooled.replace("[N,5,6,6]", "[N,5,5,5]")), "S1", "D1", "S2", "D2")
    channels = find_groups(network)
    seen: list[Shared] = []

    def looked_at(shared: Shared, weight: Value, level: Value, _: object) -> tuple[Value, Value]:
        seen.append(shared)
        y = np.maximum((shared.patches - shared.patches.mean(0)) @ weight.T + level, 0)
        rows = np.concatenate([y, np.full((1, y.shape[1]), -np.inf)])
        for reader in shared.readers:
            assert reader.windows is not None
            places = np.concatenate([rows[reader.windows].max(1), np.zeros((1, y.shape[1]))])
            found = places[reader.taps].transpose(0, 2, 1).reshape(len(reader.taps), -1) @ reader.weight.T
            np.testing.assert_allclose(found - found.mean(0), reader.targets - reader.targets.mean(0), atol=1e-3)
        return weight, level

    monkeypatch.setattr("onnx_udfc.repair.refit.refit_together", looked_at)
    keep = {group.name: np.arange(0, group.channels, 2) for group in channels.groups}
    repaired(network, traced(network, channels), channels, keep)
    assert len(seen) == 1


FIRE = f"""g (float[N,3,12,12] x, float[6,3,1,1] W1, {norm("1", 6)}, float[8,6,1,1] W2, {norm("2", 8)},
    float[12,6,3,3] W3, {norm("3", 12)}, float[5,20,1,1] W4, float[5] B4) => (float[N,5,12,12] y) {{
    a1 = Conv(x, W1) b1 = BatchNormalization(a1, S1, D1, M1, V1) r1 = Relu(b1)
    a2 = Conv(r1, W2) b2 = BatchNormalization(a2, S2, D2, M2, V2) r2 = Relu(b2)
    a3 = Conv<pads = [1,1,1,1]>(r1, W3) b3 = BatchNormalization(a3, S3, D3, M3, V3) r3 = Relu(b3)
    c = Concat<axis = 1>(r2, r3) y = Conv(c, W4, B4) }}"""


@pytest.mark.parametrize("order", ["r2, r3", "r3, r2"])
@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
@pytest.mark.parametrize("axis", [1, -3])
def test_branches_of_a_concat_are_refitted_beside_each_other(
    monkeypatch: pytest.MonkeyPatch, order: str, pooled: bool, axis: int
) -> None:
    """Where only dead channels went, the reader's own weights give its targets, of both branches together."""
    text = FIRE.replace("axis = 1", f"axis = {axis}").replace("r2, r3", order)
    if pooled:
        text = text.replace("y = Conv(c,", "m = MaxPool<kernel_shape = [3, 3]>(c) y = Conv(m,")
        text = text.replace("(float[N,5,12,12] y)", "(float[N,5,10,10] y)")
    network = half_dead(trained(text), "S1", "D1", "S2", "D2", "S3", "D3")
    channels = find_groups(network)
    seen: list[int] = []

    def looked_at(shared: Shared, weight: Value, level: Value, _: object) -> tuple[Value, Value]:
        if len(shared.readers) == 2:  # of what both branches read
            return weight, level
        y = np.maximum((shared.patches - shared.patches.mean(0)) @ weight.T + level, 0)
        (reader,) = shared.readers
        assert reader.beside is not None
        assert reader.beside_weight is not None
        if reader.windows is not None:
            y = np.concatenate([y, np.full((1, y.shape[1]), -np.inf)])[reader.windows].max(1)
        found = y[reader.taps[:, 0]] @ reader.weight.T + reader.beside @ reader.beside_weight.T
        np.testing.assert_allclose(found - found.mean(0), reader.targets - reader.targets.mean(0), atol=1e-3)
        seen.append(reader.beside.shape[1])
        return weight, level

    monkeypatch.setattr("onnx_udfc.repair.refit.refit_together", looked_at)
    keep = {group.name: np.arange(0, group.channels, 2) for group in channels.groups}
    repaired(network, traced(network, channels), channels, keep)
    assert seen == [6, 4]


def test_branches_of_a_concat_are_repaired_better_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(FIRE)
    network = read(model)
    channels = find_groups(network)
    reference = traced(network, channels)
    found = []
    for joint in (True, False):
        if not joint:
            monkeypatch.setattr("onnx_udfc.repair.together.Together._others", lambda *_: None)
        pruned, _ = repaired(network, reference, channels, half(channels, reference))
        found.append(error(pruned.network.to_model(), model))
    assert found[0] < 0.96 * found[1]


def test_a_branch_whose_neighbour_is_not_known_yet_is_refitted_alone(seen: list[Shared]) -> None:
    """What stands beside reads a layer that comes later: only the last branch sees all."""
    deeper = FIRE.replace("c = Concat", "a5 = Conv(r3, W5) r5 = Relu(a5) c = Concat").replace("(r2, r3)", "(r2, r5)")
    model = trained(deeper.replace("float[5] B4)", "float[5] B4, float[12,12,1,1] W5)"))
    network = read(model)
    channels = find_groups(network)
    keep = {g.name: np.arange(0, g.channels, 2) for g in channels.groups}
    repaired(network, traced(network, channels), channels, keep)
    beside = [[reader.beside is not None for reader in shared.readers] for shared in seen]
    assert beside.count([True]) == 1


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Shared]:
    """What is to be refitted together, which then stays as it is."""
    found: list[Shared] = []

    def looked_at(shared: Shared, weight: Value, level: Value, _: object) -> tuple[Value, Value]:
        found.append(shared)
        return weight, level

    monkeypatch.setattr("onnx_udfc.repair.refit.refit_together", looked_at)
    return found


@pytest.mark.parametrize(("values", "positions"), [(40, 16), (20, 15), (400, affordable(2304, 100, 1))])
def test_joint_refits_look_at_four_positions_for_each_unknown_where_three_times_the_values_do(
    monkeypatch: pytest.MonkeyPatch, seen: list[Shared], values: int, positions: int
) -> None:
    """The second layer, which sees four channels, and the third one, which sees its four."""
    network = read(
        trained(f"""g (float[N,3,12,12] x, float[8,3,1,1] W1, {norm("1", 8)}, float[8,8,1,1] W2,
        {norm("2", 8)}, float[5,8,1,1] W3, float[5] B3) => (float[N,5,12,12] y) {{
        a1 = Conv(x, W1) b1 = BatchNormalization(a1, S1, D1, M1, V1) r1 = Relu(b1)
        a2 = Conv(r1, W2) b2 = BatchNormalization(a2, S2, D2, M2, V2) r2 = Relu(b2) y = Conv(r2, W3, B3) }}""")
    )
    channels = find_groups(network)
    monkeypatch.setattr("onnx_udfc.repair.together.VALUES", values)
    keep = {g.name: np.arange(0, g.channels, 2) for g in channels.groups}
    repaired(network, traced(network, channels), channels, keep)
    (shared,) = seen
    assert [len(reader.taps) for reader in shared.readers] == [positions]


def test_readers_that_are_two_layers_are_refitted_with_what_they_read(seen: list[Shared]) -> None:
    network = read(trained(CHAIN))
    channels = find_groups(network)
    reference = traced(network, channels)
    keep, last = half(channels, reference), list(network.layers)[-1]
    chosen = {last: Factor(Split("channel", (3, 3), 2), 4)}
    pruned, matched = prune(network, channels, keep), prune(reference.network, channels, keep).network
    start = matched.layers[last].matrix()[0]
    parts = split_matched(matched, chosen)
    factor(pruned.network, chosen)
    repair(pruned, matched, reference, {}, RepairSettings(), lambda _: None, parts)
    ((reader,),) = (shared.readers for shared in seen)
    assert np.array_equal(reader.weight, start)


def test_a_layer_that_is_two_is_refitted_with_its_readers(seen: list[Shared]) -> None:
    network = read(trained(CHAIN))
    reference = traced(network, find_groups(network))
    _, second, last = network.layers
    chosen = {second: Factor(Split("separable", (3, 3), 1), 6)}
    pruned, matched = prune(network, find_groups(network), {}), reference.network.copy()
    start, parts = matched.layers[last].matrix()[0], split_matched(matched, chosen)
    factor(pruned.network, chosen)
    repair(pruned, matched, reference, {}, RepairSettings(), lambda _: None, parts)
    (shared,) = seen
    assert shared.patches.shape[1] == 6 * 3  # what the second of the two reads
    assert np.array_equal(shared.readers[0].weight, start)


def test_a_layer_that_is_two_does_not_learn_its_few_inputs_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weaker ridge fits them closer, and loses more on others."""
    model = trained(CHAIN)

    def left() -> tuple[float, float]:
        network, seen = read(model), images(3)
        channels = find_groups(network)
        reference = trace(network, seen, channels.groups, matched=False, samples=4096, seed=0, advance=lambda _: None)
        last = list(network.layers)[-1]
        keep, chosen = half(channels, reference), {last: Factor(Split("separable", (3, 3), 1), 6)}
        pruned, matched = prune(network, channels, keep), prune(reference.network, channels, keep).network
        parts = split_matched(matched, chosen)
        factor(pruned.network, chosen)
        done = repair(pruned, matched, reference, {}, RepairSettings(), lambda _: None, parts)
        return done.layers[last].error_after, error(pruned.network.to_model(), model)

    here, elsewhere = left()
    monkeypatch.setattr(refit, "RIDGE_FACTORED", 0.003)
    closer, worse = left()
    assert here > 1.05 * closer
    assert elsewhere < 0.96 * worse


@pytest.mark.parametrize("bits", [{}, {"": 4.0}], ids=["float", "4 bits"])
def test_layers_of_few_ranks_are_looked_at_in_few_directions_and_lose_no_more(
    monkeypatch: pytest.MonkeyPatch, bits: dict[str, float]
) -> None:
    """The last two layers become two; the second one's readers see what the first of them passes, too."""
    widths, positions, narrowed = [], list[int](), list[bool]()

    def watched(shared: Shared, *given: Any) -> tuple[Value, Value]:
        narrowed.extend(reader.narrow is not None for reader in shared.readers)
        return refit_together(shared, *given)

    def looked_at(part: Any, sight: Any, *given: Any) -> Any:
        widths.append(sight.patches.shape[2])
        positions.append(sight.patches.shape[1])
        return both_of(part, sight, *given)

    monkeypatch.setattr(refit, "refit_together", watched)
    monkeypatch.setattr(refit, "both_of", looked_at)
    monkeypatch.setattr(refit, "NARROWED", 500)
    model = trained(CHAIN)
    _, second, last = read(model).layers
    chosen = {name: Factor(Split("separable", (3, 3), 1), 4) for name in (second, last)}

    def left(*, directions: bool) -> float:
        network = read(model)
        reference = trace(
            network, images(64), (), matched=True, samples=4096, seed=0, advance=lambda _: None,
            factorable=chosen if directions else (),
        )  # fmt: skip
        pruned, matched = prune(network, find_groups(network), {}), reference.network.copy()
        parts = split_matched(matched, chosen)
        both = bits_of_parts(dict.fromkeys(chosen, bits[""]) if bits else {}, factor(pruned.network, chosen))
        done = repair(pruned, matched, reference, both, RepairSettings(), lambda _: None, parts)
        assert not done.fallbacks
        return error(pruned.network.to_model(), model)

    plain = left(directions=False)
    assert not any(narrowed)
    few = left(directions=True)
    assert any(narrowed)
    assert widths[2:] == [3 * 4 * 3] * 2  # of 3 times the ranks at the second layer's three taps
    assert min(widths[:2]) > 3 * 4 * 3
    assert positions[2:] == [16 * 3 * 4 * 3] * 2  # sixteen for each of these unknowns
    assert min(positions[:2]) > 16 * 3 * 4 * 3
    assert few < 1.08 * plain  # at a sixteenth of the positions: which ones they are moves it by 3 %


def test_channels_between_two_layers_are_evened_where_these_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose ranks say ever less loses far less by three bits; in float nothing is made anew."""
    calls: list[int] = []

    def counted(first: NDArray[np.float64], second: NDArray[np.float64], split: Split) -> Any:
        calls.append(len(first))
        return evened(first, second, split)

    rng = np.random.default_rng(0)
    sizes = 0.75 ** np.arange(16)
    weight = np.einsum("k,kox,kiy->oiyx", sizes, rng.normal(size=(16, 12, 3)), rng.normal(size=(16, 16, 3)))
    model = settled(with_parameters(scaled_model(CHAIN), {"W2": weight / 6}), TRAINING)
    name = list(read(model).layers)[1]

    def left(bits: dict[str, float]) -> float:
        network = read(model)
        reference = traced(network, find_groups(network))
        chosen = {name: Factor(Split("separable", (3, 3), 1), 16)}
        pruned, matched = prune(network, find_groups(network), {}), reference.network.copy()
        parts = split_matched(matched, chosen)
        both = bits_of_parts(bits, factor(pruned.network, chosen))
        done = repair(pruned, matched, reference, both, RepairSettings(), lambda _: None, parts)
        return done.layers[name].error_after

    monkeypatch.setattr(refit, "evened", counted)
    left({})
    assert not calls
    mixed = left({name: 3})
    assert calls == [16]
    monkeypatch.setattr(refit, "evened", lambda first, second, _: (first, second))
    assert mixed < 0.5 * left({name: 3})


def test_layers_behind_a_number_of_rows_that_values_decide_are_rounded_too() -> None:
    """Which rows are looked at depends on what the first layer gives; with other weights there are others."""
    model = scaled_model(
        """
        g (float[8, 3, 12, 12] x, float[6, 3, 3, 3] W, float[6, 5] W2) => (float[n, 5] y) {
            a = Conv(x, W) p = GlobalAveragePool(a) f = Flatten(p) last = Constant<value_ints = [1]>()
            s = ReduceMax<keepdims = 0>(f, last) z = Constant<value_float = 0.1>() high = Greater(s, z)
            rows = Compress<axis = 0>(f, high) y = MatMul(rows, W2)
        }"""
    )
    result = compress(model, Options(bits=2, threads=1, force=True))
    assert any("how much reaches it hangs on what is found before it" in note for note in result.report.runtime.notes)
    assert all(layer.bits <= 4 for layer in result.report.layers)


def test_layers_in_two_where_values_decide_the_rows_are_made_of_their_weights() -> None:
    """Fewer or more rows than in the original cannot be compared; one of rank 3 is still itself in rank 3."""
    text = """
    g (float[8, 3, 12, 12] x, float[32, 3, 3, 3] W, float[32, 64] W2) => (float[n, 64] y) {
        a = Conv(x, W) p = GlobalAveragePool(a) f = Flatten(p) last = Constant<value_ints = [1]>()
        s = ReduceMax<keepdims = 0>(f, last) z = Constant<value_float = 0.4>() high = Greater(s, z)
        rows = Compress<axis = 0>(f, high) y = MatMul(rows, W2)
    }"""
    rng = np.random.default_rng(0)
    model = with_parameters(scaled_model(text), {"W2": rng.normal(size=(32, 3)) @ rng.normal(size=(3, 64))})
    name = model.graph.node[-1].name or "n8"
    result = compress(model, Options(bits=2, rank_layer={name: 3}, skip=(name,), threads=1, force=True))
    (layer,) = [layer for layer in result.report.layers if layer.kind == "factored"]
    assert layer.rank == 3
    found = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    pair = [found[node.input[1]] for node in result.model.graph.node if node.op_type == "MatMul"]
    whole = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "W2")
    np.testing.assert_allclose(pair[0] @ pair[1], whole, rtol=1e-4, atol=1e-4)
