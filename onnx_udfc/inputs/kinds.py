"""What is made up for each input of a network: of which kind it is, who makes it, and how it becomes network values.

`kind_of` alone decides: by the input's type and shape, and by what the graph does with it (see `uses`). A kind is a row
of MAKERS: a function (wanted, count, seed) → values (count, ...) without regard to the samples' axis.

A new kind of input: a Literal in `Kind`, a branch in `kind_of`, a row in MAKERS.
A new kind of picture, sound or bytes: a row in `sources`. Which of them are made for an input, `choice` finds out.
Scale and layout are nobody else's business: `to_network` brings pictures in normalized units to the scale and the order
of axes that the network wants, and its type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.image_files import Preprocessing
from onnx_udfc.inputs.photographs import DEVIATION, MEAN
from onnx_udfc.inputs.sounds import RATE
from onnx_udfc.inputs.sources import CODES, FORMULA, PICTURES, SCRIPTS, SIGNALS
from onnx_udfc.inputs.uses import Use
from onnx_udfc.numerics.images import Array, InputScaling
from onnx_udfc.numerics.picture_codec import LUMA
from onnx_udfc.numerics.products import each
from onnx_udfc.runtime.runs import InputSpec, cut

Kind = Literal[
    "picture", "bytes", "signal", "features", "tokens", "choices", "positions", "ones", "flags", "length", "size",
    "numbers", "scalars", "state",
]  # fmt: skip

RUNS = 8  # values of an input that has one in each run
LONG = 400  # numbers in a row that are a sound rather than features
_PROFILE = 5  # seed of the means of features
_NAMED: dict[str, Kind] = {
    "mask": "ones", "position": "positions", "pos_ids": "positions", "length": "length", "_len": "length",
    "scale_factor": "ones", "im_shape": "size", "image_shape": "size", "im_info": "size", "target_size": "size",
    "original_size": "size",
}  # fmt: skip
_SOUNDS = ("audio", "wav", "speech", "sound", "pcm")  # parts of what inputs of samples of sound are called
_RATES = ("sr", "rate", "sample_rate", "sampling_rate")


@dataclass(frozen=True)
class Scale:
    """What a network expects of pictures.

    Attributes:
        units: what the user says of pixels, or what was guessed of normalized units; None leaves values as they are.
        colour: order of the channels: rgb, bgr or gray.
    """

    units: Preprocessing | InputScaling | None = None
    colour: str = "rgb"


@dataclass(frozen=True)
class Another:
    """What else numbers x may be: times * x + plus + profile * m, m of deviation 1 and its own for each feature.

    Features lie along the last axis. A profile is what embeddings have, and spectra of loud and soft bands.
    """

    times: float = 1.0
    plus: float = 0.0
    profile: float = 0.0

    def of(self, x: NDArray[Any]) -> NDArray[Any]:
        """The values (samples, ..., features), and their type."""
        m = np.random.default_rng(_PROFILE).standard_normal(x.shape[-1:]) if self.profile else 0.0
        return np.asarray(self.times * x + self.plus + self.profile * m, x.dtype)


@dataclass(frozen=True)
class Wanted:
    """An input for which values are made up.

    Attributes:
        spec: as it is declared.
        shape: sizes of one run; what the file leaves open is settled (see `sizes`).
        use: what the graph does with it.
        side: height and width of the network's picture, or the length of its sequence; () where there is neither.
        among: kinds of pictures, sounds or codes to make, in equal parts (see `sources`); () means those by formula.
        normed: a batch norm of the network recorded what went through it, which tells a scale.
    """

    spec: InputSpec
    shape: tuple[int, ...]
    use: Use = field(default_factory=Use)
    side: tuple[int, ...] = ()
    among: tuple[str, ...] = ()
    normed: bool = False

    @property
    def kind(self) -> Kind:
        """What is made."""
        return kind_of(self.spec, self.shape, self.use)

    @property
    def unscaled(self) -> bool:
        """Whether its values are numbers of a scale that nothing tells: features, spectra, embeddings."""
        return not self.normed and (self.kind == "features" or (self.kind == "picture" and len(self.shape) != 4))

    @property
    def codes(self) -> int:
        """Of how many codes from 0 on its values are, where each may be any: rows of a table, or bytes; else 0."""
        if self.kind == "tokens":
            return 0 if self.use.first else self.use.rows
        numbers = self.use.choices
        counted = self.kind == "choices" and not self.spec.by_run and numbers == tuple(range(len(numbers)))
        return len(numbers) if counted else 0

    @property
    def sample(self) -> tuple[int, ...]:
        """Sizes of one sample, or of the value of one run."""
        return tuple(d for i, d in enumerate(self.shape) if self.spec.by_run or i != self.spec.axis)

    @property
    def channels_last(self) -> bool:
        """Whether a picture's channels are its last axis."""
        return channels_last(self.spec.shape, self.use)

    @property
    def flat(self) -> bool:
        """Whether a picture has no axis of channels: the graph gives it one before its first convolution."""
        return len(self.shape) == 3 and self.use.convolved == 2 and self.use.channels == 1

    @property
    def channels(self) -> int:
        """Of a picture."""
        return 1 if self.flat else self.sample[-1] if self.channels_last else self.sample[0]

    @property
    def size(self) -> tuple[int, ...]:
        """Sides of a picture."""
        return self.sample if self.flat else self.sample[:-1] if self.channels_last else self.sample[1:]


