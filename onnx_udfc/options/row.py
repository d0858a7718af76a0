"""What one row of a table of options holds, and the kinds of values that rows have.

A row is a field of a frozen dataclass, annotated with its type (ranges in the type) and a `Row`:

    prune: Annotated[Ratio, Row("Fraction of channels removed.", WHAT, metavar="R")] = 0.0

Nothing else has to be written to make an option: click, TOML, the keywords of Python, Olive's parameters, the printed
command, the JSON schema and docs/options.md are made from it (`python -m tools option_pages` writes what is written).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, Literal

from msgspec import Meta

MOST_THREADS = 1024
LARGEST = 2**63 - 1  # whole numbers of TOML and JSON

Ratio = Annotated[float, Meta(ge=0, lt=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Seconds = Annotated[float, Meta(ge=0, le=86400)]
Whole = Annotated[int, Meta(ge=0, le=LARGEST)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Threads = Annotated[int, Meta(ge=1, le=MOST_THREADS)]

WHAT = "What is compressed"
HOW = "How it is repaired"
INPUT = "What the network is fed"
MUST = "What must hold"
RUN = "How it is run"
TOLD = "What is told"
GROUPS = (WHAT, HOW, INPUT, MUST, RUN, TOLD)

Kind = Literal["flag", "one", "numbers", "several", "pairs"]


class InMemory:
    """Inputs that are in memory and in no file; its text tells what they are."""


@dataclass(frozen=True)
class Row:
    """What a user is told about an option, and what its type does not say.

    Attributes:
        help: One sentence.
        group: The heading under which it stands.
        metavar: What stands for its value in help; choices and flags need none.
        choices: Words (or numbers) that are allowed, each with what it means; empty for any value of the type.
        more: Choices that are explained but not all that is allowed, e.g. `auto` beside numbers.
        unset: What is done where the option is None or empty, in a word or two.
        short: One letter after a dash.
        since: Version that has it.
        repeat: A tuple's items are given one by one, by repeating the option; otherwise with commas between.
        read: Reads one item of what is repeated, the key and value of a pair, or all of any other value; raises
            OptionError, whose `why` is told.
        effect: Whether it decides the bytes of the result; otherwise the file's metadata leave it out.
        printed: Whether a printed command repeats it.
        example: A value as it is written on the command line, for help, docs and tests.
        search: Values that Olive's tuner may try.
    """

    help: str
    group: str
    metavar: str = ""
    choices: Mapping[str | int, str] = field(default_factory=dict)
    more: Mapping[str | int, str] = field(default_factory=dict)
    unset: str = ""
    short: str = ""
    since: str = "0.1"
    repeat: bool = False
    read: Callable[..., object] | None = None
    effect: bool = True
    printed: bool = True
    example: str = ""
    search: tuple[object, ...] = ()


@dataclass(frozen=True)
class Spec:
    """An option: its row with the name, type and default of its field."""

    name: str
    type: Any
    default: Any
    row: Row

    @property
    def flag(self) -> str:
        """The name with dashes, as in TOML and after `--`; `for_` is `for`, which Python keeps for itself."""
        return self.name.rstrip("_").replace("_", "-")

    @property
    def metavar(self) -> str:
        """What stands for its value; nothing for a flag."""
        return "" if self.kind == "flag" else self.row.metavar or "VALUE"

    @property
    def explained(self) -> Mapping[str | int, str]:
        """Words and numbers that may be given, with what they mean."""
        return {**self.row.choices, **self.row.more}

    @property
    def optional(self) -> bool:
        """Whether None is a value: not asked for."""
        return type(None) in _members(self.type)

    @property
    def is_data(self) -> bool:
        """Whether inputs are its value: a path or, in Python, what is in memory."""
        return InMemory in _members(self.type)

    @property
    def kind(self) -> Kind:
        """How values are written."""
        plain = [_bare(t) for t in _members(self.type)]
        if plain == [bool]:
            return "flag"
        origins = {typing.get_origin(t) for t in plain}
        if origins & {Mapping, dict}:
            return "pairs"
        if tuple in origins:
            return "several" if self.row.repeat else "numbers"
        return "one"

    @property
    def words(self) -> tuple[str, ...]:
        """Words that are values: choices, members of Literal, `none`."""
        literals = [w for t in _members(self.type) if typing.get_origin(t) is Literal for w in typing.get_args(t)]
        named = [w for w in self.row.choices if isinstance(w, str)]
        return tuple(dict.fromkeys([*named, *literals, *(["none"] if self.optional else [])]))

    @property
    def number(self) -> tuple[type | None, Meta]:
        """The type of a number that is a value (None if none is), and its range."""
        return _number(_members(self.type))

    @property
    def inner(self) -> tuple[type | None, Meta]:
        """The same of the items of a list, or of the values of pairs."""
        held = [typing.get_args(_bare(t)) for t in _members(self.type) if typing.get_args(_bare(t))]
        if not held:
            return None, Meta()
        return _number(_members(held[0][1 if self.kind == "pairs" else 0]))

    @property
    def is_share(self) -> bool:
        """Whether percents make sense: a number from 0 to 1, alone or as the values of pairs."""
        kind, meta = self.inner if self.kind == "pairs" else self.number
        return kind is float and meta.ge == 0 and 1 in (meta.lt, meta.le)


def specs(table: type) -> Mapping[str, Spec]:
    """Return the options of a table by name, in order of their groups."""
    return _specs(table)


@cache
def _specs(table: type) -> Mapping[str, Spec]:
    hints = typing.get_type_hints(table, include_extras=True)
    found = [_spec(f.name, hints[f.name], f) for f in fields(table)]
    return {s.name: s for group in GROUPS for s in found if s.row.group == group}


def _spec(name: str, hint: Any, declared: Any) -> Spec:
    rows = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Row)]
    assert len(rows) == 1, f"{name} has no Row"
    others = tuple(m for m in hint.__metadata__ if not isinstance(m, Row))
    bare = typing.get_args(hint)[0]
    default = declared.default_factory() if callable(declared.default_factory) else declared.default
    return Spec(name, Annotated[(bare, *others)] if others else bare, default, rows[0])


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    bare = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    union = typing.get_origin(bare) in (typing.Union, types.UnionType)
    return typing.get_args(bare) if union else (hint,)


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _number(members: tuple[Any, ...]) -> tuple[type | None, Meta]:
    for member in members:
        if _bare(member) in (int, float):
            metas = [m for m in getattr(member, "__metadata__", ()) if isinstance(m, Meta)]
            return _bare(member), metas[0] if metas else Meta()
    return None, Meta()
