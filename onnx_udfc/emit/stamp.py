"""Metadata that says what made a file: `onnx_udfc.version` and `onnx_udfc.options`."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from onnx_udfc.options.row import specs
from onnx_udfc.options.table import Options
from onnx_udfc.version import this_tool

PREFIX = "onnx_udfc."


def stamp(model: onnx.ModelProto, options: Options) -> None:
    """Write the metadata into a model, in place of what an earlier run left; all else in its metadata stays."""
    kept = [entry for entry in model.metadata_props if not entry.key.startswith(PREFIX)]
    changed = {k: v for k, v in options.changed().items() if specs(Options)[k].row.effect}
    if "calibrate" in changed:
        changed["calibrate"] = Path(changed["calibrate"]).name  # a shipped file need not tell its maker's folders
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in (("version", this_tool().version), ("options", json.dumps(changed, sort_keys=True))):
        model.metadata_props.add(key=PREFIX + key, value=value)
