"""Patterns of --skip that nothing has are refused; names of the file and of what reading makes of it count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import pytest

from onnx_udfc import Options, compress, inspect
from onnx_udfc.errors import RequestError
from tests.command_line import small_classifier
from tests.small_graphs import small_model

QUICK: dict[str, Any] = {"bits": 8, "method": "none", "threads": 1}
NORMED = """
net (float[1, 3, 8, 8] x, float[4, 3, 3, 3] W, float[4] S, float[4] B, float[4] M, float[4] V)
    => (float[1, 4, 8, 8] y)
{
    [conv] c = Conv <pads = [1, 1, 1, 1]> (x, W)
    [norm] y = BatchNormalization (c, S, B, M, V)
}
"""


def normed() -> onnx.ModelProto:
    """A convolution with a batch norm, which reading folds into it."""
    return small_model(NORMED)


def names(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in (node.name, *node.input, *node.output) if name]


def test_every_name_of_a_file_may_be_skipped_also_what_reading_folds_away() -> None:
    for model in (small_classifier(), normed()):
        for name in names(model):
            inspect(model, skip=name)
            compress(model, skip=[name], **QUICK)


def test_a_pattern_that_nothing_has_is_refused_with_the_name_that_comes_nearest() -> None:
    model = normed()
    for call in (lambda skip: compress(model, skip=skip, **QUICK), lambda skip: inspect(model, skip=skip)):
        with pytest.raises(
            RequestError, match=r"^skip='conw\*': no node or tensor has such a name; did you mean conv\?"
        ):
            call(["norm", "conw*"])
        with pytest.raises(RequestError, match=r"no node or tensor has such a name; see onnx-udfc inspect$"):
            call("zzzzz")
        call("*")


def test_a_shared_original_refuses_too() -> None:
    from onnx_udfc.original import read_original

    options = Options(**QUICK)
    original = read_original(normed(), options)
    with pytest.raises(RequestError, match="no node or tensor has such a name"):
        original.for_skip(replace(options, skip=("nothing",)).skip)


def test_ratios_for_layers_that_are_not_there_are_refused_also_where_nothing_can_be_pruned() -> None:
    with pytest.raises(RequestError, match="no layer of this name writes channels that can go"):
        compress(normed(), prune_layer={"nothing": 0.5}, threads=1, images=4)
