"""What the figures mean for the network's task: a predicted loss, a verdict in a word, and what would help.

The relation is learnt from real losses on real tasks, and from nothing else; docs/verdict.md has the table that set the
constants below and says how far they can be trusted. With d the share of answers that differ (of classes, beside the
share that would if the networks had nothing to do with each other) and s the signal to noise
of the movement in dB (of the worst part),

    log(L / (1 − L)) = a + b · log(d / (1 − d)) − c · s / 10

for the loss L, the share of the original's score that is gone. Where the inputs let the original give too few answers,
d is unknown and L rests on s alone; where it says one and the same every time the range is wide, and what is not good
or unusable in all of it is unknown. With labels the loss is measured, not predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_udfc.evaluate.report import Accuracy, Fidelity, OutputFidelity, Verdict, answers_of

GOOD, UNUSABLE = 0.1, 0.4  # the largest loss that is good, the least that is unusable
SAME_DB = 60.0  # a network in which nothing was asked to change is nearer than this
LEAST_BOXES, LEAST_CELLS = 4, 16  # fewer say too little
SLACK = 4096  # bytes that a file may grow by: names, metadata, a few nodes
NOISE = 0.005  # a loss below is none
DOUBTFUL = 0.5  # accuracy of an original: below, what it is fed is more often wrong than it
LEAST = 1e-6  # no share is taken as less
AT_ANOTHER_SCALE = 0.6  # loss: one in six networks whose scale was assumed lost as much and more
LEAST_MACS, LEAST_BITS = 0.15, 3  # of a network of which less is left, made-up inputs say nothing good


MOST_FREE = 0.9  # agreement by chance that is taken off, at most: the rest is told by few inputs
MOST_DB = 45.0  # above, nothing more is gained


@dataclass(frozen=True)
class Relation:
    """Constants of the module's equation, and the half width of its range in units of the left side."""

    a: float
    b: float = 1.0
    c: float = 1.0
    half: float = 1.0


ANSWERED = {
    "classes": Relation(-0.7),
    "sequence": Relation(-2.0, half=1.5),  # where the original is sure of next to none: taggers, say
    "detection": Relation(0.0, c=0.3),
    "segmentation": Relation(1.3, c=0.3, half=1.5),  # an object is lost before most of its cells are
}
SURE = Relation(-1.0, c=0.0, half=1.5)  # of strings, each counted by how sure the original is of it
READ = Relation(0.0, c=0.0)  # of strings of real inputs: the share that differs is the loss
CELLS = Relation(-0.5, half=1.5)  # of maps in which each cell counts
LOST_BY_MOVEMENT = Relation(1.3, b=0.0, c=1.9)  # share of a detector's boxes that is gone, by s alone
PRIOR_BOXES = 4  # as many boxes does that count for
MOVED = Relation(-0.9, b=0.0, c=1.6, half=1.0)
FREE = Relation(-0.9, b=0.0, c=1.6, half=2.5)  # the original's answers were the same every time


@dataclass(frozen=True)
class Judgement:
    """A verdict; `loss` and `span` are None where it is unknown."""

    verdict: Verdict
    loss: float | None = None
    span: tuple[float, float] | None = None
    reason: str = ""


def judge(fidelity: Fidelity, accuracy: Accuracy | None = None) -> Judgement:
    """Return the verdict on a result."""
    found = _measured(accuracy) if accuracy is not None and accuracy.original > 0 else _told(fidelity)
    if accuracy is None or accuracy.original >= DOUBTFUL:
        return found
    few = f"the original is right in {100 * accuracy.original:.0f} % of them alone"
    return replace(
        found, reason=f"{found.reason}; {few}: do the labels, --input-mean, --input-std, --input-range fit it?"
    )


def _told(fidelity: Fidelity) -> Judgement:
    """By what the outputs say."""
    real, outputs = fidelity.inputs != "synthetic", answers_of(fidelity.outputs)
    found = [(o, e) for o in outputs if (e := _estimate(o, fidelity.count, real=real)) is not None]
    if not found:
        few = any(o.kind == "detection" and o.matched is not None for o in fidelity.outputs)
        nothing = "the original finds too few boxes to tell" if few else "nothing was measured"
        return Judgement("unknown", reason=fidelity.unmeasured or nothing)
    output, estimate = max(found, key=lambda pair: pair[1].loss or 0.0)
    if estimate.verdict != "unusable" and fidelity.unmeasured:
        return Judgement("unknown", reason=fidelity.unmeasured)
    reason = f"{output.name}: {estimate.reason}" if len(fidelity.outputs) > 1 else estimate.reason
    loss = None if estimate.verdict == "unknown" else estimate.loss
    return Judgement(estimate.verdict, loss, estimate.span if loss is not None else None, reason)


