"""What scale of its pictures a network expects, where nobody says: read off its first layer, or off its answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.inputs.classifier import asked
from onnx_udfc.inputs.kinds import RAW_MEAN, RAW_STD, Scale, Wanted, to_network
from onnx_udfc.inputs.reaction import informations
from onnx_udfc.model.layers import Layer
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.images import InputScaling, synthetic_images
from onnx_udfc.numerics.moments import channel_statistics
from onnx_udfc.runtime.windows import run_layer

Double = NDArray[np.float64]

_BURIED = 0.03  # a first layer whose biases outweigh its response by more than this expects raw pixels
_JUDGES = 8  # images on which two scales are compared
_LITTLE = 0.2  # of the information that answers could carry: 0.06 in SqueezeNet at the wrong scale, 0.3 and more else
_CLEAR = 3.0  # times as much at another scale
_LEAST_STD = 1e-9  # of an input; below, or above its inverse, a batch norm tells nothing


def guess_scaling(network: Network, wanted: Wanted) -> tuple[InputScaling, str]:
    """Mean and deviation that the first layer expects, and words that tell the user what was assumed.

    With batch norm in the file the first layer's stored statistics say what went through it: σ²/v, with v the
    variance that images of deviation 1 cause, gives the deviation; the mean solves β = W m + b. Without, a first layer
    whose response to normalized images drowns in its biases expects raw pixels; and a classifier that can hardly tell
    normalized images apart, but those of deviation 64, expects pixels less their mean.
    """
    first = _first_layer(network, wanted.spec.name)
    if first is None or len(wanted.shape) != 4 or first.in_channels != wanted.channels:
        return InputScaling(), "input assumed normalized (mean 0, deviation 1); say --input-mean, --input-std otherwise"
    size = tuple(min(d, 128) for d in wanted.size)
    z = synthetic_images(8, first.in_channels, size, seed=1)
    y = run_layer(network.to_model(without=network.weights), first, z, first.matrix(), first.bias.astype(np.float64))
    _, variance = channel_statistics(y)
    if first.batch_norm is not None:
        return _from_batch_norm(first, variance)
    response = float(np.sqrt(np.median(variance)))
    level = float(np.sqrt(np.mean(np.square(first.bias, dtype=np.float64))))
    if response < _BURIED * level:
        return InputScaling((RAW_MEAN,), (RAW_STD,), 0, 255), "input assumed to be raw pixels (0 to 255)"
    if _blind(network, wanted):
        return InputScaling(std=(RAW_STD,)), (
            "input assumed to be pixels (0 to 255) less their mean: outputs hardly depend on images of deviation 1;"
            " say --input-mean, --input-std and --input-range 0,255 otherwise"
        )
    return InputScaling(), "input assumed normalized (mean 0, deviation 1); say --input-mean, --input-std otherwise"


def _blind(network: Network, wanted: Wanted) -> bool:
    """Whether a classifier's answers depend on images of deviation RAW_STD, but hardly on those of deviation 1."""
    ask = asked(network, wanted.spec)
    if ask is None:
        return False
    z = synthetic_images(_JUDGES, wanted.channels, wanted.size, seed=1)
    p = ask(to_network(np.concatenate([z, z * np.float32(RAW_STD)]), wanted, Scale()))
    if not p.size:
        return False
    plain, wide = (float(informations(part).mean()) / np.log(min(part.shape)) for part in np.split(p, 2))
    return bool(plain < _LITTLE < wide and wide > _CLEAR * plain)


def _from_batch_norm(layer: Layer, variance: Double) -> tuple[InputScaling, str]:
    norm = layer.batch_norm
    assert norm is not None
    factor = norm.gamma / np.sqrt(norm.var + norm.epsilon)
    seen = (variance > 1e-12) & (factor != 0)
    std = float(np.sqrt(np.median((norm.var * factor**2)[seen] / variance[seen]))) if seen.any() else 1.0
    if not _LEAST_STD < std < 1 / _LEAST_STD:
        return InputScaling(), (
            "input assumed normalized: the first batch norm has no variance; say --input-mean, --input-std otherwise"
        )
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
    layers = [x for x in network.layers.values() if x.node.inputs[0].name == name and x.convolves]
    return layers[0] if layers and layers[0].groups == 1 else None
