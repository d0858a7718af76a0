"""Any network is compressed: no graph that onnxruntime runs leads to an error, or to numbers that are not finite."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_udfc import Options, compress
from tests.random_graphs import RandomGraph

REQUESTS = [
    Options(prune=0.5, bits=4, align=1, threads=1),
    Options(prune=0.3, bits=8, activations=8, threads=1),
    Options(prune=0.5, bits=6, method="udfc", threads=1),
    Options(prune=0.5, prune_stream="on", align=1, threads=1),
]


@settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(0, 2**16), st.integers(1, 16), st.sampled_from(REQUESTS))
def test_any_network_is_compressed(data: st.DataObject, seed: int, steps: int, options: Options) -> None:
    model = RandomGraph(lambda n: data.draw(st.integers(0, n - 1)), seed).grow(steps)
    report = compress(model, options).report
    assert report.after.macs <= report.before.macs
    assert all(g.kept < g.channels for g in report.groups if g.status == "pruned")
    assert all(layer.relative_error >= 0 for layer in report.layers if layer.relative_error is not None)
