"""Runs whose values stay where they are computed, without the copies that a caller's arrays cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_udfc.runtime.providers import CPU_NAME, Provider

if TYPE_CHECKING:
    from onnx_udfc.runtime.latency import Run


def run_on_device(session: ort.InferenceSession, feeds: Mapping[str, NDArray[np.generic]], provider: Provider) -> Run:
    """A run whose inputs lie on the provider's device before it and whose outputs stay there; it ends when they do.

    Args:
        session: of that provider.
        feeds: input name → value.
        provider: where the values lie; of several devices the one that its settings name.
    """
    here = session.get_providers()[:1] == [CPU_NAME]
    device, number = ("cpu", 0) if here else ("cuda", int(provider.settings.get("device_id", "0")))
    binding = session.io_binding()
    given = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
    for name, value in given.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, device, number))
    for output in session.get_outputs():
        binding.bind_output(output.name, device, number)

    def run(_held: object = given) -> None:  # the memory that runs on the processor read; the binding does not hold it
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run
