"""Rendered text."""

from collections.abc import Callable

import numpy as np
import pytest

from onnx_udfc.inputs.glyphs import HEIGHT, Face, faces, ink, words
from onnx_udfc.inputs.photographs import DEVIATION, MEAN
from onnx_udfc.inputs.text import chinese_lines, lines, pages, scenes, turned_lines
from onnx_udfc.numerics.images import Array

Maker = Callable[[int, int, tuple[int, int], np.random.Generator], Array]


def test_a_line_is_its_letters_side_by_side() -> None:
    face = faces()[0]
    a, b = (ink(c, face) for c in "Ag")
    np.testing.assert_array_equal(ink("Ag", face), np.concatenate([a, b], axis=1))
    assert a.shape == (HEIGHT, face.widths[face.characters.index("A")])
    assert a.max() == 1
    spaced = ink("A g", face, spacing=2)
    assert spaced.shape[1] == a.shape[1] + b.shape[1] + 8 + 3 * 2
    assert not spaced[:, a.shape[1] : a.shape[1] + 2].any()


def test_letters_of_all_faces_are_there_and_stand_on_one_row() -> None:
    assert sum(face.chinese for face in faces()) == 2
    for face in faces():
        for letter in "上的中" if face.chinese else "AHnr17":
            rows = np.flatnonzero(ink(letter, face).max(1) > 0.5)
            assert rows.size >= 10, letter
            assert rows.max() in ((26, 27, 28, 29, 30) if face.chinese else (26, 27)), letter
    assert len(words()) > 200


@pytest.mark.parametrize(
    ("draw", "size"),
    [
        (lines, (48, 320)),
        (chinese_lines, (48, 320)),
        (turned_lines, (32, 100)),
        (scenes, (96, 128)),
        (pages, (128, 96)),
    ],
)
def test_pictures_of_text_are_pixels_in_normalized_units_and_seeded(draw: Maker, size: tuple[int, int]) -> None:
    first, again = (draw(6, 3, size, np.random.default_rng(4)) for _ in range(2))
    assert first.shape == (6, 3, *size)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    pixels = first * DEVIATION + MEAN
    assert pixels.min() >= -1e-3
    assert pixels.max() <= 255 + 1e-3
    assert (first.std((1, 2, 3)) > 0.1).all()
    assert draw(2, 1, size, np.random.default_rng(4)).shape == (2, 1, *size)


def test_a_line_upside_down_ends_in_padding_at_the_right_as_well() -> None:
    padding = (127.5 - MEAN) / DEVIATION
    for draw in (lines, turned_lines):
        drawn = draw(40, 3, (48, 320), np.random.default_rng(0))
        padded = np.isclose(drawn[:, :, :, -1], padding, atol=1e-6).all((1, 2))
        assert padded.sum() >= 10
        assert not np.isclose(drawn[:, :, :, 0], padding, atol=1e-6).all((1, 2)).any()


def test_chinese_lines_are_chinese_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bool] = []

    def spied(text: str, face: Face, spacing: int = 0) -> Array:
        drawn.append(face.chinese)
        return ink(text, face, spacing)

    monkeypatch.setattr("onnx_udfc.inputs.glyphs.ink", spied)
    chinese_lines(30, 3, (48, 320), np.random.default_rng(0))
    assert drawn == [True] * 30
    drawn.clear()
    lines(60, 3, (48, 320), np.random.default_rng(0))
    assert 8 <= sum(drawn) <= 28  # three in ten


def test_text_stands_out_from_what_it_is_written_on() -> None:
    grey = pages(8, 1, (128, 128), np.random.default_rng(1))[:, 0]
    low, high = np.quantile(grey, [0.02, 0.98], axis=(1, 2))
    assert ((high - low) * DEVIATION > 60).all()


def test_a_line_to_be_read_stands_out_more_than_one_to_be_found() -> None:
    spans = []
    for line in lines(64, 1, (48, 192), np.random.default_rng(2))[:, 0] * DEVIATION:
        written = line[:, : np.flatnonzero(np.ptp(line, axis=0) > 1e-3).max() + 1]  # what is behind it is padding
        spans.append(np.diff(np.quantile(written, [0.01, 0.99])))
    assert np.quantile(spans, 0.05) > 100
