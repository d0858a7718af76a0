"""What will run the result, a row each: the form of a weight, where activations are quantized, what a user is told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.emit.placement import Placement, around_kernels, before_layers
from onnx_udfc.errors import RequestError
from onnx_udfc.numerics.grids import FORMATS, QuantParams
from onnx_udfc.options import words
from onnx_udfc.options.words import NO_INTEGERS, ON_GPU, TIMED, Rows

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network
    from onnx_udfc.model.unseen import Unseen

INT4_OPSET, HALF_SCALE_OPSET, PER_AXIS_OPSET, MOD_OPSET = 21, 19, 13, 10  # PER_AXIS: scales may run along an axis
MOST_PACKED = 1 << 24  # weights of a layer: at load, unpacking takes 30 bytes for each of them for a moment
LEAST_PACKED = 1 << 9  # fewer do not save what the nodes take


@dataclass(frozen=True)
class Choice:
    """How one weight is written: the form, and the bits of a code's ONNX type (packed words have none)."""

    form: str
    bits: int


Chooser: TypeAlias = "Callable[[Layer | Unseen, float, bool, int], Choice]"


@dataclass(frozen=True)
class Target:
    """A row of the table.

    Attributes:
        name: the word of `--target`.
        choose: the form of a layer's weight, by its bits, whether it runs as integers, and the opset.
        table: the same of an unseen weight; none: they stay in float.
        place: where activations are quantized, of a graph, the layers that are to run as integers, and the tensors that
            are to stay in float.
        no_integers: why activations cannot be quantized for it, and what to take instead; empty where they can.
        by_input: a ConvTranspose has a scale for each input channel.
        codes_alone: whether each weight has codes of its own beside quantized activations, too.
        wide: whether all codes are stored as int8, by whether activations are quantized.
        in_every_run: whether its runtime computes weights from their codes in every run, if nobody forbids it.
        few_kernels: whether two small kernels often take longer than one large one.
        depthwise_step: channels that a depthwise layer of integers takes at a time; those left over go one by one.
        gpu: whether it has tensor cores.
        timed: whether this machine's processor stands for it.
        notes: more for the user, of the network and what is quantized of it.
        elsewhere: told where codes or pairs stay in the graph: what that costs in another runtime.
        text: what a user is told of the word.
    """

    name: str
    choose: Chooser
    table: Chooser | None = None
    place: Callable[[gs.Graph, Sequence[Layer], Collection[str]], Placement] = around_kernels
    no_integers: str = ""
    by_input: bool = False
    codes_alone: bool = False
    wide: Callable[[bool], bool] = lambda _: False
    in_every_run: bool = False
    few_kernels: bool = False
    depthwise_step: int = 1
    gpu: bool = False
    timed: bool = False
    notes: Callable[[Network, Mapping[str, QuantParams]], Iterator[str]] = lambda _network, _weights: iter(())
    elsewhere: str = ""
    text: str = ""


def folded(_layer: Layer | Unseen, bits: float, _integer: bool, opset: int) -> Choice:
    """Cast and Mul in the smallest type: a float weight once the file is loaded."""
    return Choice("cast_mul", FORMATS[bits].storage if opset >= INT4_OPSET else 8)


def _cpu(layer: Layer | Unseen, bits: float, integer: bool, opset: int) -> Choice:
    size, storage = int(np.prod(layer.constant.shape)), FORMATS[bits].storage
    packs = FORMATS[bits].packs or (storage == 4 and opset < INT4_OPSET)
    if packs and opset >= MOD_OPSET and LEAST_PACKED <= size <= MOST_PACKED:
        return Choice("packed_dq" if integer else "packed_mul", storage)
    stored = storage if opset >= INT4_OPSET else 8
    if not integer:
        return Choice("cast_mul", stored)
    return Choice("dq" if stored == 8 else "cast_dq", stored)


def _portable(_layer: Layer | Unseen, bits: float, integer: bool, opset: int) -> Choice:
    return Choice("dq", 8 if integer or opset < INT4_OPSET else FORMATS[bits].storage)


def _tensorrt(_layer: Layer | Unseen, _bits: float, _integer: bool, _opset: int) -> Choice:
    return Choice("dq", 8)


