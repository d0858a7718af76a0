"""Which inputs are states: pairs by names and shapes, and what must not be taken for one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

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


def stepwise(*, mixed: bool = False, fresh: bool = False) -> Network:
    """Two LSTM layers whose states one input holds, and one output, in pieces; nothing but the layers tells it.

    `mixed` adds to what the output holds; the second layer begins with zeros where it is `fresh`.
    """
    second = ["z0", "W1", "R1"] if fresh else ["z0", "W1", "R1", "", "", "h1", "c1"]
    rng = np.random.default_rng(0)
    sizes = {"W0": (1, 32, 4), "R0": (1, 32, 8), "W1": (1, 32, 8), "R1": (1, 32, 8)}
    held = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in sizes.items()]
    held += [
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
    ]
    node = helper.make_node
    nodes = [
        node("Split", ["input_3"], ["s0", "s1"], axis=0, num_outputs=2),
        *(node("Squeeze", [f"s{i}", "zero"], [f"q{i}"]) for i in (0, 1)),
        *(node("Split", [f"q{i}"], [f"h{i}", f"c{i}"], axis=0, num_outputs=2) for i in (0, 1)),
        node("LSTM", ["input_2", "W0", "R0", "", "", "h0", "c0"], ["y0", "hn0", "cn0"], hidden_size=8),
        node("Squeeze", ["y0", "one"], ["z0"]),
        node("LSTM", second, ["y1", "hn1", "cn1"], hidden_size=8),
        *(node("Concat", [f"hn{i}", f"cn{i}"], [f"n{i}"], axis=0) for i in (0, 1)),
        *(node("Unsqueeze", [f"n{i}", "zero"], [f"u{i}"]) for i in (0, 1)),
        node("Concat", ["u0", "u1"], ["joined"], axis=0),
        node("Add", ["joined", "joined"], ["stack"]) if mixed else node("Identity", ["joined"], ["stack"]),
        node("Squeeze", ["y1", "one"], ["mask"]),
    ]  # fmt: skip
    float32 = TensorProto.FLOAT
    given = [
        helper.make_tensor_value_info("input_2", float32, [1, 1, 4]),
        helper.make_tensor_value_info("input_3", float32, [2, 2, 1, 8]),
    ]
    found = [
        helper.make_tensor_value_info("mask", float32, [1, 1, 8]),
        helper.make_tensor_value_info("stack", float32, [2, 2, 1, 8]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "net", given, found, held), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    return read(model)


def test_layers_tell_states_where_names_do_not() -> None:
    assert carried(stepwise()) == {"input_3": "stack"}


@pytest.mark.parametrize("told", [{"mixed": True}, {"fresh": True}])
def test_an_output_that_is_more_than_what_layers_end_with_is_no_state(told: dict[str, bool]) -> None:
    assert carried(stepwise(**told)) == {}
