"""Values as people write them, brought to the types of a table of options; what cannot be brought is one line.

Loose forms that are understood everywhere: text for numbers (`"8"`), percents for shares (`"50%"`), one value where
several may stand, `none`, choices in any case, numbers of numpy, paths. Conversion and ranges are msgspec's.
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from onnx_udfc.options.row import Spec, specs
from onnx_udfc.options.voice import PYTHON, OptionError, UnknownOptionError, Voice, Voices

if TYPE_CHECKING:
    from typing import Self

_MOST_ITEMS = 100_000
_DEEPEST = 4
_POINT = re.compile(r"-?(\.[0-9]+|[0-9]+\.)(e[-+]?[0-9]+)?", re.IGNORECASE)  # a number, though not to JSON


def read(table: type, given: Mapping[str, object], voices: Voices) -> dict[str, Any]:
    """Return checked values by field of a table.

    Raises:
        OptionError: A value is not understood.
        UnknownOptionError: A name is not in the table, or stands twice.
    """
    known = specs(table)
    values: dict[str, Any] = {}
    for name, value in given.items():
        key = field_name(name, known)
        if key not in known:
            raise UnknownOptionError(unknown_option(name, known, voices(name)))
        if key in values:
            raise UnknownOptionError(f"{voices(key).place}{voices(key).name(key)} is given twice, with - and with _")
        values[key] = read_value(known[key], value, voices(key))
    return values


def field_name(name: str, known: Container[str]) -> str:
    """The field that a name means: - or _ between words, and `for` for `for_`."""
    key = name.replace("-", "_")
    return f"{key}_" if key not in known and f"{key}_" in known else key


def read_options(table: type, given: Mapping[str, object]) -> dict[str, Any]:
    """Return checked values of keywords of Python.

    Raises:
        OptionError: A value is not understood.
        UnknownOptionError: There is no such option.
    """
    return read(table, given, lambda _: PYTHON)


class Table:
    """Options with their values: a frozen dataclass whose fields are rows; takes keywords in any form that is read."""

    def __init__(self, **given: object) -> None:
        """Take options by keyword.

        Raises:
            OptionError: A value is not understood.
            UnknownOptionError: There is no such option.
        """
        self._fill(read_options(type(self), given))

    @classmethod
    def reads(cls, given: Mapping[str, object], voices: Voices) -> Self:
        """Return options from values by name, with - or _.

        Raises:
            OptionError: A value is not understood.
            UnknownOptionError: There is no such option.
        """
        made = cls.__new__(cls)
        made._fill(read(cls, given, voices))
        return made

    def __repr__(self) -> str:
        """What differs from the defaults, as one would write it."""
        rows = specs(type(self)).items()
        told = [f"{n}={getattr(self, n)!r}" for n, spec in rows if clean(getattr(self, n)) != clean(spec.default)]
        return f"{type(self).__name__}({', '.join(told)})"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-clean values under the names of the fields; requirements as their text."""
        return {name: clean(getattr(self, name)) for name in specs(type(self))}

    def _fill(self, values: Mapping[str, object]) -> None:
        for name, spec in specs(type(self)).items():
            value = values.get(name, spec.default)
            object.__setattr__(self, name, dict(value) if isinstance(value, Mapping) else value)


def words_of(*tables: type) -> Mapping[str, frozenset[str]]:
    """Return the words that are values of each option."""
    rows = {name: spec for table in tables for name, spec in specs(table).items()}
    return {name: frozenset(map(str, (*spec.words, *spec.explained))) for name, spec in rows.items()}


