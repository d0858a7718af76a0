"""Functions and branches of a known condition are written out, and the network stays what it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_udfc import compress
from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from onnx_udfc.model.written_out import write_out
from tests.quantized_graphs import run
from tests.small_graphs import small_model

HEADER = '<ir_version: 10, opset_import: ["": 21, "my": 1]>'
LAYER = '<domain: "my", opset_import: ["": 21]> Layer (a, w) => (b) { c = Conv<pads = [1,1,1,1]>(a, w) b = Relu(c) }'


def with_weights(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return model


def same_answers(one: onnx.ModelProto, other: onnx.ModelProto, *shape: int) -> None:
    feeds = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    for a, b in zip(run(one, feeds), run(other, feeds), strict=True):
        assert np.array_equal(a, b)


def test_layers_of_functions_are_layers() -> None:
    model = with_weights(
        f"""{HEADER} g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{ h = my.Layer(x, v) y = my.Layer(h, w) }}
        {LAYER}""",
        v=(8, 3, 3, 3), w=(4, 8, 3, 3),
    )  # fmt: skip
    loaded = load(model)
    assert not loaded.model.functions
    assert loaded.notes == ("functions of the model were written out where they are called (1)",)
    assert [layer.out_channels for layer in read(loaded.model).layers.values()] == [8, 4]
    same_answers(model, loaded.model, 2, 3, 8, 8)
    report = compress(model, prune=0.5, method="none", force=True).report
    assert [(group.channels, group.kept) for group in report.groups] == [(8, 4)]


def test_functions_of_functions_and_attributes() -> None:
    model = parser.parse_model(f"""{HEADER} g (float[2,3] x) => (float[2,3] y) {{ y = my.Outer(x) }}
        <domain: "my", opset_import: ["": 21]> Inner <slope> (a) => (b) {{ b = LeakyRelu<alpha: float = @slope>(a) }}
        <domain: "my", opset_import: ["": 21, "my": 1]>
        Outer (a) => (b) {{ c = my.Inner<slope = 0.25>(a) b = Add(c, a) }}
        """)
    result, _ = write_out(model)
    assert sorted(node.op_type for node in result.graph.node) == ["Add", "LeakyRelu"]
    same_answers(model, result, 2, 3)


BRANCHES = {
    "a constant": "c = Constant<value = bool {1}>()",
    "a size": "s = Shape(x) i = Constant<value = int64 {2}>() one = Constant<value = int64 {1}>()"
    " d = Gather(s, i) c = Equal(d, one)",
    "a rank": "s = Shape(x) r = Size(s) four = Constant<value = int64 {4}>() c = Equal(r, four)",
}


@pytest.mark.parametrize("condition", BRANCHES.values(), ids=BRANCHES)
def test_branches_that_are_known(condition: str) -> None:
    model = with_weights(
        f"""{HEADER} g (float[N,3,1,1] x) => (float[N,4,1,1] y) {{ {condition}
            h = If(c)<then_branch = a () => (float[N,8,1,1] p) {{ x1 = Conv(x, v) p = Relu(x1) }},
                      else_branch = b () => (float[N,3,1,1] q) {{ q = Identity(x) }}>
            y = Conv(h, w) }}""",
        v=(8, 3, 1, 1), w=(4, 8, 1, 1),
    )  # fmt: skip
    loaded = load(model)
    assert "If" not in {node.op_type for node in loaded.model.graph.node}
    assert loaded.notes == ("If nodes whose condition is fixed became the branch that runs (1)",)
    assert len(read(loaded.model).layers) == 2
    same_answers(model, loaded.model, 2, 3, 1, 1)


def test_weights_and_names_of_a_branch_are_brought_along() -> None:
    model = small_model("""g (float[2,4] x) => (float[2,4] y, float[2,4] z) {
        c = Constant<value = bool {0}>()
        y, z = If(c)<then_branch = a () => (float[2,4] p, float[2,4] q) { p = Identity(x) q = Identity(x) },
                     else_branch = b () => (float[2,4] p, float[2,4] q) { p = Add(x, W) q = Neg(p) }> }""")
    branch = next(a.g for a in model.graph.node[1].attribute if a.name == "else_branch")
    branch.initializer.append(numpy_helper.from_array(np.full((2, 4), 3, np.float32), "W"))
    model.graph.node.append(onnx.helper.make_node("Neg", ["x"], ["p"]))  # a name of the branch that is taken
    result, _ = write_out(model)
    onnx.checker.check_model(result)
    same_answers(model, result, 2, 4)


@pytest.mark.parametrize("size", ["N", "3"])
def test_branches_on_what_is_open_stay(size: str) -> None:
    """The number of samples is open; a size of 3 takes the other branch."""
    model = parser.parse_model(f"""{HEADER} g (float[{size},3] x) => (float[{size},3] y) {{
        s = Shape(x) i = Constant<value = int64 {{0}}>() one = Constant<value = int64 {{1}}>() d = Gather(s, i)
        c = Equal(d, one)
        y = If(c)<then_branch = a () => (float[N,3] p) {{ p = Neg(x) }},
                  else_branch = b () => (float[N,3] q) {{ q = Identity(x) }}> }}""")
    result, notes = write_out(model)
    assert ("If" in {node.op_type for node in result.graph.node}) == (size == "N") == (not notes)
    same_answers(model, result, 3, 3)


def test_nodes_in_another_order_are_put_in_theirs_first() -> None:
    model = parser.parse_model("""<ir_version: 10, opset_import: ["": 21]> g (float[4,3] x) => (float[4,3] y) {
        s = Shape(x) three = Constant<value = int64[2] {4, 3}>() e = Equal(s, three) i = Constant<value = int64 {0}>()
        c = Gather(e, i)
        y = If(c)<then_branch = a () => (float[4,3] p) { p = Neg(x) },
            else_branch = b () => (float[4,3] q) { q = Abs(x) }>
    }""")
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert "If" not in {node.op_type for node in load(model).model.graph.node}
