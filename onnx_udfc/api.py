"""The functions of the package for Python: every option a keyword, models in any form, errors in Python's words."""

from __future__ import annotations

import contextlib
import inspect as signatures
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_udfc import pipeline
from onnx_udfc.errors import ArgumentError, UdfcError
from onnx_udfc.evaluate import inspection
from onnx_udfc.inputs.real import with_data
from onnx_udfc.judging import judged
from onnx_udfc.model.sources import Model, plain_source
from onnx_udfc.options import (
    PYTHON,
    Inspecting,
    Judging,
    OptionError,
    Options,
    Spec,
    Sweeping,
    check_requirements,
    default_text,
    read_options,
    specs,
    with_goal,
    words_of,
)
from onnx_udfc.original import Original
from onnx_udfc.outputs import path_of
from onnx_udfc.pipeline import Result
from onnx_udfc.progress import Callbacks, Logged
from onnx_udfc.sweep_table import SweepTable

if TYPE_CHECKING:
    from typing import Unpack

    from onnx_udfc.evaluate.inspection import Inspection
    from onnx_udfc.evaluate.validate import Validation
    from onnx_udfc.options.keywords import InspectingKeywords, JudgingKeywords, Keywords, SweepKeywords

_OPTIONS = words_of(Options, Inspecting, Judging, Sweeping)
SILENT = ("quiet", "json", "verbose", "debug", "config")  # for those who read a terminal


def compress(
    source: Model,
    options: Options | None = None,
    callbacks: Callbacks | None = None,
    *,
    original: Original | None = None,
    base: str | Path | None = None,
    **keywords: Unpack[Keywords],
) -> Result:
    """Compress a network.

    Examples:
        >>> from onnx_udfc import compress
        >>> result = compress("models/digits_resnet_folded.onnx", prune="50%", bits=8, method="udfc", threads=1)
        >>> result.report.after.bytes < result.report.before.bytes / 5
        True

    Args:
        source: A path, bytes, an open file, or a model, which is not changed.
        options: What is asked for; the keywords replace its fields of the same names. With neither options nor a
            keyword that says what to do, `for_="fast"` is meant; `bits=32` changes nothing that the network computes.
        callbacks: Told of every stage; by default the logger `onnx_udfc` is.
        original: The same source, read before; its trace is shared between compressions.
        base: Folder of the external data of a source that is not a path; without it such a source has none.
        **keywords: Options of the command; `calibrate` and `validate` also take an array, arrays by name (`y` are
            labels), a pair (x, y), an iterable of feeds, or a CalibrationDataReader of onnxruntime.

    Raises:
        UdfcError: The input or the request cannot be served, a gate is not met, or the result fails its check.
    """
    with _in_python():
        told = _listener(callbacks)
        if original is not None and not isinstance(original, Original):
            raise ArgumentError(f"original= must be an Original, not {type(original).__name__}")
        asked = replace(
            _base(options, "compress(IN, prune=0.5).save(OUT)"), **read_options(Options, with_data(Options, keywords))
        )
        asked = asked if options is not None else with_goal(asked, keywords)
        asked.check(lambda _: PYTHON)
        return pipeline.compress(
            plain_source(source), asked, told, original=original, base=None if base is None else path_of(base)
        )


def inspect(source: Model, **keywords: Unpack[InspectingKeywords]) -> Inspection:
    """Tell what can be pruned in a network, what cannot, and why.

    Examples:
        >>> from onnx_udfc import inspect
        >>> found = inspect("models/digits_resnet_folded.onnx")
        >>> sorted({group.status for group in found.groups})
        ['kept']

    Args:
        source: A path, bytes, an open file, or a model, which is not changed.
        **keywords: Options of the command.

    Raises:
        UdfcError: The model cannot be read.
    """
    with _in_python():
        asked = Inspecting(**keywords)
        return inspection.inspect_model(plain_source(source), asked.skip, asked.input_shape)


def validate(
    original: Model, compressed: Model, callbacks: Callbacks | None = None, **keywords: Unpack[JudgingKeywords]
) -> Validation:
    """Compare two networks: outputs, agreement, accuracy if there are labels, latency, memory, bytes.

    Examples:
        >>> from onnx_udfc import validate
        >>> model = "models/digits_resnet_folded.onnx"
        >>> validate(model, model, seconds=0, memory=False, threads=1).outputs[0].max_difference
        0.0

    Args:
        original: A path, bytes, an open file or a model.
        compressed: The same, of a network with the same inputs and outputs.
        callbacks: Told about progress.
        **keywords: Options of the command; `images` also takes what `calibrate` of `compress` does.

    Raises:
        UdfcError: A network does not run, the options do not fit, or outputs differ in name or shape.
        GateError: A gate (`require`) is not met.
    """
    with _in_python():
        asked = Judging(**with_data(Judging, keywords))
        asked.check(lambda _: PYTHON)
        found = judged(plain_source(original), plain_source(compressed), asked, _listener(callbacks))
        check_requirements(asked.require, {gate.key: found.measured(gate.key) for gate in asked.require})
        return found