def clean(value: Any) -> Any:
    """Return an option's value as JSON has it."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [clean(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def read_value(spec: Spec, value: object, voice: Voice) -> Any:
    """Return a value of an option's type.

    Raises:
        OptionError: It is not understood; the message names the option as it was written.
    """
    try:
        loose = _plain(value)
        whole = spec.row.read if spec.kind in ("one", "numbers") else None
        converted = whole(loose) if whole else _converted(spec, loose)
        _check(spec, converted)
    except OptionError as error:
        shown = _shown(value) if error.value is None else error.value
        raise OptionError(spec.name, shown, error.why, voice) from None
    # SystemError: msgspec 0.19 of integers that no float holds
    except (ValueError, TypeError, OverflowError, RecursionError, SystemError, msgspec.ValidationError):
        raise OptionError(spec.name, _shown(value), expected(spec) + _hint(spec, value), voice) from None
    return converted


def expected(spec: Spec) -> str:
    """What a value must be, in words."""
    if spec.kind == "flag":
        return "must be true or false"
    if spec.row.choices:
        allowed = [str(c) for c in spec.row.choices] + [w for w in spec.words if w not in spec.row.choices]
        return f"must be one of {', '.join(allowed)}"
    example = f", e.g. {spec.row.example}" if spec.row.example else ""
    if spec.kind == "numbers":
        return f"must be {_counted(spec)} with commas between{example}"
    if spec.kind == "pairs":
        value = spec.metavar.rpartition("=")[2]
        limits = _range(spec)
        return f"must be {spec.metavar}{f', {value}{limits}' if limits else ''}{example}"
    kind, _ = spec.number
    if kind is None:
        return f"must be {'the path of a file or folder' if spec.metavar == 'DATA' else 'text'}{example}"
    return "must be " + " or ".join([f"a {'whole ' if kind is int else ''}number{_range(spec)}", *spec.words]) + example


def unknown_option(name: str, known: Iterable[str], voice: Voice) -> str:
    """A line for a name that no option has, with the one that was probably meant."""
    near = difflib.get_close_matches(name.replace("-", "_"), list(known), 1)
    meant = f"; did you mean {voice.name(near[0])}?" if near else "; see onnx-udfc --help"
    return f"{voice.place}unknown option {voice.name(name)}{meant}"


def _plain(value: object, depth: int = 0) -> Any:
    """Numbers and arrays of numpy, paths, tuples and other iterables as what TOML has; nothing is imported for it."""
    if depth > _DEEPEST:
        raise ValueError("too deep")
    if hasattr(value, "tolist"):  # np.float64, which is a float, too
        return _plain(value.tolist(), depth + 1)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {_plain(k, depth + 1): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (bytes, bytearray)):
        raise ValueError("bytes")
    if isinstance(value, Iterable):
        items = list(itertools.islice(value, _MOST_ITEMS + 1))
        if len(items) > _MOST_ITEMS:
            raise ValueError("endless")
        return [_plain(v, depth + 1) for v in items]
    return value


def _converted(spec: Spec, value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() == "none" and (spec.optional or spec.kind == "numbers"):
        value = None
    if value is None:
        return _nothing(spec)
    shaped = _SHAPES[spec.kind](spec, value)
    if spec.row.read:  # items have a type of their own
        return shaped
    if isinstance(shaped, str) and shaped in spec.row.choices:  # a row that was added when the types were written
        return shaped
    return msgspec.convert(shaped, spec.type, strict=False)


def _nothing(spec: Spec) -> Any:
    """What None means: None itself, or an empty list."""
    if spec.optional:
        return None
    if spec.kind in ("numbers", "several", "pairs"):
        return {} if spec.kind == "pairs" else ()
    raise ValueError("none")


def _flag(_: Spec, value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _one(spec: Spec, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in spec.words:
        return text.lower()
    if text == "" and spec.optional:
        raise ValueError("empty")
    return _share(text) if spec.is_share else _number(text) if spec.number[0] else value


def _share(text: str) -> Any:
    """`50%` as 0.5."""
    return float(text[:-1]) / 100 if text.endswith("%") else _number(text)


def _number(text: str) -> Any:
    """`.5` and `5.` as numbers."""
    return float(text) if _POINT.fullmatch(text) else text


def _numbers(_: Spec, value: Any) -> Any:
    if isinstance(value, str):
        return [_number(text.strip()) for text in value.split("," if "," in value else None)] or [value]
    return value if isinstance(value, list) else [value]


def _several(spec: Spec, value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    if spec.row.read:
        return tuple(spec.row.read(item) for item in items)
    if any(not isinstance(item, str) or not item for item in items):
        raise ValueError("not text")
    return items


def _pairs(spec: Spec, value: Any) -> Any:
    """A mapping, or `KEY=VALUE`, or several of these; no key twice."""
    if isinstance(value, str):
        value = [value]
    pairs = list(value.items()) if isinstance(value, dict) else [_pair(spec, item) for item in value]
    found: dict[str, Any] = {}
    for key, amount in pairs:
        if not isinstance(key, str) or not key:
            raise ValueError("no key")
        amount = _share(amount.strip()) if spec.is_share and isinstance(amount, str) else amount
        read: Any = spec.row.read or partial(_checked_pair, spec)
        key, amount = read(key, amount)
        if key in found:
            raise OptionError(spec.name, f"{key}={amount}", f"{key} is given twice; leave one out")
        found[key] = amount
    return found


def _checked_pair(spec: Spec, key: str, value: Any) -> tuple[str, Any]:
    """One pair by itself, so that an error names it and not all of them."""
    try:
        converted = msgspec.convert({key: value}, spec.type, strict=False)[key]
        if isinstance(converted, float) and not math.isfinite(converted):
            raise ValueError("not finite")
    except (ValueError, msgspec.ValidationError):
        raise OptionError(spec.name, f"{key}={value}", expected(spec) + _hint(spec, value)) from None
    return key, converted


def _pair(spec: Spec, item: Any) -> tuple[str, Any]:
    if isinstance(item, (list, tuple)) and len(item) == 2:
        return item[0], item[1]
    key, sign, amount = item.rpartition("=") if isinstance(item, str) else ("", "", item)
    if not sign:
        raise OptionError(spec.name, item, f"must be KEY=VALUE, e.g. {spec.row.example or 'KEY=VALUE'}")
    return key.strip(), amount.strip()


_SHAPES: Mapping[str, Callable[[Spec, Any], Any]] = {
    "flag": _flag, "one": _one, "numbers": _numbers, "several": _several, "pairs": _pairs,
}  # fmt: skip


def _check(spec: Spec, value: Any) -> None:
    """What types do not say: choices, and numbers that are numbers."""
    if spec.row.choices and value is not None and value not in spec.row.choices and value not in spec.words:
        raise ValueError("not a choice")
    if any(isinstance(v, float) and not math.isfinite(v) for v in (value if isinstance(value, tuple) else (value,))):
        raise ValueError("not finite")


def _shown(value: object) -> object:
    """What an error repeats: an iterable that is used up says nothing, and data say too much."""
    if isinstance(value, Iterator) or getattr(value, "ndim", 0) > 1:
        return f"a value of type {type(value).__name__}"
    try:
        return _plain(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return value


def _hint(spec: Spec, value: object) -> str:
    """What was probably meant."""
    text = str(value).strip()
    near = difflib.get_close_matches(text.lower(), spec.words, 1) if isinstance(value, str) else []
    if near:
        return f"; did you mean {near[0]}?"
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        return ""
    if spec.is_share and not text.endswith("%") and 1 < number < 100:
        return f"; for {number:g} % write {number / 100:g} or {number:g}%"
    return ""


def _counted(spec: Spec) -> str:
    args = msgspec.inspect.type_info(spec.type)
    inner = args.types if isinstance(args, msgspec.inspect.UnionType) else (args,)
    fixed = [len(t.item_types) for t in inner if isinstance(t, msgspec.inspect.TupleType)]
    return f"{fixed[0]} numbers" if fixed else "numbers" + _range(spec)


def _range(spec: Spec) -> str:
    """The range of a number in words; also of the items of a list or the values of pairs."""
    kind, meta = spec.number if spec.kind == "one" else spec.inner
    low = [] if kind is None else [f"of at least {meta.ge}"] if meta.ge is not None else []
    low += [f"above {meta.gt}"] if meta.gt is not None else []
    high = [f"below {meta.lt}"] if meta.lt is not None else []
    high += [f"at most {meta.le}"] if meta.le is not None and meta.le < 2**63 - 1 else []
    return " " + " and ".join([*low, *high]) if low or high else ""
