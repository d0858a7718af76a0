"""What a user asks for: one table of options, read from the command line, TOML or Python; no numpy and no onnx."""

from __future__ import annotations

from onnx_udfc.options.command import as_words, command_line, default_text
from onnx_udfc.options.command_tables import Inspecting, Judging, Sweeping, Writing
from onnx_udfc.options.goals import (
    VALIDATE_REQUIREMENTS,
    VERDICTS,
    Budget,
    Requirement,
    check_requirements,
    parse_budget,
    parse_requirement,
)
from onnx_udfc.options.reading import Table, field_name, read_options, read_value, unknown_option, words_of
from onnx_udfc.options.row import GROUPS, InMemory, Spec, specs
from onnx_udfc.options.table import Options, options_from, with_goal
from onnx_udfc.options.voice import LINE, PYTHON, CombinationError, OptionError, UnknownOptionError, Voice
from onnx_udfc.options.words import CRITERIA, METHODS

__all__ = [
    "CRITERIA", "GROUPS", "LINE", "METHODS", "PYTHON", "VALIDATE_REQUIREMENTS", "VERDICTS", "Budget",
    "CombinationError", "InMemory", "Inspecting", "Judging", "OptionError", "Options", "Requirement", "Spec",
    "Sweeping", "Table", "UnknownOptionError", "Voice", "Writing", "as_words", "check_requirements", "command_line",
    "default_text", "field_name", "options_from", "parse_budget", "parse_requirement", "read_options", "read_value",
    "specs", "unknown_option", "with_goal", "words_of",
]  # fmt: skip
