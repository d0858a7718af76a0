"""Which inputs are states: pairs by names and shapes, and what must not be taken for one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from onnx import TensorProto, helper

from onnx_udfc.inputs.carried import carried
from onnx_udfc.model.network import Network, read

Declared = tuple[str, Sequence[int | str]]


def network(inputs: list[Declared], outputs: list[Declared]) -> Network:
    """A network with such inputs and outputs, all of them floats."""
    first = inputs[0][0]
    nodes = [helper.make_node("Identity", [first], [f"copy_{name}"]) for name, _ in outputs]
    nodes += [helper.make_node("Expand", [f"copy_{name}", f"shape_{name}"], [name]) for name, _ in outputs]
    shapes = [helper.make_tensor(f"shape_{n}", TensorProto.INT64, [1], [1]) for n, _ in outputs]
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs]
    found = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs]
    graph = helper.make_graph(nodes, "net", given, found, shapes)
    return read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("state", "stateN"), ("h", "hn"), ("h0", "hn"), ("r1i", "r1o"), ("cache_in", "cache_out"),
        ("hidden", "new_hidden"), ("enc_buf", "out_enc_buf"), ("inputs.h", "outputs.h"), ("prevState", "nextState"),
        ("past_x", "present_x"),
    ],
)  # fmt: skip
def test_names_of_a_state_and_of_the_next_one(before: str, after: str) -> None:
    size: Sequence[int | str] = [2, "n", 16]
    assert carried(network([("x", ["n", 8]), (before, size)], [("y", ["n", 4]), (after, size)])) == {before: after}


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([("image_in", ["n", 3, 8, 8]), ("mask", ["n", 1, 8, 8])], [("image_out", ["n", 3, 8, 8])]),
        ([("x", ["n", 8]), ("state", [2, "n", 16])], [("stateN", [2, "n", 32])]),  # of another size
        ([("x", ["n", 8]), ("state", [2, "n", 16])], [("y", [2, "n", 16])]),
        ([("state", [1, 16])], [("stateN", [1, 16])]),  # nothing is left that comes from outside
        ([("x", ["n", 8]), ("h", [])], [("hn", [])]),  # a number is no state
    ],
)
def test_what_is_no_state(inputs: list[Declared], outputs: list[Declared]) -> None:
    assert carried(network(inputs, outputs)) == {}


def test_names_that_differ_least_come_first() -> None:
    size: Sequence[int | str] = [1, 4]
    inputs: list[Declared] = [("x", ["n", 8]), ("cached_key_0", size), ("cached_key_1", size)]
    outputs: list[Declared] = [("new_cached_key_1", size), ("new_cached_key_0", size)]
    assert carried(network(inputs, outputs)) == {
        "cached_key_0": "new_cached_key_0",
        "cached_key_1": "new_cached_key_1",
    }
