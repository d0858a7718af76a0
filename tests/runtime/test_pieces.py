"""Sessions of parts of a network: shared by what they compute, never by more."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from onnx_udfc import compress
from onnx_udfc.options import Options
from onnx_udfc.runtime.walk import MOST, Piece, Pieces
from tests.normed_graphs import CHAIN, scaled_model

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
X, Y = (np.random.default_rng(i).normal(size=(2, 3)).astype(np.float32) for i in range(2))


def part(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEAD + text)


def session_of(piece: Piece) -> object:
    return piece._session


ADDED = "g (float[N,3] a, float[N,3] b) => (float[N,3] c) { d = Sub(a, b) c = Relu(d) }"
RENAMED = "g (float[N,3] z, float[N,3] q) => (float[N,3] a) { y = Sub(q, z) a = Relu(y) }"


def test_the_same_under_other_names_is_opened_once() -> None:
    pieces = Pieces()
    first, second = pieces.piece(part(ADDED)), pieces.piece(part(RENAMED))
    assert session_of(first) is session_of(second)
    np.testing.assert_array_equal(first.run(["c"], {"a": X, "b": Y})[0], np.maximum(X - Y, 0))
    np.testing.assert_array_equal(second.run(["a"], {"z": X, "q": Y})[0], np.maximum(Y - X, 0))


@pytest.mark.parametrize(
    "other",
    [
        "g (float[N,3] a, float[N,3] b) => (float[N,3] c) { d = Sub(b, b) c = Relu(d) }",
        "g (float[N,3] a, float[N,3] b) => (float[N,3] c) { d = Add(a, b) c = Relu(d) }",
        "g (float[N,3] a, float[N,3] b) => (float[N,3] c) { d = Sub(a, b) c = LeakyRelu<alpha = 0.5>(d) }",
        "g (float[N,3] a, float[N,3] b) => (float[N,3] d) { d = Sub(a, b) c = Relu(d) }",
        "g (float[N,3] a, float[N,3] b) => (float[N,3] c) <float[1] k = {2}> { d = Sub(a, k) c = Relu(d) }",
    ],
)
def test_anything_else_is_opened_for_itself(other: str) -> None:
    pieces = Pieces()
    assert session_of(pieces.piece(part(ADDED))) is not session_of(pieces.piece(part(other)))


def test_constants_are_told_apart_by_their_values() -> None:
    pieces = Pieces()
    text = "g (float[N,3] a) => (float[N,3] c) <float[1] k = {NUMBER}> { c = Mul(a, k) }"
    two, three, again = (pieces.piece(part(text.replace("NUMBER", n))) for n in ("2", "3", "2"))
    assert session_of(two) is session_of(again)
    np.testing.assert_array_equal(two.run(["c"], {"a": X})[0], 2 * X)
    np.testing.assert_array_equal(three.run(["c"], {"a": X})[0], 3 * X)


def test_what_is_remembered_is_bounded() -> None:
    pieces = Pieces()
    for i in range(MOST + 3):
        text = f"g (float[N,3] a) => (float[N,3] c) <float[1] k = {{{i}}}> {{ c = Mul(a, k) }}"
        np.testing.assert_array_equal(pieces.piece(part(text)).run(["c"], {"a": X})[0], i * X)
    assert len(pieces._open) == MOST


def test_a_compression_opens_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three layers in the original and in the compressed network, ten parts between them, and a backward pass."""
    opened = []
    real = onnxruntime.InferenceSession

    def counted(*given: object, **named: object) -> object:
        opened.append(given)
        return real(*given, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    compress(scaled_model(CHAIN), Options(prune=0.5, bits=4, method="udfc", threads=1))
    without = len(opened)
    compress(scaled_model(CHAIN), Options(prune=0.5, bits=4, threads=1))
    assert len(opened) - 2 * without <= 4
