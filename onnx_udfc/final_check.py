"""The last look at a result, before anything is written: valid, loadable, finite, how near it is to the original."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnx_udfc.comparison import fidelity
from onnx_udfc.errors import CheckError, ModelError, RequestError
from onnx_udfc.feeds import evenly, input_specs, split
from onnx_udfc.graph import Network
from onnx_udfc.inputs import NetworkInputs, make_inputs
from onnx_udfc.options import Options
from onnx_udfc.report import Fidelity
from onnx_udfc.sessions import Source, one_line, open_session

OTHER_IMAGES = 1000  # added to the seed: the check does not look at the images that the repair has seen
MOST_IMAGES = 32
_LARGEST_PROTO = 1 << 31


@dataclass(frozen=True)
class Checked:
    """What the check found.

    Attributes:
        fidelity: how near the outputs are; None where the original itself cannot be run.
        notes: why something was not checked.
    """

    fidelity: Fidelity | None
    notes: tuple[str, ...] = ()


def check_result(original: Source, network: Network, model: onnx.ModelProto, options: Options) -> Checked:
    """Check a written model against the original.

    Args:
        original: as the user gave it.
        network: the original in canonical form, for its inputs.
        model: the result.
        options: the inputs are made by the same options, with another seed.

    Raises:
        CheckError: the result is not a valid model, does not run, or is not finite where the original is.
    """
    _valid(original, model)
    try:
        first = open_session(original, "cpu", options.threads)
    except ModelError as error:
        return Checked(None, (f"not run for its check: {error}",))
    try:
        second = open_session(model, "cpu", options.threads)
    except ModelError as error:
        raise CheckError(f"the compressed network does not load, so nothing was written: {error}") from error
    try:
        inputs = _other_inputs(network, options)
        feeds = split(input_specs(first), inputs.values, batch=8)
    except (RequestError, ModelError) as error:
        return Checked(None, (f"not run for its check: {error}",))
    return _compared(first, second, list(feeds), inputs)


def _compared(first: Any, second: Any, feeds: list[Any], inputs: NetworkInputs) -> Checked:
    try:
        first.run(None, feeds[0])
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        return Checked(None, (f"not run for its check: the original fails on made-up inputs ({one_line(error)})",))
    try:
        return Checked(fidelity(first, second, feeds, inputs.source))
    except CheckError:
        raise
    except Exception as error:
        raise CheckError(f"the compressed network does not run, so nothing was written: {one_line(error)}") from error


def _other_inputs(network: Network, options: Options) -> NetworkInputs:
    count = min(options.images or MOST_IMAGES, MOST_IMAGES)
    inputs = make_inputs(network, replace(options, images=None if options.calibrate else options.images), OTHER_IMAGES)
    return replace(inputs, values={name: evenly(value, count) for name, value in inputs.values.items()})


def _valid(original: Source, model: onnx.ModelProto) -> None:
    """Refuse an invalid result; but what the original already fails is not the result's fault."""
    if model.ByteSize() >= _LARGEST_PROTO:
        return
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # checker.ValidationError, or a plain error of its C++ core
        if not _fails(original):
            raise CheckError(f"the result is not a valid model, so nothing was written: {one_line(error)}") from error


def _fails(original: Source) -> bool:
    try:
        onnx.checker.check_model(str(original) if isinstance(original, Path) else original)
    except Exception:  # as above
        return True
    return False
