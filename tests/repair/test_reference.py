from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics import moments
from onnx_udfc.numerics.elimination import ConsumerInput, eliminate
from onnx_udfc.numerics.moments import Window, sample_targets
from onnx_udfc.numerics.sixteen_bits import SixteenBits
from onnx_udfc.repair import reference
from onnx_udfc.repair.ordering import RIDGE
from onnx_udfc.repair.reference import LayerReference, Reference, layer_seed, sample_limit, trace
from tests.normed_graphs import CHAIN, RESIDUAL, norm, parameter, scaled_model
from tests.quantized_graphs import fetch
from tests.small_graphs import small_network

Value = NDArray[Any]
ALL = 10**6


def images(count: int = 8, seed: int = 0) -> dict[str, Value]:
    """Inputs far from those of training: neither mean nor deviation nor correlation."""
    x = np.random.default_rng(seed).normal(size=(count, 3, 12, 12)) * 3 + 1
    return {"x": x.astype(np.float32)}


def traced(
    network: Network, *, matched: float = 1.0, samples: int = ALL, seed: int = 0, ordered: bool = True
) -> Reference:
    groups = find_groups(network).groups if ordered else ()
    return trace(network, images(), groups, matched=matched, samples=samples, seed=seed, advance=lambda _: None)


def written(model: onnx.ModelProto, network: Network) -> dict[str, str]:
    """Layer name → the tensor that holds its output after the batch norm, in the original file."""
    normed = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == "BatchNormalization"}
    nodes = {n.name: n.output[0] for n in model.graph.node}
    return {name: normed.get(nodes[name], nodes[name]) for name in network.layers}


def own_output(found: Reference, name: str) -> np.ndarray:
    """(n, O) what a layer gives at its sampled positions, without what is added to it."""
    layer = found.layers[name]
    if layer.addend is None:
        return layer.target
    stream = fetch(found.network.to_model(), layer.addend, images())
    return layer.target - sample_targets(stream, Window((1, 1)), layer.positions)


