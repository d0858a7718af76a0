"""The command line's options: click's declarations from the tables, the TOML file, and how both become values."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from onnx_udfc.cli.guards import check_command
from onnx_udfc.errors import RequestError
from onnx_udfc.options import (
    GROUPS,
    LINE,
    CombinationError,
    Options,
    Spec,
    Table,
    UnknownOptionError,
    Voice,
    default_text,
    field_name,
    specs,
    unknown_option,
)

T = TypeVar("T", bound=Table)
Command = Callable[..., Any]
_FILES = frozenset({"DATA", "PATH", "FILE", "CSV"})  # what stands for a file in help
_NUMBER = re.compile(r"[-+]?[\d.]+(?:e[-+]?\d+)?", re.IGNORECASE)


class _Text(click.ParamType):  # type: ignore[type-arg]  # generic in new releases only
    """Text as it was written; the table reads it, so that errors are the same from everywhere."""

    def __init__(self, spec: Spec) -> None:
        self.name = spec.metavar.lower()
        self._spec = spec

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the words that are allowed, or files."""
        del ctx, param
        told = self._spec.explained
        words = dict.fromkeys([*map(str, told), *self._spec.words])
        if self._spec.metavar in _FILES:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(w, help=told.get(w)) for w in words if w.startswith(incomplete.lower())]


class TableOption(click.Option):
    """An option of the command line that stands in a table."""

    def __init__(self, _: Sequence[str], spec: Spec) -> None:
        self.spec = spec
        names = [spec.name, *([f"-{spec.row.short}"] if spec.row.short else [])]
        if spec.kind == "flag":
            both = f"--{spec.flag}/--no-{spec.flag}" if spec.default else f"--{spec.flag}"
            super().__init__([*names, both], is_flag=True, help=spec.row.help)
            return
        multiple = spec.kind in ("several", "pairs")
        names.append(f"--{spec.flag}")
        super().__init__(names, type=_Text(spec), multiple=multiple, metavar=spec.metavar, help=spec.row.help)

    def lines(self) -> list[tuple[str, str]]:
        """Rows of help: the option with its default, then what may be chosen."""
        short = f"-{self.spec.row.short}, " if self.spec.row.short else "    "
        name = f"--no-{self.spec.flag}" if self.spec.default is True else f"--{self.spec.flag} {self.spec.metavar}"
        default = default_text(self.spec)
        told = self.spec.row.help.replace("`", "'") + (f" [{default}]" if default and self.spec.metavar else "")
        if self.spec.default is True:
            told = f"Do not: {told}"
        explained = [(f"      {word}", what) for word, what in self.spec.explained.items() if what]
        return [(short + name.strip(), told), *explained]


class TableCommand(click.Command):
    """A command whose options come from tables; help shows them in groups, then examples."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse numbers with a space between, which would become file names."""
        lists = {n for p in self.params if isinstance(p, TableOption) and p.spec.kind == "numbers" for n in p.opts}
        for name, first, second in zip(args, args[1:], args[2:], strict=False):
            if ctx.resilient_parsing:  # a line that is not finished
                break
            if name in lists and _NUMBER.fullmatch(first) and _NUMBER.fullmatch(second) and not Path(second).exists():
                raise click.UsageError(f"{name} {first} {second}: write {name} {first},{second} as one word", ctx)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the options in the groups of the table."""
        of_table = [p for p in self.params if isinstance(p, TableOption)]
        for group in GROUPS:
            rows = [line for p in of_table if p.spec.row.group == group for line in p.lines()]
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows, col_max=26)
        others = [
            p.get_help_record(ctx) for p in self.get_params(ctx) if isinstance(p, click.Option) and p not in of_table
        ]
        with formatter.section("Other"):
            formatter.write_dl([record for record in others if record])
        with formatter.section("Examples"):
            for line, what in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
                formatter.write_text(f"    {what}")


class DefaultCommand(click.Group):
    """A group whose first command is meant where none is named: `onnx-udfc IN OUT`."""

    default = "compress"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front where the first argument is not a command."""
        if args[:1] == ["help"] and not Path("help").exists():
            args = ["--help"]
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h", "--version"):
            if not ctx.resilient_parsing:  # else the line is not finished
                check_command(args, self.commands)
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


def options_of(*tables: type[Table]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command the options of tables; a later table's row replaces an earlier one's."""
    rows = {name: spec for table in tables for name, spec in specs(table).items()}

    def apply(function: Command) -> Command:
        for spec in reversed(rows.values()):
            function = click.option(cls=TableOption, spec=spec)(function)
        return function

    return apply


@dataclass(frozen=True)
class Written:
    """What was asked for on the command line and in a configuration file, by name with _."""

    line: Mapping[str, Any]
    file: Mapping[str, Any]
    path: str

    def voice(self, key: str) -> Voice:
        """Where an option was written."""
        return Voice("file", self.path) if key in self.file and key not in self.line else LINE

    def read(self, table: type[T], without: tuple[str, ...] = ()) -> T:
        """Return the values of a table: defaults, then the file, then the command line.

        Raises:
            OptionError: A value is not understood.
        """
        known = {k: v for k, v in {**self.file, **self.line}.items() if k in specs(table) and k not in without}
        return table.reads(known, self.voice)


def written(ctx: click.Context, *tables: type[Table]) -> Written:
    """Return what was asked for.

    Raises:
        RequestError: The file is not there, not TOML, or has an option that is in no table.
    """
    line = {k: v for k, v in ctx.params.items() if ctx.get_parameter_source(k) is ParameterSource.COMMANDLINE}
    path = str(line.get("config") or "")
    file = read_config(path) if path else {}
    known = [name for table in tables for name in specs(table) if name != "config"]
    file = {field_name(key, known): value for key, value in file.items()}
    for key in file:
        if key not in known:
            raise UnknownOptionError(unknown_option(key, known, Voice("file", path)))
    return Written(line, file, path)


def read_config(path: str) -> dict[str, Any]:
    """Return a TOML file's values by name with _.

    Raises:
        RequestError: It is not there.
        CombinationError: It is not TOML, or has a name twice.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CombinationError(f"--config {path}: not TOML ({error})") from error
    found = {k.replace("-", "_"): v for k, v in values.items()}
    if len(found) != len(values):
        twice = next(k for k in values if "-" in k and k.replace("-", "_") in values)
        raise CombinationError(f"{path}: `{twice}` is given twice, with - and with _")
    return found


def as_toml(options: Options) -> str:
    """Return all options as TOML that --config reads; what is not set is a comment."""
    lines = []
    for key, value in options.to_dict().items():
        name = specs(Options)[key].flag
        lines.append(f"# {name} is not set" if value is None else f"{name} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
