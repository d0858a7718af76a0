from __future__ import annotations

from onnx_udfc.model.files import load
from onnx_udfc.model.names import Taken, unique_name
from tests.small_graphs import small_model


class Counted(Taken):
    """Counts how often it is asked."""

    asked = 0

    def __contains__(self, name: object) -> bool:
        Counted.asked += 1
        return super().__contains__(name)


def test_many_of_one_name_take_linear_time() -> None:
    taken = Counted(["node", "node_7"])
    names = [unique_name("node", taken) for _ in range(2000)]
    assert names[:3] == ["node_2", "node_3", "node_4"]
    assert names[-1] == "node_2002"
    assert "node_7" not in names
    assert len(taken) == 2002
    assert Counted.asked <= 2 * 2000 + 2


def test_a_plain_set_gives_the_same_names() -> None:
    for taken in ({"a", "a_2"}, Taken({"a", "a_2"})):
        assert [unique_name(n, taken) for n in ("a", "b", "a", "b")] == ["a_3", "b", "a_4", "b_2"]


def test_repeated_names_of_nodes() -> None:
    body = " ".join(f"[same] t{i + 1} = Relu(t{i})" for i in range(5))
    model = small_model(f"g (float[2] t0) => (float[2] t5) {{ {body} }}")
    assert [n.name for n in load(model).model.graph.node] == ["same", "same_2", "same_3", "same_4", "same_5"]
