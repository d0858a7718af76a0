"""The cuda and tensorrt forms on their execution providers; skipped, with the reason, where these do not run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from onnx_udfc import compress
from onnx_udfc.emit.writer import emit
from onnx_udfc.errors import RequestError
from onnx_udfc.evaluate.validate import validate
from onnx_udfc.options import Judging
from onnx_udfc.runtime.latency import run_on_device
from onnx_udfc.runtime.profiles import Fallbacks, fallbacks
from onnx_udfc.runtime.providers import Provider
from onnx_udfc.runtime.sessions import check_provider, open_session
from tests.quantized_graphs import image, nearest, quantized, run, two_convs

RTX = "NvTensorRTRTXExecutionProvider"
EXACT = {"use_tf32": "0"}


def need(target: str) -> None:
    """Skip where the provider does not run: that it was compiled in says nothing."""
    try:
        check_provider(Provider(target))
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
@pytest.mark.parametrize("target", ["cuda", "cpu"])
@pytest.mark.parametrize("bits", [8, 6, 4])
def test_folded_weights_leave_nothing_to_the_processor(target: str, bits: int) -> None:
    need("cuda")
    network = two_convs()
    model = emit(network, nearest(network, bits), None, target).model
    assert fallbacks(model, image(), Provider("cuda")) == Fallbacks((), {}, 0)


@pytest.mark.gpu
def test_values_that_stay_there_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    need("cuda")
    provider, feeds = Provider("cuda"), image()
    session = open_session(two_convs().to_model(), provider)
    (expected,) = session.run(None, feeds)
    seen: list[Any] = []
    bound = session.run_with_iobinding

    def watched(binding: Any) -> None:
        bound(binding)
        seen.extend(binding.copy_outputs_to_cpu())

    monkeypatch.setattr(session, "run_with_iobinding", watched)
    run_on_device(session, feeds, provider)()
    np.testing.assert_allclose(seen[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_integer_activations_leave_cuda_in_float() -> None:
    need("cuda")
    emitted, _ = quantized(two_convs(), 8, "cpu", image())
    found = validate(two_convs().to_model(), emitted.model, Judging(provider="cuda", seconds=0, memory=False))
    assert found.kernels is not None
    assert found.kernels.integer == ()
    assert found.fallbacks is not None


@pytest.mark.gpu
def test_a_setting_is_heard() -> None:
    need("cuda")
    model = two_convs().to_model()
    (there,) = open_session(model, Provider("cuda", EXACT)).run(None, image())
    np.testing.assert_allclose(there, run(model, image())[0], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_network_is_compressed_on_the_gpu() -> None:
    need("cuda")
    model = two_convs().to_model()
    asked: dict[str, Any] = {"prune": 0.5, "bits": 8, "force": True}
    here, there = compress(model, **asked), compress(model, provider="cuda", provider_option=EXACT, **asked)
    (expected,), (found,) = (run(result.model, image()) for result in (here, there))
    assert np.abs(found - expected).max() <= 0.05 * float(np.abs(expected).max())


@pytest.mark.gpu
def test_activations_on_tensorrt_are_within_a_step_of_the_cpu() -> None:
    need("tensorrt")
    emitted, _ = quantized(two_convs(), 8, "tensorrt", image())
    (there,) = open_session(emitted.model, "tensorrt").run(None, image())
    (here,) = run(emitted.model, image())
    assert np.abs(there - here).max() <= 0.02 * float(np.abs(here).max())


@pytest.mark.gpu
@pytest.mark.parametrize("activations", [False, True])
def test_the_form_on_tensorrt_rtx(activations: bool) -> None:
    if RTX not in ort.get_available_providers():
        pytest.skip(f"this onnxruntime has no {RTX}: its plug-in is not registered")
    network = two_convs()
    form = quantized(network, 8, "tensorrt", image())[0] if activations else None
    model = (form or emit(network, nearest(network, 8), None, "tensorrt")).model
    session = ort.InferenceSession(model.SerializeToString(), providers=[RTX], enable_fallback=0)
    assert session.get_providers()[0] == RTX
    (here,) = run(model, image())
    assert np.abs(session.run(None, image())[0] - here).max() <= 0.02 * float(np.abs(here).max())
