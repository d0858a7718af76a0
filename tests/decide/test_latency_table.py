"""The fit of layer times, and a table of a small network."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.decide.footprint import footprint
from onnx_udfc.decide.latency_table import SHARES, _fit, latency_table, layer_times
from onnx_udfc.decide.ranks import rank_levels
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


@pytest.mark.parametrize("text", [WIDE, DEPTHWISE])
def test_fewer_channels_never_take_longer(text: str) -> None:
    network = small_network(text)
    channels = find_groups(network)
    size = footprint(network, channels, channels.groups)
    times, whole = layer_times(network, channels, size, {}, threads=1), np.zeros(len(network.layers))
    table = latency_table(times, rank_levels(network, {}, size, {}, times.saved))
    ratios = [float(table.ratio(np.maximum(1, size.channels * share), whole)) for share in (1.0, 0.5, 0.25, 0.1)]
    assert ratios[0] == 1.0
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] > 0
