from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from onnx_udfc import errors
from onnx_udfc.errors import ModelError, UdfcError
from onnx_udfc.model import files as model_io
from onnx_udfc.model import network as graph
from onnx_udfc.model import saving
from onnx_udfc.model.saving import save
from onnx_udfc.runtime.sessions import open_session

SMALL = """<ir_version: 8, opset_import: ["" : 13]>
g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,1,1] w> { h = Conv(x, w) y = Clip(h, lo, hi) }"""


def small_model() -> onnx.ModelProto:
    model = parser.parse_model(SMALL)
    weights = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "lo"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(np.inf, np.float32), "hi"))
    return model


def one_line(source: str | Path | bytes | onnx.ModelProto, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        model_io.load(source)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_missing_folder_empty(tmp_path: Path) -> None:
    one_line(tmp_path / "none.onnx", "does not exist")
    one_line(str(tmp_path), "is a folder")
    (tmp_path / "empty.onnx").write_bytes(b"")
    one_line(tmp_path / "empty.onnx", "is empty")


def test_truncated_anywhere() -> None:
    data = small_model().SerializeToString()
    for length in range(len(data)):
        one_line(data[:length])


def test_random_bytes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        one_line(rng.integers(0, 256, 1000, np.uint8).tobytes())


def test_no_graph_no_opset() -> None:
    one_line(onnx.ModelProto(ir_version=8), "no graph")
    model = small_model()
    del model.opset_import[:]
    one_line(model, "no opset")


def test_proto_path_and_bytes_are_the_same(tmp_path: Path) -> None:
    model = small_model()
    before = model.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(before)
    loaded = [model_io.load(source) for source in (model, before, tmp_path / "m.onnx", str(tmp_path / "m.onnx"))]
    assert len({x.model.SerializeToString() for x in loaded}) == 1
    assert {x.bytes for x in loaded} == {len(before)}
    assert [x.path for x in loaded] == [None, None, tmp_path / "m.onnx", tmp_path / "m.onnx"]
    assert model.SerializeToString() == before


def test_unsorted_nodes_are_sorted() -> None:
    model = small_model()
    first = onnx.NodeProto()
    first.CopyFrom(model.graph.node[0])
    del model.graph.node[0]
    model.graph.node.append(first)
    assert [n.op_type for n in model_io.load(model).model.graph.node] == ["Conv", "Clip"]


def test_repeated_node_names_are_numbered() -> None:
    model = small_model()
    for node in model.graph.node:
        node.name = "same"
    loaded = model_io.load(model).model
    assert [n.name for n in loaded.graph.node] == ["same", "same_2"]
    open_session(loaded, threads=1)


def test_cycle() -> None:
    text = '<ir_version: 8, opset_import: ["": 13]> g (float[2] x) => (float[2] y) { a = Add(x, y) y = Relu(a) }'
    one_line(parser.parse_model(text), "depends on its own output")


@pytest.mark.parametrize("depth", [25, 50, 5000])
def test_deeply_nested_subgraphs(depth: int) -> None:
    def field(number: int, content: bytes) -> bytes:
        size, digits = len(content), []
        while size > 127:
            digits.append(size % 128 + 128)
            size //= 128
        return bytes([number * 8 + 2, *digits, size]) + content

    inner = b""
    for _ in range(depth):  # graph.node.attribute.g, each a message in a message
        inner = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, inner)))
    with contextlib.suppress(ModelError):
        graph.read(model_io.load(field(7, inner) + field(8, b"\x10\x15")).model)


def test_save_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")
    save(small_model(), out)
    assert onnx.load(out) == small_model()
    assert list(tmp_path.iterdir()) == [out]


