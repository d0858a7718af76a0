"""Rows that several commands have: what the network is fed, how it is run, what is told."""

from __future__ import annotations

from typing import Annotated

from onnx_udfc.options.row import HOW, INPUT, MUST, RUN, TOLD, WHAT, Count, InMemory, Positive, Row, Threads, Whole
from onnx_udfc.options.voice import OptionError

LARGEST_SIZE = 1 << 31  # of one axis
COLOURS = {"rgb": "red first", "bgr": "blue first, as OpenCV and Caffe have it", "gray": "one channel"}
TASKS = {
    "classes": "scores of classes",
    "detection": "boxes with scores",
    "segmentation": "a class for every pixel",
    "sequence": "a class for every step",
    "embedding": "a vector that is compared with others",
    "regression": "numbers that are taken as they are",
}


def read_shape(text: object) -> str:
    """Return NAME=1x3x640x640, or the sizes alone.

    Raises:
        OptionError: The sizes are no whole numbers above 0.
    """
    name, sign, last = text.rpartition("=") if isinstance(text, str) else ("", "", "")
    sizes = last.lower().split("x")
    if (sign and not name) or not all(s.isascii() and s.isdigit() and 0 < int(s[:12]) < LARGEST_SIZE for s in sizes):
        raise OptionError("input_shape", text, "expected NAME=1x3x640x640, whole numbers above 0 with x between them")
    assert isinstance(text, str)
    return text


def read_data(value: object) -> str | InMemory | None:
    """Return a path, inputs in memory as they are, or None.

    Raises:
        OptionError: It is neither; of which option, its caller says.
    """
    if value is None or isinstance(value, InMemory):
        return value
    if isinstance(value, str) and value.strip():
        return None if value.strip().lower() == "none" else value
    raise OptionError("data", None, "must be the path of a file or folder; functions of Python take arrays, too")


InputShape = Annotated[
    tuple[str, ...],
    Row(
        "Sizes of an input that the file leaves open; NAME= may be left out where there is one input; repeatable.",
        INPUT,
        metavar="NAME=SIZES",
        repeat=True,
        unset="guessed",
        example="images=1x3x640x640",
        read=read_shape,
    ),
]
InputMean = Annotated[
    tuple[float, ...],
    Row(
        "Mean that the network expects to be taken off, one number or one per channel, after --input-range.",
        INPUT,
        metavar="NUMBERS",
        unset="guessed",
        example="0.485,0.456,0.406",
    ),
]
InputStd = Annotated[
    tuple[Positive, ...],
    Row(
        "Deviation that it expects to be divided by, one number or one per channel.",
        INPUT,
        metavar="NUMBERS",
        unset="guessed",
        example="0.229,0.224,0.225",
    ),
]
InputRange = Annotated[
    tuple[float, float] | None,
    Row("Values that pixels 0 and 255 become.", INPUT, metavar="LOW,HIGH", unset="guessed", example="0,1"),
]
InputColour = Annotated[
    str | None,
    Row("Order of the colour channels.", INPUT, metavar="C", choices=COLOURS, unset="rgb, or guessed with the scale"),
]

Seed = Annotated[Whole, Row("Seed of everything random.", HOW, metavar="N", example="1")]
Skip = Annotated[
    tuple[str, ...],
    Row(
        "Names of nodes or tensors (`*`, `?`) that are left alone; repeatable.",
        WHAT,
        metavar="PATTERN",
        repeat=True,
        example="head*",
    ),
]
Task = Annotated[
    str | None, Row("What the outputs say.", MUST, metavar="KIND", choices=TASKS, unset="guessed", effect=False)
]
Batch = Annotated[
    Count | None,
    Row("Samples of a run whose time is taken.", RUN, metavar="N", unset="1, or the network's own", example="64"),
]
Workers = Annotated[
    Threads | None,
    Row(
        "Threads that work; the bytes are the same for any number (only a latency budget is timed with it).",
        RUN,
        metavar="N",
        unset="all",
        effect=False,
        example="1",
    ),
]
Verbose = Annotated[
    bool, Row("Say what is done, layer by layer, on standard error.", TOLD, short="v", effect=False, printed=False)
]
Debug = Annotated[bool, Row("Tracebacks in place of one line.", TOLD, effect=False, printed=False)]
Quiet = Annotated[bool, Row("Print nothing but errors.", TOLD, short="q")]
AsJson = Annotated[bool, Row("Print the report as JSON on standard output and nothing else.", TOLD)]
Labels = Annotated[
    str | None,
    Row("Rows `name,label` in a CSV, where names and folders do not tell.", INPUT, metavar="CSV", example="labels.csv"),
]
