"""Rendered text."""

from collections.abc import Callable

import numpy as np
import pytest

from onnx_udfc.inputs.glyphs import HEIGHT, SCRIPTS, Face, faces, ink, words
from onnx_udfc.inputs.photographs import DEVIATION, MEAN
from onnx_udfc.inputs.text import lines, lines_of, pages, scenes, turned_lines
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
    letters = {
        "Latin": "AHnr17", "Chinese": "上的中", "Japanese": "あがぬ", "Korean": "이글한", "Traditional": "國學開",
        "Cyrillic": "ЖШЯ", "Greek": "ΓΔΣ",
    }  # fmt: skip
    assert {face.script for face in faces()} == {"Latin", *SCRIPTS} == letters.keys()
    for face in faces():
        for letter in letters[face.script]:
            rows = np.flatnonzero(ink(letter, face).max(1) > 0.5)
            assert rows.size >= 10, letter
            assert rows.max() in ((26, 27) if face.script in ("Latin", "Greek") else range(26, 32)), letter
        assert len(set(face.characters)) == len(face.characters) == len(face.widths)
    assert len(words()) > 200


@pytest.mark.parametrize(
    ("draw", "size"),
    [
        (lines, (48, 320)),
        (lines_of("Korean"), (48, 320)),
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


@pytest.mark.parametrize("script", SCRIPTS)
def test_lines_of_a_script_are_that_alone(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def spied(text: str, face: Face, spacing: int = 0) -> Array:
        assert set(text) <= set(face.characters) | {" "}
        drawn.append(face.script)
        return ink(text, face, spacing)

    monkeypatch.setattr("onnx_udfc.inputs.glyphs.ink", spied)
    lines_of(script)(10, 3, (48, 320), np.random.default_rng(0))
    assert drawn == [script] * 10
    drawn.clear()
    lines(60, 3, (48, 320), np.random.default_rng(0))
    assert 8 <= drawn.count("Chinese") == 60 - drawn.count("Latin") <= 28  # three in ten


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
