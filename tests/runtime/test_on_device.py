"""Runs whose values stay on the device."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from onnx_udfc.runtime.latency import run_on_device
from onnx_udfc.runtime.providers import CPU
from onnx_udfc.runtime.sessions import open_session

SUM = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[2] x, float[2] y) => (float[2] z) { z = Add(x, y) }
"""


def test_a_run_reads_what_was_given_and_leaves_its_answer_there() -> None:
    seen: list[np.ndarray] = []
    session = open_session(onnx.parser.parse_model(SUM), CPU)

    class Watched:
        """The session, with the outputs of each run kept."""

        io_binding, get_outputs, get_providers = session.io_binding, session.get_outputs, session.get_providers

        def run_with_iobinding(self, binding: ort.IOBinding) -> None:
            session.run_with_iobinding(binding)
            seen.append(binding.copy_outputs_to_cpu()[0])

    feeds = {"x": np.array([1, 2], np.float32), "y": np.array([[3, 4], [5, 6]], np.float32)[:, 1]}
    run = run_on_device(Watched(), feeds, CPU)
    run()
    run()
    np.testing.assert_array_equal(seen, [[5, 8]] * 2)
