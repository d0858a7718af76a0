"""The photographs that ship, and crops of them."""

import csv
import subprocess
import sys
from importlib.resources import files

import numpy as np

from onnx_udfc.inputs.photographs import DEVIATION, MEAN, SIDES, photographs, picture, resampling, stored

DATA = files("onnx_udfc.inputs").joinpath("data")


def test_there_are_a_hundred_and_more_different_pictures_in_little_room() -> None:
    every = stored()
    assert {side for side, _ in every} == set(SIDES)
    assert all(picture(*one).shape == (one[0], one[0], 3) for one in every)
    assert len(every) >= 120
    thumbs = np.stack([picture(*one)[4::8, 4::8].ravel()[:1200] for one in every])
    assert len(np.unique(thumbs, axis=0)) == len(thumbs)
    assert len(DATA.joinpath("photographs.xz").read_bytes()) < 1_500_000


def test_every_picture_names_its_author_and_a_licence_that_lets_it_ship() -> None:
    with DATA.joinpath("origins.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert sum(int(r["views"]) for r in rows) == len(stored())
    page = DATA.joinpath("LICENSES.md").read_text(encoding="utf-8")
    for row in rows:
        assert row["author"]
        assert row["source"]
        assert row["licence"] in {"public domain", "CC0-1.0", *(f"CC-BY-{v}" for v in ("1.0", "2.0", "3.0", "4.0"))}
        assert f"| {row['author']} | {row['licence']} |" in page


def test_reading_needs_no_pillow() -> None:
    code = "import sys; sys.modules['PIL'] = None\nfrom onnx_udfc.inputs.photographs import picture; picture(320, 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_pictures_that_are_drawn_are_decoded() -> None:
    picture.cache_clear()
    photographs(3, 3, (200, 200), np.random.default_rng(0))
    assert picture.cache_info().currsize == 3


def test_crops_are_pixels_in_normalized_units_and_differ() -> None:
    x = photographs(24, 3, (40, 56), np.random.default_rng(0))
    assert x.shape == (24, 3, 40, 56)
    assert x.dtype == np.float32
    pixels = x * DEVIATION + MEAN
    assert pixels.min() >= -1e-3
    assert pixels.max() <= 255 + 1e-3
    assert 0.5 < x.std() < 1.5
    assert np.triu(np.corrcoef(x.reshape(24, -1)), 1).max() < 0.95


def test_the_same_generator_gives_the_same_crops_and_another_others() -> None:
    first, again, other = (photographs(3, 3, (32, 32), np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_channel_is_grey_and_many_are_mixtures() -> None:
    colour = photographs(4, 3, (16, 16), np.random.default_rng(2))
    grey = photographs(4, 1, (16, 16), np.random.default_rng(2))
    many = photographs(4, 6, (16, 16), np.random.default_rng(2))
    np.testing.assert_allclose(
        grey[:, 0], np.einsum("c,nchw->nhw", [0.299, 0.587, 0.114], colour), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(many[:, :3], colour, rtol=1e-5, atol=1e-6)
    assert many[:, 3:].min() >= colour.min()
    assert many[:, 3:].max() <= colour.max()
    assert photographs(2, 2, (16, 16), np.random.default_rng(2)).shape == (2, 2, 16, 16)


def test_resampling_keeps_flat_areas_flat_and_averages_where_it_shrinks() -> None:
    for out, length, start in ((32, 160.0, 0.0), (224, 60.5, 31.2), (7, 7.0, 0.0)):
        np.testing.assert_allclose(resampling(out, 160, length, start).sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(resampling(7, 7, 7.0, 0.0), np.eye(7, dtype=np.float32))
    pairs = resampling(4, 8, 8.0, 0.0) @ np.array([0, 1] * 4, np.float32)
    np.testing.assert_allclose(pairs[1:-1], 0.5, rtol=1e-6)
