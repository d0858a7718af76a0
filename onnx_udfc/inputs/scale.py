"""What scale of its pictures a network expects, where nobody says: read off its first layers, or off its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.inputs.classifier import asked
from onnx_udfc.inputs.detector import detector
from onnx_udfc.inputs.kinds import Another, Scale, Wanted, to_network
from onnx_udfc.inputs.photographs import DEVIATION, MEAN
from onnx_udfc.inputs.reaction import informations
from onnx_udfc.numerics.images import Array, InputScaling, synthetic_images
from onnx_udfc.numerics.moments import channel_statistics

if TYPE_CHECKING:
    from onnx_udfc.inputs.stem import Stem
    from onnx_udfc.model.network import Network

Double = NDArray[np.float64]

_BURIED = 0.03  # a first layer whose biases outweigh its response by more than this expects raw pixels
_JUDGES = 8  # images on which two scales are compared
_LITTLE = 0.2  # of the information that answers could carry: 0.06 in SqueezeNet at the wrong scale, 0.3 and more else
_CLEAR = 3.0  # times as much at another scale
_LEAST_STD = 1e-9  # of an input; below, or above its inverse, a batch norm tells nothing
_SAME, _APART = 0.1, 0.5  # distances of means and deviations: the same scale; none that networks mostly read
_TELLING = 0.5  # of what the normalized scale misses must another miss at most
_FARTHEST = 20.0  # one channel that never moves must not decide
_SHIFT = 0.5  # |mean| over deviation of a first convolution's channels: 0.4 to 3 at the scale that a network expects

_DROWNED = 5.0  # |bias| over deviation, median over channels: 0.07 to 3.3 at the scale of the training, 17 networks
_COLOURS = 3  # channels of pictures that have a usual mean

ASSUMED = "input assumed normalized"  # how words for the user begin where nothing tells
NORMALIZED = (InputScaling(), f"{ASSUMED} (mean 0, deviation 1); say --input-mean, --input-std otherwise")
BLIND = (
    "input assumed to be pixels (0 to 255) less their mean: outputs hardly depend on images of deviation 1;"
    " say --input-mean, --input-std and --input-range 0,255 otherwise"
)
UNBIASED = (
    "input assumed to be pixels from 0 to 1: the first biases are small beside its response to normalized"
    " images; say --input-mean, --input-std and --input-range otherwise"
)
GUESSED = (ASSUMED, BLIND, UNBIASED)  # what a network that is not trained, or trained in another way, may belie
UNIT = InputScaling((MEAN / 255,), (DEVIATION / 255,), 0, 1)
SIGNED = InputScaling((MEAN / 127.5 - 1,), (DEVIATION / 127.5,), -1, 1)
RAW, CENTRED = InputScaling((MEAN,), (DEVIATION,), 0, 255), InputScaling(std=(DEVIATION,))
USUAL = (
    (InputScaling(), "normalized (mean 0, deviation 1)"), (UNIT, "pixels from 0 to 1"),
    (SIGNED, "pixels from -1 to 1"), (RAW, "raw pixels (0 to 255)"), (CENTRED, "pixels (0 to 255) less their mean"),
)  # fmt: skip


LARGER, ELSEWHERE = Another(times=8.0), Another(plus=8.0)
RAISED, PROFILED = Another(plus=4.0), Another(profile=2.0)
AS_UNIT, AS_SIGNED = (Another(u.std[0], u.mean[0]) for u in (UNIT, SIGNED))


def untold(wanted: Wanted, stem: Stem | None) -> tuple[Another, ...]:
    """What else pictures that were taken as normalized may be, for all that the file says.

    Trained, biases are at most a few times as large as a first convolution's response to the input: where it drowns in
    them the input is larger. Pictures of three channels are colours, square ones of one channel are grey: they have few
    usual means. Others may be spectra, whose mean may be many deviations.
    """
    grey = wanted.channels == 1 and len(set(wanted.size)) == 1
    found = () if wanted.channels == _COLOURS or grey else (ELSEWHERE,)
    read = None
    if stem is not None:
        read = stem.reads(synthetic_images(_JUDGES, wanted.channels, stem.size, seed=1), InputScaling())
    if stem is None or read is None:
        return (LARGER, *found)
    deviation = np.sqrt(channel_statistics(stem.gives(read))[1])
    live = deviation > 1e-3 * deviation.max(initial=0.0)
    share = float(np.median(np.abs(stem.layer.bias)[live] / deviation[live])) if live.any() else 0.0
    return found if share <= _DROWNED else (LARGER, *found)


def in_doubt(stem: Stem | None, wanted: Wanted) -> bool:
    """Whether a first convolution does not look as if its pictures were normalized: it hardly shifts their response.

    Trained, it shifts by about what it spreads (see `_SHIFT`), as folded batch norms do. Nor does it where the graph
    scales pictures before it to what networks do not mostly read.
    """
    z = synthetic_images(_JUDGES, wanted.channels, wanted.size if stem is None else stem.size, seed=1)
    read = None if stem is None else stem.reads(z, InputScaling())
    if stem is None or read is None or _distance(_level(read), _level(z)) > _SAME:
        return True
    return _shift(*channel_statistics(stem.gives(read))) < _SHIFT


def guess_scaling(network: Network, wanted: Wanted, stem: Stem | None) -> tuple[InputScaling, str]:
    """Mean and deviation that a network expects of its pictures, and words that tell the user what was assumed.

    A graph that first scales its pictures itself expects those that come out as networks mostly read them. With batch
    norm in the file the first convolution's stored statistics say what went through it: σ²/v, with v the variance that
    images of deviation 1 cause, gives the deviation; the mean solves β = W m + b. Where the first batch norm comes
    later, behind activations and pooling, the usual scale is taken that comes nearest to what it recorded. Without any,
    a convolution whose response
    to normalized images drowns in its biases expects raw pixels; a classifier that can hardly tell normalized images
    apart, but those of deviation 64, pixels less their mean; and a detector whose biases are small beside its response
    pixels from 0 to 1.
    """
    if stem is None:
        return NORMALIZED
    z = synthetic_images(_JUDGES, wanted.channels, stem.size, seed=1)
    read = stem.reads(z, InputScaling())
    if read is None:
        return NORMALIZED
    if _distance(_level(read), _level(z)) > _SAME:
        return _prepared(stem, z)
    y = stem.gives(read)
    if stem.layer.batch_norm is not None:
        return _from_batch_norm(stem, channel_statistics(y)[1])
    recorded = _recorded_later(stem, z)
    if recorded is not None:
        return recorded
    mean, variance = channel_statistics(y)
    bias = stem.layer.bias.astype(np.float64)
    if float(np.sqrt(np.median(variance))) < _BURIED * float(np.sqrt(np.mean(bias**2))):
        return RAW, "input assumed to be raw pixels (0 to 255)"
    if _blind(network, wanted):
        return CENTRED, BLIND
    if _shifts_little(stem, z, mean, variance) and detector(network, wanted) is not None:
        return UNIT, UNBIASED
    return NORMALIZED


def _prepared(stem: Stem, z: Array) -> tuple[InputScaling, str]:
    """The scale of pictures z that comes out as what networks mostly read, where the graph scales them first."""
    usual = [_level(scaling.apply(z)) for scaling, _ in USUAL]
    found: list[tuple[float, InputScaling, str]] = []
    for scaling, words in USUAL:
        read = stem.reads(z, scaling)
        if read is not None:
            found.append((min(_distance(_level(read), one) for one in usual), scaling, words))
    least, scaling, words = min(found, key=lambda one: one[0], default=(np.inf, InputScaling(), ""))
    if least > _APART:
        by_channel = _each_channel(stem, z)
        if by_channel is None:
            return NORMALIZED
        scaling, words = by_channel
    note = f"input assumed to be {words}, as the graph itself scales it; say --input-mean, --input-std otherwise"
    return scaling, note


def _each_channel(stem: Stem, z: Array) -> tuple[InputScaling, str] | None:
    """The usual scale of pictures z whose channels come out with deviations near 1 each; None if that is not told.

    A batch norm of the pictures themselves, folded, gives each channel a mean of its own, so that all values together
    are at no usual level. Of several scales that one is taken whose means are the least beside their deviations.
    """
    found: list[tuple[float, InputScaling, str]] = []
    for scaling, words in USUAL:
        read = stem.reads(z, scaling)
        if read is None:
            continue
        mean, variance = channel_statistics(read)
        deviation = np.sqrt(variance)
        if deviation.min() > _LEAST_STD and np.abs(np.log(deviation)).mean() <= _APART:
            found.append((float(np.mean(np.abs(mean) / deviation)), scaling, words))
    least = min(found, key=lambda one: one[0], default=None)
    return None if least is None else least[1:]


def _recorded_later(stem: Stem, z: Array) -> tuple[InputScaling, str] | None:
    """The usual scale at which pictures z come nearest to what the first batch norm recorded; None if that is not told.

    Half the squared log ratio of variances and the squared gap of means in deviations, mean over channels: of networks
    whose scale is known 0.1 to 0.5 at their own, 1.7 to 20 at those that are far from it, from the second and third
    batch norm as from the first.
    """
    found = stem.network.first_norm()
    if found is None:
        return None
    tensor, mean, variance = found
    misses = [_miss(stem.tensor(tensor, z, scaling), mean, variance) for scaling, _ in USUAL]
    least = int(np.argmin(misses))
    if misses[least] > _TELLING * misses[0] or not np.isfinite(misses[least]):  # the first is the normalized one
        return NORMALIZED if least == 0 and np.isfinite(misses[0]) else None
    scaling, words = USUAL[least]
    return scaling, (
        f"input assumed to be {words}, as the first batch norm recorded it; say --input-mean, --input-std otherwise"
    )


def _miss(y: Array | None, mean: Double, variance: Double) -> float:
    """How far values y (n, C, ...) are from a batch norm's statistics (C,), at most _FARTHEST for each channel."""
    if y is None:
        return float("inf")
    seen, spread = channel_statistics(y)
    floor = 1e-6 * float(variance.mean()) + 1e-30
    apart = np.log((spread + floor) / (variance + floor)) ** 2 / 2 + (seen - mean) ** 2 / (variance + floor)
    return float(np.minimum(apart, _FARTHEST).mean())


