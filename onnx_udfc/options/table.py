"""The table of options: what a user can ask for, one row each, typed and checked once.

Importing this costs little: no numpy, no onnx.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from onnx_udfc.errors import RequestError
from onnx_udfc.options.goals import (
    Budget,
    Requirement,
    parse_budget,
    parse_requirement,
    read_budget,
    read_memory,
    size_in_bytes,
)
from onnx_udfc.options.providers import Provider, ProviderOption, refused_settings
from onnx_udfc.options.reading import Table, clean, field_name
from onnx_udfc.options.row import HOW, INPUT, MUST, RUN, TOLD, WHAT, Count, InMemory, Ratio, Row, Share, specs
from onnx_udfc.options.shared_rows import (
    Batch,
    Debug,
    InputColour,
    InputMean,
    InputRange,
    InputShape,
    InputStd,
    Seed,
    Skip,
    Task,
    Verbose,
    Workers,
    read_data,
)
from onnx_udfc.options.voice import LINE, PYTHON, CombinationError, Said, Voice, Voices
from onnx_udfc.options.words import BITS, CRITERIA, METHODS, NO_INTEGERS, ON_GPU, RUNNING, TARGETS

if TYPE_CHECKING:
    from typing import Unpack

    from onnx_udfc.options.keywords import Keywords

GOALS = {
    "fast": "8-bit weights and activations, where that does no harm; else weights alone, of 8 bits or 6",
    "small": "4 bits a weight, or as few as keep the result good",
    "tiny": "as few bytes as keep the result good",
    "gpu": "float16",
}
ALLOCATIONS = {
    "auto": "global with a budget or with --method moments, else uniform",
    "uniform": "the same ratio in every group",
    "global": "counts chosen by damage at the same MACs",
}
FACTOR = {
    "auto": "for a budget, or --prune, which says the MACs that are left, where two kernels are quicker",
    "on": "whatever the time",
    "off": "never",
}
PRUNE_STREAM = {
    "auto": "where it does less harm than pruning the branches alone",
    "on": "always, at the same ratio",
    "off": "never",
}
IMAGES = {
    "auto": "those that the network reacts to",
    "photographs": "crops of the photographs that ship with the package",
    "text": "rendered letters, lines, scenes and pages; contents of files where bytes are read",
    "sound": "notes, speech, sweeps and noise, or their spectrograms",
    "formula": "leaves, noise and gratings by formula, nothing else",
}
WORK = (
    "for_", "max_loss", "prune", "prune_layer", "rank_layer", "bits", "bits_uniform", "activations", "float16",
    "budget", "factor",
)  # fmt: skip
"""Names of the options that say what to do; where none of them is given, `for_` is the target's."""
LARGEST_INPUT = 1e9  # what a pixel may become at a network's input; more overflows within a few layers


Images = Literal["auto", "photographs", "text", "sound", "formula"]


