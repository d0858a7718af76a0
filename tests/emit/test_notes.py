"""The oldest onnxruntime, and what a user is told."""

from __future__ import annotations

import pytest

from onnx_udfc.emit.writer import emit
from tests.quantized_graphs import image, nearest, quantized, two_convs


@pytest.mark.parametrize(
    ("bits", "target", "activations", "opset", "oldest"),
    [
        (8, "cpu", False, 21, "1.20"),
        (4, "cpu", False, 21, "1.23"),
        (4, "cpu", True, 21, "1.23"),
        (8, "cpu", True, 21, "1.20"),
        (4, "portable", False, 21, "1.20"),
        (8, "cpu", False, 22, "1.22"),
        (8, "cpu", False, 23, "1.23"),
        (8, "cpu", False, 25, "1.24"),
        (8, "cpu", False, 17, "1.18"),
    ],
)
def test_the_oldest_runtime(bits: int, target: str, activations: bool, opset: int, oldest: str) -> None:
    network = two_convs(opset=opset)
    emitted = (
        quantized(network, bits, target, image())[0]
        if activations
        else emit(network, nearest(network, bits), None, target)
    )
    assert emitted.onnxruntime_min == oldest


@pytest.mark.parametrize(
    ("bits", "target", "activations", "words"),
    [
        (5, "cpu", True, "weights of 5 bits are packed in 64-bit words, 5.33 bits each"),
        (3, "cpu", False, "weights of 3 bits are packed in 64-bit words, 2.91 bits each"),
        (5, "portable", False, "5-bit weights take 8 bits"),
        (3, "cuda", False, "3-bit weights take 4 bits"),
        (4, "cpu", False, "folded to float"),
        (4, "portable", False, "session.disable_quant_qdq=1"),
        (4, "portable", True, "stored as int8"),
        (8, "tensorrt", True, "made for TensorRT"),
    ],
)
def test_notes_say_what_a_user_should_know(bits: int, target: str, activations: bool, words: str) -> None:
    network = two_convs()
    emitted = (
        quantized(network, bits, target, image())[0]
        if activations
        else emit(network, nearest(network, bits), None, target)
    )
    assert any(words in note for note in emitted.notes), emitted.notes
    assert emitted.slower == (target == "portable" and not activations)
