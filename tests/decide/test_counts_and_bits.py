"""Ratios and budgets to counts and bits, on a small chain with made-up damage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.decide import counts_and_bits, latency_table
from onnx_udfc.decide.allocate import damage_of
from onnx_udfc.decide.asked import Subject
from onnx_udfc.decide.counts_and_bits import CHANNELS_HARDER, DEARER, HARDER_IN_BLOCKS, _Decider, decide
from onnx_udfc.decide.file_size import with_biases, written_bytes
from onnx_udfc.decide.footprint import footprint
from onnx_udfc.decide.integer_layers import OnIntegers
from onnx_udfc.decide.latency_table import LatencyTable, Times, Timing
from onnx_udfc.decide.ranks import saved_weights
from onnx_udfc.errors import RequestError
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.elimination import Removal
from onnx_udfc.numerics.factors import Curve, Split
from onnx_udfc.numerics.knapsack import Meter
from onnx_udfc.options import Options
from tests.decide.test_file_size import WIDE
from tests.small_graphs import small_network


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Two groups of 64 and 96 channels; the removals of the first cost ten times as much."""
    network = small_network(WIDE)
    channels = find_groups(network)
    removals = {}
    for group, factor in zip(channels.groups, (10.0, 1.0), strict=True):
        removals[group.name] = Removal(np.arange(group.channels), factor * np.linspace(0.1, 1, group.channels))
    size = written_bytes(with_biases(network), {}, Options())
    rounding: dict[str, dict[float, float]]
    rounding = {name: {8: 1e-5, 4: 1e-3 * (i + 1), 2: 0.1 * (i + 1)} for i, name in enumerate(network.layers)}
    return Subject(network, channels, channels.groups, removals, tuple(network.layers), rounding, size)


def share(subject: Subject, counts: dict[str, int], key: str) -> float:
    size = footprint(subject.network, subject.channels, subject.groups)
    meter = getattr(size, key)
    kept = np.array([counts[g.name] for g in subject.groups], np.float64)
    return float(meter(kept) / meter(size.channels))


def test_a_ratio_alone_is_the_same_everywhere(subject: Subject) -> None:
    decision = decide(subject, Options(prune=0.5, allocate="uniform"))
    assert list(decision.counts.values()) == [32, 48]
    assert decision.bits == {}


def test_global_counts_spare_what_is_dear_at_the_same_macs(subject: Subject) -> None:
    even = dict(decide(subject, Options(prune=0.5, allocate="uniform")).counts)
    free = dict(decide(subject, Options(prune=0.5, allocate="global")).counts)
    first, second = subject.groups
    assert free[first.name] > even[first.name]
    assert free[second.name] < even[second.name]
    assert share(subject, free, "macs") == pytest.approx(share(subject, even, "macs"), rel=0.05)  # one channel is 4 %
    assert share(subject, free, "macs") <= share(subject, even, "macs")


@pytest.mark.parametrize("key", ["macs", "params"])
@pytest.mark.parametrize("amount", [0.7, 0.4, 0.2])
@pytest.mark.parametrize("allocate", ["auto", "uniform"])
def test_a_budget_is_met_closely(subject: Subject, key: str, amount: float, allocate: str) -> None:
    decision = decide(subject, Options(budget={key: str(amount)}, allocate=allocate))
    assert 0.95 * amount <= share(subject, dict(decision.counts), key) <= amount


def test_several_budgets_are_met_at_once(subject: Subject) -> None:
    counts = dict(decide(subject, Options(budget={"macs": "0.5", "params": "0.3"})).counts)
    assert share(subject, counts, "macs") <= 0.5
    assert 0.29 <= share(subject, counts, "params") <= 0.3


@pytest.mark.parametrize(("bits", "amount"), [(32, 0.5), (8, 0.2), (4, 0.1)])
def test_bytes_are_those_of_the_file(subject: Subject, bits: int, amount: float) -> None:
    options = Options(budget={"bytes": str(amount)}, bits=bits)
    decision = decide(subject, options)
    keep = {name: np.arange(n) for name, n in decision.counts.items()}
    small = prune(subject.network, subject.channels, keep).network
    true = written_bytes(with_biases(small), decision.bits, options)
    assert 0.97 * amount <= true / subject.bytes <= amount