def sweep(
    source: Model,
    directory: str | Path,
    options: Options | None = None,
    callbacks: Callbacks | None = None,
    **keywords: Unpack[SweepKeywords],
) -> SweepTable:
    """Compress a network in many settings: models, a table and a plot in a folder; goes on where it was stopped.

    `prune`, `bits` and `activations` are lists: `prune=[0.3, 0.5]` or `"0.1:0.7:0.1"`.

    Args:
        source: A path, bytes, an open file, or a model, which is not changed.
        directory: Of the results; made if it is not there.
        options: What all settings share; the keywords replace its fields of the same names.
        callbacks: Told of every finished setting.
        **keywords: Options of the command; `labelled` takes arrays, too. With several `jobs` a script needs a
            `__main__` guard.

    Raises:
        UdfcError: The source or the options cannot be served; a setting that fails alone is a row with its reason.
    """
    from onnx_udfc.sweep import swept

    with _in_python():
        own = {k: v for k, v in keywords.items() if k in specs(Sweeping)}
        asked = Sweeping(**with_data(Sweeping, own))
        rest: dict[str, Any] = {k: v for k, v in keywords.items() if k not in own}
        shared = replace(
            _base(options, "sweep(IN, DIR, prune=[0.3, 0.5])"), **read_options(Options, with_data(Options, rest))
        )
        told = _listener(callbacks)
        return swept(plain_source(source), path_of(directory), shared, asked, told, compress=pipeline.compress)


@contextlib.contextmanager
def _in_python() -> Iterator[None]:
    """Name options as Python has them: `bits=` where the command line has `--bits`."""
    try:
        yield
    except OptionError as error:
        raise error.spoken(PYTHON) from error
    except UdfcError as error:
        message = PYTHON.respelled(str(error), _OPTIONS)
        if message == str(error):
            raise
        raise type(error)(message) from error


def _base(options: object, usage: str) -> Options:
    """What keywords are laid over."""
    if options is None:
        return Options()
    if not isinstance(options, Options):
        given = "the class itself" if options is Options else type(options).__name__
        raise ArgumentError(f"options= must be an Options, not {given}; all else are keywords: {usage}")
    return options


def _listener(callbacks: Any) -> Callbacks:
    """Who is told; by default the logger."""
    if callbacks is None:
        return Logged()
    methods = ("stage", "advance", "note", "done")
    if isinstance(callbacks, type) or not all(callable(getattr(callbacks, name, None)) for name in methods):
        raise ArgumentError(
            f"callbacks= must have the methods {', '.join(methods)}, which {type(callbacks).__name__} has not;"
            " options are keywords, e.g. prune=0.5"
        )
    told: Callbacks = callbacks
    return told


def _documented(function: Callable[..., Any], rows: Mapping[str, Spec]) -> None:
    """Show a function's keywords in its signature and its documentation, from the table."""
    shown = {name: spec for name, spec in rows.items() if name not in SILENT}
    known = signatures.signature(function)
    kept = [p for p in known.parameters.values() if p.kind is not p.VAR_KEYWORD]
    given = [
        signatures.Parameter(name, signatures.Parameter.KEYWORD_ONLY, default=spec.default)
        for name, spec in shown.items()
        if name not in known.parameters
    ]
    function.__signature__ = known.replace(parameters=[*kept, *given])  # type: ignore[attr-defined]
    lines = [f"    {name} [{default_text(spec) or 'none'}]: {_told(spec)}" for name, spec in shown.items()]
    function.__doc__ = f"{signatures.cleandoc(function.__doc__ or '')}\n\nOptions:\n" + "\n".join(lines) + "\n"


def _told(spec: Spec) -> str:
    choices = ", ".join(str(word) for word in spec.row.choices)
    return PYTHON.respelled(spec.row.help, _OPTIONS) + (f" One of {choices}." if choices else "")


_documented(compress, specs(Options))
_documented(inspect, specs(Inspecting))
_documented(validate, specs(Judging))
_documented(sweep, {**specs(Options), **specs(Sweeping)})