def _level(x: Array) -> tuple[float, float]:
    """Mean and deviation."""
    return float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))


def _distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    """How far two pairs of mean and deviation are from one another, in deviations."""
    if min(one[1], other[1]) < _LEAST_STD:
        return float("inf")
    return abs(one[0] - other[0]) / other[1] + abs(float(np.log(one[1] / other[1])))


def _shifts_little(stem: Stem, z: Array, mean: Double, variance: Double) -> bool:
    """Whether biases look like those of folded batch norms for pictures from 0 to 1 rather than for normalized ones.

    Trained, batch norms shift by about what they spread: means of a convolution's channels are about their deviations.
    """
    read = stem.reads(z, UNIT)
    if read is None:
        return False
    unit_mean, unit_variance = channel_statistics(stem.gives(read))
    shifts = [_shift(mean, variance), _shift(unit_mean, unit_variance)]
    return bool(np.prod(shifts) < _SHIFT**2)


def _shift(mean: Double, variance: Double) -> float:
    """|mean| over the deviation, the median over channels that live."""
    deviation = np.sqrt(variance)
    live = deviation > 1e-3 * deviation.max(initial=0.0)
    return float(np.median(np.abs(mean[live]) / deviation[live])) if live.any() else np.inf


def _blind(network: Network, wanted: Wanted) -> bool:
    """Whether a classifier's answers depend on images of deviation DEVIATION, but hardly on those of deviation 1."""
    ask = asked(network, wanted.spec)
    if ask is None:
        return False
    z = synthetic_images(_JUDGES, wanted.channels, wanted.size, seed=1)
    p = ask(to_network(np.concatenate([z, z * np.float32(DEVIATION)]), wanted, Scale()))
    if not p.size:
        return False
    plain, wide = (float(informations(part).mean()) / np.log(min(part.shape)) for part in np.split(p, 2))
    return bool(plain < _LITTLE < wide and wide > _CLEAR * plain)


