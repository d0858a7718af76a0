"""What a user should know about a written form: the oldest onnxruntime, session options to set, what is not smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto

from onnx_udfc.emit.placement import WIDEST_EXACT, Placement
from onnx_udfc.emit.targets import Target
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.grids import FORMATS, QuantParams
from onnx_udfc.numerics.words import packed_bits

BY_OPSET = ((24, (1, 24)), (23, (1, 23)), (22, (1, 22)), (21, (1, 20)))  # the first release that takes an opset
INT4_CAST = (1, 23)


def oldest_onnxruntime(model: onnx.ModelProto) -> str:
    """Return the first onnxruntime release that runs a model, e.g. "1.23"."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    needed = [version for least, version in BY_OPSET if opset >= least][:1] or [(1, 18)]
    types = {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and types.get(node.input[0]) == TensorProto.INT4:
            needed.append(INT4_CAST)
    return ".".join(str(part) for part in max(needed))


def form_notes(
    network: Network,
    weights: Mapping[str, QuantParams],
    tables: Mapping[str, QuantParams],
    placement: Placement | None,
    target: Target,
    forms: Mapping[str, str],
) -> tuple[bool, tuple[str, ...]]:
    """Return whether the file is expected to be slower than the float original, and the notes.

    Args:
        network: the network that was written.
        weights: what was quantized.
        tables: name of a Gather → its quantized table.
        placement: of the activations, None where only weights are quantized.
        target: the target.
        forms: name of a layer or a Gather → the form of its weight, in words.
    """
    in_every_run = any(form.startswith("DequantizeLinear") for form in forms.values())
    slower = placement is None and target.in_every_run and in_every_run
    stored = {**weights, **tables}
    notes = [*_storage_notes(stored, target, placement, forms), *_float_notes(network, weights, placement)]
    if any("Mul" in form for form in forms.values()):
        notes.append(
            "weights are folded to float when the model is loaded: the file is small, memory and speed are the"
            " original's; simplifiers (onnxslim, onnxsim) fold them too and undo the file size"
        )
    if slower:
        notes.append(
            "slower than the float original unless the session option session.disable_quant_qdq=1 is set: without it"
            " onnxruntime computes the weights from their codes in every run"
        )
        notes += _matmul_notes(network, weights)
    return slower, (*notes, *target.notes(network, weights))


def _storage_notes(
    weights: Mapping[str, QuantParams], target: Target, placement: Placement | None, forms: Mapping[str, str]
) -> Iterator[str]:
    odd = sorted({params.bits for params in weights.values()} - {4, 8})
    wide = target.wide(placement is not None)
    if placement is not None and placement.dtype == "uint8" and WIDEST_EXACT in odd:
        odd.remove(WIDEST_EXACT)
        yield (
            "weights of integer layers take 8 bits each, of which 7 are used: x86 processors without VNNI would clip"
            " sums of wider products"
        )
    packed = [b for b in odd if any(p.bits == b and forms[n].startswith("words") for n, p in weights.items())]
    if packed:
        taken = ", ".join(f"{packed_bits(FORMATS[bits].levels):.2f}" for bits in packed)
        yield (
            f"weights of {', '.join(f'{bits:g}' for bits in packed)} bits are packed in 64-bit words, {taken} bits"
            " each, and unpacked when the model is loaded"
        )
    for bits in odd:
        if bits not in packed and FORMATS[bits].storage == 8:
            yield f"{bits:g}-bit weights take 8 bits each in the file: ONNX has no type between int4 and int8"
        elif bits not in packed and not wide:
            yield f"{bits:g}-bit weights take 4 bits each in the file: ONNX has no smaller type for this target"
    if wide and any(FORMATS[params.bits].storage == 4 for params in weights.values()):
        yield f"for --target {target.name} the codes are stored as int8: its integer kernels take no smaller type"


def _float_notes(network: Network, weights: Mapping[str, QuantParams], placement: Placement | None) -> Iterator[str]:
    """Layers that do not run as integers though activations are quantized."""
    if placement is None:
        return
    transposed = [n for n in weights if n not in placement.integer and network.layers[n].stuffed]
    others = [n for n in network.layers if n not in placement.integer and n not in transposed]
    if transposed:
        yield f"runs in float, there is no integer kernel for ConvTranspose: {', '.join(transposed)}"
    if others:
        yield f"runs in float, left out of the quantization of activations: {', '.join(others)}"


def _matmul_notes(network: Network, weights: Mapping[str, QuantParams]) -> Iterator[str]:
    if any(not network.layers[name].kernel for name in weights):
        yield (
            "onnxruntime quantizes the inputs of MatMul and Gemm to int8 by itself here;"
            " session.qdq_matmulnbits_accuracy_level=0 keeps them exact"
        )
