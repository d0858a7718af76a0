"""The slowest nodes, by onnxruntime's own profile."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_udfc.errors import ModelError
from onnx_udfc.runtime.profiles import COUNT, NodeTime, ranked, slowest
from tests.small_graphs import small_model

TEXT = """g (float[1,8,24,24] x, float[64,8,5,5] W1, float[2,64,1,1] W2) => (float[1,2,20,20] y) {
    a = Conv(x, W1) b = Sin(a) y = Conv(b, W2) }"""


def event(name: str, microseconds: int, op: str = "Conv", kind: str = "Node") -> dict[str, object]:
    return {"cat": kind, "name": name, "dur": microseconds, "args": {"op_name": op}}


def test_medians_without_the_first_run_are_ranked_and_shares_are_of_all_nodes() -> None:
    runs = [event("a_kernel_time", t) for t in (9000, 1000, 3000, 2000)]
    runs += [event("b_kernel_time", t, "Add") for t in (50, 6000, 6000, 6000)]
    runs += [event("a_fence_before", 10**6), event("model_run", 10**6, kind="Session")]
    assert ranked(runs) == (NodeTime("b", "Add", 6.0, 0.75), NodeTime("a", "Conv", 2.0, 0.25))


def test_no_more_than_ten_are_told() -> None:
    found = ranked([event(f"n{i:02}_kernel_time", 1000 + i) for i in range(25)])
    assert [node.name for node in found] == [f"n{24 - i:02}" for i in range(COUNT)]
    assert sum(node.share for node in found) < 1


def test_a_network_is_run_and_its_convolution_of_a_hundred_times_the_work_is_first() -> None:
    model = small_model(TEXT)
    found = slowest(model, {"x": np.ones((1, 8, 24, 24), np.float32)}, seconds=0)
    assert "Conv" in found[0].op_type
    assert found[0].name.startswith(("n0", "a"))
    assert found[0].milliseconds > 0
    assert 0.99 < sum(node.share for node in found) <= 1 + 1e-9


def test_what_does_not_run_is_said() -> None:
    with pytest.raises(ModelError, match="cannot run it"):
        slowest(small_model(TEXT), {"x": np.ones((1, 7, 24, 24), np.float32)}, seconds=0)
    with pytest.raises(ModelError):
        slowest(onnx.ModelProto(), {}, seconds=0)
