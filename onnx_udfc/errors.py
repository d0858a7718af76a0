"""Errors of the user's world: each is one line that says what to change."""

from __future__ import annotations

import re

# file, line, and the function with its parameters, up to what is said
_PLACE = re.compile(r"[^\s:]*/onnxruntime/core/\S+:\d+ .*?\)(?: const)? ")


class UdfcError(Exception):
    """The input or the request cannot be served; the message is one line for the user."""

    exit_code = 1


class ModelError(UdfcError):
    """The model file is missing, damaged, or holds something that cannot be computed with."""


class RequestError(UdfcError):
    """The options ask for something impossible."""


class ArgumentError(RequestError, TypeError):
    """An argument of a function for Python is nothing that it takes: wrong usage."""

    exit_code = 2


class GateError(UdfcError):
    """A requirement (`--require`) is not met; nothing was written."""

    exit_code = 3


class CheckError(UdfcError):
    """The compressed network failed its final check; nothing was written."""

    exit_code = 3


def one_line(error: BaseException) -> str:
    """Return an exception's text on one line of sensible length, without the place in onnxruntime's source."""
    return _PLACE.sub("", " ".join(str(error).split()))[:300]
