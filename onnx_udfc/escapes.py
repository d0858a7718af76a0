"""Text from a model or a path as it may be shown: what would steer a terminal or hide itself is written out.

Names in a model are anybody's text. They can hold escape sequences of terminals, characters that turn the direction of
what follows, and such as cannot be seen. Everything that is shown to a person passes through here, at the border.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

_T = TypeVar("_T")
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: terminals obey them
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\uffff\ud800-\udfff\U000e0000-\U000e0fff]"  # not to be seen, or turning the direction of text
)


def visible(text: str) -> str:
    r"""Return the text with every character that is not plainly visible written as \x1b, \u202e or \U000e0001."""
    return _UNSAFE.sub(lambda found: _escape(ord(found.group())), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def visible_all(value: _T) -> _T:
    """Return a value (dataclasses, tuples, lists and mappings of what they hold) with `visible` text everywhere."""
    result: Any = value
    if isinstance(value, str):
        result = visible(value)
    elif isinstance(value, tuple | list):
        result = type(value)(visible_all(item) for item in value)
    elif isinstance(value, Mapping):
        result = {visible_all(key): visible_all(item) for key, item in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        result = replace(value, **{f.name: visible_all(getattr(value, f.name)) for f in fields(value) if f.init})
    return cast(_T, result)


def json_text(value: Any) -> str:
    """Return JSON, indented, that reads back as the same value and holds nothing that steers a terminal."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: found.group() if found.group() == "\n" else json.dumps(found.group())[1:-1], text)
