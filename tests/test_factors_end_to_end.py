"""Layers split in two, from the command's options to the written file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc import Options, Result, compress
from onnx_udfc.channels.shapes import resolve
from onnx_udfc.errors import RequestError
from onnx_udfc.model.counts import count
from onnx_udfc.model.network import read
from onnx_udfc.original import Original, read_original
from onnx_udfc.runtime.kernels import check_runtime
from onnx_udfc.runtime.sessions import open_session
from tests.normed_graphs import with_parameters
from tests.small_graphs import small_model

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits_resnet_folded.onnx"
IMAGES = DIGITS.with_name("digits_test.npz")


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of all layers of a file, counted anew."""
    network = read(model)
    sizes = resolve(network).sizes
    return sum(count(layer, sizes).macs for layer in network.layers.values())


def accuracy(model: onnx.ModelProto) -> float:
    stored = np.load(IMAGES)
    x, y = stored["x"].astype(np.float32), stored["y"]
    x = (x / 255 - 0.305) / 0.376 if x.max() > 2 else (x - 0.305) / 0.376
    session = open_session(model, "cpu", 1)
    name = session.get_inputs()[0].name
    return float((session.run(None, {name: x.reshape(-1, 1, 8, 8)})[0].argmax(1) == y).mean())


@pytest.fixture(scope="module")
def original() -> onnx.ModelProto:
    return onnx.load(DIGITS)


@pytest.fixture(scope="module")
def run() -> Original:
    """The network and its last run, which those of the same kind of request share."""
    return read_original(DIGITS, Options())


@pytest.fixture(scope="module")
def integers(original: onnx.ModelProto) -> Result:
    """Half of the multiply-accumulates, all of them of integers."""
    return compress(original, Options(budget={"macs": "0.5"}, factor="on", bits=8, activations=8, threads=1))


@pytest.mark.parametrize("share", [0.6, 0.45])
def test_the_budget_holds_in_the_file_and_costs_little(original: onnx.ModelProto, run: Original, share: float) -> None:
    result = compress(DIGITS, Options(budget={"macs": str(share)}, factor="on", threads=1), original=run)
    assert macs(result.model) <= share * macs(original)
    split = [layer for layer in result.report.layers if layer.kind == "factored"]
    assert split
    assert all(layer.rank and layer.parameters_after < layer.parameters_before for layer in split)
    assert accuracy(result.model) > accuracy(original) - 0.03
    assert result.report.after.macs == macs(result.model)


def test_attribution_counts_both_parts_as_one_layer(original: onnx.ModelProto, run: Original) -> None:
    options = Options(budget={"macs": "0.5"}, factor="on", attribution=True, threads=1)
    rows = {row.name: row for row in compress(DIGITS, options, original=run).report.attribution}
    assert len(rows) == len(read(original).layers)
    assert min(row.own_db for row in rows.values() if row.own_db is not None) > 3


def test_a_rank_that_is_asked_for_is_the_rank(original: onnx.ModelProto) -> None:
    name = next(n for n in list(read(original).layers)[3:] if "body.3" in n)
    result = compress(original, Options(rank_layer={name: 8, "*body.0*": 12}, threads=1))
    ranks = {layer.name: layer.rank for layer in result.report.layers}
    assert ranks[name] == 8
    assert {rank for name, rank in ranks.items() if "body.0" in name} == {12}
    assert result.report.after.parameters < result.report.before.parameters
    with pytest.raises(RequestError, match="no layer of this name can become two"):
        compress(original, Options(rank_layer={"nowhere": 8}, threads=1))
    with pytest.raises(RequestError, match="two layers would be larger"):
        compress(original, Options(rank_layer={name: 9999}, threads=1))


def test_off_means_off(original: onnx.ModelProto) -> None:
    result = compress(original, Options(budget={"macs": "0.6"}, factor="off", threads=1))
    assert all(layer.kind == "whole" and layer.rank is None for layer in result.report.layers)
    assert len(read(result.model).layers) == len(read(original).layers)


def test_both_parts_are_integer_kernels(original: onnx.ModelProto, integers: Result) -> None:
    assert accuracy(integers.model) > accuracy(original) - 0.04
    layers = sum(1 if layer.kind == "whole" else 2 for layer in integers.report.layers)
    found = check_runtime(integers.model)
    assert layers > len(integers.report.layers)
    assert len(found.integer) == layers
    assert not found.floating