def doubted(judgement: Judgement, fidelity: Fidelity, macs_left: float, bits: float) -> Judgement:
    """Return the judgement, or that it is unknown: of so little of a network, made-up inputs tell too much good.

    `macs_left` is the share of the original's MACs that is left, `bits` are those of the weights.
    """
    far = macs_left < LEAST_MACS or bits < LEAST_BITS
    if fidelity.inputs != "synthetic" or not far or judgement.verdict not in ("good", "degraded"):
        return judgement
    left = f"{100 * macs_left:.0f} % of the work is left" if macs_left < LEAST_MACS else f"weights have {bits:g} bits"
    return Judgement("unknown", reason=f"{left}, and of so little made-up inputs tell too much good")


def beside(judgement: Judgement, others: Sequence[Fidelity], *, features: bool) -> Judgement:
    """Return the judgement together with those on what else the inputs may be: good only where all of them agree.

    The worst estimate is taken, in a range around all of them. Made-up features are answered as chance has it, so that
    equal answers say little there: how outputs move counts beside them, and good is what is so in all of the worst
    estimate's range. What may be anything is unknown.
    With `features` the inputs are features, spectra or embeddings.
    """
    found = [e for other in others for o in answers_of(other.outputs) for e in _estimates(o, other.count, features)]
    if judgement.span is None or judgement.loss is None or not found:
        return judgement
    estimates = [(e.loss or 0.0, e.span or (0.0, 1.0)) for e in (judgement, *found)]
    loss, (low, high) = max(estimates)
    verdict = _named(loss)
    span = min(s[0] for _, s in estimates), max(s[1] for _, s in estimates)
    anything = verdict != judgement.verdict and _named(span[0]) == "good" and _named(span[1]) == "unusable"
    if (anything and not low >= UNUSABLE) or (verdict == "good" and features and high > GOOD):
        verdict = "unknown"
    if loss == judgement.loss and verdict == judgement.verdict:
        return judgement
    reason = f"{judgement.reason}; less on others of those that it may be meant for, as nothing tells which"
    if verdict == "unknown":
        return Judgement(verdict, reason=reason)
    return Judgement(verdict, loss, span, reason)


def _estimates(output: OutputFidelity, count: int, features: bool) -> list[Judgement]:
    """What an output says by its answers, where they are not all the same, and what by its movement."""
    answered = _estimate(output, count)
    found = [answered] if answered is not None and answered.verdict != "unknown" else []
    if output.sqnr_db is not None and (features or not found):
        found.append(_ranged(MOVED, 0.5, output.sqnr_db, "", sure=True))
    return found


def at_assumed_scale(judgement: Judgement) -> Judgement:
    """Return the judgement where ranges of activations were taken at an input scale that nothing tells.

    The check is at the same scale and sees nothing of it, so the range reaches into what is unusable.
    """
    if judgement.span is None or judgement.verdict not in ("good", "degraded"):
        return judgement
    span = judgement.span[0], max(judgement.span[1], AT_ANOTHER_SCALE)
    return replace(judgement, span=span, reason=f"{judgement.reason}; more if the input has another scale")


def _measured(accuracy: Accuracy) -> Judgement:
    """By real labels; the range is that of two deviations of so many images."""
    loss = min(1.0, max(0.0, 1 - accuracy.compressed / accuracy.original))
    half = 2 * math.sqrt(max(loss * (1 - loss), 1 / accuracy.images) / accuracy.images)
    reason = f"accuracy {accuracy.original:.3f} before, {accuracy.compressed:.3f} after, on {accuracy.images} inputs"
    return Judgement(_named(loss), loss, (max(0.0, loss - half), min(1.0, loss + half)), reason)


def _estimate(output: OutputFidelity, count: int, *, real: bool = False) -> Judgement | None:
    """What one output says of made-up inputs, or `real` ones; None where nothing was measured."""
    moved = output.sqnr_db
    different = _different(output)
    if different is not None:
        relation = CELLS if output.cells else ANSWERED[output.kind]
        if output.sure_agreement is not None and real:
            relation = READ
        elif output.sure_agreement is not None:
            relation, different, count = SURE, 1 - output.sure_agreement, min(count, round(output.sure or 0))
        same = output.agreement if output.agreement is not None else output.matched
        told = different if same is None else 1 - same
        reason = f"{100 * told:.0f} % of the answers differ" + ("" if moved is None else f", {moved:.1f} dB")
        least = 0.5 / max(1, min(count, output.answers or 1) if output.kind == "detection" else count)
        if moved is not None and relation.c < 1:  # a few answers that all stayed say less than how little moved
            least = min(least, max(LEAST, _odds(LOST_BY_MOVEMENT.a - LOST_BY_MOVEMENT.c * moved / 10)))
        if output.kind == "detection" and output.max_difference == 0:  # the same to the bit, of however few boxes
            least = LEAST
        return _ranged(relation, min(max(different, least), 1 - least), moved, reason, sure=True)
    if moved is None:
        return None
    if output.kind in ANSWERED and (output.answers or 0) <= (1 if output.kind in ("classes", "sequence") else 0):
        reason = f"{moved:.1f} dB; the original's answers on these inputs are all the same"
        return _ranged(FREE, 0.5, moved, reason, sure=False)
    return _ranged(MOVED, 0.5, moved, f"outputs move with {moved:.1f} dB", sure=True)


