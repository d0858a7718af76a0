"""Whose fault an unexpected error is: ours, or that of a model that onnxruntime does not run either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_udfc.errors import ModelError, UdfcError, one_line
from onnx_udfc.runtime.runs import input_specs
from onnx_udfc.runtime.sessions import Source, described, open_session

UNEXPECTED = (
    ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, np.linalg.LinAlgError,
)  # fmt: skip
MOST = 1 << 26  # elements of an input that is made up for this


@contextmanager
def blamed(source: Source) -> Iterator[None]:
    """Turns an unexpected error about a model that does not run into one line; any other stays what it is.

    Raises:
        ModelError: onnxruntime does not load the model, or, if its inputs have fixed sizes, does not run it.
    """
    try:
        yield
    except UdfcError:
        raise
    except UNEXPECTED as error:
        refusal = refused(source)
        if refusal:
            raise ModelError(refusal) from error
        raise


def refused(source: Source) -> str:
    """What onnxruntime says against a model, as a line for the user; empty if it runs."""
    try:
        session = open_session(source, threads=1, optimize=False)
    except ModelError as error:
        return str(error)
    try:
        specs = input_specs(session)
    except ModelError as error:
        return str(error)
    shapes = {spec.name: [d for d in spec.shape if d is not None] for spec in specs}
    if any(len(shapes[s.name]) < len(s.shape) or np.prod(shapes[s.name], dtype=np.float64) > MOST for s in specs):
        return ""
    feeds = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in specs}
    return _fails(session, feeds, described(source))


def _fails(session: ort.InferenceSession, feeds: dict[str, NDArray[Any]], name: str) -> str:
    try:
        session.run(None, feeds)
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        return f"{name}: onnxruntime cannot run it ({one_line(error)}); export it again"
    return ""
