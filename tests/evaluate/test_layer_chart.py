"""The chart of where bytes, MACs and time are."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from onnx_udfc.evaluate.layer_chart import axis, blocks, layer_chart, quantity
from onnx_udfc.evaluate.report import LayerReport


def layer(name: str, **more: object) -> LayerReport:
    plain = LayerReport(
        name, "Conv", 8, 100, 50, None, macs_before=1000, macs_after=400, bytes_before=400, bytes_after=50
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def test_few_layers_are_a_row_each() -> None:
    found = blocks([layer("b"), layer("a")])
    assert [block.name for block in found] == ["b", "a"]


def test_many_layers_are_blocks_by_the_beginning_of_their_names() -> None:
    names = [f"/stage{i}/block{j}/Conv_{k}" for i in range(5) for j in range(3) for k in range(2)]
    found = blocks([layer(name) for name in names])
    assert [block.name for block in found][:4] == [
        "/stage0/block0",
        "/stage0/block1",
        "/stage0/block2",
        "/stage1/block0",
    ]
    assert [len(block.layers) for block in found] == [2] * 15
    assert [x.name for block in found for x in block.layers] == names


def test_a_block_that_comes_again_is_another_row() -> None:
    names = [f"{top}.{i}" for top in ("a", "b", "a", "c") for i in range(9)]
    assert [block.name for block in blocks([layer(name) for name in names])] == ["a", "b", "a", "c"]


@pytest.mark.parametrize("names", [[f"Conv_{i}" for i in range(100)], [f"/only/one/Conv_{i}" for i in range(100)]])
def test_names_that_tell_nothing_give_equal_shares(names: list[str]) -> None:
    found = blocks([layer(name) for name in names])
    assert len(found) == 20
    assert found[0].name == f"{names[0]} … {names[4]}"
    assert [x.name for block in found for x in block.layers] == names


def test_figures_of_a_block_are_sums_and_unknown_ones_are_no_zeros() -> None:
    (block,) = blocks([layer("a/1", ms_before=1.0), layer("a/2")] * 20, most=1)
    assert block.total("bytes_before") == 40 * 400
    assert block.total("ms_before") == 20.0
    assert block.total("ms_after") is None


def test_bars_are_shares_of_the_largest() -> None:
    page = layer_chart([layer("a"), layer("b", bytes_before=800, bytes_after=80)])
    assert "800 → 80" in page
    widths = re.findall(r'class="f-(?:faint|main)" x="0" y="[^"]*" width="([^"]*)"', page)
    assert widths == ["50", "6.25", "100", "40", "100", "10", "100", "40"]
    assert "time" not in page


def test_time_has_a_row_for_all_that_is_no_layer() -> None:
    page = layer_chart([layer("a", ms_before=0.002, ms_after=0.001)], (0.004, 0.003))
    assert "all that is no layer" in page
    assert "2 → 1" in page
    assert "4 → 3" in page


def test_without_figures_there_is_no_chart() -> None:
    bare = layer("a", bytes_before=None, macs_before=None)
    assert layer_chart([]) == ""
    assert layer_chart([bare]) == ""


def test_quantities_have_three_digits() -> None:
    told = [quantity(v) for v in (0, 7, 960, 1624, 331776, 25e6, 4_089_184_256)]
    assert told == ["0", "7", "960", "1.62 k", "332 k", "25 M", "4.09 G"]


def test_names_stand_where_their_layers_are() -> None:
    names = [f"n{i}" for i in range(12)]
    assert re.findall(r"<li>(.*?)</li>", axis(names)) == ["n0", "n2", "n4", "n6", "n8", "n10"]
    assert axis([]) == ""
