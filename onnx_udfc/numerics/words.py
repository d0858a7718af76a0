"""Codes of any number of levels in 64-bit words, for widths that ONNX has no type for.

A word is a number whose digits, in base L, are k codes of L levels, q from −(L − 1)/2 to (L − 1)/2:

    word = Σ_j (q_j + (L − 1)/2) · L^j  < 2^63,      k = ⌊63 / log2 L⌋

so 7 levels take 64/22 = 2.91 bits each and 3 levels 1.64. Read back: q_j = (word div L^j) mod L − (L − 1)/2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORD_BITS = 64
_LIMIT = 2**63 - 1


def codes_per_word(levels: int) -> int:
    """k, the number of codes of `levels` ≥ 2 values that a word holds."""
    count = 0
    while levels ** (count + 1) <= _LIMIT:
        count += 1
    return count


def packed_bits(levels: int) -> float:
    """Bits that one code takes."""
    return WORD_BITS / codes_per_word(levels)


def powers(levels: int, count: int) -> NDArray[np.int64]:
    """L^0 to L^(count − 1)."""
    return np.array([levels**j for j in range(count)], np.int64)


def pack_words(codes: NDArray[np.int8], levels: int, count: int) -> NDArray[np.int64]:
    """Words (m, 1), `count` codes in each, the last one filled up with the least code.

    Args:
        codes: any shape, symmetric around 0, `levels` values at most (an odd number).
        levels: L.
        count: at most codes_per_word(levels).
    """
    digits = np.full(-(-codes.size // count) * count, -(levels // 2), np.int8)
    digits[: codes.size] = codes.reshape(-1)
    words = np.zeros(digits.size // count, np.int64)
    for column in digits.reshape(-1, count).T[::-1]:  # the last digit first: no array of 64 bits for each code
        words *= levels
        words += column
        words += levels // 2
    return words[:, None]


def best_count(size: int, levels: int, node_bytes: int) -> int:
    """Codes in a word for `size` codes: a divisor of size where the words it wastes take less than `node_bytes`."""
    most = codes_per_word(levels)
    least = 8 * -(-size // most)
    for count in range(most, 0, -1):
        if size % count == 0:
            return count if 8 * size // count - least <= node_bytes else most
    return most
