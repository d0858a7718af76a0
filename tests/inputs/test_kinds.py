"""What is made up for each input, by what the graph does with it."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_udfc import compress
from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.kinds import MAKERS, RUNS, Kind, Scale, in_order, one_feed, to_network
from onnx_udfc.inputs.network_inputs import make_inputs
from onnx_udfc.inputs.sizes import wanted_inputs
from onnx_udfc.model.network import Network, read
from onnx_udfc.options import Options
from tests.small_graphs import small_model

CONSTANTS: dict[str, Any] = {
    "one": np.array([1], np.int64), "pad": np.array(2, np.int64), "words": np.arange(100, dtype=np.float32)[:, None],
    "two_rows": np.eye(2, dtype=np.float32), "letters": np.arange(257, dtype=np.int32), "depth": np.array(10, np.int64),
    "values": np.array([0, 1], np.float32), "rate8": np.array(8000, np.int64), "rate16": np.array(16000, np.int64),
    "lowest": np.array(-1e9, np.float32), "zero": np.array(0, np.float32), "unity": np.array(1, np.float32),
    "shape": np.array([-1, 12], np.int64), "rows": np.array(100, np.int64), "nought": np.array(0, np.int64),
}  # fmt: skip


def network(text: str) -> Network:
    model = small_model(text)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in CONSTANTS.items() if k in used)
    return read(model)


KINDS: list[tuple[str, Kind, float, float]] = [
    ("int64[N,12] i) => (float[N,12,1] y) { y = Gather(words, i)", "tokens", 0, 99),
    ("int32[N,12] i) => (float[N,12,1] y) { c = Cast<to = 7>(i) u = Unsqueeze(c, one) s = Squeeze(u, one)"
     " y = Gather(words, s)", "tokens", 0, 99),
    ("float[N,12] i) => (float[N,12,1] y) { c = Cast<to = 7>(i) y = Gather(words, c)", "tokens", 0, 99),
    ("int64[N,12] i) => (float[N,12,1] y) { p = Add(i, pad) y = Gather(words, p)", "tokens", 0, 97),
    ("int64[N,12] i) => (float[N,12,2] y) { a = Gather(words, i) b = Gather(two_rows, i) y = Add(a, b)",
     "tokens", 0, 1),
    # Counted from the end where they are negative: added up by flags, or chosen.
    ("int64[N,12] i) => (float[N,12,1] y) { l = Less(i, nought) n = Not(l) a = Add(i, rows)"
     " p = Cast<to = 7>(l) q = Cast<to = 7>(n) b = Mul(p, a) c = Mul(i, q) d = Add(b, c) y = Gather(words, d)",
     "tokens", 0, 99),
    ("int64[N,12] i) => (float[N,12,1] y) { l = Less(i, nought) a = Add(i, rows) d = Where(l, a, i)"
     " y = Gather(words, d)", "tokens", 0, 99),
    ("int64[N,12] position_ids) => (float[N,12,1] y) { y = Gather(words, position_ids)", "positions", 0, 11),
    ("int32[N,12] i) => (bool[N,12,257] y) { u = Unsqueeze(i, two_axes) y = Equal(u, letters)", "choices", 0, 256),
    ("int64[N,12] i) => (float[N,12,10] y) { y = OneHot(i, depth, values)", "tokens", 0, 9),
    ("int64[N,12] attention_mask) => (float[N,12] y) { y = Cast<to = 1>(attention_mask)", "ones", 1, 1),
    ("int64[N,12] seen) => (float[N,12] y) { c = Cast<to = 1>(seen) s = Sub(unity, c) y = Mul(s, lowest)",
     "ones", 1, 1),
    ("bool[N,12] seen) => (float[N,12] y) { y = Where(seen, zero, lowest)", "ones", 1, 1),
    # Masks whose ones take away: of what pads a sequence.
    ("bool[N,12] padding) => (float[N,12] y) { y = Where(padding, lowest, zero)", "ones", 0, 0),
    ("bool[N,12] src_mask, float[N,12] x) => (float[N,12] y) { n = Not(src_mask) c = Cast<to = 1>(n) y = Mul(x, c)",
     "ones", 0, 0),
    ("int64[N,12] ahead_mask, float[N,12] x) => (float[N,12] y) { c = Cast<to = 1>(ahead_mask) l = Mul(c, lowest)"
     " y = Add(x, l)", "ones", 0, 0),
    ("bool[N,12] seen, float[N,12] x) => (float[N,12] y) { n = Not(seen) y = Where(n, lowest, x)", "ones", 1, 1),
    # One of them is picked first.
    ("int64[N,12] i) => (float[N,1,1] y) { p = Gather<axis = 1>(i, one) y = Gather(words, p)", "tokens", 0, 99),
    ("bool[N,12] on) => (float[N,12] y) { y = Cast<to = 1>(on)", "flags", 0, 1),
    ("bool on, float[N,4] x) => (float[N,4] y) { c = Cast<to = 1>(on) y = Mul(x, c)", "flags", 0, 1),
    ("int64 sr, float[N,4] x) => (bool a, float[N,4] y) { e = Equal(sr, rate8) f = Equal(sr, rate16) a = Or(e, f)"
     " y = Identity(x)", "choices", 8000, 16000),
    ("int32[N,40] i) => (float[N,40] y) { y = Cast<to = 1>(i)", "numbers", 0, 255),
    ("int8[N,40] i) => (float[N,40] y) { y = Cast<to = 1>(i)", "numbers", 0, 127),
    ("float strength, float[N,4] x) => (float[N,4] y) { y = Mul(x, strength)", "scalars", 1 / RUNS, 1),
    ("float[1] t, float[N,4] x) => (float[N,4] y) { y = Mul(x, t)", "scalars", 1 / RUNS, 1),
    ("uint8[N,32,32,3] x) => (float[N,32,32,3] y) { y = Cast<to = 1>(x)", "bytes", 0, 255),
    ("int8[N,32,32,3] x) => (float[N,32,32,3] y) { y = Cast<to = 1>(x)", "bytes", -128, 127),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "kind", "low", "high"), KINDS)
def test_values_are_of_the_kind_that_the_graph_reads_and_use_its_whole_range(
    graph: str, kind: Kind, low: float, high: float
) -> None:
    CONSTANTS["two_axes"] = np.array([2], np.int64)
    found = network(f"g ({graph} }}")
    wanted = wanted_inputs(found)[0]
    assert wanted.kind == kind
    value = make_inputs(found, Options(image_count=96, images="formula")).values[wanted.spec.name].astype(np.float64)
    assert (value.min(), value.max()) == (low, high)


def test_a_number_of_each_sample_is_a_strength_of_its_own() -> None:
    """A noise level, of which a network takes the logarithm; other inputs come kind by kind, it in no order."""
    found = network(
        "g (float[N] sigma, float[N,4] x) => (float[N,4] y) { l = Log(sigma) u = Unsqueeze(l, one) y = Mul(x, u) }"
    )
    assert wanted_inputs(found)[0].kind == "scalars"
    sigma = make_inputs(found, Options(image_count=96)).values["sigma"]
    np.testing.assert_allclose(np.sort(sigma), (np.arange(96) + 1) / 96, rtol=1e-6)
    assert abs(np.corrcoef(sigma, np.arange(96))[0, 1]) < 0.5


def test_positions_count_along_the_sequence() -> None:
    found = network("g (int64[N,12] position_ids) => (float[N,12,1] y) { y = Gather(words, position_ids) }")
    value = make_inputs(found, Options(image_count=3)).values["position_ids"]
    np.testing.assert_array_equal(value, np.tile(np.arange(12), (3, 1)))


def test_every_kind_has_a_maker() -> None:
    assert set(MAKERS) == set(get_args(Kind))


def test_a_sound_lies_along_its_long_axis_and_moves_there() -> None:
    for shape in ("N,2000", "N,2000,1", "N,1,2000"):
        text = f"g (float[{shape}] x, float[4,1,16] K) => (float[N,4,M] y) {{ r = Reshape(x, three) y = Conv(r, K) }}"
        CONSTANTS["three"] = np.array([0, 1, 2000], np.int64)
        if shape == "N,2000":
            CONSTANTS["three"] = np.array([-1, 1, 2000], np.int64)
        wanted = wanted_inputs(network(text))[0]
        assert wanted.kind == "signal"
        x = MAKERS["signal"](wanted, 6, 0).reshape(6, 2000)
        assert np.abs(np.diff(x, axis=1)).mean() < 0.8 * x.std()
        assert (x.std(1) > 1e-3).all()


def test_pictures_come_to_the_networks_scale_colours_and_layout() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5)).astype(np.float32) / 255
    z = ((pixels * 255 - 118) / 64).astype(np.float32)
    from onnx_udfc.inputs.image_files import Preprocessing

    known = Preprocessing((0.1, 0.2, 0.3), (0.5,))
    (first,) = wanted_inputs(network("g (float[N,3,4,5] x) => (float[N,3,4,5] y) { y = Relu(x) }"))
    (last,) = wanted_inputs(network("g (float[N,4,5,3] x) => (float[N,4,5,3] y) { y = Relu(x) }"))
    expected = (pixels[:, ::-1] - np.array([0.1, 0.2, 0.3], np.float32)[:, None, None]) / np.float32(0.5)
    for wanted, axes in ((first, (0, 1, 2, 3)), (last, (0, 2, 3, 1))):
        found = to_network(z, wanted, Scale(known, "bgr"))
        np.testing.assert_allclose(found, expected.transpose(axes), atol=1 / 255 / 0.5 + 1e-6)
    grey = in_order(pixels, "gray")
    np.testing.assert_allclose(grey[:, 1], np.einsum("nchw,c->nhw", pixels, [0.299, 0.587, 0.114]), rtol=1e-5)


def test_mean_and_range_hold_for_four_channels() -> None:
    found = network("g (float[N,4,32,32] x) => (float[N,4,32,32] y) { y = Relu(x) }")
    x = make_inputs(found, Options(input_range=(0, 1), input_mean=(0.5, 0.5, 0.5, 0.0), image_count=8)).values["x"]
    assert -0.5 <= x[:, :3].min() < -0.4
    assert 0 <= x[:, 3].min() < 0.1
    assert 0.9 < x[:, 3].max() <= 1


SCALED = """g (float[N,3,16,16] x, float strength, float[12,3,3,3] K1, float[12,12,3,3] K2, float[5,12] L)
    => (float[N,5] y) {
    a = Conv<pads = [1,1,1,1]>(x, K1) r = Relu(a) m = Mul(r, strength) b = Conv<pads = [1,1,1,1]>(m, K2) s = Relu(b)
    p = GlobalAveragePool(s) f = Flatten(p) y = Gemm<transB = 1>(f, L) }"""
PLANE = """g (float[N,3,16,16] x, float sigma, float[12,4,3,3] K1, float[3,12,3,3] K2) => (float[N,3,16,16] y) {
    z = Mul(x, nought) o = ReduceMax<keepdims = 1>(z, ones_axis) q = Add(o, sigma) c = Concat<axis = 1>(x, q)
    a = Conv<pads = [1,1,1,1]>(c, K1) r = Relu(a) d = Conv<pads = [1,1,1,1]>(r, K2) y = Sub(x, d) }"""


def decibels(first: onnx.ModelProto, second: onnx.ModelProto, scalar: str) -> float:
    """Of the outputs' movement, on other pictures and other values of the scalar."""
    from onnx_udfc.numerics.images import synthetic_images
    from onnx_udfc.runtime.sessions import open_session

    x = np.clip(synthetic_images(24, 3, (16, 16), 99) * 0.25 + 0.46, 0, 1).astype(np.float32)
    a, b = (open_session(m) for m in (first, second))
    y: list[NDArray[Any]] = []
    z: list[NDArray[Any]] = []
    for value in np.linspace(0.07, 0.93, 9).astype(np.float32):
        feed = {"x": x, scalar: np.array(value)}
        y.append(a.run(None, feed)[0])
        z.append(b.run(None, feed)[0])
    first_, second_ = np.stack(y).astype(np.float64), np.stack(z).astype(np.float64)
    moved = first_ - first_.mean((0, 1))
    return float(10 * np.log10((moved**2).sum() / ((first_ - second_) ** 2).sum()))


