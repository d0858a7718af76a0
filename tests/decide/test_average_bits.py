"""Bits as an average: what each layer gets, and that the file is not larger."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from onnx_udfc import Options, Result, compress
from onnx_udfc.decide.asked import widths_of
from onnx_udfc.decide.average_bits import _spent, _worth
from onnx_udfc.options.voice import CombinationError

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits_resnet_folded.onnx"
FEW = Options(bits=4, threads=1, image_count=32)


def made(options: Options) -> Result:
    return compress(DIGITS, options)


@pytest.mark.parametrize(("bits", "factor"), [(4, "off"), (3, "on")])
def test_the_file_is_no_larger(bits: int, factor: str) -> None:
    asked = replace(FEW, bits=bits, factor=factor, budget={"macs": "0.5"} if factor == "on" else {})
    free, even = made(asked), made(replace(asked, bits_uniform=True))
    assert {layer.bits for layer in even.report.layers} == {bits}
    assert len({layer.bits for layer in free.report.layers}) > 1
    assert free.report.after.bytes <= even.report.after.bytes


def test_bits_where_they_are_needed_bring_the_answers_nearer_to_the_original() -> None:
    free, even = (made(Options(bits=4, threads=1, bits_uniform=uniform)) for uniform in (False, True))
    near, far = free.report.fidelity.sqnr_db, even.report.fidelity.sqnr_db
    assert near is not None
    assert far is not None
    assert near > far + 1


def test_bits_that_the_file_cannot_save_are_not_lost() -> None:
    result, eight = made(replace(FEW, bits=7)), made(replace(FEW, bits=8))
    assert {layer.bits for layer in result.report.layers} == {8}  # codes of 7 bits take a byte each
    assert result.report.after.bytes <= eight.report.after.bytes


@pytest.mark.parametrize(
    "options",
    [
        replace(FEW, activations=8),  # integer kernels compute all in 8 bits
        replace(FEW, method="udfc"),  # nothing is run, so nothing tells the layers apart
        replace(FEW, bits=8),
        replace(FEW, bits=2),
        replace(FEW, bits_uniform=True),
    ],
)
def test_where_bits_are_not_free(options: Options) -> None:
    assert widths_of(options) == ()


def test_the_bits_asked_for_are_among_the_widths() -> None:
    assert 7 in widths_of(replace(FEW, bits=7))
    assert widths_of(FEW) == widths_of(replace(FEW, bits="auto", budget={"bytes": "0.1"}))


@pytest.mark.parametrize("bits", [32, "auto"])
def test_equal_bits_need_a_number(bits: int | str) -> None:
    budget = {"bytes": "0.5"} if bits == "auto" else {}
    with pytest.raises(CombinationError, match="needs a number of bits"):
        Options(bits=bits, bits_uniform=True, budget=budget).check()


def test_only_widths_that_pay_are_steps() -> None:
    size = np.array([8.0, 9.0, 5.0, 4.0, 2.0])
    damage = np.array([0.0, 0.1, 3.0, 3.5, 4.0])
    assert _worth(size, damage) == [0, 4]  # 9 saves nothing; on the way to 2, 5 and 4 lie above the line


def test_nothing_else_that_fits_does_less() -> None:
    rng = np.random.default_rng(0)
    size = np.array([8.0, 6.0, 4.0, 2.0]) * rng.integers(1, 4, 4).astype(np.float64)[:, None]
    damage = 4.0 ** -np.array([8.0, 6.0, 4.0, 2.0]) * rng.uniform(0.1, 10, 4)[:, None]
    room = float(size[:, 2].sum())
    chosen = _spent(size, damage, room)
    assert chosen is not None
    rows = np.arange(4)
    assert size[rows, chosen].sum() <= room
    fitting = [k for k in product(range(4), repeat=4) if size[rows, k].sum() <= room]
    best = min(damage[rows, k].sum() for k in fitting)
    assert damage[rows, chosen].sum() <= 1.5 * best
    assert damage[rows, chosen].sum() < damage[:, 2].sum()
    assert _spent(size, damage, 1.0) is None
