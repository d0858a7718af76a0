"""What a validation counts for each class, and its page."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest

from onnx_udfc import validate
from onnx_udfc.cli import options as cli_options
from onnx_udfc.cli.commands import app
from onnx_udfc.evaluate.side_by_side import ClassCount, Gathered
from onnx_udfc.evaluate.validation_page import to_page
from onnx_udfc.options import Judging
from onnx_udfc.options.command import validate_line
from tests.small_pages import validation
from tools.check.browser import CHROMIUM, Shown, looked_at


class _Deaf:
    def add(self, *_: object) -> None:
        pass


def gathered(labels: list[int] | None) -> Gathered:
    found = Gathered(_Deaf(), None if labels is None else np.array(labels))  # type: ignore[arg-type]
    scores = np.eye(3, dtype=np.float32)
    for first, second in (([0, 0, 1], [0, 2, 1]), ([2, 1], [2, 2])):
        found.add([scores[first]], [scores[second]], len(first))
    return found


def test_classes_by_labels() -> None:
    assert gathered([0, 0, 1, 2, 0]).classes() == (
        ClassCount(0, 3, 2, 1),
        ClassCount(1, 1, 1, 1),
        ClassCount(2, 1, 1, 1),
    )


def test_classes_without_labels_are_what_the_original_says() -> None:
    assert gathered(None).classes() == (ClassCount(0, 2, 2, 1), ClassCount(1, 2, 2, 1), ClassCount(2, 1, 1, 1))


def test_the_page_tells_file_command_and_verdict_first_and_what_each_class_lost() -> None:
    page = to_page(validation())
    assert "<h1>in &lt;1&gt;.onnx against out.onnx</h1>" in page
    places = [
        page.index(text) for text in ("<b>Verdict: good</b>", "<ul class=cards>", "Before and after", "<h2>Outputs")
    ]
    assert places == sorted(places)
    assert page.index('data-h="class">7<') < page.index('data-h="class">0<')  # the one that loses comes first
    assert "-30.0" in page
    assert "4 other classes" in page
    assert "onnx-udfc validate in.onnx out.onnx --images test.npz" in page


def test_a_validation_without_anything_is_a_page() -> None:
    bare = replace(
        validation(), accuracy=None, latency=None, peak_memory=None, classes=(), changed=(), changes=0, source=None,
        result=None, kernels=None, command="", versions={}, created="", agreement=None, matched=None,
    )  # fmt: skip
    page = to_page(bare)
    assert "<h1>onnx-udfc validation</h1>" in page
    assert 'id="classes"' not in page


def test_a_validation_says_what_it_compared(models: Path) -> None:
    model = str(models / "digits_resnet_folded.onnx")
    found = validate(model, model, limit=4, seconds=0, memory=False, threads=1)
    assert found.source == found.result
    assert found.source is not None
    assert found.source.name == "digits_resnet_folded.onnx"
    assert found.source.bytes == Path(model).stat().st_size
    assert found.versions["onnx-udfc"]
    assert sum(c.images for c in found.classes) == 4
    expected = "onnx-udfc validate digits_resnet_folded.onnx digits_resnet_folded.onnx --limit 4 --seconds 0"
    assert found.command == f"{expected} --no-memory --threads 1"


@pytest.mark.parametrize(
    "asked",
    [
        Judging(),
        Judging(images="a b.npz", limit=3, input_mean=(0.5, 0.25), memory=False, task="detection", seconds=1.5),
        Judging(require=("accuracy>=0.9",), report=("x.html",), input_shape=("x=1x3x8x8",)),
    ],
)
def test_the_command_gives_its_options_again(asked: Judging) -> None:
    words = shlex.split(validate_line(asked, "a.onnx", "b.onnx"))
    command = app.commands["validate"]
    with command.make_context("validate", words[2:]) as ctx, click.Context(command):
        assert cli_options.written(ctx).read(Judging) == asked


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
def test_no_text_is_cut_in_a_browser() -> None:
    shown = [Shown(to_page(validation()), width, dark) for width in (400, 1280) for dark in (False, True)]
    assert [(found.cut, found.wide > 0) for found in looked_at(shown)] == [([], False)] * 4