@pytest.mark.parametrize(("text", "scalar"), [(SCALED, "strength"), (PLANE, "sigma")])
@pytest.mark.parametrize(("activations", "least"), [(None, 35), (8, 18)])
def test_a_network_that_reads_a_scalar_is_as_good_as_it_is_said(
    text: str, scalar: str, activations: int | None, least: float
) -> None:
    model = small_model(text)
    for name, value in (("nought", np.float32(0)), ("ones_axis", np.array([1], np.int64))):
        if any(name in node.input for node in model.graph.node):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    result = compress(model, bits=8, activations=activations, threads=1, input_mean=0, input_std=1)
    said = result.report.fidelity.sqnr_db
    assert said is not None
    assert decibels(model, result.model, scalar) > max(least, said - 8)


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_a_run_of_so_many_samples(batch: int | None) -> None:
    wanted = wanted_inputs(read(small_model(SCALED)))
    feed = one_feed(wanted, batch=batch)
    assert feed["x"].shape == (batch or 1, 3, 16, 16)
    assert feed["strength"].shape == ()


def test_a_fixed_batch_is_no_other() -> None:
    wanted = wanted_inputs(read(small_model(SCALED.replace("[N,3,16,16]", "[4,3,16,16]").replace("[N,5]", "[4,5]"))))
    assert one_feed(wanted, batch=4)["x"].shape[0] == one_feed(wanted)["x"].shape[0] == 4
    with pytest.raises(RequestError, match="--batch 5: the network takes 4 at a time"):
        one_feed(wanted, batch=5)