@dataclass(frozen=True, init=False, repr=False)
class Options(Table):
    """Everything that decides the compressed network; each field is explained by its row and in docs/options.md."""

    for_: Annotated[
        str | None,
        Row(
            "What is wanted, where you do not say what to do: settings are tried until the result is good, and what was"
            " chosen is said. --bits 32 in its place changes nothing that a network computes.",
            WHAT,
            metavar="GOAL",
            choices=GOALS,
            unset="fast, or gpu with --target cuda or tensorrt, where nothing is asked",
            effect=False,
        ),
    ] = None
    max_loss: Annotated[
        Share | None,
        Row(
            "Search the smallest file whose predicted loss stays below, or whose real one does with labels in"
            " --validate; at most eight are made. A --budget is shrunk; without one it is that of bytes.",
            WHAT,
            metavar="L",
            unset="no search",
            example="0.01",
            effect=False,
        ),
    ] = None
    prune: Annotated[
        Ratio,
        Row(
            "Fraction of the channels removed, or as much work saved by lower ranks, too: see --allocate, --factor.",
            WHAT,
            metavar="R",
            short="p",
            example="0.5 or 50%",
            search=(0.0, 0.3, 0.5),
        ),
    ] = 0.0
    prune_layer: Annotated[
        Mapping[str, Ratio],
        Row(
            "Fraction of the channels that the layers of this name (`*`, `?`) write; `--prune` is for all others;"
            " repeatable, the last match counts.",
            WHAT,
            metavar="PATTERN=R",
            example="conv1=0.5",
        ),
    ] = field(default_factory=dict)
    rank_layer: Annotated[
        Mapping[str, Count],
        Row(
            "Channels between the two layers that each layer of this name (`*`, `?`) becomes; repeatable, the last"
            " match counts.",
            WHAT,
            metavar="PATTERN=R",
            example="conv1=32",
        ),
    ] = field(default_factory=dict)
    bits: Annotated[
        int | Literal["auto"],
        Row(
            "Bits of a weight, 2 to 8, on average: as each layer needs, the file as small as with equal bits.",
            WHAT,
            metavar="B",
            choices=BITS,
            short="b",
            search=(8, 6, 4),
        ),
    ] = 32
    bits_uniform: Annotated[bool, Row("Every layer gets the same --bits.", WHAT)] = False
    activations: Annotated[
        int | None,
        Row(
            "Bits of activations; needs --bits 8 or fewer.",
            WHAT,
            metavar="A",
            choices={8: "integer kernels; ranges are found without data"},
            unset="none",
            short="a",
        ),
    ] = None
    float16: Annotated[
        bool,
        Row(
            "Weights and computation in float16, for GPUs and for half of the bytes; what it cannot hold stays in"
            " float32, and so do the inputs and outputs.",
            WHAT,
            search=(False, True),
        ),
    ] = False
    target: Annotated[
        str,
        Row(
            "What will run the result: which form of quantized weights is written.",
            WHAT,
            metavar="T",
            choices=TARGETS,
            short="t",
            search=tuple(TARGETS),
        ),
    ] = "cpu"
    allocate: Annotated[
        str, Row("How channels are spread over the groups.", WHAT, metavar="A", choices=ALLOCATIONS)
    ] = "auto"
    budget: Annotated[
        Mapping[str, str],
        Row(
            "A limit that ratios and bits are chosen to meet: macs, params, bytes or latency; repeatable. A bare number"
            " up to 1, or one with %, is a fraction of the original's.",
            WHAT,
            metavar="KEY=VALUE",
            example="bytes=2MB",
            read=read_budget,
        ),
    ] = field(default_factory=dict)
    align: Annotated[
        Annotated[int, Count.__metadata__[0]] | Literal["auto"],
        Row(
            "Kept channel counts are multiples of it, or all channels where that is nearer or no multiple fits.",
            WHAT,
            metavar="N",
            more={
                "auto": "the largest of 16, 8, 4, 2 that moves no count by more than 1/32 of the group's channels, 4 at"
                " least where a layer is depthwise; where MACs or time are to be saved, 16, 8 or 4 at least everywhere,"
                " if that does little more damage; with --activations at least 4, with --target cuda or tensorrt 64,"
                " 32, 16 or 8"
            },
            example="8",
        ),
    ] = "auto"
    factor: Annotated[str, Row("Whether layers may become two of lower rank.", WHAT, metavar="F", choices=FACTOR)] = (
        "auto"
    )
    prune_stream: Annotated[
        str, Row("Whether residual streams are pruned.", WHAT, metavar="S", choices=PRUNE_STREAM)
    ] = "auto"
    skip: Skip = ()

    method: Annotated[
        str, Row("How the next layer is repaired.", HOW, metavar="M", choices=METHODS, search=tuple(METHODS))
    ] = "moments"
    select: Annotated[
        str | None,
        Row("The criterion by which channels stay.", HOW, metavar="C", choices=CRITERIA, unset="the method's own"),
    ] = None
    seed: Seed = 0
    calibrate: Annotated[
        str | InMemory | None,
        Row(
            "Real inputs in place of made-up ones: .npz (an array for each input, by its name; of one input under any),"
            " .npy, an image, a folder or a .zip of images. A quarter of them is kept for the check alone.",
            INPUT,
            metavar="DATA",
            unset="made-up inputs",
            example="images/",
            read=read_data,
        ),
    ] = None
    validate: Annotated[
        str | InMemory | None,
        Row(
            "Real inputs, and labels where they are known, that only the final judgement looks at; as --calibrate.",
            INPUT,
            metavar="DATA",
            example="others/",
            effect=False,
            read=read_data,
        ),
    ] = None
    task: Task = None
    force: Annotated[
        bool,
        Row(
            "Write what is certainly bad, too, and in place of a file that is no result of this tool.",
            MUST,
            effect=False,
        ),
    ] = False
    dry_run: Annotated[
        bool,
        Row(
            "Say what would be done, and how large the file would be, without repair; nothing is written.",
            TOLD,
            effect=False,
        ),
    ] = False
    images: Annotated[
        Annotated[int, Count.__metadata__[0]] | Images,
        Row(
            "Which made-up inputs may be used; a number is taken as --image-count.",
            INPUT,
            metavar="KIND",
            more=IMAGES,
            example="formula",
        ),
    ] = "auto"
    image_count: Annotated[
        Count | None, Row("Number of made-up inputs.", INPUT, metavar="N", unset="by size", example="64")
    ] = None
    input_shape: InputShape = ()
    input_mean: InputMean = ()
    input_std: InputStd = ()
    input_range: InputRange = None
    input_colour: InputColour = None

    require: Annotated[
        tuple[Requirement, ...],
        Row(
            "A gate: verdict=good; agreement, sqnr (dB), cosine, matched; accuracy with labelled inputs; macs, params,"
            " bytes as ratios to the original. Not met is exit 3 and nothing is written; repeatable. Quote it.",
            MUST,
            metavar="KEY>=VALUE",
            repeat=True,
            read=parse_requirement,
            effect=False,
            example="agreement>=0.95",
        ),
    ] = ()

    threads: Workers = None
    memory: Annotated[
        str | None,
        Row(
            "Bound of the memory that the compression takes: fewer made-up inputs and sampled positions where they"
            " would need more.",
            RUN,
            metavar="SIZE",
            unset="a quarter of the machine's",
            since="0.3",
            read=read_memory,
            example="2GB",
        ),
    ] = None
    provider: Provider = "cpu"
    provider_option: ProviderOption = field(default_factory=dict)
    batch: Batch = None
    attribution: Annotated[
        bool, Row("Measure which layer loses what; always on with an HTML report.", TOLD, effect=False)
    ] = False
    verbose: Verbose = False
    debug: Debug = False

    if TYPE_CHECKING:

        def __init__(self, **given: Unpack[Keywords]) -> None: ...

    def check(self, voices: Voices = lambda _: LINE) -> None:
        """Refuse options that do not go together, and data that is not there.

        Raises:
            CombinationError: Two options do not go together.
            RequestError: A file is missing.
        """
        refused = _refused(self, Said(voices))
        if refused:
            raise CombinationError(refused)
        for key, path in (("calibrate", self.calibrate), ("validate", self.validate)):
            if isinstance(path, str) and not Path(path).exists():
                raise RequestError(f"{Said(voices).begin(key, path)}: no such file or folder")

    @property
    def prunes(self) -> bool:
        """Whether channels may go."""
        return self.prune > 0 or bool(self.budget) or any(self.prune_layer.values())

    @property
    def number(self) -> int | None:
        """How many made-up inputs are asked for; None where nobody says."""
        return self.images if isinstance(self.images, int) else self.image_count

    @property
    def memory_bound(self) -> float | None:
        """Bytes that may be taken; None where nobody says."""
        return None if self.memory is None else size_in_bytes(self.memory)

    @property
    def kinds(self) -> Images:
        """Which made-up inputs may be used: one of IMAGES."""
        return "auto" if isinstance(self.images, int) else self.images

    def counted(self, number: int | None) -> Options:
        """The same with so many made-up inputs."""
        return replace(self, images=self.kinds, image_count=number)

    @property
    def alignment(self) -> int | Literal["auto", "integer", "tensor"]:
        """What kept counts are moved to: `align`, or what integer kernels or tensor cores like."""
        if self.align != "auto":
            return self.align
        return "tensor" if self.target in ON_GPU else "integer" if self.activations else "auto"

    def budgets(self) -> tuple[Budget, ...]:
        """Return the budgets, parsed."""
        return tuple(parse_budget(k, v) for k, v in self.budget.items())

    def changed(self) -> dict[str, Any]:
        """Return what differs from the defaults, as `to_dict` gives it."""
        return {k: v for k, v in self.to_dict().items() if v != clean(specs(Options)[k].default)}


