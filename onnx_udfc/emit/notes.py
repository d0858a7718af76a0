"""What a user should know about a written form: the oldest onnxruntime, session options to set, what is not smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from onnx_udfc.emit.placement import WIDEST_EXACT, Placement
from onnx_udfc.model.protos import all_graphs, opset_of
from onnx_udfc.numerics.grids import FORMATS, QuantParams
from onnx_udfc.numerics.words import packed_bits

if TYPE_CHECKING:
    from onnx_udfc.emit.targets import Target
    from onnx_udfc.model.network import Network

BY_OPSET = ((24, (1, 24)), (23, (1, 23)), (22, (1, 22)), (21, (1, 20)))  # the first release that takes an opset
INT4_CAST = (1, 23)
INTEGERS_ON_CUDA = (
    "on CUDA slower than the float original: onnxruntime has no integer convolution there, so that layers stay in float"
    " between pairs of nodes that only round; for a GPU leave --activations out, and take --target cuda with --float16"
)
AS_ORIGINAL = "memory and speed are the original's"
PACKED = 0  # stands for the bits of a code that has no type of its own


def oldest_onnxruntime(model: onnx.ModelProto) -> str:
    """Return the first onnxruntime release that runs a model, e.g. "1.23"."""
    opset = opset_of(model) or 1
    needed = [version for least, version in BY_OPSET if opset >= least][:1] or [(1, 18)]
    for graph in all_graphs(model.graph):
        types = {t.name: t.data_type for t in graph.initializer}
        if any(node.op_type == "Cast" and types.get(node.input[0]) == TensorProto.INT4 for node in graph.node):
            needed.append(INT4_CAST)
    return ".".join(str(part) for part in max(needed))


def form_notes(
    network: Network,
    weights: Mapping[str, QuantParams],
    unseen: Mapping[str, QuantParams],
    placement: Placement | None,
    target: Target,
    forms: Mapping[str, str],
) -> tuple[bool, tuple[str, ...]]:
    """Return whether the file is expected to be slower than the float original, and the notes.

    `unseen` has unseen weights by key; `placement` is None where only weights are quantized; `forms` are in words, by
    the names of layers and these keys.
    """
    in_every_run = placement is None and any(form.startswith("DequantizeLinear") for form in forms.values())
    slower = target.in_every_run and in_every_run
    stored = {**weights, **unseen}
    notes = [*_storage_notes(stored, target, placement, forms), *_float_notes(network, weights, placement)]
    if any("Mul" in form for form in forms.values()):
        notes.append(
            f"weights are folded to float when the model is loaded: the file is small, {AS_ORIGINAL}; simplifiers"
            " (onnxslim, onnxsim) fold them too and undo the file size"
        )
    if slower:
        notes.append(
            "slower than the float original unless the session option session.disable_quant_qdq=1 is set: without it"
            " onnxruntime computes the weights from their codes in every run"
        )
    notes += target.notes(network, weights)
    if target.elsewhere and (in_every_run or placement is not None):
        notes.append(target.elsewhere)
    elif placement is not None:
        notes.append(INTEGERS_ON_CUDA)
    if in_every_run:
        notes += _matmul_notes(network, weights, forms)
    return slower, tuple(notes)


def _storage_notes(
    weights: Mapping[str, QuantParams], target: Target, placement: Placement | None, forms: Mapping[str, str]
) -> Iterator[str]:
    taken: dict[float, set[int]] = {}
    for name, params in weights.items():
        taken.setdefault(params.bits, set()).add(_bits_taken(forms[name]))
    if placement is not None and placement.dtype == "uint8" and WIDEST_EXACT in taken:
        del taken[WIDEST_EXACT]
        yield (
            "weights of integer layers take 8 bits each, of which 7 are used: x86 processors without VNNI would clip"
            " sums of wider products"
        )
    packed = sorted(bits for bits, found in taken.items() if PACKED in found)
    if packed:
        words = ", ".join(f"{packed_bits(FORMATS[bits].levels):.2f}" for bits in packed)
        rest = sorted({width for bits in packed for width in taken[bits]} - {PACKED})
        small = f" (but those of small layers, which take {rest[0]})" if rest else ""
        yield (
            f"weights of {', '.join(f'{bits:g}' for bits in packed)} bits are packed in 64-bit words, {words} bits"
            f" each{small}, and unpacked when the model is loaded"
        )
    wide = target.wide(placement is not None)
    for bits in sorted(taken.keys() - packed):
        for width in taken[bits] - {bits}:
            if width == 8 and FORMATS[bits].storage == 4:
                if not wide:
                    yield f"{bits:g}-bit weights take 8 bits each in the file: its opset has no int4"
                continue
            why = "type between int4 and int8" if width == 8 else "smaller type for this target"
            yield f"{bits:g}-bit weights take {width} bits each in the file: ONNX has no {why}"
    if wide and any(FORMATS[params.bits].storage == 4 for params in weights.values()):
        yield f"for --target {target.name} the codes are stored as int8: its integer kernels take no smaller type"


def _bits_taken(form: str) -> int:
    """Bits of the type that codes have in the file, without those of finer ones; PACKED in words."""
    first = form.split(" + ")[0]
    return PACKED if first.startswith("words") else 4 if "INT4" in first else 8


def _float_notes(network: Network, weights: Mapping[str, QuantParams], placement: Placement | None) -> Iterator[str]:
    """Layers that do not run as integers though activations are quantized."""
    if placement is None:
        return
    transposed = [n for n in weights if n not in placement.integer and network.layers[n].stuffed]
    kept = [n for n in network.layers if n in placement.kept]
    first = [n for n in placement.slow_first if n in network.layers]
    others = [n for n in network.layers if n not in placement.integer and n not in (*transposed, *kept, *first)]
    if transposed:
        yield f"runs in float, there is no integer kernel for ConvTranspose: {', '.join(transposed)}"
    if kept:
        yield f"kept in float: {', '.join(kept)}; {placement.reason}"
    if first:
        yield f"kept in float, because its input takes longer to quantize than its output: {', '.join(first)}"
    if others:
        yield f"runs in float, left out of the quantization of activations: {', '.join(others)}"


def _matmul_notes(network: Network, weights: Mapping[str, QuantParams], forms: Mapping[str, str]) -> Iterator[str]:
    """Layers that onnxruntime makes MatMulNBits of on the CPU: of a Gemm only if its weight is not transposed."""
    layers = [network.layers[name] for name in weights if forms[name].startswith("DequantizeLinear")]
    products = [layer.name for layer in layers if not layer.kernel and not layer.node.attrs.get("transB", 0)]
    if products:
        yield (
            f"on the CPU onnxruntime from 1.25 on quantizes the inputs of {', '.join(products)} to int8 by itself;"
            " session.qdq_matmulnbits_accuracy_level=0 keeps them exact"
        )
