"""Where readers' taps stand among the positions of a layer's output."""

import numpy as np
import pytest

from onnx_udfc.repair.readers import View, touched


def test_touched_positions_are_those_that_any_tap_reads_ascending_and_once() -> None:
    first, second = np.array([[7, -1, 3], [3, 0, 7]]), np.array([[12], [-1]])
    np.testing.assert_array_equal(touched(first, second), [0, 3, 7, 12])
    np.testing.assert_array_equal(touched(first[:, 1:2]), [0])
    assert touched(np.array([[-1, -1]])).size == 0
    assert touched(np.zeros((0, 9), np.int64)).size == 0


@pytest.mark.parametrize("pooled", [False, True])
def test_a_reader_finds_the_same_positions_by_index(pooled: bool) -> None:
    """An index leads back to its position, and one behind the last stands for what lies outside."""
    rng = np.random.default_rng(0)
    taps, targets, weight = rng.integers(-1, 40, (30, 9)), np.zeros((30, 2), np.float32), np.zeros((2, 9))
    used, windows = touched(taps), rng.integers(-1, 90, (len(touched(taps)), 4))
    view = View(taps, targets, used, windows) if pooled else View(taps, targets)
    rows = touched(view.rows, np.array([95]))  # another reader sees more
    reader = view.reader(rows, weight)
    known = used if pooled else rows
    np.testing.assert_array_equal(np.append(known, -1)[reader.taps], taps)
    assert reader.taps.max() == len(known)
    if pooled:
        assert reader.windows is not None
        np.testing.assert_array_equal(np.append(rows, -1)[reader.windows], windows)
