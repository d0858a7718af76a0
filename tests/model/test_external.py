from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from onnx_udfc import compress
from onnx_udfc.errors import ModelError
from onnx_udfc.evaluate.validate import validate
from onnx_udfc.model import files as model_io
from onnx_udfc.model import network as graph
from onnx_udfc.model.protos import resolve, tensor_bytes, write_external
from onnx_udfc.model.saving import save
from onnx_udfc.model.values import values
from onnx_udfc.options import Judging

TEXT = """<ir_version: 8, opset_import: ["" : 21]>
g (float[1,600] x) => (float[1,600] y) { a = MatMul(x, w) s = Add(a, b) y = MatMul(s, v) }"""


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    proto = parser.parse_model(TEXT)
    for name, shape in (("w", (600, 600)), ("b", (600,)), ("v", (600, 600))):
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return proto


def on_disk(folder: Path, location: str = "weights.bin") -> Path:
    """A model whose initializers are all in one file beside it."""
    onnx.save_model(model(), folder / "m.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return folder / "m.onnx"


def test_small_files_are_read_in(tmp_path: Path) -> None:
    loaded = model_io.load(on_disk(tmp_path))
    assert loaded.model.graph.initializer == model().graph.initializer
    assert [numpy_helper.to_array(t).tolist() for t in loaded.model.graph.initializer] == [
        numpy_helper.to_array(t).tolist() for t in model().graph.initializer
    ]
    assert loaded.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_big_files_are_mapped_and_never_copied_while_unchanged(tmp_path: Path) -> None:
    proto = onnx.load(on_disk(tmp_path), load_external_data=False)
    assert resolve(proto, tmp_path, inline_total=0) == 4 * (2 * 600 * 600 + 600)
    assert [t.HasField("raw_data") for t in proto.graph.initializer] == [False, True, False]
    network = graph.read(proto)
    first, second = network.layers.values()
    weight = first.constant.values
    assert isinstance(weight, np.memmap)
    assert not weight.flags.writeable
    second.set(second.matrix() * 2, second.bias)
    written = {t.name: t for t in network.to_model().graph.initializer}
    assert [written[name].HasField("raw_data") for name in ("w", "b", "v")] == [False, True, True]

    save(network.to_model(), tmp_path / "out.onnx")  # small enough for one file
    read = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    expected = {t.name: numpy_helper.to_array(t) for t in model().graph.initializer}
    assert np.array_equal(read["w"], expected["w"])
    assert np.array_equal(read["v"], expected["v"] * 2)


def test_written_outside_it_reads_as_before(tmp_path: Path) -> None:
    slim = write_external(model(), tmp_path / "out.data")
    onnx.save(slim, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_size < 4000
    assert [numpy_helper.to_array(t).tolist() for t in onnx.load(tmp_path / "out.onnx").graph.initializer] == [
        numpy_helper.to_array(t).tolist() for t in model().graph.initializer
    ]


def test_mapped_weights_are_streamed_from_file_to_file(tmp_path: Path) -> None:
    proto = onnx.load(on_disk(tmp_path), load_external_data=False)
    resolve(proto, tmp_path, inline_total=0)
    (tmp_path / "sub").mkdir()
    onnx.save(write_external(proto, tmp_path / "sub" / "out.data"), tmp_path / "sub" / "out.onnx")
    read = onnx.load(tmp_path / "sub" / "out.onnx")
    assert [numpy_helper.to_array(t).tolist() for t in read.graph.initializer] == [
        numpy_helper.to_array(t).tolist() for t in model().graph.initializer
    ]


def refused(path: Path | bytes, text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        model_io.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    path = on_disk(tmp_path)
    (tmp_path / "weights.bin").unlink()
    refused(path, r"'weights.bin', which cannot be read; put it beside the model")


def test_a_file_that_is_too_short(tmp_path: Path) -> None:
    path = on_disk(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"short")
    refused(path, "reaches past the end")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin", "", "."])
def test_a_file_outside_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(b"0" * 3_000_000)
    (tmp_path / "sub").mkdir()
    proto = onnx.load(on_disk(tmp_path), load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = location
    onnx.save(proto, tmp_path / "sub" / "m.onnx")
    refused(tmp_path / "sub" / "m.onnx", "outside the folder of the model")


@pytest.mark.parametrize(("key", "value"), [("offset", "-1"), ("offset", "x"), ("length", "3"), ("length", "1" * 30)])
def test_spans_that_cannot_be(tmp_path: Path, key: str, value: str) -> None:
    proto = onnx.load(on_disk(tmp_path), load_external_data=False)
    entries = proto.graph.initializer[0].external_data
    next(e for e in entries if e.key == key).value = value
    onnx.save(proto, tmp_path / "m.onnx")
    refused(tmp_path / "m.onnx", "weights.bin")


def test_content_without_a_path(tmp_path: Path) -> None:
    refused(on_disk(tmp_path).read_bytes(), "give the path of the model")


@pytest.mark.parametrize("location", ["weights.bin", "/absolute", "../weights.bin"])
def test_a_model_that_is_no_file_reads_no_file(tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    proto = onnx.load(on_disk(tmp_path), load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = str(tmp_path / "weights.bin") if location == "/absolute" else location
    for source in (proto, proto.SerializeToString()):
        with pytest.raises(ModelError, match="give the path of the model"):
            model_io.load(source)
        with pytest.raises(ModelError, match="give the path of the model"):
            validate(model(), source, Judging(seconds=0, memory=False))
        if location != "weights.bin":
            with pytest.raises(ModelError, match="outside the folder"):
                compress(source, bits=8, base=tmp_path)


def test_a_base_may_be_given(tmp_path: Path) -> None:
    path = on_disk(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    found = [compress(s, bits=8, method="none", base=tmp_path) for s in (proto, proto.SerializeToString(), path)]
    assert found[0].model == found[1].model == found[2].model
    assert proto == onnx.load(path, load_external_data=False)


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    secret = on_disk(tmp_path / "other").with_name("weights.bin")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "m.onnx").write_bytes((tmp_path / "other" / "m.onnx").read_bytes())
    (folder / "weights.bin").symlink_to(secret)
    refused(folder / "m.onnx", "a link that leads outside the folder")
    with pytest.raises(ModelError, match="a link that leads outside the folder"):
        validate(folder / "m.onnx", folder / "m.onnx", Judging(seconds=0, memory=False))
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to("inside.bin")
    (folder / "inside.bin").write_bytes(secret.read_bytes())
    assert model_io.load(folder / "m.onnx").model.graph.initializer == model().graph.initializer


def test_a_cache_of_links_is_read(tmp_path: Path) -> None:
    """The model and its weights are links into one other folder, under other names."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    path = on_disk(blobs)
    path.rename(blobs / "0a")
    (blobs / "weights.bin").rename(blobs / "0b")
    (snapshot / "m.onnx").symlink_to("../../blobs/0a")
    (snapshot / "weights.bin").symlink_to("../../blobs/0b")
    assert model_io.load(snapshot / "m.onnx").model.graph.initializer == model().graph.initializer


def test_only_regular_files(tmp_path: Path) -> None:
    path = on_disk(tmp_path)
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    refused(path, "no regular file")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "a pipe or a device")


def test_a_constant_node_outside(tmp_path: Path) -> None:
    proto = model()
    tensor = proto.graph.initializer.pop()
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["v"], value=tensor))
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, convert_attribute=True)
    network = graph.read(model_io.load(tmp_path / "m.onnx").model)
    assert np.array_equal(list(network.layers.values())[1].weight, numpy_helper.to_array(tensor))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float32, 20), (np.float16, 10), (ml_dtypes.int4, 3), (ml_dtypes.uint4, 3), (ml_dtypes.int2, 2), (np.bool_, 5)],
)
def test_tensor_bytes(dtype: type, expected: int) -> None:
    array: NDArray[np.generic] = np.ones(5).astype(dtype)
    tensor = numpy_helper.from_array(array, "t")
    assert tensor_bytes(tensor) == len(tensor.raw_data) == expected
    assert np.array_equal(values(tensor), array)
    assert not values(tensor).flags.writeable
