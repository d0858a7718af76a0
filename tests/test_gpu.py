"""The cuda and tensorrt forms on their execution providers; skipped where onnxruntime does not have them."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.emit.writer import emit
from onnx_udfc.errors import RequestError
from onnx_udfc.runtime.sessions import open_session
from tests.quantized_graphs import image, nearest, quantized, run, two_convs


def need(target: str) -> None:
    """Skip where the provider does not run: that it was compiled in says nothing."""
    try:
        open_session(two_convs().to_model(), target)
    except RequestError as error:
        pytest.skip(str(error))


@pytest.mark.gpu
@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_only_gives_on_the_gpu_what_it_gives_on_the_cpu(target: str, bits: int) -> None:
    need(target)
    network = two_convs()
    model = emit(network, nearest(network, bits), None, target).model
    (there,) = open_session(model, target).run(None, image())
    (here,) = run(model, image())
    np.testing.assert_allclose(there, here, rtol=1e-2, atol=1e-2 * float(np.abs(here).max()))  # TF32 has 10 bits


@pytest.mark.gpu
def test_activations_on_tensorrt_are_within_a_step_of_the_cpu() -> None:
    need("tensorrt")
    emitted, _ = quantized(two_convs(), 8, "tensorrt", image())
    (there,) = open_session(emitted.model, "tensorrt").run(None, image())
    (here,) = run(emitted.model, image())
    assert np.abs(there - here).max() <= 0.02 * float(np.abs(here).max())
