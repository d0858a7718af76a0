"""Layers are found again in what onnxruntime makes of a model."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnx_udfc.emit.writer import emit
from onnx_udfc.errors import CheckError
from onnx_udfc.runtime.kernels import Kernel, check_runtime
from tests.quantized_graphs import nearest, network_of

FUSED = {
    "relu": ("a = Conv (x, w1, b1) y = Relu (a)", "FusedConv"),
    "nothing": ("y = Conv (x, w1, b1)", "Conv"),
    "residual": ("a = Conv (x, w1, b1) b = Conv (x, w1, b1) y = Add (a, b)", "Conv"),
}


@pytest.mark.parametrize("case", sorted(FUSED))
def test_float_layers_are_named_with_their_kernels(case: str) -> None:
    body, kernel = FUSED[case]
    network = network_of(f"(float[1,8,6,6] x) => (float y) {{ {body} }}", {"w1": (8, 8, 3, 3), "b1": (8,)})
    checked = check_runtime(network.to_model())
    assert checked.integer == ()
    assert checked.floating == tuple(network.layers)
    assert checked.kernels[0] == Kernel("conv0", "Conv", kernel, False)


@pytest.mark.parametrize("rank", ["3", "2,3"])
def test_a_matmul_that_becomes_a_gemm_is_found(rank: str) -> None:
    body = f"(float[{rank},8] x) => (float y) {{ m = MatMul (x, w) a = Add (m, b) y = Relu (a) }}"
    checked = check_runtime(network_of(body, {"w": (8, 4), "b": (4,)}).to_model())
    (kernel,) = checked.kernels
    assert kernel.kernel in ("Gemm", "FusedGemm")


def test_weights_computed_in_every_run_are_reported() -> None:
    network = network_of("(float[1,8,6,6] x) => (float y) { y = Conv (x, w) }", {"w": (8, 8, 3, 3)})
    portable = check_runtime(emit(network, nearest(network, 4), None, "portable").model)
    assert [kernel.computes_weight for kernel in portable.kernels] == [True]
    cpu = check_runtime(emit(network, nearest(network, 4), None, "cpu").model)
    assert [kernel.computes_weight for kernel in cpu.kernels] == [False]


def test_a_path_or_bytes_will_do(tmp_path: Path) -> None:
    model = network_of("(float[1,8,6,6] x) => (float y) { y = Conv (x, w) }", {"w": (8, 8, 3, 3)}).to_model()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert check_runtime(path) == check_runtime(str(path)) == check_runtime(path.read_bytes()) == check_runtime(model)


def test_a_model_that_does_not_load_gives_one_line() -> None:
    model = network_of("(float[1,8,6,6] x) => (float y) { y = Conv (x, w) }", {"w": (8, 8, 3, 3)}).to_model()
    model.graph.node[0].op_type = "Convolution"
    with pytest.raises(CheckError, match="onnxruntime does not load the model") as caught:
        check_runtime(model)
    assert "\n" not in str(caught.value)