@pytest.mark.parametrize("text", [CHAIN, RESIDUAL], ids=["chain", "residual"])
def test_matched_layers_have_the_mean_and_deviation_of_training(text: str) -> None:
    model = scaled_model(text)
    network = read(model)
    found = traced(network)
    normed = [layer for layer in network.layers.values() if layer.batch_norm is not None]
    assert len(normed) == text.count("BatchNormalization")
    for i, layer in enumerate(normed, 1):
        target = own_output(found, layer.name).astype(np.float64)
        np.testing.assert_allclose(target.mean(0), parameter(model, f"D{i}"), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(target.std(0), abs(parameter(model, f"S{i}")), rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_half_matched_layers_have_statistics_between(share: float) -> None:
    network = read(scaled_model(CHAIN))
    name = next(n for n, layer in network.layers.items() if layer.batch_norm is not None)
    groups = find_groups(network).groups
    plain, half, whole = (
        trace(network, images(), groups, matched=m, samples=ALL, seed=0).layers[name] for m in (0.0, share, 1.0)
    )
    if share == 0:
        np.testing.assert_array_equal(half.target, plain.target)
    else:
        ends = np.sort([plain.target.std(0), whole.target.std(0)], axis=0)
        assert (ends[1] > 1.05 * ends[0]).all()  # so that neither end passes for what lies between
        assert ((half.target.std(0) > 1.005 * ends[0]) & (half.target.std(0) < 0.995 * ends[1])).all()
    np.testing.assert_allclose(half.gain * plain.target + half.shift, half.target, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_matched_network_computes_the_targets(share: float) -> None:
    model = scaled_model(RESIDUAL)
    network = read(model)
    found = traced(network, matched=share)
    matched = found.network.to_model()
    for name, output in written(model, network).items():
        value = fetch(matched, output, images())
        rows = value.reshape(*value.shape[:2], -1).transpose(0, 2, 1).reshape(-1, value.shape[1])
        np.testing.assert_allclose(own_output(found, name), rows, rtol=1e-4, atol=1e-4)
        assert found.layers[name].shape == value.shape


def test_gain_and_shift_lead_from_the_original_to_the_matched_layer() -> None:
    network = read(scaled_model(CHAIN))
    found = traced(network)
    for name, layer in network.layers.items():
        reference, twin = found.layers[name], found.network.layers[name]
        scaled = layer.matrix()[0] * reference.gain[:, None]
        np.testing.assert_allclose(twin.matrix()[0], scaled, rtol=1e-5)
        np.testing.assert_allclose(twin.bias, layer.bias * reference.gain + reference.shift, rtol=1e-4, atol=1e-5)
    last = found.layers[list(network.layers)[-1]]
    assert np.array_equal(last.gain, np.ones(5))  # it has no batch norm
    assert np.array_equal(last.shift, np.zeros(5))


UNFOLDED = f"""g (float[N,3,12,12] x, float[8,3,3,3] W1, {norm("1", 8)}, float[5,8,1,1] W2) => (float[N,5,10,10] y) {{
    a1 = Conv(x, W1) r1 = Relu(a1) b1 = BatchNormalization(r1, S1, D1, M1, V1) y = Conv(b1, W2) }}"""


def test_a_batch_norm_that_stands_alone_is_matched_too() -> None:
    model = scaled_model(UNFOLDED)
    network = read(model)
    found = traced(network)
    value = fetch(found.network.to_model(), "b1", images()).astype(np.float64)
    np.testing.assert_allclose(value.mean((0, 2, 3)), parameter(model, "D1"), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value.std((0, 2, 3)), abs(parameter(model, "S1")), rtol=1e-4)
    last = found.layers[list(network.layers)[-1]].target
    rows = np.einsum("oc,nchw->nhwo", parameter(model, "W2")[:, :, 0, 0], value).reshape(-1, 5)
    np.testing.assert_allclose(last, rows, rtol=1e-4, atol=1e-4)


def test_channels_that_the_images_never_move_stay_finite() -> None:
    model = scaled_model(CHAIN)
    for tensor in model.graph.initializer:
        if tensor.name in ("W1", "S2"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[3] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    found = traced(read(model))
    for layer in found.layers.values():
        assert np.isfinite(layer.target).all()
        assert np.isfinite(layer.gain).all()
        assert (layer.gain > 0).all()
    for removal in found.removals.values():
        assert np.isfinite(removal.cost[:-1]).all()


def test_real_inputs_are_not_matched() -> None:
    model = scaled_model(RESIDUAL)
    network = read(model)
    found = traced(network, matched=False)
    for name, output in written(model, network).items():
        value = fetch(model, output, images())
        rows = value.reshape(*value.shape[:2], -1).transpose(0, 2, 1).reshape(-1, value.shape[1])
        np.testing.assert_allclose(own_output(found, name), rows, rtol=1e-4, atol=1e-4)
        assert np.array_equal(found.layers[name].gain, np.ones(value.shape[1]))
        assert np.array_equal(found.network.layers[name].matrix(), network.layers[name].matrix())


def test_the_original_is_left_alone() -> None:
    network = read(scaled_model(RESIDUAL))
    before = network.to_model().SerializeToString(deterministic=True)
    traced(network)
    assert network.to_model().SerializeToString(deterministic=True) == before


def test_the_residual_stream_is_part_of_what_a_layer_is_to_give() -> None:
    model = scaled_model(RESIDUAL)
    network = read(model)
    found = traced(network)
    matched = found.network.to_model()
    outputs = written(model, network)
    streams = {"b3": "r1", "b5": "r3"}
    for name, output in outputs.items():
        reference = found.layers[name]
        if output not in streams:
            assert reference.addend is None
            continue
        assert reference.addend == streams[output]
        value = fetch(matched, streams[output], images())
        total = (value + fetch(matched, output, images())).transpose(0, 2, 3, 1).reshape(-1, value.shape[1])
        np.testing.assert_allclose(reference.target, total, rtol=1e-4, atol=1e-4)
        assert reference.variance == pytest.approx(total.astype(np.float64).var(0).mean(), rel=1e-4)


def test_how_the_answers_move_is_kept_only_of_layers_that_may_be_split() -> None:
    network = read(scaled_model(CHAIN))
    names = list(network.layers)
    known = {name: np.eye(network.layers[name].out_channels, dtype=np.float32) for name in names}
    found = trace(
        network, images(), find_groups(network).groups, matched=True, samples=ALL, seed=0, advance=lambda _: None,
        informations=known, factorable=names[:1],
    )  # fmt: skip
    assert known == {}
    assert [name for name in names if found.layers[name].information is not None] == names[:1]
    assert len(found.removals) == len(find_groups(network).groups)


def test_the_seed_decides_which_positions_are_sampled() -> None:
    network = read(scaled_model(CHAIN))
    first, again, other = (traced(network, samples=50, seed=s) for s in (3, 3, 4))
    for name in network.layers:
        assert len(first.layers[name].positions) == 50
        assert np.array_equal(first.layers[name].positions, again.layers[name].positions)
        assert np.array_equal(first.layers[name].target, again.layers[name].target)
        assert not np.array_equal(first.layers[name].positions, other.layers[name].positions)
    for name, removal in first.removals.items():
        assert np.array_equal(removal.order, again.removals[name].order)
        assert np.array_equal(removal.cost, again.removals[name].cost)
    assert layer_seed("a", 0) != layer_seed("b", 0)


def naive_input(model: onnx.ModelProto, tensor: str) -> Value:
    """(n, d) all 3 x 3 patches of a tensor, without padding, in float64."""
    value = fetch(model, tensor, images())
    windows = np.lib.stride_tricks.sliding_window_view(value, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, value.shape[1] * 9).astype(np.float64)


def test_orders_are_those_of_the_consumers_patches() -> None:
    network = read(scaled_model(CHAIN))
    found = traced(network)
    groups = find_groups(network).groups
    assert set(found.removals) == {g.name for g in groups}
    matched = found.network.to_model()
    for group, tensor in zip(groups, ("r1", "r2"), strict=True):
        (consumer,) = group.consumers
        layer = found.network.layers[consumer]
        target = found.layers[consumer].target.astype(np.float64)
        scale = np.sqrt(np.sqrt(target.var(0) * target.var(0).mean()) * layer.out_channels)
        rows = np.arange(group.channels * 9).reshape(-1, 9)
        seen = ConsumerInput(np.cov(naive_input(matched, tensor).T, bias=True), layer.matrix()[0].T / scale, rows)
        expected = eliminate([seen], group.channels, RIDGE)
        removal = found.removals[group.name]
        assert removal.order.tolist() == expected.order.tolist()
        np.testing.assert_allclose(removal.cost, expected.cost, rtol=1e-3)


def test_only_what_was_asked_for_is_ordered() -> None:
    assert traced(read(scaled_model(CHAIN)), ordered=False).removals == {}


def test_without_samples_there_is_the_matched_network_alone() -> None:
    network = read(scaled_model(CHAIN))
    bare, whole = traced(network, samples=0), traced(network)
    assert not bare.layers
    assert not bare.removals
    for name, layer in whole.network.layers.items():
        np.testing.assert_array_equal(bare.network.layers[name].matrix(), layer.matrix())
        np.testing.assert_array_equal(bare.network.layers[name].bias, layer.bias)


def test_progress_names_every_layer() -> None:
    network, told = read(scaled_model(CHAIN)), list[str]()
    trace(network, images(), (), matched=True, samples=10, seed=0, advance=told.append)
    assert told == list(network.layers)


def test_patches_are_gathered_once_a_layer_and_their_covariance_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, counts = read(scaled_model(CHAIN)), {"patches": 0, "gram": 0}
    groups = find_groups(network).groups
    gather, multiply = moments.patches, moments._gram

    def patches(*given: Any) -> Any:
        counts["patches"] += 1
        return gather(*given)

    def gram(*given: Any) -> Any:
        counts["gram"] += 1
        return multiply(*given)

    def made(widths: tuple[float, ...]) -> Reference:
        return trace(
            network, images(), groups, matched=True, samples=ALL, seed=0, advance=lambda _: None, widths=widths
        )

    plain = made(())
    monkeypatch.setattr(reference, "patches", patches)
    monkeypatch.setattr(moments, "_gram", gram)
    found = made((8, 4))
    ordering = {name for group in groups for name in group.consumers}  # the others' is not worth its time
    assert counts == {"patches": len(network.layers), "gram": len(ordering)}
    assert len(ordering) < len(network.layers)
    for name, removal in plain.removals.items():
        np.testing.assert_array_equal(removal.cost, found.removals[name].cost)


@pytest.mark.parametrize(
    ("samples", "width", "few", "limit"),
    [
        (8192, 512, True, 8192), (8192, 512, False, 8192), (8192, 1024, False, 4096), (8192, 4608, True, 4096),
        (8192, 144, True, 8192), (24576, 144, True, 24576), (24576, 256, False, 12288), (24576, 27, False, 4096),
        (24576, 1024, True, 12288), (1000, 144, False, 1000),
    ],
)  # fmt: skip
def test_positions_are_in_proportion_to_the_unknowns_where_the_inputs_show_every_class(
    samples: int, width: int, few: bool, limit: int
) -> None:
    assert sample_limit(samples, width, few=few) == limit


@pytest.mark.parametrize(
    ("samples", "width", "limit"),
    [(24576, 2304, 11520), (24576, 4608, 23040), (24576, 512, 24576), (8192, 2304, 8192), (1000, 2304, 1000)],
)
def test_a_layer_that_may_be_split_is_seen_five_times_for_each_unknown(samples: int, width: int, limit: int) -> None:
    assert sample_limit(samples, width, split=True) == limit


def test_a_layer_at_fewer_positions_is_the_same_there() -> None:
    network = small_network(WIDE_LAYER)
    x = np.random.default_rng(0).normal(size=(8, 96, 8, 8)).astype(np.float32)
    found = next(iter(trace(
        network, {"x": x}, (), matched=False, samples=300, seed=0, advance=lambda _: None,
    ).layers.values()))  # fmt: skip
    few = found.thinned(100)
    assert len(few.positions) == len(few.target) == 100
    at = np.searchsorted(found.positions, few.positions)
    assert (np.diff(at) > 1).all()
    assert at[0] == 0
    assert at[-1] == len(found.positions) - 1
    assert np.array_equal(found.target[at], few.target)
    assert np.array_equal(found.mean, few.mean)
    assert found.thinned(len(found.positions)) is found


WIDE_LAYER = """g (float[N,96,8,8] x, float[4,96,3,3] W1, float[2,4,1,1] W2) => (float[N,2,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, W1) r = Relu(a) y = Conv(r, W2) }"""


@pytest.mark.parametrize(("split", "seen"), [(True, 4320), (False, 4096)])
def test_a_trace_looks_at_more_positions_of_a_layer_that_may_be_split(split: bool, seen: int) -> None:
    network = small_network(WIDE_LAYER)
    first = next(iter(network.layers))
    x = np.random.default_rng(0).normal(size=(80, 96, 8, 8)).astype(np.float32)
    found = trace(
        network, {"x": x}, (), matched=False, samples=4700, seed=0, advance=lambda _: None,
        factorable=(first,) if split else (),
    )  # fmt: skip
    assert len(found.layers[first].positions) == seen


def test_a_layer_that_is_hardly_seen_has_no_curve() -> None:
    model = scaled_model(
        "g (float[N,3,8,8] x, float[64,3,3,3] V, float[64,80] W) => (float[N,80] y)"
        " { h = Conv<pads=[1,1,1,1]>(x, V) r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, W) }"
    )
    network = read(model)
    names = tuple(network.layers)
    x = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    for few in (True, False):
        found = trace(
            network,
            {"x": x},
            (),
            matched=False,
            samples=4096,
            seed=0,
            advance=lambda _: None,
            few=few,
            factorable=names,
        )
        assert [bool(found.curves[name]) for name in names] == [True, not few]


def test_what_is_settled_keeps_only_what_layers_in_two_are_asked_for() -> None:
    network = small_network(CHAIN)
    names = tuple(network.layers)
    known = {name: np.eye(layer.out_channels, dtype=np.float32) for name, layer in network.layers.items()}
    found = trace(
        network, images(), (), matched=False, samples=4096, seed=0, advance=lambda _: None, factorable=names,
        informations=known,
    )  # fmt: skip
    assert all(found.layers[name].information is not None for name in names)
    found.settle(names[:1])
    assert [layer.information is not None for layer in found.layers.values()] == [n == names[0] for n in names]
    assert list(found.curves) == [names[0]]


def test_what_layers_give_is_the_same_in_sixteen_bits_to_a_hundred_thousandth_of_its_range() -> None:
    network, x = small_network(WIDE_LAYER), np.random.default_rng(0).normal(size=(8, 96, 8, 8)).astype(np.float32)
    wide, narrow = (
        next(iter(trace(
            network, {"x": x}, (), matched=False, samples=300, seed=0, advance=lambda _: None, narrow=halved,
        ).layers.values()))
        for halved in (False, True)
    )  # fmt: skip
    assert isinstance(narrow.held, SixteenBits)
    assert narrow.held.codes.nbytes == wide.target.nbytes // 2
    assert narrow.target.dtype == np.float32
    assert (np.abs(narrow.target - wide.target).max(0) <= 1e-5 * np.ptp(wide.target, 0)).all()
    np.testing.assert_array_equal(narrow.thinned(100).target, narrow.target[narrow_rows(narrow, 100)])


def narrow_rows(layer: LayerReference, most: int) -> np.ndarray:
    """Where the positions of a thinned layer lie in the whole one."""
    return np.searchsorted(layer.positions, layer.thinned(most).positions)


def test_a_layer_is_looked_at_when_its_input_was_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    network, held, find = small_network(CHAIN), dict[str, bool](), reference._Tracer._find

    def spied(self: Any, layer: Any, *given: Any) -> Any:
        held[layer.name] = layer.node.inputs[0].name in self.walk.values
        return find(self, layer, *given)

    monkeypatch.setattr(reference._Tracer, "_find", spied)
    trace(network, images(), find_groups(network).groups, matched=True, samples=ALL, seed=0, widths=(4.0,))
    assert len(held) == len(network.layers) > 1
    assert not any(held.values())


def test_late_layers_whose_output_moves_the_answers_most_lose_little() -> None:
    network = small_network(
        """g (float[N, 3, 12, 12] x, float[8, 3, 3, 3] W0, float[8, 8, 1, 1] W1, float[8, 8, 1, 1] W2)
=> (float[N, 8, 10, 10] y) { a = Conv(x, W0) b = Relu(a) c = Conv(b, W1) d = Relu(c) y = Conv(d, W2) }"""
    )
    groups = find_groups(network).groups
    known = {name: np.eye(8, dtype=np.float32) for name in network.layers}
    plain = trace(
        network, images(), groups, matched=False, samples=ALL, seed=0, informations=dict(known), widths=(4.0,)
    )
    last = list(network.layers)[-1]
    sharp = {**known, last: 1e6 * known[last]}
    found = trace(
        network,
        images(),
        groups,
        matched=False,
        samples=ALL,
        seed=0,
        informations=sharp,
        factorable=(last,),
        widths=(4.0,),
    )
    by_reader = {group.consumers[0]: group.name for group in groups}
    before, after = (r.removals[by_reader[last]] for r in (plain, found))
    np.testing.assert_allclose(after.cost[:-1], before.cost[:-1], rtol=1e-5)
    assert after.weighed is not None
    assert (after.weighed[:-1] > 100 * after.cost[:-1]).all()
    assert all(c.weight > 100 for c in found.curves[last])
    others = [r for name, r in found.removals.items() if name != by_reader[last]]
    assert others
    assert found.rounding[last][4.0] > 100 * plain.rounding[last][4.0]
    first = next(iter(network.layers))
    assert found.rounding[first] == plain.rounding[first]
    assert all(r.weighed is None for r in others)
