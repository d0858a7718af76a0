"""Words of codes: every number of levels, and as onnxruntime reads them."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.numerics.grids import FORMATS
from onnx_udfc.numerics.words import best_count, codes_per_word, pack_words, packed_bits, powers

LEVELS = sorted({fmt.levels for fmt in FORMATS.values() if fmt.packs})


@pytest.mark.parametrize(("levels", "count"), [(3, 39), (5, 27), (7, 22), (9, 19), (11, 18), (15, 16), (255, 7)])
def test_a_word_is_as_full_as_a_signed_one_can_be(levels: int, count: int) -> None:
    assert codes_per_word(levels) == count
    assert levels**count < 2**63 <= levels ** (count + 1)
    assert packed_bits(levels) == 64 / count


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("size", [1, 2, 100, 1287])
def test_digits_are_the_codes(levels: int, size: int) -> None:
    half = levels // 2
    codes = np.random.default_rng(size).integers(-half, half + 1, size).astype(np.int8)
    codes[-1] = half  # the largest digit in the last place of a word
    for count in {1, codes_per_word(levels)}:
        words = pack_words(codes, levels, count)
        assert words.dtype == np.int64
        assert words.shape == (-(-size // count), 1)
        assert (words >= 0).all()
        digits = words // powers(levels, count) % levels - half
        np.testing.assert_array_equal(digits.reshape(-1)[:size], codes)


def test_a_full_word_of_largest_codes_does_not_overflow() -> None:
    for levels in LEVELS:
        count = codes_per_word(levels)
        word = pack_words(np.full(count, levels // 2, np.int8), levels, count)
        assert int(word[0, 0]) == levels**count - 1


def test_a_divisor_is_taken_where_it_costs_less_than_the_nodes_that_cut_off_the_rest() -> None:
    assert best_count(22 * 100, 7, 120) == 22
    assert best_count(21 * 22, 7, 0) == 22
    assert best_count(2304, 3, 120) == 36  # 64 words where 60 would do
    assert best_count(9 * 1000 * 13, 3, 120) == 39
    assert best_count(1287, 7, 120) == 22  # 99 words at 13 codes each, 59 at 22
    assert best_count(13, 7, 120) == 13