def _different(output: OutputFidelity) -> float | None:
    """Share of answers that differ; None where they are not to be had."""
    match output.kind:
        case "classes" | "sequence":
            said, free = output.answers or 0, min(output.chance or 0.0, MOST_FREE)
            return (1 - output.agreement) / (1 - free) if output.agreement is not None and said > 1 else None
        case "detection":
            enough = (output.answers or 0) >= LEAST_BOXES
            return _boxes_lost(output) if output.matched is not None and enough else None
        case "segmentation":
            enough = (output.answers or 0) >= LEAST_CELLS
            return 1 - 2 * output.iou / (1 + output.iou) if output.iou is not None and enough else None
    return None


def _boxes_lost(output: OutputFidelity) -> float:
    """Share of boxes that are gone; where they are few, what boxes lose that move so counts beside them."""
    assert output.matched is not None
    lost, boxes = 1 - output.matched, output.answers or 0
    if output.sqnr_db is None:
        return lost
    usual = _share(LOST_BY_MOVEMENT.a - LOST_BY_MOVEMENT.c * output.sqnr_db / 10)
    return (lost * boxes + usual * PRIOR_BOXES) / (boxes + PRIOR_BOXES)


def _ranged(relation: Relation, d: float, moved: float | None, reason: str, *, sure: bool) -> Judgement:
    """The module's equation; d at one half has no part in it, and s where it is unknown."""
    value = relation.a + relation.b * math.log(d / (1 - d)) - relation.c * min(moved or 0.0, MOST_DB) / 10
    loss, low, high = (_share(v) for v in (value, value - relation.half, value + relation.half))
    verdict = _named(loss)
    if not sure and (_named(low), _named(high)) not in (("good", "good"), ("unusable", "unusable")):
        verdict = "unknown"
    return Judgement(verdict, loss, (low, high), reason)


def _odds(value: float) -> float:
    """Return the share of which `value` is the logarithm of the odds."""
    return 1 / (1 + math.exp(-min(50.0, max(-50.0, value))))


def _share(value: float) -> float:
    share = _odds(value)
    return 0.0 if share < NOISE else round(share, 4)


def _named(loss: float) -> Verdict:
    return "good" if loss <= GOOD else "unusable" if loss >= UNUSABLE else "degraded"


@dataclass(frozen=True)
class Asked:
    """What was asked for, as far as advice and certain faults depend on it.

    Attributes:
        work: Whether anything was to be changed.
        smaller: Whether a smaller file was asked for.
        pruned: Whether channels were to go.
        bits: Of the weights.
        activations: Whether activations were to be quantized.
        calibrated: Whether real inputs were given.
        guessed: Whether the input's scale was guessed.
        compact: Whether most of the network's work is in layers of few weights, which carry no channel too many.
    """

    work: bool = True
    smaller: bool = True
    pruned: bool = False
    bits: float = 32
    activations: bool = False
    calibrated: bool = False
    guessed: bool = False
    compact: bool = False


def advice(judgement: Judgement, asked: Asked) -> tuple[str, ...]:
    """Return what would help, the most useful first; nothing where the result is good."""
    if judgement.verdict == "good":
        return ()
    compact = ": this network is compact" if asked.compact else ""
    found = [
        (asked.guessed, "say the input's scale: --input-mean, --input-std, --input-range"),
        (asked.pruned and judgement.verdict != "unknown", f"prune less{compact}"),
        (not asked.calibrated, "give 32 real inputs by --calibrate"),
        (asked.activations and judgement.verdict != "unknown", "leave --activations out"),
        (asked.bits < 8 and judgement.verdict != "unknown", "use --bits 8"),
        (judgement.verdict == "unknown", "give real inputs, labelled if possible, by --validate"),
    ]
    return tuple(text for wanted, text in found if wanted)


def _is_another(output: OutputFidelity) -> bool:
    """Whether an output differs by more than the rounding of numbers, which is much of one that hardly moves."""
    figures = [db for db in (output.sqnr_db, output.plain_db) if db is not None]
    return output.sqnr_db is not None and max(figures) < SAME_DB


def certain_fault(
    fidelity: Fidelity, bytes_before: int, bytes_after: int, asked: Asked, slower_by: float | None = None
) -> str:
    """Return what is wrong with a result beyond doubt, in a line; empty if nothing is.

    `slower_by` is its time as a share of the original's, where speed was asked for and it is clearly slower.
    """
    still = [o.name for o in fidelity.outputs if o.parts and all(p.still for p in o.parts)]
    if still:
        return f"output {still[0]!r} no longer depends on the input, while the original's does"
    moved = [o.sqnr_db for o in fidelity.outputs if o.sqnr_db is not None and _is_another(o)]
    if not asked.work and moved:
        return f"nothing was asked to change, but the outputs are only {min(moved):.1f} dB from the original's"
    if asked.smaller and bytes_after > bytes_before + SLACK:
        return f"the file would be larger than the original ({bytes_after:,} bytes instead of {bytes_before:,})"
    if slower_by is not None:
        without = "leave --activations out" if asked.activations else "leave the budget of latency out"
        return f"the result takes {slower_by:.2f} times the original's time on this machine; {without}"
    return ""
