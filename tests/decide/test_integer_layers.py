"""One layer on integer kernels, and which ranks those like."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.decide.integer_layers import alone, fills_blocks, liked_anywhere, near, saving_of
from onnx_udfc.numerics.factors import Split
from onnx_udfc.runtime.sessions import open_session
from tests.small_graphs import small_network

LAYERS = """
g (float[2,8,9,9] x, float[2,5,8] z, float[24,8,3,3] A, float[24,1,3,3] B, float[24,24,1,1] C, float[8,20] M,
   float[2,8,9] s, float[24,8,3] D, float[2,8,3,4,5] t, float[24,8,2,2,2] E)
    => (float[2,24,5,5] y, float[2,5,20] u, float[2,24,7] d, float[2,24,2,3,4] e, float[2,24,5,5] w)
{
  p = Conv <strides=[2,2], pads=[1,1,1,1]> (x, A)
  q = Conv <group=24, dilations=[2,2], pads=[2,2,2,2]> (p, B)
  y = ConvTranspose (q, C)
  u = MatMul (z, M)
  d = Conv (s, D)
  e = Conv (t, E)
  w = Conv <group=24, dilations=[2,2], auto_pad="SAME_UPPER"> (p, B)
}
"""


def test_ranks_are_liked_that_leave_nothing_over() -> None:
    ranks = np.arange(1, 41)
    assert ranks[fills_blocks(ranks)].tolist() == [16, 20, 24, 28, 32, 36, 40]
    assert ranks[liked_anywhere(ranks)].tolist() == [8, 16, 24, 32, 40]


def test_other_ranks_save_nothing() -> None:
    saving = saving_of(lambda at, _, ranks: (at + 1) * ranks.astype(float), fills_blocks)
    assert saving(1, Split("channel", (3,), 0), np.array([8, 16, 18, 20])).tolist() == [0, 32, 0, 40]


@pytest.mark.parametrize(("count", "most", "expected"), [(3, 64, 16), (17, 64, 20), (3, 10, 10), (63, 63, 63)])
def test_layers_are_timed_at_counts_that_fill_blocks(count: int, most: int, expected: int) -> None:
    assert near(count, most) == expected


@pytest.mark.parametrize(
    ("number", "source", "counts", "shape"),
    [
        (0, (2, 8, 9, 9), (24, 8), (2, 5, 5, 24)),  # channels last
        (0, (2, 4, 9, 9), (16, 4), (2, 5, 5, 16)),
        (1, (2, 24, 5, 5), (24, 24), (2, 5, 5, 24)),
        (3, (2, 5, 8), (20, 8), (2, 5, 20)),
        (4, (2, 8, 9), (24, 8), (2, 7, 24)),
        (5, (2, 8, 3, 4, 5), (24, 8), (2, 2, 3, 4, 24)),
    ],
)
def test_a_layer_alone_runs_and_writes_what_the_layer_writes(
    number: int, source: tuple[int, ...], counts: tuple[int, int], shape: tuple[int, ...]
) -> None:
    layer = list(small_network(LAYERS).layers.values())[number]
    made = alone(layer, source, *counts)
    assert made is not None
    (y,) = open_session(made[0], threads=1).run(None, dict(made[1]))
    assert (y.dtype, y.shape) == (np.uint8, shape)
    assert len(np.unique(y)) > 10  # neither all 0 nor all 255


def test_what_has_no_integer_kernel_is_timed_in_float() -> None:
    layers = list(small_network(LAYERS).layers.values())
    assert alone(layers[2], (2, 24, 5, 5), 24, 24) is None  # transposed
    assert alone(layers[6], (2, 24, 5, 5), 24, 24) is None  # dilated, and its pads are not said
