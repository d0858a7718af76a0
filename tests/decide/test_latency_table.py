"""The fit of layer times, and a table of a small network."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.decide import latency_table as module
from onnx_udfc.decide.footprint import footprint
from onnx_udfc.decide.latency_table import SHARES, Timing, _fit, latency_table, layer_times, measured_ratio
from onnx_udfc.decide.ranks import rank_levels
from onnx_udfc.runtime.providers import Provider
from tests.decide.test_file_size import WIDE
from tests.decide.test_footprint import DEPTHWISE
from tests.small_graphs import small_network


@pytest.mark.parametrize("terms", [(1e-5, 0.0, 0.0, 2e-9), (0.0, 1e-7, 3e-7, 0.0), (2e-6, 1e-8, 1e-8, 1e-10)])
def test_times_of_the_model_are_found_again(terms: tuple[float, ...]) -> None:
    points = [(64 * a, 128 * b) for a, b in SHARES]
    seconds = [np.dot(terms, (1, out, into, out * into)) for out, into in points]
    fitted = _fit([(out, into, float(s)) for (out, into), s in zip(points, seconds, strict=True)])
    assert (fitted >= 0).all()
    guessed = [np.dot(fitted, (1, out, into, out * into)) for out, into in points]
    np.testing.assert_allclose(guessed, seconds, rtol=0.02)


def elements(model: onnx.ModelProto, *_: object) -> float:
    """A machine that takes a nanosecond for each weight, whatever else the layer is."""
    (weight,) = model.graph.initializer
    return 1e-9 * float(np.prod(weight.dims))


@pytest.mark.parametrize("text", [WIDE, DEPTHWISE])
def test_the_table_tells_the_time_of_fewer_channels(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network(text)
    channels = find_groups(network)
    size = footprint(network, channels, channels.groups)
    total = 1e-9 * sum(layer.constant.values.size for layer in network.layers.values())
    monkeypatch.setattr(module, "_seconds", elements)
    monkeypatch.setattr(module, "_whole", lambda *_: 1.5 * total)  # a third of the time is in no layer
    times, whole = layer_times(network, channels, size, {}, Timing()), np.zeros(len(network.layers))
    table = latency_table(times, rank_levels(network, {}, size, {}, times.saved))
    for share in (1.0, 0.5, 0.25):
        out, into = size.lengths(size.channels * share)
        layers = [network.layers[name] for name in size.layers]
        kept = [
            layer.constant.values.size * o / layer.out_channels * (1.0 if layer.groups > 1 else i / layer.in_channels)
            for layer, o, i in zip(layers, out, into, strict=True)
        ]
        expected = (1e-9 * sum(kept) + 0.5 * total) / (1.5 * total)
        assert float(table.ratio(size.channels * share, whole)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("size", "batch", "rows"), [("N", None, 1), ("N", 6, 6), ("3", None, 3), ("3", 3, 3)])
def test_layers_are_timed_at_the_batch(
    size: str, batch: int | None, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small_network(re.sub(r"float\[\w+,\s*3,\s*8,\s*8\]", f"float[{size},3,8,8]", WIDE))
    channels = find_groups(network)
    seen: list[int] = []

    def look(_: onnx.ModelProto, feeds: dict[str, np.ndarray], timing: Timing) -> float:
        assert timing.batch == batch
        seen.append(len(feeds["x"]))
        return 1.0

    monkeypatch.setattr(module, "_seconds", look)
    layer_times(network, channels, footprint(network, channels, channels.groups), {}, Timing(batch=batch))
    assert set(seen) == {rows}


def test_layers_that_take_longer_alone_share_out_the_time_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network(WIDE)
    channels = find_groups(network)
    size = footprint(network, channels, channels.groups)
    total = 1e-9 * sum(layer.constant.values.size for layer in network.layers.values())
    monkeypatch.setattr(module, "_seconds", elements)
    monkeypatch.setattr(module, "_whole", lambda *_: 0.1 * total)
    times, whole = layer_times(network, channels, size, {}, Timing()), np.zeros(len(network.layers))
    table = latency_table(times, rank_levels(network, {}, size, {}, times.saved))
    assert float(table.ratio(size.channels, whole)) == pytest.approx(1, rel=0.02)
    assert float(table.ratio(size.channels * 0.5, whole)) < 0.6


def test_on_a_gpu_a_layer_takes_what_more_of_it_add(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network(WIDE)
    channels = find_groups(network)
    size = footprint(network, channels, channels.groups)
    total = 1e-9 * sum(layer.constant.values.size for layer in network.layers.values())

    def waiting(model: onnx.ModelProto, *_: object) -> float:
        return 1e-3 + 1e-9 * sum(float(np.prod(weight.dims)) for weight in model.graph.initializer)

    monkeypatch.setattr(module, "_seconds", waiting)
    monkeypatch.setattr(module, "_whole", lambda *_: 1e-3 + total)
    times = layer_times(network, channels, size, {}, Timing(provider=Provider("cuda")))
    assert times.rest == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize("copies", [1, 3])
def test_layers_side_by_side_run(copies: int) -> None:
    layer = next(iter(small_network(WIDE).layers.values()))
    model, feeds = module._alone(layer, (1, 3, 8, 8), 8, 3, copies)
    outputs = ort.InferenceSession(model.SerializeToString()).run(None, dict(feeds))
    assert len(outputs) == copies
    assert all(not np.allclose(outputs[0], other) for other in outputs[1:])


def test_what_else_the_machine_does_is_not_in_the_ratio_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def runner(network: str, _: Timing, _model: object = None) -> Callable[[], None]:
        def run() -> None:
            until = time.thread_time() + (0.001 if network == "original" else 0.002)
            while time.thread_time() < until:
                pass
            time.sleep(0.01 if network == "original" else 0)

        return run

    monkeypatch.setattr(module, "_runner", runner)
    monkeypatch.setattr(module, "SECONDS", 0.2)
    assert measured_ratio("original", "small", Timing(threads=1)) == pytest.approx(2, rel=0.1)  # type: ignore[arg-type]