def test_free_bits_narrow_before_channels_go(subject: Subject) -> None:
    roomy = decide(subject, Options(budget={"bytes": "0.9"}, bits="auto"))
    tight = decide(subject, Options(budget={"bytes": "0.2"}, bits="auto"))
    tiny = decide(subject, Options(budget={"bytes": "0.04"}, bits="auto"))
    whole = {g.name: g.channels for g in subject.groups}
    assert set(roomy.bits.values()) == {8}
    assert 4 <= min(tight.bits.values()) < 8
    assert list(tiny.bits.values())[1] == 2  # the layer with nearly all weights
    assert roomy.counts == tight.counts == whole
    assert tiny.counts != whole


def test_an_impossible_budget_says_what_is_possible_and_that_is(subject: Subject) -> None:
    for key in ("macs", "params"):
        with pytest.raises(RequestError, match=f"--budget {key}=0.001: the smallest") as caught:
            decide(subject, Options(budget={key: "0.001"}))
        least = str(caught.value).split("reached is ")[1].split(" ")[0]
        assert decide(subject, Options(budget={key: least})).counts


def test_a_multiple_that_was_asked_for_is_kept(subject: Subject) -> None:
    counts = decide(subject, Options(budget={"macs": "0.37"}, align=8)).counts
    assert all(n % 8 == 0 for n in counts.values())


def test_skipped_layers_stay_float(subject: Subject) -> None:
    first = next(iter(subject.network.layers))
    fewer = replace(subject, layers=tuple(n for n in subject.network.layers if n != first))
    assert first not in decide(fewer, Options(bits=4)).bits
    assert first not in decide(fewer, Options(bits="auto", budget={"bytes": "0.5"})).bits


