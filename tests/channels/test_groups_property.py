"""Random networks: groups are found, and pruning what nothing reads changes nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dead_channels import assert_dead_channels_go_exactly
from tests.random_graphs import RandomGraph
from tests.random_structures import StructureGraph


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.data(), st.integers(0, 2**16), st.integers(1, 16), st.sampled_from([0.3, 0.5, 0.9]),
    st.sampled_from([RandomGraph, StructureGraph]),
)  # fmt: skip
def test_pruning_dead_channels_of_any_network_is_exact(
    data: st.DataObject, seed: int, steps: int, ratio: float, kind: type[RandomGraph]
) -> None:
    grown = kind(lambda n: data.draw(st.integers(0, n - 1)), seed).grow(steps)
    assert_dead_channels_go_exactly(grown, ratio)