NARROW = """g (float[N,16,12,12] x, float[32,16,3,3] W0, float[32] B0, float[32,32,3,3] W1, float[32] B1,
float[10,32] W2, float[10] B2) => (float[N,10] y) { a = Conv<pads = [1,1,1,1]>(x, W0, B0) r = Relu(a)
c = Conv<pads = [1,1,1,1]>(r, W1, B1) s = Relu(c) p = GlobalAveragePool(s) f = Flatten(p)
y = Gemm<transB = 1>(f, W2, B2) }"""


@pytest.mark.parametrize("kind", ["channel", "separable"])
def test_what_is_of_low_rank_by_construction_is_found_and_costs_nothing(kind: str) -> None:
    model = small_model(NARROW)
    rng, rank = np.random.default_rng(3), 8
    first = rng.standard_normal((rank, 32, 3, 3 if kind == "channel" else 1))
    second = rng.standard_normal((32, rank, 1, 1 if kind == "channel" else 3))
    weight = (np.einsum("or,rikl->oikl", second[:, :, 0, 0], first) if kind == "channel" else
              np.einsum("orl,rik->oikl", second[:, :, 0], first[..., 0])) / 32  # fmt: skip
    next(t for t in model.graph.initializer if t.name == "W1").CopyFrom(
        numpy_helper.from_array(weight.astype(np.float32), "W1")
    )
    whole = 32 * 16 * 9 + 32 * 32 * 9 + 320 / 144
    left = 32 * 16 * 9 + rank * (32 * 9 + 32 if kind == "channel" else 32 * 3 * 2) + 320 / 144
    options = Options(budget={"macs": f"{1.001 * left / whole:.6f}"}, factor="on", threads=1, image_count=16)
    result = compress(model, options)
    (split,) = (layer for layer in result.report.layers if layer.kind == "factored")
    assert split.rank == rank
    assert all(group.status != "pruned" for group in result.report.groups)
    feed = {"x": np.random.default_rng(0).standard_normal((4, 16, 12, 12)).astype(np.float32)}
    before, after = (open_session(m, "cpu", 1).run(None, feed)[0] for m in (model, result.model))
    assert np.square(after - before).mean() < 1e-7 * before.var()  # what sums in float32 leave; a rank less: 1e-3


def test_ranks_between_integer_kernels_fill_their_blocks(integers: Result) -> None:
    ranks = [layer.rank for layer in integers.report.layers if layer.kind == "factored"]
    assert ranks
    assert [rank for rank in ranks if rank is None or rank % 8] == []


@pytest.mark.parametrize("asked", [{}, {"bits": 4}], ids=str)
def test_ratios_say_the_work_that_channels_and_ranks_leave(run: Original, asked: dict[str, Any]) -> None:
    chosen, channels = (
        compress(DIGITS, Options(prune=0.5, factor=factor, threads=1, **asked), original=run)
        for factor in ("auto", "off")
    )
    kinds = {layer.kind for layer in chosen.report.layers}
    assert "factored" in kinds
    assert "factored" not in {layer.kind for layer in channels.report.layers}
    assert macs(chosen.model) <= 1.01 * macs(channels.model)
    assert accuracy(chosen.model) >= accuracy(channels.model) - 0.01


def test_where_layers_become_two_in_place_of_channels_nobody_says_that_nothing_was_pruned() -> None:
    model = small_model("""g (float[N,3,16,16] x, float[24,3,3,3] W1, float[24,24,3,3] W2, float[24,24,3,3] W3,
        float[8,24,1,1] W4) => (float[N,8,10,10] y) {
        a = Conv(x, W1) r = Relu(a) b = Conv(r, W2) s = Relu(b) c = Conv(s, W3) t = Relu(c) y = Conv(t, W4) }""")
    rng = np.random.default_rng(0)
    products = {
        k: (rng.normal(size=(24, 4)) @ rng.normal(size=(4, 216)) / 20).reshape(24, 24, 3, 3) for k in ("W2", "W3")
    }
    report = compress(with_parameters(model, products), prune=0.3, threads=1).report
    assert all(g.kept == g.channels for g in report.groups)
    assert [layer.kind for layer in report.layers].count("factored") == 2
    assert not any("nothing was pruned" in warning for warning in report.warnings)
