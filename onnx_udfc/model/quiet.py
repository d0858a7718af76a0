"""onnxruntime without its remarks: its default logger prints to standard error whatever a session's severity is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

FATAL_ONLY = 4


def quiet_options() -> onnxruntime.SessionOptions:
    """Options of a session that prints nothing; the default logger is silenced, too, from then on."""
    import onnxruntime as ort  # slow to import

    ort.set_default_logger_severity(FATAL_ONLY)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    return options