def _from_batch_norm(stem: Stem, variance: Double) -> tuple[InputScaling, str]:
    layer = stem.layer
    norm = layer.batch_norm
    assert norm is not None
    factor = norm.gamma / np.sqrt(norm.var + norm.epsilon)
    seen = (variance > 1e-12) & (factor != 0)
    std = float(np.sqrt(np.median((norm.var * factor**2)[seen] / variance[seen]))) if seen.any() else 1.0
    if not _LEAST_STD < std < 1 / _LEAST_STD:
        return InputScaling(), (
            f"{ASSUMED}: the first batch norm has no variance; say --input-mean, --input-std otherwise"
        )
    weight = 1 / np.maximum(abs(norm.gamma), 1e-3)
    sums = _sums(stem)
    prior = 0.3 / std * np.eye(sums.shape[1])  # toward 0: few layers tell the mean exactly
    left = np.concatenate([sums * weight[:, None], prior])
    right = np.concatenate([(norm.beta - layer.bias) * weight, np.zeros(layer.in_channels)])
    mean = np.clip(np.linalg.lstsq(left, right, rcond=None)[0], -3 * std, 3 * std)
    text = ", ".join(f"{m:.2g}" for m in mean)
    return (
        InputScaling(tuple(float(m) for m in mean), (std,)),
        f"input scale read off the first batch norm: mean {text}, deviation {std:.2g}",
    )


def _sums(stem: Stem) -> Double:
    """(O, C) what a convolution gives for each constant channel of the pictures, without its biases."""
    layer = stem.layer
    channels: Double = layer.matrix()[0].reshape(layer.out_channels, layer.in_channels, -1).sum(-1)
    if stem.plain:
        return channels
    colours = np.eye(stem.wanted.channels, dtype=np.float32)
    read = stem.reads(np.broadcast_to(colours[:, :, None, None], (*colours.shape, *stem.size)), InputScaling())
    assert read is not None  # as it did before
    middle = read[:, :, read.shape[2] // 2, read.shape[3] // 2]
    return np.asarray(channels @ middle.T.astype(np.float64))
