"""Boxes of both networks on pictures: which are shown, where they lie, and that the page is whole."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image

from onnx_udfc import validate
from onnx_udfc.evaluate.detection import known_reader
from onnx_udfc.evaluate.shown_boxes import SHOWN, Album, png

DETECTOR = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3,8,8] x) => (float[N,4,4] boxes, float[N,4,2] scores) {
   s = ReduceMean <keepdims=0> (x, axes)
   a = Gemm (s, w1)
   boxes = Reshape (a, to_boxes)
   b = Gemm (s, w2)
   c = Reshape (b, to_scores)
   scores = Softmax (c)
}
"""


def detector(shift: float = 0.0) -> onnx.ModelProto:
    """Four boxes that a picture moves a little, and their scores."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(DETECTOR)
    low = rng.uniform(0.1, 0.4, (4, 2))
    corners = np.concatenate([low, low + 0.3], axis=1).ravel()
    weights = {
        "w1": np.tile(corners, (3, 1)) / 1.5,
        "w2": np.tile([0.0, 2.0 + shift], (3, 4)),
        "axes": np.array([2, 3]),
        "to_boxes": np.array([-1, 4, 4]),
        "to_scores": np.array([-1, 4, 2]),
    }
    for name, value in weights.items():
        kind = np.int64 if value.dtype.kind == "i" else np.float32
        model.graph.initializer.append(numpy_helper.from_array(value.astype(kind), name))
    return model


def test_a_detector_s_page_shows_boxes_on_pictures_whose_names_look_like_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    (tmp_path / "photos").mkdir()
    for i in range(10):
        pixels = rng.integers(90, 200, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}_{i % 3}.png")
    page, report = tmp_path / "v.html", tmp_path / "v.json"
    found = validate(
        detector(), detector(-0.5), images=tmp_path / "photos", task="detection", seconds=0, memory=False, threads=1,
        report=(str(page), str(report)),
    )  # fmt: skip
    without = validate(detector(), detector(), images=tmp_path / "photos", seconds=0, memory=False, threads=1)
    assert (without.accuracy, without.matched) == (None, 1.0)  # the names say nothing of a detector
    assert 0 < len(found.boxes) <= SHOWN
    text = page.read_text(encoding="utf-8")
    assert text.count("<image ") == len(found.boxes)
    drawn = sum(len(b.original) + len(b.compressed) for b in found.boxes)
    assert text.count('class="b-main"') + text.count('class="b-other"') == drawn
    stored = json.loads(report.read_text(encoding="utf-8"))["boxes"]
    assert {row["picture"] for row in stored} == {""}
    assert len(stored[0]["original"]) == len(found.boxes[0].original)


BOXES = np.array([[[0.1, 0.2, 0.3, 0.6], [0.5, 0.5, 0.9, 0.8]]], np.float32)


def outputs(*scores: float, unit: float = 1.0) -> dict[str, np.ndarray]:
    rows = np.array([[[1 - s, s] for s in scores]], np.float32)
    return {"boxes": BOXES * np.array([4 * unit, 3 * unit] * 2, np.float32) if unit != 1 else BOXES, "scores": rows}


def picture(seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(1, 3, 30, 40)).astype(np.float32)}


@pytest.mark.parametrize("unit", [1.0, 10.0])
def test_boxes_are_shares_of_the_picture(unit: float) -> None:
    album, both = Album(), outputs(0.9, 0.8, unit=unit)
    album.add(picture(), both, outputs(0.9, 0.1, unit=unit), ["a"])
    (shown,) = album.shown(known_reader(both))
    assert (shown.name, shown.width, shown.height, shown.matched) == ("a", 40, 30, 1)
    np.testing.assert_allclose(shown.original, BOXES[0], rtol=1e-5)
    np.testing.assert_allclose(shown.compressed, BOXES[0, :1], rtol=1e-5)


def test_those_that_differ_most_come_first_and_pictures_without_boxes_are_left_out() -> None:
    album = Album()
    for i in range(SHOWN + 4):
        found = (0.9, 0.8) if i % 3 else (0.1, 0.1)
        album.add(picture(i), outputs(*found), outputs(0.9 if i != 5 and i % 3 else 0.1, found[1]), [str(i)])
    shown = album.shown(known_reader(outputs(0.9, 0.8)))
    assert len(shown) == min(SHOWN, sum(1 for i in range(SHOWN + 4) if i % 3))
    assert shown[0].name == "5"
    assert all(int(s.name) % 3 for s in shown)
    assert album.shown(None) == ()


def test_what_is_no_single_picture_is_not_kept() -> None:
    album, both = Album(), outputs(0.9, 0.8)
    album.add(picture() | {"size": np.zeros(1)}, both, both, ["two inputs"])
    album.add({"x": np.zeros((1, 100), np.float32)}, both, both, ["a row"])
    assert album.kept == []


def test_of_a_batch_each_picture_is_kept_with_its_own_outputs() -> None:
    album, x = Album(), np.concatenate([picture(0)["x"], picture(1)["x"]])
    batch = {k: np.concatenate([y, outputs(0.9, 0.8)[k]]) for k, y in outputs(0.1, 0.7).items()}
    album.add({"x": x}, batch, batch, ["a", "b"])
    shown = {s.name: s for s in album.shown(known_reader(batch))}
    assert (len(shown["a"].original), len(shown["b"].original)) == (1, 2)
    assert shown["a"].picture != shown["b"].picture


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_the_picture_is_a_png_of_the_input(colour: str) -> None:
    x = np.zeros((1, 3, 4, 6), np.float32)
    x[0, 0, 1, 2], x[0, 1] = 2.0, -2.0
    album, both = Album(), outputs(0.9, 0.8)
    album.add({"x": x}, both, both, ["a"])
    (shown,) = album.shown(known_reader(both), colour)
    head, content = shown.picture.split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as opened:
        seen = np.asarray(opened)
    assert seen.shape == (4, 6, 3)
    red = (255, 0, 128) if colour == "rgb" else (128, 0, 255)
    assert tuple(seen[1, 2]) == red


def test_png_is_what_others_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    (tmp_path / "x.png").write_bytes(png(pixels))
    with Image.open(tmp_path / "x.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened), pixels)
