"""What the network is run on: the user's own data, or images by formula brought to the scale that it expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.feeds import InputSpec, image_feeds, synthetic_feeds
from onnx_udfc.inputs.image_files import Preprocessing, open_images
from onnx_udfc.model.layers import Layer
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.images import InputScaling, synthetic_images
from onnx_udfc.numerics.moments import channel_statistics
from onnx_udfc.options import Options
from onnx_udfc.runtime.sessions import open_session, packed
from onnx_udfc.runtime.walk import full_batches, outputs_of
from onnx_udfc.runtime.windows import run_layer

Double = NDArray[np.float64]

PIXELS = 1_600_000  # of all synthetic images together: 160 of 32 x 32 (the most), 32 of 224 x 224
MOST, LEAST = 160, 4
REAL = 128  # images taken from the user's data
RAW_MEAN, RAW_STD = 118.0, 64.0  # of photographs, pixels 0 to 255
_BURIED = 0.03  # a first layer whose biases outweigh its response by more than this expects raw pixels
_JUDGES = 8  # images on which two scales are compared
_LITTLE = 0.2  # of the information that answers could carry: 0.06 in SqueezeNet at the wrong scale, 0.3 and more else
_CLEAR = 3.0  # times as much at another scale

# What was guessed for each network and input: the check asks for the same as the repair.
_guesses: WeakKeyDictionary[Network, dict[str, tuple[InputScaling, str]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class NetworkInputs:
    """Values for every input of the network, and where they are from.

    Attributes:
        values: input name → (n, ...) values.
        source: synthetic or calibration.
        note: what was assumed, in words for the user; empty if nothing was.
    """

    values: dict[str, NDArray[Any]]
    source: Literal["synthetic", "calibration"]
    note: str = ""


def input_specs_of(network: Network) -> tuple[InputSpec, ...]:
    """The declared inputs; an open axis is None.

    Raises:
        RequestError: an input is not a numeric tensor.
    """
    specs = []
    for tensor in network.graph.inputs:
        if tensor.dtype is None or np.dtype(tensor.dtype).kind not in "fiub" or tensor.type != "tensor_type":
            raise RequestError(f"input {tensor.name!r} is not a numeric tensor, so no values can be made up for it")
        shape = tuple(d if isinstance(d, int) and d > 0 else None for d in (tensor.shape or ()))
        specs.append(InputSpec(tensor.name, shape, np.dtype(tensor.dtype)))
    return tuple(specs)


def make_inputs(network: Network, options: Options, seed_offset: int = 0) -> NetworkInputs:
    """Inputs for one pass: real ones where the user gave some, else synthetic ones.

    Args:
        network: the original.
        options: calibrate, input_mean, input_std, input_range, images and seed are read.
        seed_offset: other images from the same options, e.g. to judge on what was not fitted.

    Raises:
        RequestError: the data do not fit the network.
    """
    specs = input_specs_of(network)
    if options.calibrate:
        return NetworkInputs(_real(specs, options), "calibration")
    count = options.images or image_count(specs)
    known = _preprocessing(options)
    values = synthetic_feeds(specs, count, options.seed + seed_offset, known)
    if known is not None:
        return NetworkInputs(values, "synthetic")
    notes = []
    for spec in specs:
        if spec.is_image():
            scaling, note = _guessed(network, spec)
            values[spec.name] = scaling.apply(values[spec.name]).astype(spec.dtype)
            notes.append(note)
        elif spec.dtype == np.uint8 and len(spec.shape) == 4:
            values[spec.name] = _raw_pixels(spec, count, options.seed + seed_offset)
    return NetworkInputs(values, "synthetic", "; ".join(notes))


def image_count(specs: tuple[InputSpec, ...]) -> int:
    """As many images as `PIXELS` allows, between LEAST and MOST."""
    pixels = [int(np.prod([d or 64 for d in s.shape[2:]])) for s in specs if s.is_image()]
    return int(np.clip(PIXELS // max([1, *pixels]), LEAST, MOST))


def _preprocessing(options: Options) -> Preprocessing | None:
    if not (options.input_mean or options.input_std or options.input_range):
        return None
    return Preprocessing(options.input_mean, options.input_std, options.input_range or (0.0, 1.0), options.input_colour)


def _real(specs: tuple[InputSpec, ...], options: Options) -> dict[str, NDArray[Any]]:
    assert options.calibrate is not None
    images = open_images(options.calibrate)
    preprocessing = _preprocessing(options) or Preprocessing()
    free = tuple(InputSpec(s.name, (None, *s.shape[1:]), s.dtype) for s in specs)
    batches = list(image_feeds(free, images, preprocessing, options.images or REAL))
    if not batches:
        raise RequestError(f"--calibrate {options.calibrate}: holds no images")
    return {s.name: np.concatenate([b[s.name] for b in batches]) for s in specs}


def _raw_pixels(spec: InputSpec, count: int, seed: int) -> NDArray[np.uint8]:
    last = spec.shape[3] in (1, 3)
    channels, size = (spec.shape[3], spec.shape[1:3]) if last else (spec.shape[1], spec.shape[2:])
    z = synthetic_images(count, channels or 3, tuple(d or 64 for d in size), seed)
    pixels = InputScaling((RAW_MEAN,), (RAW_STD,), 0, 255).apply(z).astype(np.uint8)
    return np.moveaxis(pixels, 1, -1) if last else pixels


def learn_scaling(network: Network, options: Options) -> None:
    """Guesses what `make_inputs` will need to know, so that no session of its own is open beside another one later."""
    if not options.calibrate and _preprocessing(options) is None:
        for spec in input_specs_of(network):
            if spec.is_image():
                _guessed(network, spec)


def _guessed(network: Network, spec: InputSpec) -> tuple[InputScaling, str]:
    """`guess_scaling`, once for each network."""
    guesses = _guesses.setdefault(network, {})
    if spec.name not in guesses:
        guesses[spec.name] = guess_scaling(network, spec)
    return guesses[spec.name]


def guess_scaling(network: Network, spec: InputSpec) -> tuple[InputScaling, str]:
    """Mean and deviation that the first layer expects, and words that tell the user what was assumed.

    With batch norm in the file the first layer's stored statistics say what went through it: σ²/v, with v the
    variance that images of deviation 1 cause, gives the deviation; the mean solves β = W m + b. Without, a first layer
    whose response to normalized images drowns in its biases expects raw pixels; and a classifier that can hardly tell
    normalized images apart, but those of deviation 64, expects pixels less their mean.
    """
    first = _first_layer(network, spec.name)
    if first is None or len(spec.shape) != 4:
        return InputScaling(), "input assumed normalized (mean 0, deviation 1); say --input-mean, --input-std otherwise"
    size = tuple(min(d or 64, 128) for d in spec.shape[2:])
    z = synthetic_images(8, first.in_channels, size, seed=1)
    y = run_layer(network.to_model(without=network.weights), first, z, first.matrix(), first.bias.astype(np.float64), 1)
    _, variance = channel_statistics(y)
    if first.batch_norm is not None:
        return _from_batch_norm(first, variance)
    response = float(np.sqrt(np.median(variance)))
    level = float(np.sqrt(np.mean(np.square(first.bias, dtype=np.float64))))
    if response < _BURIED * level:
        return InputScaling((RAW_MEAN,), (RAW_STD,), 0, 255), "input assumed to be raw pixels (0 to 255)"
    if _blind(network, spec):
        return InputScaling(std=(RAW_STD,)), (
            "input assumed to be pixels (0 to 255) less their mean: outputs hardly depend on images of deviation 1;"
            " say --input-mean, --input-std and --input-range 0,255 otherwise"
        )
    return InputScaling(), "input assumed normalized (mean 0, deviation 1); say --input-mean, --input-std otherwise"


def _blind(network: Network, spec: InputSpec) -> bool:
    """Whether a classifier's answers depend on images of deviation RAW_STD, but hardly on those of deviation 1."""
    outputs = network.graph.outputs
    if len(outputs) != 1 or len(input_specs_of(network)) != 1 or np.dtype(outputs[0].dtype or "O").kind != "f":
        return False
    size = tuple(d or 64 for d in spec.shape[2:])
    z = synthetic_images(_JUDGES, spec.shape[1] or 3, size, seed=1)
    x = np.concatenate([z, z * np.float32(RAW_STD)]).astype(spec.dtype)
    scores = _answers(network, spec, x, outputs[0].name)
    if scores.ndim < 2 or len(scores) != len(x) or scores.shape[1] < 2 or scores[0].size != scores.shape[1]:
        return False
    plain, wide = (_information(part.reshape(len(z), -1)) for part in np.split(scores.astype(np.float64), 2))
    return plain < _LITTLE < wide and wide > _CLEAR * plain


