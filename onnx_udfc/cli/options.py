"""The command line's options: click declarations, the TOML file, and how both become Options."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from onnx_udfc.errors import RequestError
from onnx_udfc.options import ALLOCATIONS, METHODS, PROVIDERS, PRUNE_STREAM, TARGETS, TASKS, Options, options_from

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from onnx_udfc.inputs.image_files import Preprocessing

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]
COLOURS = ("rgb", "bgr", "gray")
_OUTPUT_KEYS = ("report", "quiet", "json")


class DefaultCommand(click.Group):
    """A group whose first command is meant where none is named: `onnx-udfc IN OUT`."""

    default = "compress"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front where the first argument is not a command."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h", "--version"):
            args = [self.default, *args]
        return super().parse_args(ctx, args or ["--help"])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the default command's options beside the commands."""
        return [*super().shell_complete(ctx, incomplete), *self.commands[self.default].shell_complete(ctx, incomplete)]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the default command's usage first."""
        formatter.write_usage(ctx.command_path, "IN OUT [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND --help", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the default command's options, then the commands."""
        self.commands[self.default].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def floats(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them."""
    try:
        return tuple(float(t) for t in text.replace(",", " ").split())
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected numbers, e.g. 0.485,0.456,0.406") from None


def number_or_auto(text: str) -> int | str:
    """Read a whole number or `auto`."""
    return text if text == "auto" else _whole(text, "auto")


def number_or_none(text: str) -> int | str:
    """Read a whole number or `none`."""
    return text if text == "none" else _whole(text, "none")


def _whole(text: str, word: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected a whole number or {word}") from None


def key_value(text: str) -> tuple[str, str]:
    """Read KEY=VALUE."""
    key, sign, value = text.partition("=")
    if not sign:
        raise click.BadParameter(f"{text!r}: expected KEY=VALUE, e.g. macs=0.5 or bytes=2MB")
    return key.strip(), value.strip()


def _stack(*decorators: Decorator) -> Decorator:
    def apply(function: Command) -> Command:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def grid_free_options(function: Command) -> Command:
    """Options of compress and sweep that a sweep does not vary."""
    d = Options()
    return _stack(
        click.option("--target", type=click.Choice(TARGETS), default=d.target, help="Which QDQ form is written."),
        click.option("--method", type=click.Choice(METHODS), default=d.method, help="How the next layer is repaired."),
        click.option(
            "--calibrate", metavar="DATA", help="Real inputs (.npz, .npy, folder or zip) in place of synthetic ones."
        ),
        click.option(
            "--validate", metavar="DATA", help="Real inputs (and labels) for the final judgement only; as --calibrate."
        ),
        click.option("--task", type=click.Choice(TASKS), help="What the outputs say; guessed otherwise."),
        click.option("--force", is_flag=True, help="Write what is certainly bad, too."),
        click.option(
            "--allocate",
            type=click.Choice(ALLOCATIONS),
            default=d.allocate,
            help="Same ratio everywhere, or by damage.",
        ),
        click.option(
            "--prune-layer",
            type=key_value,
            metavar="PATTERN=R",
            multiple=True,
            help="Ratio of the layers of this name, e.g. conv1=0.5; repeatable.",
        ),
        click.option(
            "--budget",
            type=key_value,
            metavar="KEY=VALUE",
            multiple=True,
            help="macs=0.5, params=0.3, bytes=2MB, latency=0.4; repeatable.",
        ),
        click.option(
            "--align",
            type=number_or_auto,
            metavar="N",
            default=d.align,
            help="Kept channel counts are multiples of it.",
        ),
        click.option("--skip", metavar="PATTERN", multiple=True, help="Node or tensor names left alone; repeatable."),
        click.option(
            "--require", metavar="KEY>=VALUE", multiple=True, help="A gate, e.g. agreement>=0.95; not met is exit 3."
        ),
        click.option("--select", metavar="CRITERION", help="Which channels stay; default: the method's own criterion."),
        click.option(
            "--prune-stream", type=click.Choice(PRUNE_STREAM), default=d.prune_stream, help="Prune residual streams."
        ),
        click.option("--images", type=int, help="Number of synthetic images.", metavar="N"),
        click.option("--seed", type=int, default=d.seed, help="Seed of everything random."),
        click.option(
            "--config", type=click.Path(), metavar="FILE", help="Options from a TOML file; the command line wins."
        ),
    )(function)


def compress_options(function: Command) -> Command:
    """Options of compress alone."""
    d = Options()
    return _stack(
        click.option(
            "--prune",
            type=float,
            default=d.prune,
            metavar="R",
            help="Fraction of channels to remove, 0 ≤ R < 1.",
        ),
        click.option(
            "--bits",
            type=number_or_auto,
            metavar="B",
            default=str(d.bits),
            help="Weight bits 2 to 8, 32 for none, or auto.",
        ),
        click.option(
            "--activations", type=number_or_none, metavar="A", default="none", help="8: activations quantized too."
        ),
    )(function)


def input_options(function: Command) -> Command:
    """What the network expects at its input."""
    return _stack(
        click.option(
            "--input-mean", type=floats, metavar="NUMBERS", default="", help="Mean per channel, e.g. 0.485,0.456,0.406."
        ),
        click.option("--input-std", type=floats, metavar="NUMBERS", default="", help="Deviation per channel."),
        click.option(
            "--input-range",
            type=floats,
            metavar="NUMBERS",
            default="",
            help="Values of pixels 0 and 255, e.g. 0,1 or -1,1.",
        ),
        click.option("--input-colour", type=click.Choice(COLOURS), default="rgb", help="Order of the channels."),
    )(function)


def run_options(function: Command) -> Command:
    """Options of every command that runs networks."""
    return _stack(
        click.option("--threads", type=int, metavar="N", help="Threads of onnxruntime and BLAS."),
        click.option(
            "--provider", type=click.Choice(PROVIDERS), default="cpu", help="Execution provider that runs networks."
        ),
    )(function)


def output_options(function: Command) -> Command:
    """Options of what is printed."""
    return _stack(
        click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON and nothing else."),
        click.option("--verbose", "-v", is_flag=True, help="Say what is done, layer by layer, on standard error."),
        click.option("--debug", is_flag=True, help="Tracebacks instead of one line."),
    )(function)


def read_config(path: str | None) -> dict[str, Any]:
    """Return a TOML file's values with the names of the fields of Options.

    Raises:
        RequestError: It is not there, or not TOML.
    """
    if path is None:
        return {}
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"--config {path}: not TOML ({error})") from error
    return {k.replace("-", "_"): v for k, v in values.items()}


def given(ctx: click.Context) -> dict[str, Any]:
    """Return what the command line itself says, without defaults."""
    return {k: v for k, v in ctx.params.items() if ctx.get_parameter_source(k) is ParameterSource.COMMANDLINE}


def merged(ctx: click.Context, config: Mapping[str, Any], without: tuple[str, ...] = ()) -> Options:
    """Return checked options: defaults, then the TOML file, then the command line, save those named in `without`.

    Raises:
        RequestError: A name or a value is not understood.
    """
    names = set(Options().to_dict()) - set(without)
    line = {k: _value(k, v) for k, v in given(ctx).items() if k in names}
    return options_from({k: v for k, v in config.items() if k not in (*_OUTPUT_KEYS, *without)} | line)


def _value(key: str, value: Any) -> Any:
    if key in ("budget", "prune_layer"):
        return dict(value)
    if key == "input_range":
        return _pair(value)
    return value


def _pair(value: tuple[float, ...]) -> tuple[float, ...]:
    if len(value) != 2:
        raise RequestError("--input-range: expected two numbers, e.g. 0,1")
    return value


def as_toml(options: Options) -> str:
    """Return all options as TOML that --config reads; what is not set is a comment."""
    lines = []
    for key, value in options.to_dict().items():
        name = key.replace("_", "-")
        lines.append(f"# {name} is not set" if value is None else f"{name} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    """Return what --input-mean, --input-std, --input-range and --input-colour say.

    Raises:
        RequestError: The range is not two numbers, or the values are no scale of inputs.
    """
    from onnx_udfc.inputs.image_files import Preprocessing

    low, high = _pair(values["input_range"] or (0.0, 1.0))
    Options(input_mean=values["input_mean"], input_std=values["input_std"], input_range=(low, high)).check_input()
    return Preprocessing(values["input_mean"], values["input_std"], (low, high), values["input_colour"])
