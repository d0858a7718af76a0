"""What a user asks for, typed and checked once; importing this costs nothing (no numpy, no onnx)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from onnx_udfc.errors import RequestError
from onnx_udfc.goals import Budget, Requirement, parse_budget, parse_requirement

TARGETS = ("cpu", "cuda", "tensorrt", "portable")
METHODS = ("moments", "udfc", "merge", "none")
ALLOCATIONS = ("auto", "uniform", "global")
PROVIDERS = ("cpu", "cuda", "tensorrt")
PRUNE_STREAM = ("auto", "on", "off")
TASKS = ("classes", "detection", "segmentation", "sequence", "embedding", "regression")
LARGEST_INPUT = 1e9  # what a pixel may become at a network's input; more overflows within a few layers
BITS = (2, 3, 4, 5, 6, 7, 8, 32)


@dataclass(frozen=True)
class Options:
    """Everything that decides the compressed network; see docs/options.md.

    Attributes:
        prune: Fraction of the channels removed, 0 ≤ prune < 1; which layers lose how many, `allocate` says.
        prune_layer: Pattern (fnmatch) of layer names → fraction of the channels that they write; ratios are then what
            they say, and `prune` everywhere else.
        bits: Weight bits 2 to 8, 32 for float, or `auto` to let the budget choose.
        activations: 8 for quantized activations, or None.
        target: Which QDQ form is written: cpu, cuda, tensorrt or portable.
        method: How the next layer is repaired: moments, udfc, merge or none.
        calibrate: Real inputs (.npz, .npy, folder or zip of images) in place of synthetic ones.
        input_mean: Mean per channel, after `input_range`; empty if unknown.
        input_std: Deviation per channel; empty if unknown.
        input_range: Values of pixel 0 and pixel 255, or None if unknown.
        input_colour: Order of the channels: rgb, bgr or gray.
        allocate: `uniform`, `global`, or `auto`: with a budget global; with measured damage (method moments)
            global unless uniform is clearly nearer to the original; else uniform.
        budget: Limits, e.g. {"macs": "0.5", "bytes": "2MB"}.
        align: Kept channel counts are multiples of it, or `auto`.
        skip: Patterns (fnmatch) of node and tensor names that are left alone.
        require: Gates that the result must pass.
        select: Criterion of which channels stay; None is the method's own.
        prune_stream: Whether residual streams are pruned: auto, on or off.
        images: Number of synthetic images; None is the method's own.
        seed: Seed of everything random.
        threads: Threads of onnxruntime and BLAS; None leaves it to them.
        provider: Execution provider that runs the networks: cpu, cuda or tensorrt.
        validate: Real inputs (and labels) that only the final judgement looks at; as `calibrate`.
        task: What the outputs say (one of TASKS); None guesses it.
        force: Write results that are certainly bad, too.
        attribution: Whether the report measures which layer lost what.
        verbose: Notes for each layer.
        debug: Tracebacks instead of one line.
    """

    prune: float = 0.0
    prune_layer: Mapping[str, float] = field(default_factory=dict)
    bits: int | Literal["auto"] = 32
    activations: int | None = None
    target: str = "cpu"
    method: str = "moments"
    calibrate: str | None = None
    input_mean: tuple[float, ...] = ()
    input_std: tuple[float, ...] = ()
    input_range: tuple[float, float] | None = None
    input_colour: str = "rgb"
    allocate: str = "auto"
    budget: Mapping[str, str] = field(default_factory=dict)
    align: int | Literal["auto"] = "auto"
    skip: tuple[str, ...] = ()
    require: tuple[Requirement, ...] = ()
    select: str | None = None
    prune_stream: str = "auto"
    images: int | None = None
    seed: int = 0
    threads: int | None = None
    provider: str = "cpu"
    validate: str | None = None
    task: str | None = None
    force: bool = False
    attribution: bool = False
    verbose: bool = False
    debug: bool = False

    def check(self) -> None:
        """Refuse what cannot be served.

        Raises:
            RequestError: One line that says what to change.
        """
        self._check_numbers()
        self._check_choices()
        self.check_input()
        self._check_combinations()

    @property
    def prunes(self) -> bool:
        """Whether channels may go."""
        return self.prune > 0 or bool(self.budget) or any(self.prune_layer.values())

    @property
    def alignment(self) -> int | Literal["auto", "integer"]:
        """What kept counts are moved to: `align`, or with integer activations what their kernels like."""
        return "integer" if self.align == "auto" and self.activations else self.align

    def budgets(self) -> tuple[Budget, ...]:
        """Return the budgets, parsed."""
        return tuple(parse_budget(k, v) for k, v in self.budget.items())

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-clean values under the names of the fields; requirements as their text."""
        values = asdict(self) | {"require": [str(r) for r in self.require]}
        values |= {"budget": dict(self.budget), "prune_layer": dict(self.prune_layer)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def changed(self) -> dict[str, Any]:
        """Return what differs from the defaults, as `to_dict` gives it."""
        default = Options().to_dict()
        return {k: v for k, v in self.to_dict().items() if v != default[k]}

    def _check_numbers(self) -> None:
        if not 0 <= self.prune < 1:
            raise RequestError(f"--prune {self.prune:g}: must be at least 0 and below 1")
        for pattern, ratio in self.prune_layer.items():
            if not 0 <= ratio < 1:
                raise RequestError(f"--prune-layer {pattern}={ratio:g}: must be at least 0 and below 1")
        if self.bits != "auto" and self.bits not in BITS:
            raise RequestError(f"--bits {self.bits}: must be 2 to 8, 32 for none, or auto with a --budget")
        if self.activations not in (None, 8):
            raise RequestError(f"--activations {self.activations}: must be 8 or none")
        if self.align != "auto" and self.align < 1:
            raise RequestError(f"--align {self.align}: must be auto or at least 1")
        for name, value in (("images", self.images), ("threads", self.threads)):
            if value is not None and value < 1:
                raise RequestError(f"--{name} {value}: must be at least 1")
        if self.seed < 0:
            raise RequestError(f"--seed {self.seed}: must be at least 0")

    def _check_choices(self) -> None:
        _one_of("target", self.target, TARGETS)
        _one_of("method", self.method, METHODS)
        _one_of("allocate", self.allocate, ALLOCATIONS)
        _one_of("provider", self.provider, PROVIDERS)
        _one_of("prune-stream", self.prune_stream, PRUNE_STREAM)
        if self.task is not None:
            _one_of("task", self.task, TASKS)
        _one_of("input-colour", self.input_colour, ("rgb", "bgr", "gray"))

    def check_input(self) -> None:
        """Refuse a scale of the inputs that is none.

        Raises:
            RequestError: One line that says what to change.
        """
        for name, values in (
            ("mean", self.input_mean),
            ("std", self.input_std),
            ("range", self.input_range or ()),
        ):
            if not all(math.isfinite(v) for v in values):
                raise RequestError(f"--input-{name}: must be finite numbers, not {', '.join(map(str, values))}")
        if any(not s > 0 for s in self.input_std):
            raise RequestError("--input-std: deviations must be above 0")
        if self.input_range is not None and not self.input_range[0] < self.input_range[1]:
            raise RequestError("--input-range: the first value must be below the second, e.g. 0,1")
        if self.input_mean and self.input_std and 1 not in (len(self.input_mean), len(self.input_std)):
            _same_length(self.input_mean, self.input_std)
        self._check_scale()

    def _check_scale(self) -> None:
        """Refuse what turns pixels into numbers that no network can take."""
        reach = max(abs(v) for v in (*(self.input_range or (0.0, 1.0)), *self.input_mean))
        if reach / min(self.input_std, default=1.0) > LARGEST_INPUT:
            raise RequestError(
                "--input-mean, --input-std, --input-range: pixels would become larger than 1e9; check the values"
            )

    def _check_combinations(self) -> None:
        self.budgets()
        if self.calibrate is not None and not Path(self.calibrate).exists():
            raise RequestError(f"--calibrate {self.calibrate}: no such file or folder")
        if self.validate is not None and not Path(self.validate).exists():
            raise RequestError(f"--validate {self.validate}: no such file or folder")
        if self.prune_layer and (self.budget or self.allocate == "global"):
            raise RequestError("--prune-layer says the ratios: leave --budget and --allocate global out")
        if self.bits == "auto" and not self.budget:
            raise RequestError("--bits auto needs a --budget to choose by, e.g. --budget bytes=0.1")
        if self.activations is not None and self.bits == 32:
            raise RequestError("--activations 8 needs quantized weights too: add --bits 8 (or 4)")
        if self.activations is not None and self.target == "cuda":
            raise RequestError(
                "--activations 8 with --target cuda: onnxruntime has no integer convolution on CUDA and would be"
                " slower; use --target tensorrt, or leave --activations out"
            )


def _one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise RequestError(f"--{name} {value}: must be one of {', '.join(allowed)}")


def _same_length(mean: Sequence[float], std: Sequence[float]) -> None:
    if len(mean) != len(std):
        raise RequestError(f"--input-mean has {len(mean)} values but --input-std has {len(std)}")


def options_from(values: Mapping[str, Any]) -> Options:
    """Return checked options from plain values (TOML, JSON): names with - or _, lists, `none`, requirement texts.

    Raises:
        RequestError: A name or a value is not understood.
    """
    given = {k.replace("-", "_"): v for k, v in values.items()}
    unknown = set(given) - {f.name for f in fields(Options)}
    if unknown:
        raise RequestError(f"unknown option {sorted(unknown)[0].replace('_', '-')!r}; see onnx-udfc --help")
    for key in ("input_mean", "input_std", "input_range", "skip"):
        if isinstance(given.get(key), list):
            given[key] = tuple(given[key])
    if "require" in given:
        given["require"] = tuple(r if isinstance(r, Requirement) else parse_requirement(r) for r in given["require"])
    if "budget" in given:
        given["budget"] = {k: str(v) for k, v in dict(given["budget"]).items()}
    if "prune_layer" in given:
        given["prune_layer"] = {k: _ratio(k, v) for k, v in dict(given["prune_layer"]).items()}
    if given.get("activations") == "none":
        given["activations"] = None
    return _checked(given)


def _ratio(pattern: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RequestError(f"--prune-layer {pattern}={value}: must be at least 0 and below 1") from None


def _checked(given: Mapping[str, Any]) -> Options:
    try:
        options = Options(**given)
        options.check()
    except TypeError as error:
        raise RequestError(f"an option has a value of the wrong kind ({error})") from error
    return options