def kind_of(spec: InputSpec, shape: tuple[int, ...], use: Use) -> Kind:
    """What is made for an input."""
    if use.carried:
        return "state"
    if spec.dtype.kind == "b":
        mask = use.mask or (use.hides and not spec.by_run) or "mask" in spec.name.lower()
        return "ones" if mask else "flags"
    if spec.dtype.kind in "iu":
        return _whole_kind(spec, use)
    if spec.by_run and len(shape) < 2:
        return "ones" if use.extent else "scalars"
    if use.rows:  # rounded by a Cast before
        return "tokens"
    named = _named(spec.name)
    if named is not None and len(shape) < 4:
        return named
    if len(shape) == 1:
        return "scalars"
    if len(shape) == 3 and min(shape[1:]) == 1 and max(shape[1:]) >= LONG:
        return "signal"
    steps_first = len(shape) == 3 and spec.axis == 1 and spec.shape[0] is None
    if len(shape) in (3, 4, 5) and (spec.axis == 0 or steps_first):
        return "picture"
    long = len(shape) == 2 and shape[1] >= LONG
    convolved = len(shape) == 2 and use.convolved and (use.convolved == 1 or long)
    return "signal" if convolved or (long and called_sound(spec.name)) else "features"


def _whole_kind(spec: InputSpec, use: Use) -> Kind:
    """What is made for an input of whole numbers."""
    named = "length" if use.steps else _named(spec.name)
    if use.rows:
        return "positions" if named == "positions" else "tokens"
    if len(use.choices) > 1 or (use.choices and spec.by_run):
        return "choices"
    if len(spec.shape) == 4:
        return "bytes"
    if named is not None or use.mask:
        return named or "ones"
    if use.extent:
        return "size"
    return "flags" if use.flag else "numbers"


def _named(name: str) -> Kind | None:
    """What inputs of such a name hold by convention."""
    return next((kind for part, kind in _NAMED.items() if part in name.lower()), None)


def called_sound(name: str) -> bool:
    """Whether an input is called as those that take samples of sound are."""
    return any(part in name.lower() for part in _SOUNDS)


def channels_last(shape: tuple[int | None, ...], use: Use) -> bool:
    """Whether an input (n, ...) that may be pictures has its channels last."""
    if len(shape) != 4:
        return False
    if use.convolved == 2:  # one channel is turned by a Reshape as well as by a Transpose
        return use.channels_last or (shape[3] == use.channels and shape[1] != use.channels)
    return use.channels_last or (shape[3] in (1, 3) and shape[1] not in (1, 3))


