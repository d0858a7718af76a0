"""Numbers in place of names, where names are much of a file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_udfc import compress
from onnx_udfc.emit.short_names import SHORTENED, shorten_names
from onnx_udfc.model.names import names_in
from onnx_udfc.model.protos import all_graphs
from onnx_udfc.model.saving import model_bytes
from onnx_udfc.options import Options
from tests.quantized_graphs import run
from tests.small_graphs import small_model

PATH = "model/block_{}/" * 12
TEXT = """g (float[N,64] x, bool c, float[64,64] A, float[64,64] B) => (float[N,64] y) {
    m = MatMul(x, A) r = Relu(m) t = Tanh(r)
    y = If(c)<then_branch = v () => (float[N,64] p) { q = Identity(t) p = MatMul(q, B) },
              else_branch = w () => (float[N,64] s) { s = Abs(t) }> }"""
FEEDS = {"x": np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32), "c": np.array(True)}


def long_names(text: str = TEXT, length: int = 140) -> onnx.ModelProto:
    """A model whose inner names are long, in the branches of an If too."""
    model = small_model(text)
    ends = {v.name for v in (*model.graph.input, *model.graph.output)}
    for graph in all_graphs(model.graph):
        for node in graph.node:
            node.name = f"{PATH}{node.name or node.output[0]}"[-length:]
            for names in (node.input, node.output):
                names[:] = [n if n in ends else f"{PATH}{n}"[-length:] for n in names]
        for thing in (*graph.initializer, *(graph.output if graph is not model.graph else ())):
            thing.name = thing.name if thing.name in ends else f"{PATH}{thing.name}"[-length:]
    onnx.checker.check_model(model)
    return model


def test_a_file_that_is_mostly_names_gets_numbers() -> None:
    model = long_names()
    layers = [node.name for node in model.graph.node if node.op_type == "MatMul"]
    short = onnx.ModelProto()
    short.CopyFrom(model)
    del short.graph.initializer[:]  # names are little beside their values
    assert shorten_names(short, layers, set(names_in(model.graph)))
    short.graph.initializer.extend(model.graph.initializer)
    numbers = {"A": "", "B": ""}
    for node in [n for graph in all_graphs(short.graph) for n in graph.node if n.op_type == "MatMul"]:
        numbers["A" if node.name in layers else "B"] = node.input[1]
    for tensor in short.graph.initializer:
        tensor.name = numbers[tensor.name[-1]]
    onnx.checker.check_model(short)
    assert [n.name for n in short.graph.node if n.op_type == "MatMul"] == layers
    assert [v.name for v in (*short.graph.input, *short.graph.output)] == ["x", "c", "y"]
    every = [name for g in all_graphs(short.graph) for n in g.node for name in (n.name, *n.input, *n.output)]
    assert [name for name in every if len(name) > 4] == layers
    for c in (True, False):
        feeds = FEEDS | {"c": np.array(c)}
        assert np.array_equal(run(model, feeds)[0], run(short, feeds)[0])


def test_names_of_a_tiny_file_stay() -> None:
    model = long_names("g (float[N,8] x) => (float[N,8] y) { a = Relu(x) y = Tanh(a) }")
    assert model_bytes(model) < 1000
    assert not shorten_names(model, (), set(names_in(model.graph)))


def test_names_that_are_little_of_a_file_stay() -> None:
    model = long_names()
    before = model.SerializeToString()
    assert not shorten_names(model, (), set(names_in(model.graph)))
    assert model.SerializeToString() == before


def test_what_was_added_around_weights_has_numbers_and_what_was_there_its_names() -> None:
    text = """g (float[N,3,8,8] x, float[16,3,3,3] A, float[16] B, float[8,16,3,3] C) => (float[N,8,4,4] y) {
        a = Conv(x, A, B) r = Relu(a) y = Conv(r, C) }"""
    model = small_model(text)
    result = compress(model, bits=4, activations=8, force=True, threads=1).model
    given, graph = set(names_in(model.graph)), result.graph
    inner = {name for node in graph.node for name in (*node.input, *node.output)} - given
    assert inner
    assert all(len(name) <= 4 for name in inner)
    assert {"n0", "n1", "n2"} <= {node.name for node in graph.node}
    running = [n.name for n in graph.node if n.op_type == "QuantizeLinear"]
    assert running
    assert all(name.endswith(".quantize") for name in running)  # as profiles show it
    assert {len(n.name) for n in graph.node if n.op_type == "Cast"} <= {2, 3, 4}
    assert SHORTENED not in compress(model, bits=4, force=True, threads=1).report.runtime.notes


@pytest.mark.parametrize("asked", [{"bits": 8}, {"prune": 0.5}, {"float16": True}])
def test_a_compression_names_them_where_it_pays(asked: dict[str, object]) -> None:
    body = " ".join(f"r{i + 1} = Relu(r{i})" for i in range(60))
    text = f"""g (float[N,32] r0, float[32,64] A, float[64,32] B) => (float[N,32] y) {{
        {body} m = MatMul(r60, A) h = Relu(m) y = MatMul(h, B) }}"""
    model = long_names(text)
    result = compress(model, Options(method="none", **asked))  # type: ignore[arg-type]
    assert SHORTENED in result.report.runtime.notes
    assert result.report.after.bytes == model_bytes(result.model)
    assert model_bytes(result.model) < 0.5 * model_bytes(model)
    assert {x.name for x in result.report.layers} <= {n.name for n in result.model.graph.node}
    assert all(x.bytes_after for x in result.report.layers)
    x = {"r0": FEEDS["x"][:, :32]}
    if "prune" not in asked:
        before, after = run(model, x)[0], run(result.model, x)[0]
        assert np.square(before - after).mean() < 1e-3 * np.square(before).mean()
    again = compress(result.model, Options(method="none")).model
    assert np.array_equal(run(result.model, x)[0], run(again, x)[0])


def test_nothing_asked_keeps_every_name() -> None:
    model = long_names("g (float[N,8] x) => (float[N,8] y) { a = Relu(x) b = Tanh(a) y = Abs(b) }")
    result = compress(model, Options(method="none"))
    assert [n.name for n in result.model.graph.node] == [n.name for n in model.graph.node]


def test_what_an_exporter_noted_of_its_program_goes_where_it_is_much_of_the_file() -> None:
    text = """g (float[N,64] x, float[64,64] A, float[64,64] B) => (float[N,64] y) {
        m = MatMul(x, A) r = Relu(m) y = MatMul(r, B) }"""
    model = small_model(text)
    for node in model.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File model.py, line 1, in forward\n" * 60)
        node.metadata_props.add(key="layer", value="mine")
    result = compress(model, Options(method="none", bits=4, force=True))
    assert not any(p.key.startswith("pkg.") for node in result.model.graph.node for p in node.metadata_props)
    assert [p.value for n in result.model.graph.node for p in n.metadata_props if p.key == "layer"] == ["mine"] * 3
    assert any("stack traces" in note for note in result.report.runtime.notes)
    untouched = compress(model, Options(prune=0.0)).model
    assert model_bytes(untouched) > 6000
    assert untouched.graph.node[0].metadata_props == model.graph.node[0].metadata_props
