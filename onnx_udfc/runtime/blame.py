"""Whose fault an unexpected error is: ours, or that of a model that onnxruntime does not run either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from onnx_udfc.errors import ModelError, UdfcError
from onnx_udfc.runtime.runs import input_specs, outputs_of
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
        specs = input_specs(session)
        shapes = {spec.name: [d for d in spec.shape if d is not None] for spec in specs}
        if any(len(shapes[s.name]) < len(s.shape) or np.prod(shapes[s.name], dtype=np.float64) > MOST for s in specs):
            return ""
        feeds = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in specs}
        outputs_of(session, [], feeds, f"{described(source)}: onnxruntime cannot run it (WHY); export it again")
    except ModelError as error:
        return str(error)
    return ""
