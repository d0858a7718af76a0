"""Options of the commands beside those that decide the compressed network: what is written, judged, swept."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any, Literal

from onnx_udfc.options.goals import VALIDATE_REQUIREMENTS, Requirement, parse_requirement
from onnx_udfc.options.providers import Provider, ProviderOption, refused_settings
from onnx_udfc.options.reading import Table, read_value
from onnx_udfc.options.row import INPUT, MUST, RUN, TOLD, WHAT, Count, InMemory, Row, Seconds, Threads, specs
from onnx_udfc.options.shared_rows import (
    TASKS,
    AsJson,
    Batch,
    Debug,
    InputColour,
    InputMean,
    InputRange,
    InputShape,
    InputStd,
    Labels,
    Quiet,
    Seed,
    Skip,
    Verbose,
    Workers,
    read_data,
)
from onnx_udfc.options.table import Options, refused_scale
from onnx_udfc.options.voice import LINE, CombinationError, OptionError, Said, Voices

PICKED_BY = ("loss", "verdict", "accuracy", "agreement", "sqnr", "cosine", "macs", "params", "bytes", "latency")
REPORT_SUFFIXES = (".json", ".html")
_EXECUTOR = re.compile(r"dask://[A-Za-z0-9_.\-]+:\d{1,5}")

MOST_VALUES = 1000  # each is a file, and minutes of work


def read_report(path: object) -> str:
    """Return the path of a report.

    Raises:
        OptionError: Its ending tells no format.
    """
    if not isinstance(path, str) or PurePath(path).suffix.lower() not in REPORT_SUFFIXES:
        raise OptionError("report", path, "the name must end in .json or .html")
    return path


Reports = Annotated[
    tuple[str, ...],
    Row(
        "Write the report as .json or .html, by its ending; repeatable.",
        TOLD,
        metavar="PATH",
        repeat=True,
        read=read_report,
        example="report.html",
    ),
]


def read_gate(text: object) -> Requirement:
    """Return a gate of `validate`.

    Raises:
        OptionError: The form or the key is unknown.
    """
    return parse_requirement(text, VALIDATE_REQUIREMENTS)


def read_pick(text: object) -> Requirement:
    """Return what a setting of `sweep` must meet.

    Raises:
        OptionError: The form or the key is unknown.
    """
    try:
        return parse_requirement(text, PICKED_BY)
    except OptionError as error:
        raise OptionError("pick", text, error.why) from None


@dataclass(frozen=True, init=False)
class Writing(Table):
    """What `compress` has on the command line alone."""

    report: Reports = ()
    quiet: Quiet = False
    json: AsJson = False
    config: Annotated[
        str | None, Row("Options from a TOML file; the command line wins.", RUN, metavar="FILE", example="udfc.toml")
    ] = None
    print_config: Annotated[bool, Row("Print the options as TOML and stop.", TOLD)] = False
    overwrite_input: Annotated[bool, Row("Allow OUT to be IN.", MUST)] = False


@dataclass(frozen=True, init=False)
class Inspecting(Table):
    """What `inspect` can be asked for."""

    skip: Skip = ()
    input_shape: InputShape = ()
    quiet: Quiet = False
    json: AsJson = False
    verbose: Verbose = False
    debug: Debug = False


@dataclass(frozen=True, init=False)
class Judging(Table):
    """What `validate` can be asked for."""

    images: Annotated[
        str | InMemory | None,
        Row(
            "Real inputs: .npz (x, y), .npy, a folder or a .zip of images.",
            INPUT,
            metavar="DATA",
            unset="made-up inputs",
            example="images/",
            read=read_data,
        ),
    ] = None
    labels: Labels = None
    limit: Annotated[
        Count | None, Row("Use at most so many images.", INPUT, metavar="N", unset="all", example="1000")
    ] = None
    input_shape: InputShape = ()
    input_mean: InputMean = ()
    input_std: InputStd = ()
    input_range: InputRange = None
    input_colour: InputColour = None
    seed: Seed = 0
    report: Reports = ()
    task: Annotated[str, Row("What the outputs say.", MUST, metavar="KIND", choices={"auto": "guessed", **TASKS})] = (
        "auto"
    )
    require: Annotated[
        tuple[Requirement, ...],
        Row(
            "A gate: what `compress` knows, and accuracy, accuracy_drop, latency, memory, matched; not met is exit 3;"
            " repeatable. Quote it.",
            MUST,
            metavar="KEY>=VALUE",
            repeat=True,
            read=read_gate,
            example="accuracy>=0.9",
        ),
    ] = ()
    seconds: Annotated[Seconds, Row("Time to spend on latency, 0 for none.", RUN, metavar="S", example="10")] = 4.0
    memory: Annotated[bool, Row("Measure peak memory, in processes of their own.", RUN)] = True
    threads: Workers = None
    provider: Provider = "cpu"
    provider_option: ProviderOption = field(default_factory=dict)
    batch: Batch = None
    quiet: Quiet = False
    json: AsJson = False
    verbose: Verbose = False
    debug: Debug = False

    def check(self, voices: Voices) -> None:
        """Refuse options that do not go together.

        Raises:
            CombinationError: Two options do not go together.
        """
        said = Said(voices)
        refused = refused_settings(self, said) or refused_scale(self, said)
        if self.labels and not self.images:
            refused = f"{said.begin('labels', self.labels)}: of which images? add {said('images', 'DATA')}"
        if refused:
            raise CombinationError(refused)


def read_executor(value: object) -> str | None:
    """Return the address of a scheduler as it was written, or None.

    Raises:
        OptionError: It is none.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    if isinstance(value, str) and _EXECUTOR.fullmatch(value.strip()):
        return value.strip()
    raise OptionError("executor", value, "must be dask://HOST:PORT, e.g. dask://127.0.0.1:8786")


