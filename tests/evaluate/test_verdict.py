"""Verdicts: what follows from which figures, and what is certain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_udfc.errors import CheckError, GateError
from onnx_udfc.evaluate.parts import PartFidelity
from onnx_udfc.evaluate.report import Accuracy, Fidelity, OutputFidelity
from onnx_udfc.evaluate.verdict import Asked, Judgement, advice, at_assumed_scale, beside, certain_fault, doubted, judge
from onnx_udfc.options import Options, check_requirements, parse_requirement
from onnx_udfc.pipeline import compress
from tests.normed_graphs import CHAIN, parameter, scaled_model, with_parameters

CLASSES = OutputFidelity("y", "classes", 20.0, 0.99, agreement=0.97, answers=9)


def judged(*outputs: OutputFidelity, unmeasured: str = "") -> Judgement:
    return judge(Fidelity("synthetic", None, None, None, 64, outputs=outputs, unmeasured=unmeasured))


def test_a_near_result_is_good_and_a_far_one_is_unusable() -> None:
    near = judged(CLASSES)
    assert near.verdict == "good"
    assert near.loss is not None
    assert near.loss < 0.02
    far = judged(replace(CLASSES, sqnr_db=-3.0, agreement=0.05))
    assert far.verdict == "unusable"
    assert far.loss is not None
    assert far.span is not None
    assert far.span[0] < far.loss < far.span[1]
    between = judged(replace(CLASSES, sqnr_db=4.0, agreement=0.4))
    assert between.verdict == "degraded"
    assert near.loss < (between.loss or 0) < far.loss


def test_few_boxes_that_are_the_same_to_the_bit_are_good() -> None:
    few = OutputFidelity("boxes", "detection", None, None, answers=4, matched=1.0, max_difference=0.0)
    assert judged(few).loss == 0.0
    assert judged(replace(few, max_difference=1e-6)).verdict == "degraded"


def elsewhere(*outputs: OutputFidelity) -> list[Fidelity]:
    return [Fidelity("synthetic", None, None, None, 32, outputs=(output,)) for output in outputs]


def test_good_is_what_is_good_on_all_that_the_inputs_may_be() -> None:
    """Equal answers of made-up features say little: how they move counts beside them."""
    near, far = replace(CLASSES, agreement=1.0, sqnr_db=30.0), replace(CLASSES, agreement=1.0, sqnr_db=8.7)
    own = judged(near)
    assert beside(own, elsewhere(near, near), features=True) == own
    assert beside(own, elsewhere(near, far), features=True).verdict == "unknown"  # a wake word: 6 dB of real embeddings
    worse = beside(own, elsewhere(near, replace(far, sqnr_db=5.0)), features=True)
    assert worse.verdict == "degraded"
    assert worse.span is not None
    assert worse.span[0] == 0
    assert worse.span[1] > 0.3
    assert beside(own, elsewhere(near, replace(far, sqnr_db=0.0)), features=True).verdict == "unknown"
    assert beside(own, elsewhere(far), features=False).verdict == "good"  # pictures are answered as real ones are


def test_what_is_ruined_on_some_that_the_inputs_may_be_is_unknown() -> None:
    own, dead = judged(CLASSES), replace(CLASSES, agreement=0.35, sqnr_db=2.0)
    assert judged(dead).verdict == "unusable"
    found = beside(own, elsewhere(dead), features=False)
    assert (found.verdict, found.loss, found.span) == ("unknown", None, None)
    assert "as nothing tells which" in found.reason
    assert beside(judged(dead), elsewhere(CLASSES), features=False).verdict == "unusable"
    still = replace(CLASSES, agreement=None, answers=1, sqnr_db=None)
    assert beside(own, elsewhere(still), features=True) == own
    assert beside(Judgement("unknown"), elsewhere(CLASSES), features=True) == Judgement("unknown")


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_few_answers_that_all_stayed_are_no_loss_where_nothing_moved(kind: Any) -> None:
    """Four boxes cannot tell that less than an eighth is lost; 60 dB can."""
    output = OutputFidelity("y", kind, 60.0, 1.0, answers=20 if kind == "segmentation" else 4, matched=1.0, iou=1.0)
    losses = [judged(replace(output, sqnr_db=db)).loss for db in (60.0, 30.0, 15.0, 5.0)]
    assert losses[0] == 0
    assert None not in losses
    assert losses == sorted(losses, key=lambda loss: loss or 0.0)
    assert losses[-1] is not None
    assert losses[-1] > 0.02


def test_agreement_by_chance_counts_for_nothing() -> None:
    """Of two classes, half agree by chance: 80 % of the same answers are three fifths of what there was to be said."""
    many = judged(replace(CLASSES, sqnr_db=2.7, agreement=0.8, chance=0.02))
    two = judged(replace(CLASSES, sqnr_db=2.7, agreement=0.8, chance=0.5, answers=2))
    assert many.verdict == "good"
    assert two.verdict == "degraded"
    assert "20 % of the answers differ" in two.reason
    half = judged(replace(CLASSES, sqnr_db=2.7, agreement=0.6, chance=0.0))
    assert half.loss == pytest.approx(two.loss, abs=1e-4)


def test_strings_are_judged_by_those_that_the_original_is_sure_of() -> None:
    """A reader of captchas lost 0.35 of real ones where 0.55 of all made-up lines differ, of the sure ones 0.38."""
    text = OutputFidelity("y", "sequence", 8.4, 0.9, agreement=0.45, answers=90, sure_agreement=0.62, sure=49.1)
    assert judged(text).verdict == "degraded"
    assert judged(text).loss == pytest.approx(0.184, abs=2e-3)
    assert judged(replace(text, sqnr_db=30.0)).loss == judged(text).loss
    assert judged(replace(text, sure_agreement=None)).loss == pytest.approx(0.067, abs=2e-3)  # a tagger, say
    few = judged(replace(text, sure_agreement=1.0, sure=4.0))
    assert few.loss == pytest.approx(0.05, abs=1e-2)  # four say less than fifty
    real = judge(Fidelity("calibration", 8.4, 0.9, 0.45, 20, 0.0, (text,)))
    assert real.loss == pytest.approx(0.55)  # of real strings the share that differs is the loss


def test_a_map_of_cells_is_judged_milder_than_one_of_objects() -> None:
    objects = OutputFidelity("y", "segmentation", 5.0, 0.9, answers=4000, iou=0.5)
    first, second = judged(objects), judged(replace(objects, cells=True))
    assert first.loss is not None
    assert second.loss is not None
    assert second.loss < first.loss


def test_boxes_that_are_gone_are_lost_however_well_the_rest_moves() -> None:
    boxes = OutputFidelity("scores", "detection", 13.2, 0.98, answers=66, matched=0.83)
    found = judged(boxes)
    assert found.verdict == "degraded"  # such a detector of faces had lost 0.15 to 0.2
    assert judged(replace(boxes, matched=0.45, sqnr_db=6.0)).verdict == "unusable"
    assert judged(replace(boxes, matched=1.0, sqnr_db=28.0)).verdict == "good"


def test_of_a_few_boxes_how_they_move_counts_too() -> None:
    few = OutputFidelity("scores", "detection", 4.5, 0.9, answers=5, matched=0.9)
    many = replace(few, answers=500)
    assert judged(few).verdict == "degraded"  # 0.3 of the faces were lost
    assert judged(many).verdict == "good"
    assert judged(replace(few, sqnr_db=32.0, matched=1.0)).verdict == "good"


def test_two_boxes_of_which_nothing_else_was_measured_tell_nothing() -> None:
    found = judged(OutputFidelity("boxes", "detection", None, None, answers=2, matched=1.0))
    assert (found.verdict, found.reason) == ("unknown", "the original finds too few boxes to tell")


@pytest.mark.parametrize(("source", "left", "bits", "verdict"), [
    ("synthetic", 0.5, 4, "good"), ("synthetic", 0.1, 32, "unknown"), ("synthetic", 1.0, 2, "unknown"),
    ("calibration", 0.1, 2, "good"), ("validation", 0.1, 2, "good"),
])  # fmt: skip
def test_made_up_inputs_say_nothing_good_of_what_is_nearly_gone(
    source: Any, left: float, bits: float, verdict: str
) -> None:
    fidelity = Fidelity(source, None, None, None, 64, outputs=(CLASSES,))
    assert doubted(judge(fidelity), fidelity, left, bits).verdict == verdict
    dead = Fidelity(source, None, None, None, 64, outputs=(replace(CLASSES, sqnr_db=-3.0, agreement=0.05),))
    assert doubted(judge(dead), dead, left, bits).verdict == "unusable"


def test_a_network_of_a_tenth_is_not_called_good() -> None:
    """Its agreement on made-up inputs is 0.7, that on digits below 0.5."""
    report = compress(
        Path(__file__).parents[2] / "models/digits_resnet_folded.onnx", prune=0.9, bits=2, threads=1
    ).report
    assert report.verdict == "unknown"
    assert report.predicted_loss is None


def test_the_worst_output_decides() -> None:
    boxes = OutputFidelity("boxes", "regression", 40.0, 1.0)
    scores = OutputFidelity("scores", "detection", -6.0, 0.1, answers=40, matched=0.0)
    found = judged(boxes, scores)
    assert found.verdict == "unusable"
    assert found.reason.startswith("scores:")


def test_where_the_original_says_the_same_every_time_little_is_known() -> None:
    free = replace(CLASSES, agreement=None, answers=1)
    assert judged(replace(free, sqnr_db=5.0)).verdict == "unknown"
    assert judged(replace(free, sqnr_db=5.0)).loss is None
    assert judged(replace(free, sqnr_db=45.0)).verdict == "good"
    nothing = OutputFidelity("scores", "detection", 3.0, 0.9, answers=0)
    assert judged(nothing).verdict == "unknown"
    assert judged(replace(nothing, answers=3)).verdict == "degraded"  # too few to count, but it reacts


def test_what_was_not_measured_is_unknown() -> None:
    still = OutputFidelity("y", "classes", None, None)
    found = judged(still, unmeasured="the outputs do not change")
    assert (found.verdict, found.loss, found.span, found.reason) == ("unknown", None, None, "the outputs do not change")
    assert judged(CLASSES, still, unmeasured="output 'y' does not change").verdict == "unknown"


def test_labels_are_believed_more_than_figures() -> None:
    fidelity = Fidelity("validation", 30.0, 1.0, 0.99, 500, outputs=(CLASSES,))
    found = judge(fidelity, Accuracy(0.9, 0.45, 500))
    assert found.verdict == "unusable"
    assert found.loss == 0.5
    assert judge(fidelity, Accuracy(0.9, 0.91, 500)).loss == 0


def test_labels_that_the_original_misses_too_are_doubted() -> None:
    fidelity = Fidelity("validation", 30.0, 1.0, 0.99, 500, outputs=(CLASSES,))
    for accuracy, said in (
        (Accuracy(0.1, 0.1, 500), "10 %"),
        (Accuracy(0.0, 0.0, 500), "0 %"),
        (Accuracy(0.6, 0.6, 9), ""),
    ):
        reason = judge(fidelity, accuracy).reason
        assert ("do the labels, --input-mean" in reason) == bool(said)
        assert said in reason


@pytest.mark.parametrize(
    ("verdict", "passes"), [("good", True), ("degraded", False), ("unusable", False), ("unknown", False)]
)
def test_the_gate_on_the_verdict(verdict: str, passes: bool) -> None:
    order = {"good": 2.0, "degraded": 1.0, "unusable": 0.0}
    gate = parse_requirement("verdict=good")
    assert str(gate) == "verdict=good"
    assert parse_requirement(str(gate)) == gate
    assert gate.met(order.get(verdict)) == passes
    assert parse_requirement("verdict>=degraded").met(order.get(verdict)) == (verdict in ("good", "degraded"))
    if not passes:
        with pytest.raises(GateError, match=rf"verdict=good \(is {verdict}\)"):
            check_requirements([gate], {"verdict": order.get(verdict)})


def test_advice_is_about_what_was_asked() -> None:
    bad = Judgement("unusable", 0.8, (0.6, 0.9))
    told = advice(bad, Asked(pruned=True, bits=4, compact=True, guessed=True))
    assert told == (
        "say the input's scale: --input-mean, --input-std, --input-range",
        "prune less: this network is compact",
        "give 32 real inputs by --calibrate",
        "use --bits 8",
    )
    assert advice(Judgement("good", 0.0, (0.0, 0.0)), Asked(pruned=True)) == ()
    assert not any("calibrate" in text for text in advice(bad, Asked(calibrated=True)))


def test_what_is_certain() -> None:
    part = PartFidelity("scores", 1.0, -1.0, -1.0, 0, 0.0, 0.0, still=True)
    dead = Fidelity("synthetic", 20.0, 1.0, None, outputs=(replace(CLASSES, parts=(part,)),))
    assert "no longer depends" in certain_fault(dead, 9000, 5000, Asked())
    fine = Fidelity("synthetic", 50.0, 1.0, None, outputs=(replace(CLASSES, sqnr_db=50.0, plain_db=55.0),))
    rounded = replace(fine, outputs=(replace(CLASSES, sqnr_db=33.0, plain_db=90.0),))
    assert certain_fault(rounded, 9000, 9000, Asked(work=False, smaller=False)) == ""
    assert certain_fault(fine, 9000, 5000, Asked()) == ""
    assert "nothing was asked" in certain_fault(fine, 9000, 9000, Asked(work=False, smaller=False))
    assert "larger" in certain_fault(fine, 9000, 19000, Asked())
    assert certain_fault(fine, 9000, 19000, Asked(smaller=False)) == ""


def test_a_file_that_grew_is_refused_but_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_udfc.evaluate.verdict.SLACK", -(1 << 30))
    with pytest.raises(CheckError, match=r"larger.*--force"):
        compress(scaled_model(CHAIN), Options(bits=8, threads=1))
    report = compress(scaled_model(CHAIN), Options(bits=8, threads=1, force=True)).report
    assert report.verdict in ("good", "degraded", "unusable", "unknown")
    assert report.verdict_reason


def test_ranges_at_a_scale_that_was_only_assumed_may_lose_much() -> None:
    good = Judgement("good", 0.02, (0.0, 0.05), "1 % of the answers differ")
    found = at_assumed_scale(good)
    assert (found.verdict, found.loss, found.span) == ("good", 0.02, (0.0, 0.6))
    assert found.reason == "1 % of the answers differ; more if the input has another scale"
    for sure in (Judgement("unusable", 0.9, (0.7, 1.0), "r"), Judgement("unknown", reason="r")):
        assert at_assumed_scale(sure) == sure


@pytest.mark.parametrize(("told", "activations", "wide"), [(False, 8, True), (True, 8, False), (False, None, False)])
def test_the_range_says_what_hangs_on_the_scale_of_the_input(told: bool, activations: Any, wide: bool) -> None:
    model = scaled_model("""g (float[N,3,16,16] x, float[8,3,3,3] W1, float[8] B1, float[4,8,3,3] W2) =>
        (float[N,4,12,12] y) { a = Conv(x, W1, B1) r = Relu(a) y = Conv(r, W2) }""")
    shifts = np.resize([1.0, -1.0], 8) * np.sqrt(np.square(parameter(model, "W1")).sum((1, 2, 3)))
    model = with_parameters(model, {"B1": shifts.astype(np.float32)})  # as of a network of normalized pictures
    options = Options(bits=8, activations=activations, threads=1, force=True)
    options = replace(options, input_mean=(0.5,), input_std=(0.25,)) if told else options
    report = compress(model, options).report
    assert report.predicted_range is not None
    assert (report.predicted_range[1] >= 0.6) is wide
