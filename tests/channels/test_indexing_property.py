"""Random networks that cut channels and compute sizes: pruning what nothing reads changes nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.model.network import read
from tests.dead_channels import assert_dead_channels_go_exactly
from tests.random_indexing import IndexingGraph

SOME = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@SOME
@given(st.data(), st.integers(0, 2**16), st.integers(1, 16), st.sampled_from([0.3, 0.5, 0.9]))
def test_pruning_dead_channels_is_exact_whatever_is_cut_or_computed(
    data: st.DataObject, seed: int, steps: int, ratio: float
) -> None:
    grown = IndexingGraph(lambda n: data.draw(st.integers(0, n - 1)), seed).grow(steps)
    assert_dead_channels_go_exactly(grown, ratio)


@SOME
@given(st.data(), st.integers(0, 2**16), st.integers(1, 16))
def test_what_loses_nothing_stays_as_it_is(data: st.DataObject, seed: int, steps: int) -> None:
    network = read(IndexingGraph(lambda n: data.draw(st.integers(0, n - 1)), seed).grow(steps))
    channels = find_groups(network)
    kept = prune(network, channels, {}).network
    assert kept.to_model().SerializeToString(deterministic=True) == network.to_model().SerializeToString(
        deterministic=True
    )
