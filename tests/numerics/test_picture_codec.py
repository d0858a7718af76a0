"""Pictures as rounded cosine transforms."""

import numpy as np

from onnx_udfc.numerics.picture_codec import RISE, STEP, decode, encode
from tests.memory import taken


def test_a_flat_picture_comes_back_within_half_a_step_of_its_constant() -> None:
    for colour in ((0, 0, 0), (255, 255, 255), (200, 30, 90)):
        flat = np.full((1, 32, 32, 3), colour, np.uint8)
        assert np.abs(decode(*encode(flat)).astype(int) - flat).max() <= 2


def test_codes_are_the_rounded_orthonormal_transform_of_the_luma() -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(60, 200, (2, 16, 16, 1)).astype(np.uint8), 3, axis=-1)
    luma, chroma = encode(grey)
    assert luma.shape == (64, 2, 2, 2)
    assert not chroma.any()
    block = grey[1, 8:, :8, 0] - 128.0
    u, x = np.arange(8)[:, None], np.arange(8)
    basis = np.cos(np.pi * u * (2 * x + 1) / 16) / 2 * np.where(u == 0, 2**-0.5, 1)
    exact = basis @ block @ basis.T / (STEP * (1 + RISE * (u + x)))
    order = np.argsort((u + x).ravel(), kind="stable")
    np.testing.assert_array_equal(luma[:, 1, 1, 0], np.rint(exact).ravel()[order])


def test_smooth_pictures_lose_little() -> None:
    y, x = np.mgrid[:64, :64]
    picture = np.stack([96 + 60 * np.sin(x / 9), 128 + 50 * np.cos(y / 7), 90 + x + 0 * y], -1)[None]
    back = decode(*encode(picture.astype(np.uint8)))
    assert np.abs(back - picture.astype(np.uint8).astype(float)).mean() < 2


def test_many_pictures_take_hardly_more_memory_than_their_pixels_and_each_is_what_it_is_alone() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (40, 160, 160, 3)).astype(np.uint8)
    luma, chroma = encode(pictures)
    back, bytes_ = taken(lambda: decode(luma, chroma))
    assert bytes_ < 6 * back.nbytes
    for i in (0, 17, 39):
        alone = decode(luma[:, i : i + 1], chroma[:, [i, 40 + i]])
        apart = np.abs(back[i].astype(int) - alone[0].astype(int))  # BLAS may sum in another order for fewer columns
        assert apart.max() <= 1
        assert np.mean(apart > 0) < 1e-4


def test_halved_pictures_are_the_means_of_four_pixels_where_these_change_slowly() -> None:
    y, x = np.mgrid[:64, :64]
    picture = np.stack([96 + 60 * np.sin(x / 9), 128 + 50 * np.cos(y / 7), 90 + x + 0 * y], -1)[None]
    codes = encode(picture.astype(np.uint8))
    half, whole = decode(*codes, halved=True), decode(*codes).astype(float)
    assert half.shape == (1, 32, 32, 3)
    means = whole.reshape(1, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(half - means).mean() < 1
    assert np.abs(half - means).max() < 6
