"""What is done where only a goal is said, or nothing: what is tried, taken, refused and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from onnx_udfc import Options, compress, pipeline
from onnx_udfc.errors import CheckError, GateError, RequestError
from onnx_udfc.evaluate.report import Accuracy, Report, Verdict
from onnx_udfc.goal import planned, reached
from onnx_udfc.options import CombinationError, with_goal
from onnx_udfc.search import TRIES, smallest_within, upper_loss
from tests.quantized_graphs import run
from tests.small_graphs import small_model

MODEL = "models/digits_resnet_folded.onnx"
NET = """g (float[N,3,8,8] x, float[8,3,3,3] W1, float[8] B1, float[4,8,3,3] W2) => (float[N,4,4,4] y) {
    a = Conv(x, W1, B1) r = Relu(a) y = Conv(r, W2) }"""


@pytest.fixture(scope="module")
def report() -> Report:
    return pipeline.compress(small_model(NET), bits=32, threads=1).report


@dataclass(frozen=True)
class Made:
    """A result of which only the report is looked at."""

    options: Options
    report: Report


def maker(report: Report, judged: Callable[[Options], tuple[Verdict, float | None]]) -> Callable[[Options], Made]:
    """A compression that gives verdicts by options, and remembers them."""

    def make(options: Options) -> Made:
        verdict, loss = judged(options)
        return Made(options, replace(report, verdict=verdict, predicted_loss=loss))

    return make


def small(report: Report) -> Report:
    """The same of a file of a quarter of the bytes."""
    return replace(report, after=replace(report.after, bytes=report.before.bytes // 4))


def test_the_first_that_is_safe_is_taken(report: Report) -> None:
    found, notes = reached(Options(for_="fast"), maker(report, lambda _: ("good", 0.0)))
    assert (found.options.bits, found.options.activations, found.options.for_) == (8, 8, None)
    assert notes == ("--for fast: --bits 8 --activations 8 was chosen",)


@pytest.mark.parametrize(("time", "bits"), [(0.5, (8, 8)), (0.9, (8, None)), (None, (8, 8))])
def test_integers_that_win_neither_time_nor_bytes_are_not_taken(
    report: Report, time: float | None, bits: tuple[int, int | None]
) -> None:
    judged = maker(report, lambda _: ("good", 0.0))

    def make(options: Options) -> Made:
        made = judged(options)
        return made if options.activations else replace(made, report=small(made.report))

    large = replace(report, after=replace(report.after, bytes=report.before.bytes // 3))
    judged = maker(large, lambda _: ("good", 0.0))
    found, notes = reached(Options(for_="fast"), make, lambda _: time)
    assert (found.options.bits, found.options.activations) == bits
    refused = "--bits 8 --activations 8 (more than 30 % of the bytes and 60 % of the time)"
    assert any(refused in note for note in notes) == (bits[1] is None)


@pytest.mark.parametrize("first", [("degraded", 0.2), ("good", 0.05), ("unknown", None)])
def test_what_is_not_safe_is_not_taken_and_told(report: Report, first: tuple[Verdict, float | None]) -> None:
    found, notes = reached(
        Options(for_="fast"), maker(small(report), lambda o: first if o.activations else ("good", 0.0))
    )
    assert (found.options.bits, found.options.activations) == (8, None)
    assert notes[0] == "--for fast: --bits 8 was chosen"
    assert "--bits 8 --activations 8 (" in notes[1]


@pytest.mark.parametrize("error", [RequestError("no; use x"), CheckError("larger"), GateError("gate")])
def test_what_is_refused_is_passed_over(report: Report, error: Exception) -> None:
    def judged(options: Options) -> tuple[Verdict, float | None]:
        if options.bits != 32:
            raise error
        return "good", 0.0

    found, notes = reached(Options(for_="fast"), maker(report, judged))
    assert found.options.changed() == {}
    assert "nothing that was tried is safe" in notes[0]


@pytest.mark.parametrize(("six", "bits"), [(0.29, 6), (0.31, 8)])
def test_weights_of_fewer_bits_are_taken_where_that_is_worth_it(report: Report, six: float, bits: int) -> None:
    """8 bits take 0.4 of the bytes; 6 are taken if they take less than 0.3."""

    def make(options: Options) -> Made:
        share = six if options.bits == 6 else 0.4
        after = replace(report.after, bytes=int(share * 10_000))
        sized = replace(report, before=replace(report.before, bytes=10_000), after=after, predicted_loss=0.0)
        return Made(options, replace(sized, verdict="degraded" if options.activations else "good"))

    found, notes = reached(Options(for_="fast"), make)
    assert found.options.bits == bits
    assert ("--bits 8 (more than 30 % of the bytes)" in notes[1]) is (bits == 6)


def test_small_takes_as_few_bits_as_are_good(report: Report) -> None:
    found, _ = reached(
        Options(for_="small"), maker(report, lambda o: ("degraded" if o.bits in (4, 5) else "good", 0.08))
    )
    assert found.options.bits == 6


def test_tiny_goes_on_while_the_result_is_good(report: Report) -> None:
    def judged(options: Options) -> tuple[Verdict, float | None]:
        return ("good" if float(options.budget["bytes"]) >= 0.09 else "degraded", 0.1)

    found, _ = reached(Options(for_="tiny"), maker(report, judged))
    assert dict(found.options.budget) == {"bytes": "0.09"}


def test_nothing_asked_is_the_goal_of_the_target() -> None:
    assert with_goal(Options(), ()).for_ == "fast"
    assert with_goal(Options(target="tensorrt"), ("target",)).for_ == "gpu"
    for name in ("bits", "prune", "for", "max-loss", "budget"):
        assert with_goal(Options(), (name,)).for_ is None
    assert planned(Options(for_="gpu")).float16


def test_a_goal_chooses_what_others_would_say() -> None:
    with pytest.raises(CombinationError, match="for_='fast' chooses what is done: leave bits= out"):
        compress(MODEL, for_="fast", bits=4)


def test_nothing_asked_makes_integer_kernels_and_32_bits_change_nothing() -> None:
    model = small_model(NET)
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    same = compress(model, bits=32, threads=1)
    np.testing.assert_array_equal(run(model, x)[0], run(same.model, x)[0])
    fast = compress(MODEL, threads=1, images=16)
    assert fast.report.options["bits"] == fast.report.options["activations"] == 8
    assert fast.report.after.bytes < 0.3 * fast.report.before.bytes


def loss_of(share: float) -> float:
    return round(0.001 / share, 6)


def test_the_smallest_within_a_loss(report: Report) -> None:
    """A loss of 0.001 / share of bytes is 0.01 at a tenth."""
    made: list[float] = []

    def judged(options: Options) -> tuple[Verdict, float | None]:
        made.append(float(options.budget["bytes"]))
        return "good", loss_of(made[-1])

    found, note = smallest_within(Options(max_loss=0.01), maker(report, judged))
    assert 0.1 <= float(found.options.budget["bytes"]) < 0.108
    assert (found.options.bits, found.options.max_loss) == ("auto", None)
    assert len(made) <= TRIES == 8
    assert note == f"--max-loss 0.01: the smallest of {len(made)} files that were made"


def test_a_budget_that_was_asked_for_is_what_shrinks(report: Report) -> None:
    def judged(options: Options) -> tuple[Verdict, float | None]:
        return "good", loss_of(float(options.budget["macs"]))

    found, _ = smallest_within(Options(max_loss=0.01, budget={"macs": 0.5}, bits=8), maker(report, judged))
    assert 0.1 <= float(found.options.budget["macs"]) < 0.108
    assert found.options.bits == 8


def test_no_file_within_a_loss_is_a_gate_that_is_not_met(report: Report) -> None:
    with pytest.raises(GateError, match=r"no file that was tried stays below; the least that was reached is 0\.3"):
        smallest_within(Options(max_loss=0.01), maker(report, lambda _: ("degraded", 0.3)))
    with pytest.raises(GateError):
        smallest_within(Options(max_loss=0.01), maker(report, lambda _: ("unknown", None)))


def test_a_measured_loss_is_taken_with_its_error(report: Report) -> None:
    """90 of 100 before, 89 after, 4 % of the answers differ: a hundredth of 90, and a standard error of 2 / 90."""
    near = replace(report.fidelity, agreement=0.96)
    real = replace(report, accuracy=Accuracy(0.9, 0.89, 100), fidelity=near, predicted_loss=0.5)
    assert upper_loss(real) == pytest.approx(1 / 90 + 2 / 90)
    assert upper_loss(replace(report, predicted_loss=0.5)) == 0.5


@pytest.mark.parametrize("asked", [{}, {"bits": 4}, {"float16": True}, {"prune": 0.5, "bits": 4, "images": 8}], ids=str)
def test_a_dry_run_tells_the_size_that_comes_out(asked: Mapping[str, Any]) -> None:
    plan = compress(MODEL, dry_run=True, threads=1, **asked)
    assert (plan.report.verdict, plan.report.predicted_loss) == ("unknown", None)
    done = compress(MODEL, threads=1, force=True, **(asked or {"for_": "fast", "images": 8}))
    assert plan.report.after.parameters == done.report.after.parameters
    assert plan.report.after.bytes == pytest.approx(done.report.after.bytes, rel=0.01)
    with pytest.raises(RequestError, match="leave it out"):
        plan.save("never.onnx")


def test_a_dry_run_changes_no_network() -> None:
    model = small_model(NET)
    before = model.SerializeToString()
    assert compress(model, dry_run=True, bits=4).model.SerializeToString() == before


def test_nothing_is_tried_where_there_are_no_weights(report: Report) -> None:
    asked: list[Options] = []

    def make(options: Options) -> Made:
        asked.append(options)
        return Made(options, report)

    found, notes = reached(Options(for_="tiny"), make, weights=False)
    assert (len(asked), found.options.bits) == (1, 32)
    assert notes == ("--for tiny: no float weights can be compressed, so what it computes was left as it is",)


def test_weights_that_are_integers_already_are_left() -> None:
    model = small_model("""g (uint8[1,3,8,8] x) => (int32[1,2,8,8] y) <uint8[2,3,1,1] w = {1, 2, 3, 4, 5, 6}> {
        y = ConvInteger(x, w) }""")
    assert compress(model, for_="fast").report.runtime.notes[0].startswith("--for fast: no float weights")
