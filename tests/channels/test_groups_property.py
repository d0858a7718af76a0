"""Random networks: groups are found, and pruning what nothing reads changes nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dead_channels import assert_dead_channels_go_exactly
from tests.random_graphs import RandomGraph


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(0, 2**16), st.integers(1, 16), st.sampled_from([0.3, 0.5, 0.9]))
def test_pruning_dead_channels_of_any_network_is_exact(
    data: st.DataObject, seed: int, steps: int, ratio: float
) -> None:
    grown = RandomGraph(lambda n: data.draw(st.integers(0, n - 1)), seed).grow(steps)
    assert_dead_channels_go_exactly(grown, ratio)