def _answers(network: Network, spec: InputSpec, x: NDArray[Any], output: str) -> NDArray[Any]:
    """An output for inputs x, in the network's fixed batches where it has one; the last of them is filled up."""
    session = open_session(packed(network.to_model()), threads=1, spin=False)
    batches = full_batches(len(x), spec.batch or len(x))
    runs = [outputs_of(session, [output], {spec.name: x[at]})[0] for at in batches]
    return runs[0] if len(runs) == 1 else np.concatenate([np.atleast_1d(run) for run in runs])[: len(x)]


def _information(p: Double) -> float:
    """How much a classifier's answers (n, classes) say about which image it was, as a fraction of what they could.

    That is H(E p) - E H(p) over log(min(images, classes)), p the answer's probabilities.
    """
    if p.min() < 0 or abs(p.sum(1) - 1).max() > 1e-2:
        p = np.exp(p - p.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
    shared, own = _entropy(p.mean(0, keepdims=True)), _entropy(p)
    return float(shared.mean() - own.mean()) / float(np.log(min(p.shape)))


def _entropy(p: Double) -> Double:
    """Of the rows of p, in nats."""
    entropy: Double = -(p * np.log(np.maximum(p, 1e-30))).sum(1)
    return entropy


def _from_batch_norm(layer: Layer, variance: Double) -> tuple[InputScaling, str]:
    norm = layer.batch_norm
    assert norm is not None
    factor = norm.gamma / np.sqrt(norm.var + norm.epsilon)
    seen = variance > 1e-12
    std = float(np.sqrt(np.median((norm.var * factor**2)[seen] / variance[seen]))) if seen.any() else 1.0
    weight = 1 / np.maximum(abs(norm.gamma), 1e-3)
    sums = layer.matrix()[0].reshape(layer.out_channels, layer.in_channels, -1).sum(-1)
    prior = 0.3 / std * np.eye(layer.in_channels)  # toward 0: few layers tell the mean exactly
    left = np.concatenate([sums * weight[:, None], prior])
    right = np.concatenate([(norm.beta - layer.bias) * weight, np.zeros(layer.in_channels)])
    mean = np.clip(np.linalg.lstsq(left, right, rcond=None)[0], -3 * std, 3 * std)
    text = ", ".join(f"{m:.2g}" for m in mean)
    return (
        InputScaling(tuple(float(m) for m in mean), (std,)),
        f"input scale read off the first batch norm: mean {text}, deviation {std:.2g}",
    )


def _first_layer(network: Network, name: str) -> Layer | None:
    """The convolution that reads the input directly, with one channel group."""
    layers = [x for x in network.layers.values() if x.node.inputs[0].name == name and x.kind == "conv"]
    return layers[0] if layers and layers[0].groups == 1 else None


def batch_of(values: Mapping[str, NDArray[Any]]) -> int:
    """Number of samples."""
    return max((len(v) for v in values.values() if v.ndim), default=1)