def test_named_layers_have_their_own_ratio_and_the_last_match_counts(subject: Subject) -> None:
    first, second = subject.groups
    options = Options(prune=0.25, prune_layer={first.name: 0.5}, align=1)
    counts = decide(subject, options).counts
    assert counts == {first.name: first.channels // 2, second.name: round(second.channels * 0.75)}
    both = decide(subject, Options(prune_layer={"*": 0.5, second.producers[0]: 0.75}, align=1)).counts
    assert both == {first.name: first.channels // 2, second.name: second.channels // 4}
    odd = replace(first, name="/conv[0]", producers=("/conv[0]",))  # brackets mean something else in a pattern
    renamed = replace(
        subject, groups=(odd, second), removals={**subject.removals, odd.name: subject.removals[first.name]}
    )
    asked = Options(prune_layer={odd.name: 0.5}, align=1)
    assert decide(renamed, asked).counts == {odd.name: first.channels // 2, second.name: second.channels}
    with pytest.raises(RequestError, match="--prune-layer nowhere: no layer"):
        decide(subject, Options(prune_layer={"nowhere": 0.5}))


def test_both_budgets_hold_in_truth_where_meeting_one_moves_the_other(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes are a third more than predicted once the second group is small, which only the latency makes it."""

    def widths(network: Network) -> tuple[int, int]:
        first, second, _ = network.layers.values()
        return first.out_channels, second.out_channels

    def written(network: Network, _bits: object, _options: object) -> float:
        first, second = widths(network)
        parameters = first * 27 + first * second * 9 + second * 10
        return 4 * parameters * (1.33 if second < 45 else 1.0)

    def ratio(_original: Network, small: Network, *_: object) -> float:
        return widths(small)[1] / 96

    times = Times(footprint(subject.network, subject.channels, subject.groups), np.zeros((3, 4)), {}, 1.0)
    monkeypatch.setattr(LatencyTable, "ratio", lambda _, kept, level: 0.8 * kept[..., 1] / 96 + 0 * level.sum(-1))
    monkeypatch.setattr(counts_and_bits, "layer_times", lambda *_: times)
    monkeypatch.setattr(counts_and_bits, "measured_ratio", ratio)
    monkeypatch.setattr(counts_and_bits, "written_bytes", written)
    whole = replace(subject, bytes=4 * (64 * 27 + 64 * 96 * 9 + 960))
    counts = decide(whole, Options(budget={"bytes": "0.5", "latency": "0.41"}, align=1)).counts
    first, second = (counts[g.name] for g in subject.groups)
    assert second / 96 <= 0.41 * 1.01
    assert 4 * (first * 27 + first * second * 9 + second * 10) * 1.33 <= 0.5 * whole.bytes


@pytest.mark.parametrize(("least", "power"), [(0.0, 4), (0.7, 1)])
def test_latencies_that_are_predicted_badly_are_closed_in_on(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, least: float, power: int
) -> None:
    """Half of the MACs takes a sixteenth, so that a limit moved by as much is beyond 1; or is said to take 0.85."""
    size = footprint(subject.network, subject.channels, subject.groups)
    whole = float(size.macs(size.channels))
    monkeypatch.setattr(_Decider, "_layer_times", lambda _: None)
    monkeypatch.setattr(_Decider, "_latency_meter", lambda self: (predicted(self._macs_meter()[0]), 1.0))
    monkeypatch.setattr(_Decider, "_saving", lambda self: (saved_weights(self.size), np.inf))

    def predicted(macs: Meter) -> Meter:
        return lambda values: least + (1 - least) * macs(values) / whole

    def ratio(_original: Network, small: Network, *_: object) -> float:
        return float(share_of_macs(subject, small) ** power)

    monkeypatch.setattr(counts_and_bits, "measured_ratio", ratio)
    counts = decide(subject, Options(budget={"latency": "0.5"}, align=1)).counts
    assert 0.46 <= share(subject, dict(counts), "macs") ** power <= 0.52


def test_where_activations_are_quantized_time_is_that_of_integer_kernels(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8-bit kernels take half of the time as it is: nothing has to go for 0.6 of it."""
    size, seen = footprint(subject.network, subject.channels, subject.groups), []

    def timed(*given: object) -> Times:
        integers = given[5]
        assert isinstance(integers, OnIntegers)
        seen.append(integers.model)
        assert integers.names == frozenset(subject.layers)
        return Times(
            size, np.tile([0.0, 0.0, 0.0, 1e-6], (3, 1)), {}, 0.0, 2e-6 * float(np.sum(size.out * size.into)), True
        )

    def ratio(_original: Network, small: Network, _timing: object, model: onnx.ModelProto, _file: None) -> float:
        seen.append(model)
        return 0.5 * share_of_macs(subject, small)

    monkeypatch.setattr(counts_and_bits, "layer_times", timed)
    monkeypatch.setattr(counts_and_bits, "measured_ratio", ratio)
    asked = Options(budget={"latency": "0.6"}, bits=8, activations=8)
    assert [decide(subject, asked).counts[g.name] for g in subject.groups] == [64, 96]
    for model in seen:
        assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) >= 3


def test_in_float16_time_is_that_of_the_file_in_float16(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes half of the time as it is: nothing has to go for half of it, whatever float32 would take."""
    size = footprint(subject.network, subject.channels, subject.groups)
    times = Times(size, np.tile([0, 0, 0, 1e-6], (3, 1)), {}, 0.0)

    def ratio(_original: Network, small: Network, _timing: object, model: onnx.ModelProto, _file: None) -> float:
        assert any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
        return 0.5 * share_of_macs(subject, small)

    monkeypatch.setattr(counts_and_bits, "layer_times", lambda *_: times)
    monkeypatch.setattr(counts_and_bits, "measured_ratio", ratio)
    counts = decide(subject, Options(budget={"latency": "0.5"}, float16=True)).counts
    assert share(subject, dict(counts), "macs") >= 0.95  # of a limit that much is near enough


def share_of_macs(subject: Subject, small: Network) -> float:
    """MACs of a smaller network as a share."""
    names = {g.name: small.layers[g.producers[0]].out_channels for g in subject.groups}
    return share(subject, names, "macs")


def test_why_a_group_is_whole_is_what_decided(subject: Subject) -> None:
    first, second = subject.groups
    even = decide(subject, Options(prune=0.1, allocate="uniform", align=96))
    assert dict(even.counts) == {first.name: 64, second.name: 96}
    assert "multiple of 96" in even.why[first.name]
    named = decide(subject, Options(prune_layer={first.name: 0.5}))
    assert set(named.why) == {second.name}
    assert named.why[second.name] == "no ratio was asked for it"
    free = decide(subject, Options(prune=0.02, allocate="global"))
    assert free.counts[first.name] == 64
    assert free.why[first.name] == "what was asked for is reached without it"


BLOCK = """g (float[1,8,6,6] x, float[16,8,3,3] W0, float[8,16,3,3] W1, float[16,8,3,3] W2, float[4,16,3,3] W3)
=> (float[1,4,6,6] y) { a = Conv<pads = [1,1,1,1]>(x, W0) r = Relu(a) b = Conv<pads = [1,1,1,1]>(r, W1)
s = Add(x, b) t = Relu(s) c = Conv<pads = [1,1,1,1]>(t, W2) u = Relu(c) y = Conv<pads = [1,1,1,1]>(u, W3) }"""


def test_channels_are_dearer_beside_ranks_where_no_stream_carries_on() -> None:
    network = small_network(BLOCK)
    channels = find_groups(network)
    groups = tuple(g for g in channels.groups if g.kind == "inner")
    removals = {g.name: Removal(np.arange(g.channels), np.linspace(0.01, 0.1, g.channels)) for g in groups}
    subject = Subject(network, channels, groups, removals, (), {}, 10000)
    layers = list(network.layers)
    in_block, plain = (next(g for g in groups if layers[i] in g.producers) for i in (0, 2))
    split = Split("separable", (3, 3), 1)
    curves = {layers[1]: [Curve(split, np.linspace(1.0, 0.0, 25))]}
    alone, beside = (_Decider(replace(subject, curves=c), Options(budget={"macs": "0.5"})) for c in ({}, curves))
    for group, harder in ((in_block, HARDER_IN_BLOCKS), (plain, CHANNELS_HARDER)):
        row = groups.index(group)
        known = np.isfinite(alone.table.damage[row])
        np.testing.assert_array_equal(beside.table.damage[row][: len(known)][known],
                                      harder * alone.table.damage[row][known])  # fmt: skip
    assert HARDER_IN_BLOCKS < CHANNELS_HARDER


def chain(widths: Sequence[int], costs: Sequence[float], *, depthwise: bool = False, power: int = 1) -> Subject:
    """Groups of 1x1 convolutions one after the other; with `depthwise` each is read by a depthwise layer of its own."""
    inputs, nodes, value, before = ["float[1,3,8,8] x"], [], "x", 3
    for i, width in enumerate(widths):
        inputs.append(f"float[{width},{before},1,1] W{i}")
        nodes.append(f"a{i} = Conv({value}, W{i}) b{i} = Relu(a{i})")
        value, before = f"b{i}", width
        if depthwise:
            inputs.append(f"float[{width},1,3,3] D{i}")
            nodes.append(f"c{i} = Conv<group = {width}, pads = [1,1,1,1]>({value}, D{i}) d{i} = Relu(c{i})")
            value = f"d{i}"
    inputs.append(f"float[8,{before},1,1] Z")
    ends = f"y = Conv({value}, Z)"
    network = small_network(f"g ({', '.join(inputs)}) => (float[1,8,8,8] y) {{ {' '.join(nodes)} {ends} }}")
    channels = find_groups(network)
    removals = {
        g.name: Removal(np.arange(g.channels), cost * np.linspace(0.1, 1, g.channels) ** power)
        for g, cost in zip(channels.groups, costs, strict=True)
    }
    return Subject(network, channels, channels.groups, removals, tuple(network.layers), {}, 1000)


@pytest.mark.parametrize(
    "options", [Options(prune=0.3), Options(budget={"macs": "0.5"}), Options(prune=0.3, allocate="uniform")]
)
def test_channels_of_depthwise_layers_are_fours_whatever_is_left_over(options: Options) -> None:
    narrow = chain((24, 40, 24), (1.0, 2.0, 3.0), depthwise=True)
    assert all(n % 4 == 0 for n in decide(narrow, options).counts.values())


def test_an_alignment_takes_no_more_than_the_ratio_asks_for() -> None:
    """Of 8, 16 and 32 channels a fifth leaves 6, 13 and 26; the nearest fours are 4, 12 and 24, a tenth less work."""
    narrow = chain((8, 16, 32) * 2, (1.0, 1.3, 1.1) * 2, depthwise=True)
    aligned = dict(decide(narrow, Options(prune=0.2, allocate="uniform")).counts)
    assert list(aligned.values()) == [4, 12, 24] * 2
    asked = share(narrow, dict(zip(aligned, [6, 13, 26] * 2, strict=True)), "macs")
    left = share(narrow, dict(decide(narrow, Options(prune=0.2)).counts), "macs")
    assert share(narrow, aligned, "macs") < 0.9 * asked
    assert 0.95 * asked < left <= asked


COSTS = (1.0, 1.3, 1.1, 1.2) * 3


def test_blocks_are_whole_where_that_does_little_more_damage() -> None:
    wide = chain((96, 144, 128, 112) * 3, COSTS)
    counts = decide(wide, Options(prune=0.3)).counts
    assert sum(n % 16 > 0 for n in counts.values()) <= 1  # what was left over
    assert all(n % 4 == 0 for n in counts.values())
    goal = share(wide, dict(decide(wide, Options(prune=0.3, allocate="uniform")).counts), "macs")
    assert 0.99 * goal <= share(wide, dict(counts), "macs") <= goal
    exact = decide(wide, Options(budget={"macs": f"{goal}"}, align=1)).counts
    assert damage(wide, dict(counts)) <= 1.05 * damage(wide, dict(exact))


def test_where_nobody_asks_for_time_counts_are_not_of_whole_blocks() -> None:
    counts = decide(chain((96, 144, 128, 112) * 3, COSTS), Options(budget={"params": "0.5"})).counts
    assert sum(n % 16 > 0 for n in counts.values()) >= 6


def test_blocks_are_left_where_they_do_much_more_damage() -> None:
    narrow = chain((16, 32) * 6, COSTS, power=2)
    counts = decide(narrow, Options(budget={"macs": "0.5"})).counts
    exact = decide(narrow, Options(budget={"macs": "0.5"}, align=1)).counts
    fours = decide(narrow, Options(budget={"macs": "0.5"}, align=4)).counts
    assert damage(narrow, dict(counts)) <= 1.02 * damage(narrow, dict(exact))
    assert damage(narrow, dict(fours)) > DEARER * damage(narrow, dict(counts))


def damage(subject: Subject, counts: dict[str, int]) -> float:
    return sum(
        float(damage_of(g, subject.removals[g.name], np.array([float(counts[g.name])]))[0]) for g in subject.groups
    )


def test_a_latency_is_a_share_of_the_time_of_the_file_as_it_is(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file takes twice as long as the network in canonical form does, so that half of its time is met as it is."""
    file = subject.network.to_model()
    monkeypatch.setattr(
        latency_table, "_seconds", lambda model, *_: 1e-9 * float(np.prod(model.graph.initializer[0].dims))
    )
    monkeypatch.setattr(latency_table, "_shortest", lambda run, _: run())
    monkeypatch.setattr(
        latency_table, "paired_latency", lambda first, second, *_, **__: SimpleNamespace(ratio=ratio(first(), second()))
    )

    def runner(network: Network, _: Timing, model: onnx.ModelProto | None = None) -> Callable[[], float]:
        seconds = 1e-9 * sum(layer.constant.values.size for layer in network.layers.values())
        return lambda: seconds * (2 if model is file else 1)

    def ratio(original: Callable[[], float], small: Callable[[], float]) -> float:
        return small() / original()

    monkeypatch.setattr(latency_table, "_runner", runner)
    asked = Options(budget={"latency": "0.51"}, threads=1)
    counts = decide(replace(subject, file=file), asked).counts
    assert list(counts.values()) == [64, 96]
    assert share(subject, dict(decide(subject, asked).counts), "params") == pytest.approx(0.51, abs=0.03)
