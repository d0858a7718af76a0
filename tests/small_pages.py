"""What pages are made of in tests: a validation and a sweep with everything in them."""

from __future__ import annotations

from onnx_udfc.evaluate.report import Accuracy, FileReport, OutputFidelity
from onnx_udfc.evaluate.side_by_side import Changed, ClassCount
from onnx_udfc.evaluate.validate import Kernels, Pair, Validation
from onnx_udfc.runtime.latency import Latency
from onnx_udfc.sweep_table import SweepRow, SweepTable
from onnx_udfc.version import Tool

VERSIONS = {"numpy": "2.0", "onnxruntime": "1.30"}
CREATED = "2026-01-31T12:00:00+00:00"


def validation() -> Validation:
    """A validation of a classifier with labels."""
    return Validation(
        tool=Tool("onnx-udfc", "1"),
        provider="cpu",
        inputs="images",
        count=240,
        outputs=(OutputFidelity("a/very/long/name/of_an_output_0", "classes", 20.0, 0.99, agreement=0.9, answers=24),),
        accuracy=Accuracy(0.95, 0.94, 240),
        matched=0.875,
        latency=Latency(1.5, 0.75, 0.5, 0.49, 0.51, 100),
        peak_memory=Pair(10_000_000, 5_000_000),
        bytes=Pair(1_000_000, 250_000),
        kernels=Kernels(tuple(f"/stage{i}/block/Conv" for i in range(30)), ("/head/Gemm",), ()),
        sqnr_db=20.0,
        cosine=0.99,
        agreement=0.9,
        verdict="good",
        predicted_loss=0.01,
        predicted_range=(0.0, 0.04),
        verdict_reason="accuracy 0.950 before, 0.940 after, on 240 inputs",
        latency_inputs=(("input", (1, 3, 224, 224)),),
        changed=tuple(Changed(f"photographs/of_things/number_{i}.jpg", 7, 3, 7) for i in range(24)),
        changes=24,
        classes=tuple(ClassCount(i, 10, 9, 6 if i == 7 else 9) for i in range(24)),
        source=FileReport("in <1>.onnx", 64 * "a", 1_000_000),
        result=FileReport("out.onnx", 64 * "b", 250_000),
        versions=VERSIONS,
        command="onnx-udfc validate in.onnx out.onnx --images test.npz",
        created=CREATED,
    )


def sweep_table() -> SweepTable:
    """A sweep with labels, latency, and a setting that failed."""
    rows = [
        SweepRow(
            f"prune{p}_bits{b}_act8", p, b, 8, 1 - p, 1 - p, (1 - p) * b / 32, 20 - 10 * p + b, 0.99, 0.99,
            0.96 - p / (2 * b), 3.0, "", "good", 0.01, 1.1 - p,
        )
        for p in (0.0, 0.2, 0.4)
        for b in (8, 6, 4, 3)
    ]  # fmt: skip
    failed = SweepRow("prune0.9_bits2", 0.9, 2, None, error="required but not met: verdict is unusable, wanted good")
    source = FileReport("net <1>.onnx", 64 * "c", 1_000_000)
    command = "onnx-udfc sweep net.onnx results --prune 0.0,0.2,0.4 --bits 8,6,4,3 --activations 8"
    return SweepTable("net <1>.onnx", (*rows, failed), 0.961, source, command, VERSIONS, CREATED)
