"""Keywords of the package's functions in all forms that are understood; `python -m tools option_pages`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Literal, SupportsFloat, SupportsIndex, TypedDict

from onnx_udfc.options.goals import Requirement

Whole = SupportsIndex | str  # numbers of numpy, and "8"
Number = SupportsFloat | SupportsIndex | str  # and "50%"
Numbers = SupportsFloat | Iterable[SupportsFloat] | str  # and "0.5,0.5"
Values = SupportsFloat | SupportsIndex | Iterable[SupportsFloat | SupportsIndex | str | None] | str  # and "0.1:0.7:0.1"


class _Running(TypedDict, total=False):
    """What runs of a network are made with."""

    seed: Whole
    """Seed of everything random."""

    input_shape: str | Iterable[str]
    """Sizes of an input that the file leaves open; NAME= may be left out where there is one input; repeatable."""

    input_mean: Numbers
    """Mean that the network expects to be taken off, one number or one per channel, after input_range=."""

    input_std: Numbers
    """Deviation that it expects to be divided by, one number or one per channel."""

    input_range: Numbers | None
    """Values that pixels 0 and 255 become."""

    input_colour: Literal["rgb", "bgr", "gray"] | str | None
    """Order of the colour channels."""

    threads: Whole | None
    """Threads that work; the bytes are the same for any number (only a latency budget is timed with it)."""

    provider: Literal["cpu", "cuda", "tensorrt"] | str
    """Execution provider that runs the networks."""

    provider_option: Mapping[str, Number] | Iterable[str] | str
    """A setting of the execution provider by its name in onnxruntime, e.g. prefer_nhwc=1; repeatable."""

    batch: Whole | None
    """Samples of a run whose time is taken."""


class _Compressing(_Running, total=False):
    """What each setting of a sweep has, too."""

    for_: Literal["fast", "small", "tiny", "gpu"] | str | None
    """What is wanted, where you do not say what to do: settings are tried until the result is good, and what was
    chosen is said. bits=32 in its place changes nothing that a network computes."""

    max_loss: Number | None
    """Search the smallest file whose predicted loss stays below, or whose real one does with labels in validate=;
    at most eight are made. A budget= is shrunk; without one it is that of bytes."""

    prune_layer: Mapping[str, Number] | Iterable[str] | str
    """Fraction of the channels that the layers of this name (`*`, `?`) write; `prune=` is for all others;
    repeatable, the last match counts."""

    rank_layer: Mapping[str, Number] | Iterable[str] | str
    """Channels between the two layers that each layer of this name (`*`, `?`) becomes; repeatable, the last match
    counts."""

    bits_uniform: bool
    """Every layer gets the same bits=."""

    float16: bool
    """Weights and computation in float16, for GPUs and for half of the bytes; what it cannot hold stays in float32,
    and so do the inputs and outputs."""

    target: Literal["cpu", "cuda", "tensorrt", "portable"] | str
    """What will run the result: which form of quantized weights is written."""

    allocate: Literal["auto", "uniform", "global"] | str
    """How channels are spread over the groups."""

    budget: Mapping[str, Number] | Iterable[str] | str
    """A limit that ratios and bits are chosen to meet: macs, params, bytes or latency; repeatable. A bare number up
    to 1, or one with %, is a fraction of the original's."""

    align: Literal["auto"] | Whole
    """Kept channel counts are multiples of it, or all channels where that is nearer or no multiple fits."""

    factor: Literal["auto", "on", "off"] | str
    """Whether layers may become two of lower rank."""

    prune_stream: Literal["auto", "on", "off"] | str
    """Whether residual streams are pruned."""

    skip: str | Iterable[str]
    """Names of nodes or tensors (`*`, `?`) that are left alone; repeatable."""

    method: Literal["moments", "udfc", "merge", "none"] | str
    """How the next layer is repaired."""

    select: Literal["l2", "l1", "folded-l2", "bn-scale", "obs"] | str | None
    """The criterion by which channels stay."""

    calibrate: object
    """Real inputs in place of made-up ones: .npz (an array for each input, by its name; of one input under any),
    .npy, an image, a folder or a .zip of images. A quarter of them is kept for the check alone."""

    validate: object
    """Real inputs, and labels where they are known, that only the final judgement looks at; as calibrate=."""

    images: Literal["auto", "photographs", "text", "sound", "formula"] | Whole
    """Which made-up inputs may be used; a number is taken as image_count=."""

    image_count: Whole | None
    """Number of made-up inputs."""

    task: Literal["classes", "detection", "segmentation", "sequence", "embedding", "regression"] | str | None
    """What the outputs say."""

    force: bool
    """Write what is certainly bad, too, and in place of a file that is no result of this tool."""

    require: Requirement | str | Iterable[Requirement | str]
    """A gate: verdict=good; agreement, sqnr (dB), cosine, matched; accuracy with labelled inputs; macs, params,
    bytes as ratios to the original. Not met is exit 3 and nothing is written; repeatable. Quote it."""

    memory: str | PathLike[str] | None
    """Bound of the memory that the compression takes: fewer made-up inputs and sampled positions where they would
    need more."""

    dry_run: bool
    """Say what would be done, and how large the file would be, without repair; nothing is written."""

    attribution: bool
    """Measure which layer loses what; always on with an HTML report."""

    verbose: bool
    """Say what is done, layer by layer, on standard error."""

    debug: bool
    """Tracebacks in place of one line."""


