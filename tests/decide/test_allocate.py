"""Counts that a group may keep, and what they cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_udfc.channels.groups import ChannelGroup, find_groups
from onnx_udfc.decide.allocate import (
    Align,
    aligned,
    alignments,
    allowed_counts,
    as_one_of_many,
    damage_of,
    finest_near,
    group_levels,
    keep_sets,
    left_by,
    steps_of,
    why_whole,
)
from onnx_udfc.numerics.elimination import Removal
from tests.small_graphs import small_network


def group(channels: int, cells: int = 1, name: str = "g") -> ChannelGroup:
    return ChannelGroup(name, channels, ("p",), ("c",), (), "inner", np.arange(channels) % cells)


def removal(cost: list[float]) -> Removal:
    return Removal(np.arange(len(cost)), np.array(cost))


@pytest.mark.parametrize(
    ("channels", "count", "align", "kept"),
    [
        (64, 33, "auto", 32),  # 33 is one away from a multiple of 16, and may move by 2
        (64, 36, "auto", 36),
        (64, 43, "auto", 44),
        (32, 15, "auto", 16),
        (16, 7, "auto", 7),  # 1/32 of sixteen is less than one
        (64, 33, 1, 33),
        (64, 30, 24, 24),
        (64, 64, 24, 64),  # nothing removed: nothing to align
        (64, 37, "integer", 36),
        (32, 26, "auto", 26),
        (32, 26, "fours", 24),  # no depthwise kernel takes 26
        (32, 27, "fours", 28),
        (6, 5, "fours", 4),
        (3, 2, "fours", 3),
        (960, 850, "fours", 848),
        (96, 76, "eights", 72),  # 80 is more than a thirty-second away
        (96, 78, "eights", 80),
        (96, 76, "sixteens", 80),
        (24, 21, "sixteens", 24),
        (16, 7, "integer", 8),
        (6, 5, "integer", 4),
        (3, 2, "integer", 3),  # integer kernels take four: no multiple fits
        (2048, 1100, "tensor", 1088),  # 17 x 64
        (512, 300, "tensor", 288),  # 9 x 32: a multiple of 64 is more than 16 away
        (64, 37, "tensor", 40),  # eight at least
        (16, 7, "tensor", 8),
        (6, 5, "tensor", 6),
        (20, 1, 8, 8),
        (6, 1, 8, 6),  # no multiple fits
        (24, 22, 32, 24),
        (24, 2, 25, 24),
        (24, 22, 24, 24),
        (24, 22, 16, 24),  # all 24 are nearer than 16
        (24, 19, 16, 16),
        (96, 80, 64, 64),  # as near as 96: the lower
        (30, 28, 8, 30),
    ],
)
def test_aligned(channels: int, count: int, align: Align, kept: int) -> None:
    assert aligned(group(channels), count, align) == kept


@pytest.mark.parametrize("channels", [2, 10, 16, 48, 64, 96, 256])
@pytest.mark.parametrize("align", ["auto", "integer", "tensor", 1, 8])
def test_allowed_counts_are_fixed_points_and_hold_every_uniform_count(channels: int, align: int) -> None:
    counts = allowed_counts(group(channels), align)
    assert counts[0] == channels
    assert (np.diff(counts) < 0).all()
    assert counts[-1] >= 1
    for ratio in (0.1, 0.3, 0.5, 0.9):
        assert aligned(group(channels), left_by(group(channels), ratio), align) in counts


def test_allowed_counts_keep_cells_equal() -> None:
    counts = allowed_counts(group(12, cells=3), "auto")
    assert (counts % 3 == 0).all()
    assert counts[-1] == 3


def test_damage_is_the_sum_of_steps_raised_to_their_running_maximum() -> None:
    path = removal([1.0, 4.0, 2.0, 9.0, np.inf])
    assert steps_of(group(5), path).tolist() == [1, 4, 4, 9]
    assert damage_of(group(5), path, np.array([5.0, 4.0, 2.0, 1.0])).tolist() == [0, 1, 9, 18]


def test_cells_lose_one_channel_each_in_a_step() -> None:
    path = removal([1.0, 2.0, 3.0, 5.0, 8.0, np.inf])  # cells 0 1 0 1 0 1
    assert steps_of(group(6, cells=2), path).tolist() == [3, 8]
    assert damage_of(group(6, cells=2), path, np.array([6.0, 4.0, 2.0])).tolist() == [0, 3, 11]


def test_cells_of_unequal_size_first_lose_what_the_larger_have_more() -> None:
    path = removal([1.0, 2.0, 3.0, 5.0, np.inf])  # cells 0 1 0 1 0: three channels and two
    assert damage_of(group(5, cells=2), path, np.array([5.0, 4.0, 2.0])).tolist() == [0, 1, 6]
    assert keep_sets((group(5, cells=2),), {"g": path}, {"g": 4})["g"].tolist() == [1, 2, 3, 4]


def test_levels_start_whole_and_free() -> None:
    rows = group_levels((group(8),), {"g": removal([*np.arange(7.0), np.inf])}, {"g": 2})
    assert rows[0][0].tolist() == [8, 6, 4, 2]
    assert rows[0][1].tolist() == [0, 1, 6, 15]


def test_the_last_in_the_order_stay_equally_many_of_each_cell() -> None:
    path = Removal(np.array([3, 1, 0, 5, 2, 4]), np.ones(6))
    assert keep_sets((group(6),), {"g": path}, {"g": 2})["g"].tolist() == [2, 4]
    assert keep_sets((group(6, cells=2),), {"g": path}, {"g": 4})["g"].tolist() == [1, 2, 4, 5]


def test_shares_of_the_variance_multiply_over_layers() -> None:
    share = np.array([0.0, 0.2, 0.5, 0.89, 0.9, 0.95, 1.5])
    damage = as_one_of_many(share)
    np.testing.assert_allclose(damage[:4], -np.log([1, 0.8, 0.5, 0.11]), rtol=1e-12)
    assert (np.diff(np.diff(damage) / np.diff(share)) > -1e-9).all()  # convex: what is left grows dearer
    assert damage[-1] == pytest.approx(-np.log(0.1) + 0.6 * 10)
    path = Removal(np.arange(3), np.array([0.2, 0.3, np.inf]), shares=True)
    assert damage_of(group(3), path, np.array([3.0, 2.0, 1.0])).tolist() == pytest.approx(
        [0, -np.log(0.8), -np.log(0.5)]
    )


def test_a_lost_share_counts_as_much_as_those_who_read_it() -> None:
    plain = Removal(np.arange(3), np.array([0.2, 0.3, np.inf]), shares=True)
    thrice = replace(plain, weighed=3 * plain.cost)
    counts = np.array([3.0, 2.0, 1.0])
    np.testing.assert_allclose(damage_of(group(3), thrice, counts), 3 * damage_of(group(3), plain, counts))
    nothing = Removal(np.arange(3), np.array([0.0, 0.0, np.inf]), shares=True, weighed=np.array([0.0, 0.0, np.inf]))
    assert damage_of(group(3), nothing, counts).tolist() == [0, 0, 0]


def test_no_alignment_takes_more_than_the_ratio_and_half_a_multiple() -> None:
    for channels in range(2, 70):
        for align in (1, 3, 8, 16, 31, 32, 64):
            for ratio in (0.01, 0.1, 0.5, 0.9):
                wanted = left_by(group(channels), ratio)
                kept = aligned(group(channels), wanted, align)
                assert kept == channels or kept % align == 0
                assert kept > wanted - align
                assert kept == channels or kept >= align


@pytest.mark.parametrize(
    ("channels", "wanted", "align", "words"),
    [
        (1, 1, "auto", ["single channel"]),
        (8, 8, "auto", ["less than one of its 8"]),
        (24, 22, 32, ["multiple of 32", "--align 32", "22", "all 24"]),
        (3, 2, "integer", ["multiple of 4", "integer kernels"]),
        (12, 11, "tensor", ["multiple of 8", "tensor cores"]),
    ],
)
def test_the_reason_is_the_one_that_decided(channels: int, wanted: int, align: Align, words: list[str]) -> None:
    assert aligned(group(channels), wanted, align) == channels
    reason = why_whole(group(channels), wanted, align)
    assert all(word in reason for word in words), reason


MOBILE = """g (float[1,3,8,8] x, float[12,3,1,1] W0, float[12,1,3,3] W1, float[24,12,1,1] W2, float[4,24,1,1] W3)
=> (float[1,4,8,8] y) { a = Conv(x, W0) b = Relu(a) c = Conv<group = 12, pads = [1,1,1,1]>(b, W1) d = Relu(c)
e = Conv(d, W2) f = Relu(e) y = Conv(f, W3) }"""


def test_a_group_with_a_depthwise_layer_keeps_fours() -> None:
    network = small_network(MOBILE)
    groups = find_groups(network).groups
    assert [g.channels for g in groups] == [12, 24]
    assert list(alignments(groups, network.layers, "auto").values()) == ["fours", "auto"]
    assert list(alignments(groups, network.layers, 3).values()) == [3, 3]
    assert list(alignments(groups, network.layers, "tensor").values()) == ["tensor", "tensor"]


@pytest.mark.parametrize(
    ("align", "channels", "step"),
    [("auto", 64, 4), ("auto", 63, 1), ("fours", 8, 4), (1, 512, 1), (8, 64, 8), ("tensor", 64, 8), ("integer", 8, 4)],
)
def test_what_is_left_of_a_limit_is_filled_with_fours_where_they_are_near(
    align: Align, channels: int, step: int
) -> None:
    assert finest_near(align, channels) == step
