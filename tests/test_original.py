"""Runs of the original: shared if and only if they are the same."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_udfc.evaluate.final_check import check_result
from onnx_udfc.inputs import how_many
from onnx_udfc.inputs.classes import balanced_inputs
from onnx_udfc.inputs.how_many import BESIDE_RANKS, MOST_WITHOUT
from onnx_udfc.model.counts import count, totals
from onnx_udfc.options import Options, parse_requirement
from onnx_udfc.original import Original, Trace, limited, read_original, trace_order, traced
from onnx_udfc.pipeline import compress
from onnx_udfc.repair.reference import LayerReference
from tests.repair.test_equalize import model
from tests.small_graphs import small_model

BASE = Options(prune=0.25, bits=8, factor="off", images=8, threads=1)
SAME: list[dict[str, Any]] = [
    {"bits": 4, "bits_uniform": True}, {"prune": 0.5}, {"bits": 32}, {"allocate": "uniform"},
    {"target": "portable"}, {"align": 1}, {"budget": {"macs": "0.5"}},
    {"require": (parse_requirement("sqnr>=0"),)}, {"select": "l2"}, {"attribution": True},
    {"threads": 2},
]  # fmt: skip
OTHER: list[dict[str, Any]] = [
    {"bits": 4}, {"prune": 0.0}, {"rank_layer": {"*": 1}}, {"activations": 8}, {"activations": 8, "bits": 4},
    {"bits": "auto", "budget": {"bytes": "0.2"}}, {"seed": 1}, {"images": 9},
    {"input_mean": (0.1,)}, {"prune_stream": "off", "prune": 0.0},
]  # fmt: skip


def run(original: Original, options: Options) -> Trace:
    return traced(original, options, balanced_inputs, lambda _: None)


@pytest.fixture
def original() -> Original:
    return read_original(model(), BASE)


@pytest.mark.parametrize("change", SAME, ids=str)
def test_what_does_not_change_the_run_shares_it(original: Original, change: dict[str, Any]) -> None:
    first = run(original, BASE)
    assert run(original, replace(BASE, **change)) is first


@pytest.mark.parametrize("change", OTHER, ids=str)
def test_what_may_change_the_run_has_its_own(original: Original, change: dict[str, Any]) -> None:
    first, second = run(original, BASE), run(original, replace(BASE, **change))
    assert second is not first
    assert run(original, BASE) is not first  # one is remembered
    alone = run(read_original(model(), BASE), replace(BASE, **change))
    for name, layer in alone.reference.layers.items():
        np.testing.assert_array_equal(layer.target, second.reference.layers[name].target)
    assert second.reference.rounding == alone.reference.rounding
    assert {n: r.order.tolist() for n, r in second.reference.removals.items()} == {
        n: r.order.tolist() for n, r in alone.reference.removals.items()
    }


def test_a_network_that_is_not_equalized_serves_quantized_activations_too(original: Original) -> None:
    """Bits change what equalization weighs; the run is the same where it divides by the same."""
    eight = run(original, replace(BASE, activations=8))
    assert eight.network.scale
    same = run(original, replace(BASE, activations=8, prune=0.5))
    assert same is eight
    four = run(original, replace(BASE, activations=8, bits=4))
    equal = all(np.array_equal(four.network.scale.get(k, 1), v) for k, v in eight.network.scale.items())
    assert (four is eight) == equal


def test_another_skip_has_other_channels(original: Original) -> None:
    assert original.for_skip(()) is original
    first = next(iter(original.network.layers))
    named = Options(prune=0.5, skip=(first,), method="none")
    shared = compress(model(), named, original=original)
    assert shared.model == compress(model(), named).model


def test_settings_that_share_a_run_stand_side_by_side() -> None:
    options = [replace(BASE, activations=a, bits=b, prune=p) for p in (0, 0.5) for b in (8, 4) for a in (None, 8)]
    kinds = [trace_order(o) for o in sorted(options, key=trace_order)]
    assert len(set(kinds)) == 8  # 4 bits are an average, which is told by what rounding does to each layer
    assert all(kinds.index(k) + kinds.count(k) > i for i, k in enumerate(kinds))


def test_a_trace_of_one_compression_is_gone_before_the_check_and_a_shared_one_stays(
    original: Original, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What layers should give is most of what a compression holds; it is not needed beside two whole networks."""
    alive: list[int] = []

    def counted(*given: Any) -> Any:
        gc.collect()
        alive.append(sum(isinstance(thing, LayerReference) for thing in gc.get_objects()) - before)
        return check_result(*given)

    monkeypatch.setattr("onnx_udfc.pipeline.check_result", counted)
    gc.collect()
    before = sum(isinstance(thing, LayerReference) for thing in gc.get_objects())
    alone = compress(model(), BASE).model
    assert alive == [0]
    shared = [compress(model(), BASE, original=original).model for _ in range(2)]
    assert original.trace is not None
    assert alive[1:] == [len(original.network.layers)] * 2
    assert original.trace.reference.layers.keys() == original.network.layers.keys()
    assert [m.SerializeToString() for m in shared] == [alone.SerializeToString()] * 2