class Keywords(_Compressing, total=False):
    """Every option of `compress` by its type."""

    prune: Number
    """Fraction of the channels removed, or as much work saved by lower ranks, too: see allocate=, factor=."""

    bits: Literal[2, 3, 4, 5, 6, 7, 8, 32, "auto"] | Whole
    """Bits of a weight, 2 to 8, on average: as each layer needs, the file as small as with equal bits."""

    activations: Literal[8] | Whole | None
    """Bits of activations; needs bits=8 or fewer."""


class InspectingKeywords(TypedDict, total=False):
    """Every option of `inspect` by its type."""

    skip: str | Iterable[str]
    """Names of nodes or tensors (`*`, `?`) that are left alone; repeatable."""

    input_shape: str | Iterable[str]
    """Sizes of an input that the file leaves open; NAME= may be left out where there is one input; repeatable."""


class JudgingKeywords(_Running, total=False):
    """Every option of `validate` by its type."""

    images: object
    """Real inputs: .npz (x, y), .npy, a folder or a .zip of images."""

    labels: str | PathLike[str] | None
    """Rows `name,label` in a CSV, where names and folders do not tell."""

    limit: Whole | None
    """Use at most so many images."""

    task: Literal["auto", "classes", "detection", "segmentation", "sequence", "embedding", "regression"] | str
    """What the outputs say."""

    require: Requirement | str | Iterable[Requirement | str]
    """A gate: what `compress` knows, and accuracy, accuracy_drop, latency, memory, matched; not met is exit 3;
    repeatable. Quote it."""

    seconds: Number
    """Time to spend on latency, 0 for none."""

    memory: bool
    """Measure peak memory, in processes of their own."""

    report: str | Iterable[str]
    """Write the report as .json or .html, by its ending; repeatable."""


class SweepKeywords(_Compressing, total=False):
    """Every option of `sweep` by its type."""

    prune: Values
    """Ratios, one by one or first:last:step."""

    bits: Values
    """Bits of weights."""

    activations: Values
    """Bits of activations."""

    labelled: object
    """Labelled images, for real accuracy in the table and the plot."""

    labels: str | PathLike[str] | None
    """Rows `name,label` in a CSV, where names and folders do not tell."""

    pick: str | Iterable[str]
    """Write the smallest file that meets it as picked.onnx: loss, accuracy, agreement, sqnr, cosine, macs, params,
    bytes, latency, verdict=good; none is exit 3; repeatable. Quote it."""

    jobs: Whole | None
    """Processes."""

    executor: str | PathLike[str] | None
    """A scheduler of Dask whose workers do it in place of processes here."""