class Scale(Protocol):
    """Options that say what pixels become."""

    @property
    def input_mean(self) -> tuple[float, ...]: ...  # noqa: D102  # as in Options
    @property
    def input_std(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def input_range(self) -> tuple[float, float] | None: ...  # noqa: D102


def _refused(o: Options, said: Said) -> str | None:
    """What does not go together, in one line; None where all is well."""
    checks = (refused_settings, refused_scale, _refused_goals, _refused_ratios, _refused_activations, _refused_gates)
    return next((line for line in (check(o, said) for check in checks) if line), None)


def _refused_goals(o: Options, said: Said) -> str | None:
    """A goal chooses what else would be said; a search has no plan before it has files."""
    default = Options()
    if o.for_ is not None:
        others = [n for n in WORK if n != "for_" and getattr(o, n) != getattr(default, n)]
        if others:
            return f"{said.begin('for_', o.for_)} chooses what is done: leave {said.name(others[0])} out"
    if o.max_loss is not None and o.dry_run:
        return f"{said.begin('dry_run', True)}: a search by {said.name('max_loss')} has no plan; leave one of them out"
    return None


def _refused_gates(o: Options, said: Said) -> str | None:
    """Accuracy is measured on labelled inputs alone."""
    gates = [r for r in o.require if r.key in ("accuracy", "accuracy_drop")]
    if gates and o.validate is None:
        return f"{said.begin('require', str(gates[0]))} needs labelled inputs: give {said.name('validate')} them"
    return None


def refused_scale(o: Scale, said: Said) -> str | None:
    """Why this is no scale of inputs, in one line; None where it is one."""
    if o.input_range is not None and not o.input_range[0] < o.input_range[1]:
        return f"{said.begin('input_range', list(o.input_range))}: the first must be below the second, e.g. 0,1"
    lengths = {len(o.input_mean), len(o.input_std)} - {0, 1}
    if len(lengths) > 1:
        begin = said.begin("input_mean", list(o.input_mean))
        return f"{begin} has {len(o.input_mean)} values but {said.name('input_std')} has {len(o.input_std)}"
    reach = max(abs(v) for v in (*(o.input_range or (0.0, 1.0)), *o.input_mean))
    if reach / min(o.input_std, default=1.0) > LARGEST_INPUT:
        names = ", ".join(said.name(n) for n in ("input_mean", "input_std", "input_range"))
        return f"{names}: pixels would become larger than 1e9; check the values"
    return None


def _refused_ratios(o: Options, said: Said) -> str | None:
    if o.prune_layer and (o.budget or o.allocate == "global"):
        begin = said.begin("prune_layer", dict(o.prune_layer))
        return f"{begin} says the ratios: leave {said.name('budget')} and {said('allocate', 'global')} out"
    if o.rank_layer and (o.budget or o.factor == "off" or o.method not in RUNNING):
        begin, budget = said.begin("rank_layer", dict(o.rank_layer)), said.name("budget")
        return (
            f"{begin} says the ranks, with {said('method', 'moments')}: leave {budget} and {said('factor', 'off')} out"
        )
    if o.factor == "on" and not (o.budget or o.prune):
        return f"{said.begin('factor', 'on')}: say what is to be reached, e.g. {said('prune', 0.5)}"
    if o.bits == "auto" and not o.budget:
        return f"{said.begin('bits', 'auto')} needs a {said.name('budget')} to choose by, e.g. bytes=0.1"
    if o.bits_uniform and o.bits in (32, "auto"):
        return f"{said.begin('bits_uniform', True)} needs a number of bits: add {said('bits', 4)}"
    if o.select == "obs" and o.method not in RUNNING:
        begin = said.begin("select", "obs")
        return f"{begin} needs {said('method', 'moments')}, which runs the network; or take {said('select', 'l2')}"
    return None


def _refused_activations(o: Options, said: Said) -> str | None:
    if o.activations is not None and o.bits == 32:
        return f"{said.begin('activations', 8)} needs quantized weights too: add {said('bits', 8)} (or 4)"
    if o.activations is not None and o.target in NO_INTEGERS:
        why = NO_INTEGERS[o.target].replace("--activations", said.name("activations"))
        why = why.replace("--float16", said.name("float16"))
        instead = why.replace("--target tensorrt", said("target", "tensorrt"))
        return f"{said.begin('activations', 8)} with {said('target', o.target)}: {instead}"
    return None


def with_goal(options: Options, given: Iterable[str]) -> Options:
    """The same, or with the target's goal where nothing that is to be done was said.

    `given` are names of the options that were written by somebody; `bits` may say that nothing is to be done.
    """
    if any(field_name(name, WORK) in WORK for name in given):
        return options
    return replace(options, for_="gpu" if options.target in ON_GPU else "fast")


def options_from(values: Mapping[str, Any], voices: Voices | Voice = PYTHON) -> Options:
    """Return checked options from plain values (TOML, JSON, text): names with - or _, in any form a table reads.

    Raises:
        RequestError: A name or a value is not understood, or two do not go together.
    """
    where: Voices = (lambda _: voices) if isinstance(voices, Voice) else voices
    options = Options.reads(values, where)
    options.check(where)
    return options