def _each_of(name: str) -> Callable[[Any], tuple[Any, ...]]:
    """What reads `8,6,4` or a list, each as that option is; of ratios also first:last:step, the last included."""

    def read(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            return _each(name, _steps(value) if name == "prune" and ":" in value else value.split(","))
        return _each(name, value if isinstance(value, list) else [value])

    return read


@dataclass(frozen=True, init=False)
class Sweeping(Table):
    """What `sweep` has beside the options of `compress`."""

    prune: Annotated[
        tuple[float, ...],
        Row(
            "Ratios, one by one or first:last:step.",
            WHAT,
            metavar="LIST",
            short="p",
            read=_each_of("prune"),
            example="0.1:0.7:0.1",
        ),
    ] = (0.0,)
    bits: Annotated[
        tuple[int | Literal["auto"], ...],
        Row("Bits of weights.", WHAT, metavar="LIST", short="b", read=_each_of("bits"), example="8,6,4"),
    ] = (32,)
    activations: Annotated[
        tuple[int | None, ...],
        Row("Bits of activations.", WHAT, metavar="LIST", short="a", read=_each_of("activations"), example="none,8"),
    ] = (None,)
    jobs: Annotated[
        Threads | None, Row("Processes.", RUN, metavar="N", unset="one a core, as memory allows", example="2")
    ] = None
    executor: Annotated[
        str | None,
        Row(
            "A scheduler of Dask whose workers do it in place of processes here.",
            RUN,
            metavar="URL",
            unset="processes here",
            since="0.3",
            read=read_executor,
            example="dask://127.0.0.1:8786",
        ),
    ] = None
    labelled: Annotated[
        str | InMemory | None,
        Row(
            "Labelled images, for real accuracy in the table and the plot.",
            INPUT,
            metavar="DATA",
            example="images/",
            read=read_data,
        ),
    ] = None
    labels: Labels = None
    pick: Annotated[
        tuple[Requirement, ...],
        Row(
            "Write the smallest file that meets it as picked.onnx: loss, accuracy, agreement, sqnr, cosine, macs,"
            " params, bytes, latency, verdict=good; none is exit 3; repeatable. Quote it.",
            MUST,
            metavar="KEY<=VALUE",
            repeat=True,
            read=read_pick,
            since="0.3",
            example="loss<=0.01",
        ),
    ] = ()
    config: Annotated[
        str | None, Row("Options from a TOML file; the command line wins.", RUN, metavar="FILE", example="udfc.toml")
    ] = None
    quiet: Quiet = False
    json: AsJson = False


def _each(name: str, items: list[Any]) -> tuple[Any, ...]:
    """Every item as the option itself reads it; one that stands twice is one."""
    if not 1 <= len(items) <= MOST_VALUES:
        raise OptionError(name, None, f"must be 1 to {MOST_VALUES} values with commas between")
    return tuple(dict.fromkeys(read_value(specs(Options)[name], item, LINE) for item in items))


def _steps(text: str) -> list[Any]:
    """The numbers of `first:last:step`."""
    try:
        first, last, step = (float(part) for part in text.split(":"))
        count = (last - first) / step + 1e-6
    except (ValueError, ZeroDivisionError):
        count, first, last, step = math.nan, 0.0, 0.0, 0.0
    if not (0 < step < math.inf and 0 <= count < math.inf):
        raise OptionError("prune", text, "must be first:last:step, e.g. 0.1:0.7:0.1")
    if count >= MOST_VALUES:
        raise OptionError("prune", text, f"these are more than {MOST_VALUES} values; take a larger step")
    return [round(first + i * step, 10) for i in range(int(count) + 1)]
