"""What the help of each command ends with: commands that work, and what they do."""

from __future__ import annotations

EXAMPLES = {
    "compress": (
        ("onnx-udfc model.onnx fast.onnx", "the best that is safe; it says what was chosen and why"),
        ("onnx-udfc model.onnx small.onnx --bits 8", "a quarter of the bytes, at the original's speed"),
        (
            "onnx-udfc model.onnx pruned.onnx --prune 30% --report report.html",
            "fewer channels: faster everywhere, with a page that says what it cost",
        ),
    ),
    "inspect": (
        ("onnx-udfc inspect model.onnx", "what can be pruned, what cannot and why"),
        ("onnx-udfc inspect model.onnx --json", "the same for a program"),
        ("onnx-udfc inspect model.onnx --skip 'head*'", "the same with the head left alone"),
    ),
    "validate": (
        ("onnx-udfc validate model.onnx small.onnx", "outputs, latency and memory on made-up inputs"),
        ("onnx-udfc validate model.onnx small.onnx --images photos/", "the same on real images"),
        (
            "onnx-udfc validate a.onnx b.onnx --images test.npz --require 'accuracy>=0.9'",
            "accuracy, and exit 3 where it is lower",
        ),
    ),
    "sweep": (
        ("onnx-udfc sweep model.onnx results --bits 8,6,4", "three files, a table and a plot in results/"),
        ("onnx-udfc sweep model.onnx results --prune 0.1:0.7:0.1", "seven ratios"),
        (
            "onnx-udfc sweep model.onnx results --bits 8,4 --labelled test.npz",
            "the same with real accuracy in the table",
        ),
    ),
}
