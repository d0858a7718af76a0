"""What the network is run on: the user's own data, or made-up inputs brought to the scale that it expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.inputs.choice import Choice, choose, strength
from onnx_udfc.inputs.classifier import class_scores
from onnx_udfc.inputs.colours import BLUE_FIRST, expects_blue_first
from onnx_udfc.inputs.feeds import take
from onnx_udfc.inputs.how_many import image_count
from onnx_udfc.inputs.image_files import Preprocessing, asked_preprocessing
from onnx_udfc.inputs.kinds import Another, Scale, Wanted, made
from onnx_udfc.inputs.real import Real, made_up, real_inputs, real_shapes
from onnx_udfc.inputs.rollout import Rollout, rolled_over, rollout_of, steps
from onnx_udfc.inputs.scale import (
    AS_SIGNED,
    AS_UNIT,
    ASSUMED,
    GUESSED,
    LARGER,
    PROFILED,
    RAISED,
    guess_scaling,
    in_doubt,
    untold,
)
from onnx_udfc.inputs.sizes import check_sizes, input_specs_of, settle, wanted_inputs
from onnx_udfc.inputs.sources import SCRIPTS
from onnx_udfc.inputs.stem import stem_of
from onnx_udfc.inputs.text import is_line
from onnx_udfc.numerics.breeding import children
from onnx_udfc.options import Options
from onnx_udfc.runtime.runs import sample_count

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

REAL = 128  # real inputs that are fitted on, at most
LINE = (48, 192)  # of a picture that may be a line of text
MATCHED_LINES = 0.5  # of the way that a reader's batch norms go to their stored statistics
READ = {"text", *SCRIPTS}  # kinds that a reader is run on
CLEARLY = 1.5  # times as much must lines of text say to a classifier as pictures of the size that was guessed
HELD_OUT = 4  # one in so many real inputs is only judged on, at least so many of them, where there are twice as many

BATCH = 8  # samples of a run, if the memory allows

Likeness = Literal["real", "alike", "foreign"]

FEATURES = (LARGER, RAISED, PROFILED)  # what else they may be
FEW = 4  # inputs of each class below which what a classifier tells apart is not seen


@dataclass(frozen=True)
class NetworkInputs:
    """Values for every input of the network, and where they are from.

    Attributes:
        values: input name → values; see `runs` for where their samples lie.
        source: synthetic or calibration.
        note: what was assumed, in words for the user; empty if nothing was.
        held_out: how many real inputs are not fitted on but kept for the check; None where none are real.
        choices: which kinds were made up, and why.
        rollout: how samples follow one another where the network carries states along.
    """

    values: dict[str, NDArray[Any]]
    source: Literal["synthetic", "calibration"]
    note: str = ""
    held_out: int | None = None
    choices: tuple[Choice, ...] = ()
    rollout: Rollout | None = None

    def noted(self, note: str) -> NetworkInputs:
        """The same with another note behind its own; empty ones say nothing."""
        return replace(self, note="; ".join(words for words in (self.note, note) if words))

    @property
    def matched(self) -> float:
        """How far the network's batch norms are to be matched to what they stored in training, from 0 to 1.

        Lines of text are drawn much as real ones are; both have other statistics than lines that were distorted and
        padded in training.
        """
        if self.source != "synthetic":
            return 0.0
        sides = [sorted(self.values[choice.name].shape[1:])[-2:] for choice in self.choices]
        lines = [
            set(choice.kinds) <= READ and len(side) == 2 and is_line((side[0], side[1]))
            for choice, side in zip(self.choices, sides, strict=True)
        ]
        return MATCHED_LINES if lines and all(lines) else 1.0

    @property
    def scale_is_assumed(self) -> bool:
        """Whether the scale of a picture among them is a guess: nothing tells it, or the answers or biases alone."""
        return any(words in self.note for words in GUESSED)


def settle_sizes(network: Network, options: Options) -> None:
    """Choose the sizes that the file leaves open: asked for, else those of the real inputs, else guessed.

    Raises:
        RequestError: an asked shape does not fit, or the real inputs cannot be read or do not fit.
    """
    real = real_shapes(input_specs_of(network), options.calibrate) if options.calibrate else {}
    settle(network, options.input_shape, real)
    if options.calibrate:  # what is wrong with them is said before any work, whatever needs them later
        real_inputs(wanted_inputs(network), options.calibrate, asked_preprocessing(options), 1)
    if not options.calibrate:
        settle_as_line(network, options)


def settle_as_line(network: Network, options: Options) -> None:
    """Take the size of a line of text where a classifier of pictures of any size answers to lines much more clearly.

    Raises:
        RequestError: an input cannot be made up.
    """
    if not network.sizes or options.input_shape or options.kinds not in ("auto", "text"):
        return
    (*_, wanted), guessed = wanted_inputs(network), dict(network.sizes)
    at = 1 if wanted.channels_last else 2
    picture = len(guessed) == 1 and wanted.kind == "picture" and len(wanted.size) == 2
    if not picture or wanted.spec.shape[at : at + 2] != (None, None) or len(set(wanted.size)) != 1:
        return
    strengths = []
    line = {wanted.spec.name: (*wanted.shape[:at], *LINE, *wanted.shape[at + 2 :])}
    for sizes in (guessed, line):
        network.sizes = sizes
        tried = wanted_inputs(network)
        strengths.append(strength(network, tried, options.kinds, _scales(network, tried, options)[0], options.threads))
    network.sizes = line if strengths[1] > CLEARLY * strengths[0] > 0 else guessed
    if network.sizes is line:
        shape = "x".join(map(str, line[wanted.spec.name]))
        network.notes[-1] = (
            f"the size that the file leaves open was taken as {wanted.spec.name} {shape}: the network reacts to lines"
            " of text; say --input-shape otherwise"
        )


def make_inputs(network: Network, options: Options, seed_offset: int = 0) -> NetworkInputs:
    """Inputs for one pass: real ones where the user gave some, else made-up ones.

    `seed_offset` is not 0 for inputs to judge on: made-up ones of another seed, or the real ones that were held out.

    Raises:
        RequestError: the data do not fit the network.
    """
    if not network.sizes:
        settle_sizes(network, options)
    check_sizes(network)
    wanted = wanted_inputs(network)
    if options.calibrate:
        return _real(network, wanted, options, judged=seed_offset != 0)
    count = options.number or image_count(wanted)
    wanted, scales, notes, choices = expected(network, options)
    rollout, seed = rollout_of(wanted, count), options.seed + seed_offset
    if rollout is not None:
        values = rolled_over(network, wanted, steps(wanted, rollout, count, seed, scales), rollout)
        if values is not None:
            notes.append(_carried(rollout))
            return NetworkInputs(values, "synthetic", "; ".join(notes), choices=choices, rollout=rollout)
    values = made(wanted, count, seed, scales)
    if seed_offset == 0:
        values |= {w.spec.name: _at_scales(values[w.spec.name], w) for w in wanted if doubtful(network, w, options)}
    return NetworkInputs(values, "synthetic", "; ".join(notes), choices=choices)


def expected(
    network: Network, options: Options
) -> tuple[tuple[Wanted, ...], dict[str, Scale], list[str], tuple[Choice, ...]]:
    """What is made up for each input, of which kinds and at which scale; words for the user, and what was chosen.

    Sizes are settled before (see `settle_sizes`).
    """
    wanted = wanted_inputs(network)
    scales, notes = _scales(network, wanted, options)
    notes += _not_applied(wanted, options)
    choices = chosen_kinds(network, wanted, scales, options)
    among = {c.name: c.kinds for c in choices}
    return tuple(replace(w, among=among.get(w.spec.name, ())) for w in wanted), scales, notes, choices


def _at_scales(values: NDArray[Any], wanted: Wanted) -> NDArray[Any]:
    """Pictures of which every third is of pixels from 0 to 1, and another third of pixels from -1 to 1.

    Fitted on normalized ones alone, networks that read pixels kept 8.0, -1.7 and 4.6 dB; on all three 15.7, 3.8 and
    6.6; a network of normalized pictures 22.9 and 23.0 dB.
    """
    found, axis = np.array(values), wanted.spec.axis or 0
    for third, other in enumerate((AS_UNIT, AS_SIGNED), 1):
        chosen = (*[slice(None)] * axis, slice(third, None, 3))
        found[chosen] = other.of(found[chosen])
    return found


def _carried(rollout: Rollout) -> str:
    """What is said of states."""
    pairs = ", ".join(f"{name} is what {output} was" for name, output in rollout.outputs.items())
    return f"run in sequences of {rollout.steps} steps in which {pairs} in the step before"


def _scales(network: Network, wanted: tuple[Wanted, ...], options: Options) -> tuple[dict[str, Scale], list[str]]:
    """What brings pictures to what the network expects: as the user says, or guessed, with words for the user."""
    known = preprocessing(options)
    scales, notes = {}, []
    for w in wanted:
        scale = Scale(known, options.input_colour or "rgb")
        if known is None and w.kind in ("picture", "bytes"):
            scale, note = _guessed(network, w, options.input_colour)
            notes += [note] if note else []
        scales[w.spec.name] = scale
    return scales, notes


def chosen_kinds(
    network: Network, wanted: tuple[Wanted, ...], scales: Mapping[str, Scale], options: Options
) -> tuple[Choice, ...]:
    """Which kinds are made up for the inputs: chosen once for each network."""
    key = ("kinds", options.kinds, tuple(w.shape for w in wanted))
    count = image_count(wanted)
    return network.expects.once(key, lambda: choose(network, wanted, options.kinds, scales, options.threads, count))


def preprocessing(options: Options) -> Preprocessing | None:
    """What the user says of pixels; None where that is nothing."""
    told = options.input_mean or options.input_std or options.input_range
    return asked_preprocessing(options) if told else None


def _not_applied(wanted: tuple[Wanted, ...], options: Options) -> list[str]:
    """What is told of pixels and holds for no input."""
    if preprocessing(options) is None or any(w.kind == "picture" for w in wanted):
        return []
    names = ", ".join(w.spec.name for w in wanted)
    reason = "takes whole pixels" if any(w.kind == "bytes" for w in wanted) else "is no picture"
    return [f"--input-mean, --input-std and --input-range are not applied: {names} {reason}"]


def _real(network: Network, wanted: tuple[Wanted, ...], options: Options, *, judged: bool) -> NetworkInputs:
    """Real inputs: those that are fitted on, or those that were held out to be judged on."""
    fitted_on = options.number or REAL
    found = real_inputs(
        wanted, options.calibrate, asked_preprocessing(options), fitted_on + fitted_on // (HELD_OUT - 1)
    )
    specs = tuple(w.spec for w in wanted)
    values = _with_states(network, wanted, found.values | made_up(wanted, found, options.seed), found)
    fit, held = hold_out(found.samples, options.seed)
    notes = _not_applied(wanted, options) if any(w.kind in ("picture", "bytes") for w in wanted) else []
    if found.missing:
        states = all(w.use.carried for w in wanted if w.spec.name in found.missing)
        instead = "carried along by the network from one to the next" if states else "made up"
        notes.append(f"{', '.join(found.missing)}: not among the real inputs, so {instead}")
    if not len(held):
        notes.append(
            f"{found.samples} real inputs are too few to keep some for the check ({2 * HELD_OUT} would do):"
            " its figures are of the inputs that were fitted"
        )
    chosen = held if judged and len(held) else fit
    values = take(specs, values, _whole(chosen, wanted))
    if not judged:
        values = with_variants(wanted, values, options.number or image_count(wanted), options.seed)
    return NetworkInputs(values, "calibration", "; ".join(notes), len(held))


def _with_states(
    network: Network, wanted: tuple[Wanted, ...], values: dict[str, NDArray[Any]], found: Real
) -> dict[str, NDArray[Any]]:
    """Values with the states that real inputs lack: those that the network goes through over them in their order."""
    outputs = {w.spec.name: w.use.carried for w in wanted if w.use.carried and w.spec.name in found.missing}
    if not outputs:
        return values
    batch = max([1, *(w.spec.batch or 1 for w in wanted)])
    return rolled_over(network, wanted, values, Rollout(outputs, found.samples // batch, batch)) or values


def hold_out(samples: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the samples to fit on, and of those to judge on: a random one in every four neighbours.

    Neighbours are often of one kind (a folder for each class), so that each kind is in both. Below 8 samples all are
    fitted on and none is held out.
    """
    if samples < 2 * HELD_OUT:
        return np.arange(samples), np.arange(0)
    rng = np.random.default_rng(seed)
    parts = np.array_split(np.arange(samples), max(HELD_OUT, samples // HELD_OUT))
    held = np.array([rng.choice(part) for part in parts])
    return np.setdiff1d(np.arange(samples), held), held


def _whole(chosen: NDArray[np.int64], wanted: tuple[Wanted, ...]) -> NDArray[np.int64]:
    """Positions repeated until they fill a fixed batch."""
    batch = max([1, *(w.spec.batch or 1 for w in wanted)])
    return chosen if len(chosen) >= batch else np.resize(chosen, batch)


def learn_scaling(network: Network, options: Options) -> None:
    """Guesses what `make_inputs` will need to know, so that no session of its own is open beside another one later."""
    if not options.calibrate:
        _scales(network, wanted_inputs(network), options)


def _guessed(network: Network, wanted: Wanted, colour: str | None) -> tuple[Scale, str]:
    """What was guessed of an input's scale, and of its colours where they are not told; once for each network."""

    def guess() -> tuple[Scale, str]:
        picture = wanted.kind == "picture"
        scaling, note = guess_scaling(network, wanted, stem_of(network, wanted)) if picture else (None, "")
        scale = Scale(scaling, colour or "rgb")
        if colour is None and expects_blue_first(network, wanted, scale):
            return replace(scale, colour="bgr"), f"{note}; {BLUE_FIRST}" if note else BLUE_FIRST
        return scale, note

    return network.expects.once(("scale", wanted.spec.name, wanted.shape, colour), guess)


def batch_of(network: Network, values: dict[str, NDArray[Any]]) -> int:
    """Number of samples."""
    return sample_count(input_specs_of(network), values)


def shows_classes(network: Network, inputs: NetworkInputs) -> bool:
    """Whether the network is a classifier and the inputs are enough to show it each of its classes a few times."""
    shape = class_scores(network)
    return bool(shape) and batch_of(network, inputs.values) >= FEW * shape[1]


def unscaled(network: Network, inputs: NetworkInputs, options: Options) -> dict[str, tuple[Another, ...]]:
    """What else the numbers of each input may be whose scale nothing tells; of those with a batch norm behind, nothing.

    Features, embeddings and spectra may be larger. Pictures that were only assumed to be normalized may be what the
    first convolution does not gainsay.
    """
    if inputs.source == "calibration" or network.first_norm() is not None:
        return {}
    told, found = preprocessing(options) is not None, dict[str, tuple[Another, ...]]()
    for w in wanted_inputs(network):
        if w.kind == "picture" and told:
            continue
        if w.unscaled:
            found[w.spec.name] = (LARGER,)
        elif assumed_normalized(network, w, options):
            found[w.spec.name] = _others(network, w)
    return {name: others for name, others in found.items() if others}


def assumed_normalized(network: Network, wanted: Wanted, options: Options) -> bool:
    """Whether an input is a picture whose scale neither the user nor the file tells."""
    picture = wanted.kind == "picture" and preprocessing(options) is None
    return picture and ASSUMED in _guessed(network, wanted, options.input_colour)[1]


def doubtful(network: Network, wanted: Wanted, options: Options) -> bool:
    """Whether an input is a picture that was assumed to be normalized, and may well be of another scale."""
    if wanted.unscaled or network.first_norm() is not None or not assumed_normalized(network, wanted, options):
        return False
    key = ("doubtful", wanted.spec.name, wanted.shape)
    return network.expects.once(key, lambda: in_doubt(stem_of(network, wanted), wanted))


def _others(network: Network, wanted: Wanted) -> tuple[Another, ...]:
    """What else a picture may be; found once for each network."""
    key = ("untold", wanted.spec.name, wanted.shape)
    return network.expects.once(key, lambda: untold(wanted, stem_of(network, wanted)))


def elsewhere(network: Network, inputs: NetworkInputs, options: Options) -> tuple[NetworkInputs, ...]:
    """The same inputs made what else they may be, one after another; none where something tells what they are.

    Features, embeddings and spectra have no usual scale or mean, and pictures of a scale that was only assumed may be
    pixels from 0 to 1 or from -1 to 1. As they are drawn they say too much good: a wake word's network kept 22 dB of
    noise, and 6 dB of embeddings, which have a mean of their own for each feature.
    Real inputs are what they are.
    """
    if inputs.source == "calibration":
        return ()
    wanted = wanted_inputs(network)
    unknown = unscaled(network, inputs, options)
    others = {w.spec.name: _besides(network, w, unknown.get(w.spec.name, ()), options) for w in wanted}
    found = []
    for other in dict.fromkeys(other for some in others.values() for other in some):
        values = {name: other.of(v) if other in others[name] else v for name, v in inputs.values.items()}
        if inputs.rollout is not None:
            stepped = rolled_over(network, wanted, values, inputs.rollout)
            if stepped is None:
                continue
            values = stepped
        found.append(replace(inputs, values=values))
    return tuple(found)


def _besides(network: Network, wanted: Wanted, unknown: tuple[Another, ...], options: Options) -> tuple[Another, ...]:
    """What else an input may be."""
    if wanted.unscaled:
        return FEATURES if unknown else ()
    return (*unknown, *((AS_UNIT, AS_SIGNED) if doubtful(network, wanted, options) else ()))


def likeness(network: Network, inputs: NetworkInputs) -> Likeness:
    """How like inputs are to what a network is meant for, as far as anything says so.

    Made-up ones are alike where batch norms are matched to what they recorded, or where each class is seen a few times.
    """
    if inputs.source == "calibration":
        return "real"
    return "alike" if network.has_batch_norms or shows_classes(network, inputs) else "foreign"


def with_variants(
    wanted: tuple[Wanted, ...], values: dict[str, NDArray[Any]], count: int, seed: int
) -> dict[str, NDArray[Any]]:
    """The values of a network with one input of pictures, and variants of them up to `count`; others as they are.

    Variants are parts of one beside another, one over another, parts made larger: a layer is fitted on the positions
    that its inputs show, and of a few small pictures these are fewer than the layer has channels.
    """
    if len(wanted) != 1 or wanted[0].kind not in ("picture", "bytes") or wanted[0].spec.axis != 0:
        return values
    ((name, real),) = values.items()
    batch = wanted[0].spec.batch or 1
    missing = count // batch * batch - len(real)
    if missing <= 0 or len(real) < 2 or real.ndim != 4:
        return values
    rng = np.random.default_rng(seed)
    pictures = np.moveaxis(real, -1, 1) if wanted[0].channels_last else real
    first, second = rng.integers(len(real), size=(2, missing))
    born = np.clip(children(pictures[first], pictures[second], rng), real.min(), real.max())
    born = np.moveaxis(born, 1, -1) if wanted[0].channels_last else born
    return {name: np.concatenate([real, born.astype(real.dtype)])}