def _tensorrt_notes(network: Network, weights: Mapping[str, QuantParams]) -> Iterator[str]:
    transposed = [name for name in weights if network.layers[name].stuffed]
    if transposed:
        yield f"rounded once more to 8 bits for each input channel, as TensorRT wants: {', '.join(transposed)}"


class _Targets(Rows[str, Target]):
    def __setitem__(self, name: str, row: Target) -> None:
        TIMED.update({name} if row.timed else ())
        ON_GPU.update({name} if row.gpu else ())
        NO_INTEGERS.update({name: row.no_integers} if row.no_integers else {})
        super().__setitem__(name, row)

    def __delitem__(self, name: str) -> None:
        TIMED.discard(name)
        ON_GPU.discard(name)
        NO_INTEGERS.pop(name, None)
        super().__delitem__(name)


# A DequantizeLinear before a Gather would be computed in every run, all of the table for the rows of one input; what is
# folded at load runs everywhere but in TensorRT, which takes int8 into a DequantizeLinear only.
TARGETS = _Targets(
    words.TARGETS,
    [
        ("cpu", Target("cpu", _cpu, table=_cpu, depthwise_step=16, timed=True)),
        ("cuda", Target("cuda", folded, table=folded, no_integers=NO_INTEGERS["cuda"], few_kernels=True, gpu=True)),
        (
            "portable",
            Target("portable", _portable, table=folded, wide=lambda integers: integers, in_every_run=True),
        ),
        (
            "tensorrt",
            Target(
                "tensorrt", _tensorrt, place=before_layers, by_input=True, codes_alone=True, gpu=True,
                wide=lambda _: True, notes=_tensorrt_notes,
                elsewhere="made for TensorRT: slower than the float original on the CPU, and on CUDA without TensorRT",
            ),
        ),
    ],
)  # fmt: skip


def choose(target: Target, layer: Layer, bits: float, integer: bool, opset: int) -> Choice:
    """The target's choice, moved to what the opset and the layer's type and axes can hold."""
    choice = target.choose(layer, bits, integer, opset)
    dtype = layer.constant.dtype
    scalable = dtype == np.float32 or (dtype == np.float16 and opset >= HALF_SCALE_OPSET)
    no_axis = layer.channel_axis is None and not target.by_input
    book = bool(FORMATS[bits].values)  # DequantizeLinear knows steps of one size
    if choice.form.endswith("dq") and (opset < PER_AXIS_OPSET or not scalable or no_axis or book):
        return Choice("packed_mul" if choice.form == "packed_dq" else "cast_mul", choice.bits)
    return choice


def activation_tensors(
    network: Network, layers: Collection[str], target: str, left: Collection[str] = frozenset()
) -> Placement:
    """Place Q/DQ pairs so that as many of `layers` as possible run as integers.

    The target has integer kernels. `left` are tensors that are not to be quantized, and with them nothing that reads or
    writes them in integers.

    Raises:
        RequestError: the target has no integer kernels, or the network does not compute in float32.
    """
    check_activations(network, layers, target)
    chosen = [network.layers[name] for name in network.layers if name in set(layers)]
    placement = TARGETS[target].place(network.graph, chosen, left)
    if not left:
        return placement
    possible = TARGETS[target].place(network.graph, chosen, frozenset()).integer
    return replace(placement, kept=tuple(name for name in possible if name not in placement.integer))


def check_activations(network: Network, layers: Collection[str], target: str) -> None:
    """Whether activations can be quantized at all: known as soon as the network is read.

    Raises:
        RequestError: the target has no integer kernels, the network does not compute in float32, or its opset is too
            old for quantized activations.
    """
    why = TARGETS[target].no_integers
    if why:
        raise RequestError(f"--activations 8 with --target {target}: {why}")
    if network.graph.opset < PER_AXIS_OPSET:
        raise RequestError(
            f"--activations 8 needs opset {PER_AXIS_OPSET} or later, but the model is kept at {network.graph.opset}"
            f": convert it first, or leave --activations out"
        )
    for name in layers:
        dtype = network.layers[name].constant.dtype
        if dtype != np.float32:
            raise RequestError(
                f"--activations 8: layer {name} computes in {dtype}, integer kernels need a float32 network; convert"
                " it first, or leave --activations out"
            )