def made(wanted: tuple[Wanted, ...], count: int, seed: int, scales: Mapping[str, Scale]) -> dict[str, NDArray[Any]]:
    """Values for every input: at least `count` samples, and RUNS values of what belongs to a whole run.

    At least one run of a fixed batch is made; the same seed gives the same values. `scales` is input name → what brings
    pictures to what the network expects.
    """
    batch = max([1, *(w.spec.batch or 1 for w in wanted)])
    count = -(-max(count, 1) // batch) * batch
    values = {}
    for i, w in enumerate(wanted):
        number = min(RUNS, count // batch) if w.spec.by_run else count
        drawn = MAKERS[w.kind](w, number, seed + i)
        if w.kind in ("picture", "bytes"):
            drawn = to_network(drawn, w, scales.get(w.spec.name, Scale()))
        drawn = drawn.astype(w.spec.dtype)
        values[w.spec.name] = drawn if w.spec.by_run else np.moveaxis(drawn, 0, w.spec.axis or 0)
    return values


def one_feed(
    wanted: tuple[Wanted, ...], seed: int = 0, scales: Mapping[str, Scale] | None = None, batch: int | None = None
) -> dict[str, NDArray[Any]]:
    """What one run of the network takes; see `made`.

    `batch` is None for one sample, or a fixed batch.

    Raises:
        RequestError: the network's batch is fixed, and another.
    """
    given = [w.spec for w in wanted]
    check_batch(given, batch)
    samples = batch or 1
    count = samples * RUNS if samples > 1 and any(s.by_run for s in given) else samples  # a value for each run
    return cut(given, made(wanted, count, seed, scales or {}), batch=samples).feeds[0]


def check_batch(given: Sequence[InputSpec], batch: int | None) -> None:
    """Refuse a number of samples that the network does not take.

    Raises:
        RequestError: its batch is fixed, and another.
    """
    fixed = next((s.batch for s in given if s.batch is not None), None)
    if batch is not None and fixed not in (None, batch):
        raise RequestError(
            f"--batch {batch}: the network takes {fixed} at a time, neither more nor less; leave it out, or export the"
            " network with an open batch"
        )


def to_network(z: Array, wanted: Wanted, scale: Scale) -> NDArray[Any]:
    """Pictures z (n, channels, *size) in normalized units as the network takes them: scaled, and in its order of axes.

    Whole numbers are pixels of 0..255, of -128..127 where the type is int8, whatever is said of mean and deviation: a
    network that takes them scales them itself.
    """
    z = in_order(z, scale.colour)
    x: NDArray[Any] = z
    if wanted.kind == "bytes":
        x = _pixels(z).astype(np.int16) - (128 if wanted.spec.dtype == np.int8 else 0)
    elif isinstance(scale.units, Preprocessing):
        x = scale.units.scaled(_pixels(z))
    elif scale.units is not None:
        x = scale.units.apply(z)
    if wanted.flat:
        return x[:, 0]
    return np.moveaxis(x, 1, -1) if wanted.channels_last else x


def in_order(z: NDArray[Any], colour: str) -> NDArray[Any]:
    """Pictures (n, channels, ...) of red, green, blue and what else there is, in the order of a network's channels."""
    if colour == "rgb" or z.shape[1] < 3:
        return z
    if colour == "bgr":
        return np.concatenate([z[:, 2::-1], z[:, 3:]], axis=1)
    return np.broadcast_to(np.einsum("nc...,c->n...", z[:, :3], LUMA)[:, None], z.shape).astype(z.dtype)


def _pixels(z: Array) -> NDArray[np.uint8]:
    """Normalized units as pixels 0..255, with the contrast of photographs."""
    return np.asarray(np.clip(z * DEVIATION + MEAN, 0, 255), np.uint8)


def _picture(wanted: Wanted, count: int, seed: int) -> Array:
    """Pictures in normalized units, of the kinds that were chosen, one kind after the other."""
    shares = _shares(wanted.among, count)
    pictures = np.empty((count, wanted.channels, *wanted.size), np.float32)

    def draw(number: int) -> None:
        kind, some = shares[number]
        start = sum(more for _, more in shares[:number])
        pictures[start : start + some] = PICTURES[kind](some, wanted.channels, wanted.size, seed)

    each(draw, range(len(shares)))  # beside all of them there are never more than those that are being drawn
    return pictures


def _signal(wanted: Wanted, count: int, seed: int) -> NDArray[Any]:
    """Sounds of the kinds that were chosen."""
    parts = [SIGNALS[kind](number, max(wanted.sample), seed) for kind, number in _shares(wanted.among, count)]
    return np.concatenate(parts).reshape(count, *wanted.sample)


def _shares(kinds: tuple[str, ...], count: int) -> list[tuple[str, int]]:
    """How many inputs of each kind: equal parts, lines of all other scripts together one; or of the formula alone."""
    kinds = kinds or (FORMULA,)
    others = tuple(kind for kind in kinds if kind in SCRIPTS)
    if len(others) not in (0, 1, len(kinds)):
        own = [kind for kind in kinds if kind not in others]
        *numbers, rest = _parts(count, len(own) + 1)
        return [*((k, number) for k, number in zip(own, numbers, strict=True) if number), *_shares(others, rest)]
    return [(kind, number) for kind, number in zip(kinds, _parts(count, len(kinds)), strict=True) if number]


def _parts(count: int, parts: int) -> list[int]:
    """Equal parts of a number."""
    return [len(part) for part in np.array_split(np.arange(count), parts)]


def _features(wanted: Wanted, count: int, seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal((count, *wanted.sample))


def _tokens(wanted: Wanted, count: int, seed: int) -> NDArray[Any]:
    """Rows of a table: each as likely as the others, or of the kinds that were chosen."""
    low, rows = wanted.use.first, max(1, wanted.use.rows)
    if wanted.among:
        return _codes(wanted, count, seed)
    return np.random.default_rng(seed).integers(low, low + rows, (count, *wanted.sample))


def _codes(wanted: Wanted, count: int, seed: int) -> NDArray[Any]:
    """Codes of the kinds that were chosen."""
    shares = _shares(wanted.among, count)
    return np.concatenate([CODES[kind](number, wanted.sample[0], wanted.codes, seed) for kind, number in shares])


def _choices(wanted: Wanted, count: int, seed: int) -> NDArray[Any]:
    """Of an input for a whole run all, one after another; else each as likely as the others."""
    if wanted.among:
        return _codes(wanted, count, seed)
    known = np.array(wanted.use.choices)
    if wanted.spec.by_run:
        return np.broadcast_to(np.resize(known, count).reshape(-1, *[1] * len(wanted.sample)), (count, *wanted.sample))
    return np.random.default_rng(seed).choice(known, (count, *wanted.sample))


def _positions(wanted: Wanted, count: int, _seed: int) -> NDArray[Any]:
    """0, 1, 2 … along the last axis."""
    steps = np.arange(wanted.sample[-1] if wanted.sample else 1) % max(1, wanted.use.rows or 1 << 30)
    return np.broadcast_to(steps if wanted.sample else steps[0], (count, *wanted.sample))


def _ones(wanted: Wanted, count: int, _seed: int) -> NDArray[Any]:
    """A mask that takes nothing away."""
    return np.full((count, *wanted.sample), 0 if wanted.use.hides else 1)


def _flags(wanted: Wanted, count: int, seed: int) -> NDArray[Any]:
    """True and false: in turn for whole runs, else at random."""
    if not wanted.spec.by_run:
        return np.random.default_rng(seed).integers(0, 2, (count, *wanted.sample))
    alternating = (np.arange(count) % 2 == 0).reshape(-1, *[1] * len(wanted.sample))
    return np.broadcast_to(alternating, (count, *wanted.sample))


def _length(wanted: Wanted, count: int, _seed: int) -> NDArray[Any]:
    """The whole length of the sequence."""
    return np.full((count, *wanted.sample), wanted.side[-1] if wanted.side else 1)


def _size(wanted: Wanted, count: int, _seed: int) -> NDArray[Any]:
    """Height and width of the picture, ones behind them."""
    width = wanted.sample[-1] if wanted.sample else 1
    values = np.ones(width)
    values[: len(wanted.side)] = wanted.side[:width] if len(wanted.side) > 1 else 1
    return np.broadcast_to(values if wanted.sample else values[0], (count, *wanted.sample))


def _numbers(wanted: Wanted, count: int, seed: int) -> NDArray[Any]:
    """Whole numbers of 0 to 255, or of the type if it holds fewer."""
    if wanted.spec.name.lower() in _RATES:
        return np.full((count, *wanted.sample), RATE)
    highest = min(255, int(np.iinfo(wanted.spec.dtype).max))
    if wanted.spec.by_run:
        steps = np.linspace(1, highest, count).round().reshape(-1, *[1] * len(wanted.sample))
        return np.broadcast_to(steps, (count, *wanted.sample))
    return np.random.default_rng(seed).integers(0, highest + 1, (count, *wanted.sample))


def _scalars(wanted: Wanted, count: int, seed: int) -> NDArray[Any]:
    """A strength, a threshold, a noise level: from a small one to 1, another in every run, or in every sample."""
    steps = (np.arange(count) + 1) / count
    if not wanted.spec.by_run:  # other inputs are drawn kind by kind, so theirs come in no order
        return np.random.default_rng(seed).permutation(steps).reshape(count, *wanted.sample)
    return np.broadcast_to(steps.reshape(-1, *[1] * len(wanted.sample)), (count, *wanted.sample))


def _state(wanted: Wanted, count: int, _seed: int) -> NDArray[Any]:
    """What a network that is run step by step begins with; what it goes on with, it gives itself (see `rollout`)."""
    return np.zeros((count, *wanted.sample))


MAKERS: dict[Kind, Callable[[Wanted, int, int], NDArray[Any]]] = {
    "picture": _picture, "bytes": _picture, "signal": _signal, "features": _features, "tokens": _tokens,
    "choices": _choices, "positions": _positions, "ones": _ones, "flags": _flags, "length": _length, "size": _size,
    "numbers": _numbers, "scalars": _scalars, "state": _state,
}  # fmt: skip
