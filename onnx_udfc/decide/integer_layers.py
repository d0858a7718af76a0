"""Layers on integer kernels: which counts those like, and a model of one layer to be timed.

The kernels take weights 16 outputs by 4 inputs at a time, and what is left over one by one. A convolution of 3 × 1 taps
on 32 × 32 positions, microseconds on one thread of a processor with VNNI (onnxruntime 1.32):

    outputs (of 16 inputs)    4   8  10  12  16  20  24  32      inputs (to 16 outputs)    3   4   6   8  11  12  16  32
                             34  34  37  42  23  25  23  22                               31  17  31  17  32  19  19  22
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_udfc.model.protos import small_model

if TYPE_CHECKING:
    from onnx_udfc.channels.shapes import Size
    from onnx_udfc.decide.ranks import Saving
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.numerics.factors import Split

Index = NDArray[np.int64]
Feeds = Mapping[str, NDArray[np.generic]]

LEAST, STEP = 16, 4  # outputs of a block, and what counts beyond are multiples of
ANYWHERE = 8  # what integer kernels of every processor like a multiple of
_CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class OnIntegers:
    """A network whose layers run on integer kernels.

    Names of those layers, and the whole model, as it would be written.
    """

    names: frozenset[str]
    model: onnx.ModelProto


def fills_blocks(ranks: Index) -> NDArray[np.bool_]:
    """Whether two layers with so many channels between them (n,) leave nothing over here."""
    return np.asarray((ranks >= LEAST) & (ranks % STEP == 0))


def liked_anywhere(ranks: Index) -> NDArray[np.bool_]:
    """The same for other processors, too, whose blocks may be smaller: ranks (n,) that are nowhere bad."""
    return np.asarray(ranks % ANYWHERE == 0)


def saving_of(saving: Saving, liked: Callable[[Index], NDArray[np.bool_]]) -> Saving:
    """The same, but that ranks which are not liked save nothing."""

    def liked_alone(at: int, split: Split, ranks: Index) -> NDArray[np.float64]:
        return np.where(liked(ranks), saving(at, split, ranks), 0.0)

    return liked_alone


def near(count: int, most: int) -> int:
    """A count that fills blocks, near this one, at most all."""
    return min(most, max(LEAST, -(-count // STEP) * STEP))


def alone(layer: Layer, source: Size, out: int, into: int) -> tuple[onnx.ModelProto, Feeds] | None:
    """A model of one layer of 8 bits with random weights, and codes for its input; None where there is no kernel.

    A convolution has its channels last, as onnxruntime lays them out between integer kernels.
    `source` is the shape of its input; it writes `out` channels and reads `into`.
    """
    if layer.convolves and not _padded_by_itself(layer):
        return _convolution(layer, source, out, into)
    if layer.integer and not layer.kernel and layer.axis % len(source) == len(source) - 1:
        return _product(source, out, into)
    return None


def _padded_by_itself(layer: Layer) -> bool:
    """Whether the kernel would have to find the pads of a dilated convolution, which it refuses."""
    attributes = layer.node.attrs
    itself = str(attributes.get("auto_pad", "NOTSET")).startswith("SAME")
    return itself and any(step != 1 for step in attributes.get("dilations", ()))


def stated(layer: Layer) -> dict[str, object]:
    """The attributes that a layer's node states, as `onnx.helper` takes them."""
    plain = {key: _plain(value) for key, value in layer.node.attrs.items()}
    return {key: value for key, value in plain.items() if value != []}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple | list | np.ndarray) else value


def _convolution(layer: Layer, source: Size, out: int, into: int) -> tuple[onnx.ModelProto, Feeds]:
    shape = (out, into // layer.groups, *layer.constant.shape[2:])
    node = helper.make_node(
        "QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"], domain=_CONTRIB, channels_last=1
    )
    node.attribute.extend(helper.make_attribute(k, v) for k, v in stated(layer).items())
    return _model(node, (source[0], *source[2:], into), shape, out)


def _product(source: Size, out: int, into: int) -> tuple[onnx.ModelProto, Feeds]:
    node = helper.make_node("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])
    return _model(node, (*source[:-1], into), (into, out), out)


def _model(
    node: onnx.NodeProto, source: tuple[int, ...], weight: tuple[int, ...], out: int
) -> tuple[onnx.ModelProto, Feeds]:
    random = np.random.default_rng(0)
    values: dict[str, NDArray[np.generic]] = {
        "w": random.integers(-127, 128, weight).astype(np.int8),
        "ws": np.full(out, 0.01, np.float32),
        "wz": np.zeros(out, np.int8),
        "xs": np.array(0.02, np.float32),
        "xz": np.array(0, np.uint8),
        "ys": np.array(1.0, np.float32),
        "yz": np.array(0, np.uint8),
    }
    model = small_model([node], {"x": (np.uint8, source)}, ["y"], values)
    return model, {"x": random.integers(0, 256, source).astype(np.uint8)}
