"""Random networks: groups are found, and pruning what nothing reads changes nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.model.network import read
from tests.dead_channels import kill, largest, outputs, random_feeds
from tests.random_graphs import RandomGraph


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(0, 2**16), st.integers(1, 16), st.sampled_from([0.3, 0.5, 0.9]))
def test_pruning_dead_channels_of_any_network_is_exact(
    data: st.DataObject, seed: int, steps: int, ratio: float
) -> None:
    grown = RandomGraph(lambda n: data.draw(st.integers(0, n - 1)), seed).grow(steps)
    network = read(grown)
    channels = find_groups(network)
    keep = {group.name: largest(network, group, ratio) for group in channels.groups}
    dead = kill(network, channels, keep)
    before = dead.to_model()
    feeds = random_feeds(before, channels.shapes.sizes)
    after = prune(dead, channels, keep).network.to_model()
    for expected, found in zip(outputs(before, feeds), outputs(after, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