DEEP = """g (float[N,3,16,16] x, float[16,3,3,3] W1, float[64,16,3,3] W2, float[64,64,3,3] W3, float[10,64] W4)
    => (float[N,10] y) {
    a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, W1) ra = Relu(a)
    b = Conv<strides = [4, 4], pads = [1, 1, 1, 1]>(ra, W2) rb = Relu(b)
    c = Conv<pads = [1, 1, 1, 1]>(rb, W3) rc = Relu(c) p = GlobalAveragePool(rc) f = Flatten(p)
    y = Gemm<transB = 1>(f, W4) }"""
WIDER = DEEP.replace("[16,3,", "[80,3,").replace("[64,16,", "[64,80,")
FIFTH = Options(budget={"params": "0.2"})


def number(text: str, options: Options) -> int | None:
    return limited(read_original(small_model(text), options), options).options.number


def test_deep_layers_that_may_become_two_are_seen_on_more_inputs() -> None:
    """Its last convolution has 576 unknowns and is seen at four positions of an input: 640 of the usual 160."""
    assert number(DEEP, FIFTH) is None
    assert number(WIDER, FIFTH) == BESIDE_RANKS  # 720 unknowns in the one before
    for options in (
        Options(bits=4),
        replace(FIFTH, factor="off"),
        replace(FIFTH, allocate="uniform"),
        Options(budget={"bytes": "0.1"}, bits="auto"),
    ):
        assert number(WIDER, options) is None
    assert number(WIDER, replace(FIFTH, images=50)) == 50


def test_more_inputs_are_made_only_where_they_can_be_chosen_from_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    original = read_original(small_model(WIDER), FIFTH)
    runs = 2 * 2 * BESIDE_RANKS  # half of them for what is bred
    sizes, layers = original.channels.shapes.sizes, original.network.layers
    macs = totals({name: count(layer, sizes) for name, layer in layers.items()}).macs
    monkeypatch.setattr(how_many, "POOL_MACS", runs * macs)
    assert limited(original, FIFTH).options.number == BESIDE_RANKS
    monkeypatch.setattr(how_many, "POOL_MACS", runs * macs - 1)
    assert limited(original, FIFTH).options.number is None


SPEECH = """g (float[N,1,512] x, float[32,1,64] W1, float[32,32,3] W2, float[1,32,1] W3) => (float[N,1,T] y) {
    a = Conv<strides = [64]>(x, W1) ra = Relu(a) b = Conv<pads = [1, 1]>(ra, W2) rb = Relu(b)
    c = Conv(rb, W3) y = Sigmoid(c) }"""


def test_short_sounds_are_as_many_as_show_every_layer_often_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of 96 unknowns at 8 positions of a sound is seen at five for each already; one of 768 is not."""
    assert number(SPEECH, Options(bits=4)) is None
    wide = SPEECH.replace("[32,1,64]", "[256,1,64]").replace("[32,32,3]", "[32,256,3]")
    assert number(wide, Options(bits=4)) == 480  # 5 of 768 / 8
    wider = SPEECH.replace("[32,1,64]", "[512,1,64]").replace("[32,32,3]", "[32,512,3]")
    assert number(wider, Options(bits=4)) == MOST_WITHOUT
    assert number(wider, Options(bits=4, image_count=50)) == 50
    original = read_original(small_model(wider), FIFTH)
    sizes, layers = original.channels.shapes.sizes, original.network.layers
    macs = totals({name: count(layer, sizes) for name, layer in layers.items()}).macs
    monkeypatch.setattr(how_many, "RUN_MACS", 200 * macs)
    assert number(wider, Options(bits=4)) == 200


def test_a_bound_on_memory_holds_for_the_inputs_that_are_more() -> None:
    tight = limited(read_original(small_model(WIDER), FIFTH), replace(FIFTH, memory="150MB"))
    assert tight.options.number is not None
    assert tight.options.number < BESIDE_RANKS
    assert f"{tight.options.number} inputs in place of {BESIDE_RANKS}" in tight.note


@pytest.mark.parametrize(("dims", "calibrate", "unpacked"), [("3,8,8", False, 1), ("8", False, 0), ("3,8,8", True, 0)])
def test_photographs_are_unpacked_while_a_file_is_read_that_takes_pictures(
    dims: str, calibrate: bool, unpacked: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("onnx_udfc.original.photographs.stored", lambda: asked.append(1))
    given = tmp_path / "inputs.npz"
    np.savez(given, x=np.zeros((4, *map(int, dims.split(","))), np.float32))
    text = f"g (float[N,{dims}] x) => (float[N,{dims}] y) {{ y = Relu(x) }}"
    read_original(small_model(text), Options(calibrate=str(given)) if calibrate else Options())
    assert len(asked) == unpacked
