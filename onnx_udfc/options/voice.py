"""How an option is named to who wrote it: `--bits 9`, `udfc.toml: bits = 9`, or `bits=9`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from onnx_udfc.errors import RequestError

_LONGEST = 80  # characters of a value that an error repeats
_FLAG = re.compile(r"--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?: ([\w-]+))?")

_BEGIN = re.compile(r"--([a-z][a-z0-9]*(?:-[a-z0-9]+)*) (\S+): ")  # what most complaints begin with


@dataclass(frozen=True)
class Voice:
    """Where options were written: on the command line, in a configuration file, or in Python."""

    kind: Literal["line", "file", "python"]
    file: str = ""

    def name(self, key: str) -> str:
        """The option's name alone, e.g. `--input-mean`, `input-mean` or `input_mean=`."""
        dashed = key.rstrip("_").replace("_", "-")
        return {"line": f"--{dashed}", "file": f"`{dashed}`", "python": f"{key.replace('-', '_')}="}[self.kind]

    def said(self, key: str, value: object) -> str:
        """The option with a value, as one would write it here; a flag without."""
        if self.kind == "line":
            return self.name(key) if value is True else f"{self.name(key)} {_cut(_worded(value))}"
        if self.kind == "python":
            return self.name(key) + _cut(repr(value))
        return f"{key.rstrip('_').replace('_', '-')} = {_cut(_toml(value))}"

    @property
    def place(self) -> str:
        """What stands before a complaint: the file's name."""
        return f"{self.file}: " if self.file else ""

    def respelled(self, message: str, words: Mapping[str, frozenset[str]]) -> str:
        """A message that names options as on the command line, with the names of here.

        `words` are what may follow each option's name, numbers aside.
        """
        if self.kind != "python":
            return message
        begin = _BEGIN.match(message)
        if begin and begin[1].replace("-", "_") in words:
            value = begin[2] if begin[2][0].isdigit() else repr(begin[2])
            rest = self.respelled(message[begin.end() :], words)
            return f"{self.name(begin[1].replace('-', '_'))}{value}: {rest}"
        return _FLAG.sub(lambda m: self._renamed(m, words), message)

    def _renamed(self, found: re.Match[str], words: Mapping[str, frozenset[str]]) -> str:
        key, value = found[1].replace("-", "_"), found[2]
        key = f"{key}_" if f"{key}_" in words else key
        if key not in words:
            return found[0]
        if value is None or not (value in words[key] or value[0].isdigit()):
            return self.name(key) + found[0][len(found[1]) + 2 :]
        return self.name(key) + (f"'{value}'" if value in words[key] and not value.isdigit() else value)


LINE, PYTHON = Voice("line"), Voice("python")
Voices = Callable[[str], Voice]  # the place where each option was written


class Said:
    """Names options as they were written."""

    def __init__(self, voices: Voices) -> None:
        self._voices = voices

    def __call__(self, key: str, value: object) -> str:
        """An option with a value."""
        return self._voices(key).said(key, value)

    def begin(self, key: str, value: object) -> str:
        """The same at the beginning of a complaint: with the name of the file."""
        return self._voices(key).place + self(key, value)

    def name(self, key: str) -> str:
        """The name alone."""
        return self._voices(key).name(key)


class OptionError(RequestError):
    """An option's name or value is wrong, whatever the files hold: wrong usage.

    Attributes:
        key: The option's name, with _.
        value: What it was given.
        why: What to change.
    """

    exit_code = 2

    def __init__(self, key: str, value: object, why: str, voice: Voice = LINE) -> None:
        self.key, self.value, self.why, self.voice = key, value, why, voice
        super().__init__(f"{voice.place}{voice.said(key, value)}: {why}")

    def __reduce__(self) -> tuple[type[OptionError], tuple[str, object, str, Voice]]:
        """Pass between processes with its parts."""
        return type(self), (self.key, self.value, self.why, self.voice)

    def spoken(self, voice: Voice) -> OptionError:
        """The same complaint to somebody who wrote it elsewhere."""
        return OptionError(self.key, self.value, self.why, voice)


class CombinationError(RequestError):
    """Options that do not go together: wrong usage."""

    exit_code = 2


class UnknownOptionError(RequestError, TypeError):
    """There is no option of this name: wrong usage."""

    exit_code = 2


def _worded(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(_worded(v) for v in value)
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items())
    return str(value) or "''"


def _toml(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # a date, say
        return str(value)


def _cut(text: str) -> str:
    """One line without control characters, not longer than a terminal."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"
