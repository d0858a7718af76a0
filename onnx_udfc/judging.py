"""Two networks compared as the options say, with where they come from, and the pages that are asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from onnx_udfc.escapes import json_text
from onnx_udfc.evaluate.validate import Validation, validate
from onnx_udfc.options import Judging
from onnx_udfc.options.command import validate_line
from onnx_udfc.outputs import check_writable, write_text
from onnx_udfc.progress import Callbacks
from onnx_udfc.runtime.sessions import Source
from onnx_udfc.summary import file_report
from onnx_udfc.version import versions


def judged(original: Source, compressed: Source, asked: Judging, callbacks: Callbacks | None = None) -> Validation:
    """Compare two networks by checked options; gates are the caller's.

    Raises:
        UdfcError: As `validate`, but for gates.
    """
    for path in asked.report:
        check_writable(path)
    found = validate(original, compressed, asked, callbacks)
    names = [_name(source) or default for source, default in ((original, "IN.onnx"), (compressed, "OUT.onnx"))]
    found = replace(
        found,
        source=file_report(original, found.bytes.original),
        result=file_report(compressed, found.bytes.compressed),
        versions=versions(),
        command=validate_line(asked, *names),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    for path in asked.report:
        write_text(path, _page(found, path))
    return found


def _name(source: Source) -> str:
    """The name of a model's file; empty for what is in memory."""
    return Path(source).name if isinstance(source, str | Path) else ""


def _page(found: Validation, path: str) -> str:
    """A validation as what the path's ending says."""
    if path.lower().endswith(".html"):
        from onnx_udfc.evaluate.validation_page import to_page

        return to_page(found)
    return json_text(found.to_dict()) + "\n"