def test_what_a_killed_run_left_goes_when_it_is_old(tmp_path: Path) -> None:
    for name, age in ((".onnx-udfc.old.tmp", 90_000), (".onnx-udfc.young.tmp", 60), ("onnx-udfc.other.tmp", 90_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "out.onnx").write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    save(small_model(), tmp_path / "out.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"out.onnx", ".onnx-udfc.young.tmp", "onnx-udfc.other.tmp"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_before_the_move_leaves_the_old_files(tmp_path: Path, error: type[BaseException]) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    out.write_bytes(b"old")
    report.write_bytes(b"older")

    @contextlib.contextmanager
    def failing() -> Iterator[None]:
        (staged,) = tmp_path.glob(".onnx-udfc.*.tmp/out.onnx")
        assert onnx.load(staged) == small_model()
        raise error
        yield

    with pytest.raises(error):
        save(small_model(), out, {str(report): "{}"}, failing())
    assert (out.read_bytes(), report.read_bytes()) == (b"old", b"older")
    assert sorted(tmp_path.iterdir()) == [out, report]


def test_texts_appear_with_the_model_and_what_fails_after_it_is_said(tmp_path: Path) -> None:
    out, report, late = (tmp_path / name for name in ("out.onnx", "report.json", "late.html"))

    @contextlib.contextmanager
    def meanwhile() -> Iterator[None]:
        late.mkdir()
        yield

    failed = save(small_model(), out, {str(report): "{}", str(late): "<p>"}, meanwhile())
    assert onnx.load(out) == small_model()
    assert report.read_text() == "{}"
    assert failed == [f"{late} could not be written (Is a directory)"]
    assert sorted(tmp_path.iterdir()) == [late, out, report]


def test_a_link_is_kept_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / "real.onnx", tmp_path / "link.onnx"
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to(Path("store") / "real.onnx")
    save(small_model(), link)
    assert link.is_symlink()
    assert onnx.load(real) == small_model()
    assert real.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["real.onnx"]


def test_save_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UdfcError, match="there is no folder"):
        save(small_model(), tmp_path / "none" / "out.onnx")
    with pytest.raises(UdfcError, match="is a folder"):
        save(small_model(), tmp_path)


def test_a_model_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = parser.parse_model('<ir_version: 8, opset_import: ["": 13]> g (float[1,900] x) => (float[1,900] y) '
                               "{ h = MatMul(x, w) y = Add(h, b) }")  # fmt: skip
    rng = np.random.default_rng(0)
    for name, shape in (("w", (900, 900)), ("b", (900,))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    monkeypatch.setattr(saving, "LARGEST_FILE", 1 << 20)
    out = tmp_path / "out.onnx"
    save(model, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert out.stat().st_size < 10_000
    feeds = {"x": rng.standard_normal((1, 900)).astype(np.float32)}
    (expected,) = open_session(model, threads=1).run(None, feeds)
    (written,) = open_session(out, threads=1).run(None, feeds)
    assert np.array_equal(expected, written)
    assert model_io.load(out).bytes == out.stat().st_size + (900 * 900 * 4)


@pytest.mark.parametrize(
    "place",
    [
        "/src/onnxruntime/core/graph/model.cc:181 a::Model::Model(a::Proto&&, const Text&) ",
        "/src/onnxruntime/core/graph/graph.cc:55 Proto a::Graph::To(const Path&) const ",
        "/src/onnxruntime/core/a.h:4 auto a::F(int)::<lambda()>::operator()(std::function<void (int)>) const ",
        "",
    ],
)
def test_the_place_in_onnxruntime_s_source_is_not_said(place: str) -> None:
    told = errors.one_line(RuntimeError(f"FAIL : Load model from /m.onnx failed:{place}Unsupported version (13)\n"))
    assert told == "FAIL : Load model from /m.onnx failed:Unsupported version (13)"


def test_session_error_is_one_line() -> None:
    model = small_model()
    model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(ModelError) as caught:
        open_session(model, threads=1)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_bytes_give_a_model_or_one_line(data: st.DataObject) -> None:
    content = bytearray(small_model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UdfcError):
        graph.read(model_io.load(bytes(content)).model).copy().to_model()


@pytest.mark.parametrize("name", ["mnist_cntk_opset7", "loop_control_flow", "fuse_conv_bn_mul_add", "matmul_2layer"])
def test_damaged_real_files_give_a_model_or_one_line(assets: Path, name: str) -> None:
    original = (assets / "zoo" / f"{name}.onnx").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(original)
        for _ in range(int(rng.integers(1, 4))):
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(UdfcError):
            graph.read(model_io.load(bytes(content)).model).copy().to_model()
