"""Gates and budgets: what a result must pass, and what it must fit into."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnx_udfc.errors import GateError
from onnx_udfc.options.voice import OptionError

BUDGET_KEYS = ("macs", "params", "bytes", "latency")
VERDICTS = {"unusable": 0.0, "degraded": 1.0, "good": 2.0}  # in this order; `unknown` passes no gate
_SHARED = ("verdict", "agreement", "sqnr", "cosine", "matched", "accuracy", "accuracy_drop", "bytes")
COMPRESS_REQUIREMENTS = (*_SHARED, "macs", "params")
VALIDATE_REQUIREMENTS = (*_SHARED, "macs", "params", "latency", "memory")

_REQUIREMENT = re.compile(r"^\s*([a-z_]+)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*$")
_COMPARED = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_VERDICT = re.compile(r"^\s*verdict\s*(?:>=|==?)\s*(\w+)\s*$")
LEAST_MEMORY = 64e6
_AMOUNT = re.compile(r"^\s*([\d.]+(?:[eE][-+]?\d+)?)\s*([a-zA-Z%]*)\s*$")
_UNITS = {"": 1.0, "b": 1.0}
for _power, _letter in enumerate("kmgt", 1):  # as Docker writes them (2g) and Kubernetes (2Gi)
    _UNITS |= dict.fromkeys((_letter, f"{_letter}b"), 1e3**_power)
    _UNITS |= dict.fromkeys((f"{_letter}i", f"{_letter}ib"), 1024.0**_power)


@dataclass(frozen=True)
class Requirement:
    """A gate such as `agreement>=0.95`."""

    key: str
    op: Literal[">=", "<=", ">", "<"]
    value: float

    def met(self, measured: float | None) -> bool:
        """Return whether a measured value passes; what could not be measured does not."""
        return measured is not None and bool(_COMPARED[self.op](measured, self.value))

    def shown(self, measured: float | None) -> str:
        """Return what was measured in words."""
        if self.key == "verdict":
            return next((word for word, value in VERDICTS.items() if value == measured), "unknown")
        return "not measured" if measured is None else format(measured, ".4g")

    def __str__(self) -> str:
        if self.key == "verdict":
            return f"verdict={self.shown(self.value)}"
        return f"{self.key}{self.op}{self.value!r}".removesuffix(".0")


def parse_requirement(text: object, keys: Sequence[str] = COMPRESS_REQUIREMENTS) -> Requirement:
    """Read `KEY>=VALUE` or `verdict=WORD`; `sqnr_db` is `sqnr` and `parameters` is `params`.

    `verdict=degraded` is met by what is better, too.

    Raises:
        OptionError: The form or the key is unknown.
    """
    if isinstance(text, Requirement):
        text = str(text)
    asked = _VERDICT.match(text.lower()) if isinstance(text, str) else None
    if asked:
        if asked[1] not in VERDICTS:
            raise OptionError("require", text, f"verdict must be one of {', '.join(reversed(VERDICTS))}")
        return Requirement("verdict", ">=", VERDICTS[asked[1]])
    match = _REQUIREMENT.match(text.lower()) if isinstance(text, str) else None
    if not match:
        raise OptionError("require", text, _not_a_gate(text))
    key = {"sqnr_db": "sqnr", "parameters": "params"}.get(match[1], match[1])
    if key not in keys:
        raise OptionError("require", text, _no_such_gate(key, keys))
    try:
        value = float(match[3])
    except ValueError:
        raise OptionError("require", text, f"{match[3]!r} is not a number") from None
    if not math.isfinite(value):
        raise OptionError("require", text, f"{match[3]!r} is too large a number")
    op: Literal[">=", "<=", ">", "<"] = match[2]  # type: ignore[assignment]  # the pattern has only these
    return Requirement(key, op, value)


def _not_a_gate(text: object) -> str:
    if isinstance(text, str) and text.strip().lower() in VALIDATE_REQUIREMENTS:
        return f"must be KEY>=VALUE; quote it, for > and < are the shell's own signs: '{text.strip()}>=0.95'"
    return "must be KEY>=VALUE or KEY<=VALUE, e.g. agreement>=0.95"


def _no_such_gate(key: str, keys: Sequence[str]) -> str:
    if key in VALIDATE_REQUIREMENTS:
        return f"{key} is measured by `onnx-udfc validate IN OUT`, not here; known are {', '.join(keys)}"
    near = difflib.get_close_matches(key, keys, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"unknown key {key!r}; known are {', '.join(keys)}{meant}"


@dataclass(frozen=True)
class Budget:
    """A limit for the result: a fraction of the original's (0 < amount ≤ 1), or an absolute amount."""

    key: str
    amount: float
    fraction: bool

    def limit(self, original: float) -> float:
        """Return the largest allowed value, given the original's."""
        return self.amount * original if self.fraction else self.amount


def parse_budget(key: str, value: str) -> Budget:
    """Read `macs=0.5`, `bytes=2MB`, `params=30%`, `macs=1.2G`; a bare number up to 1 is a fraction.

    Raises:
        OptionError: The key or the value is not understood.
    """
    shown = f"{key}={value}"
    if key not in BUDGET_KEYS:
        raise OptionError("budget", shown, f"unknown key {key!r}; known are {', '.join(BUDGET_KEYS)}")
    match = _AMOUNT.match(value)
    unit = match[2].lower() if match else "?"
    if not match or (unit != "%" and unit not in _UNITS) or match[1].count(".") > 1 or match[1] == ".":
        raise OptionError("budget", shown, "must be a fraction such as 0.5, or an amount such as 2MB or 30%")
    number = float(match[1])
    fraction = unit == "%" or (unit == "" and number <= 1)
    amount = number / 100 if unit == "%" else number * _UNITS[unit]
    if amount <= 0 or not math.isfinite(amount) or (fraction and amount > 1):
        raise OptionError("budget", shown, "a fraction lies above 0 and at most at 1")
    if key == "latency" and not fraction:
        raise OptionError("budget", shown, "latency is a fraction of the original's, e.g. latency=0.5")
    return Budget(key, amount, fraction)


def read_memory(value: object) -> str | None:
    """Return an amount of memory as it was written, or None.

    Raises:
        OptionError: It is no amount with a unit, or too little to begin with.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    try:
        enough = isinstance(value, str) and size_in_bytes(value) >= LEAST_MEMORY
    except ValueError:
        enough = False
    if not enough:
        raise OptionError("memory", value, "must be an amount of at least 64MB with its unit, e.g. 2GB or 800MB")
    return str(value).strip()


def size_in_bytes(text: str) -> float:
    """Read `2GB`, `800MB`, `1.5GiB`.

    Raises:
        ValueError: It is no number with a unit of bytes.
    """
    match = _AMOUNT.match(text)
    unit = match[2].lower() if match else ""
    if not match or not unit or unit not in _UNITS:
        raise ValueError(text)
    size = float(match[1]) * _UNITS[unit]
    if not math.isfinite(size):
        raise ValueError(text)
    return size


def read_budget(key: str, value: object) -> tuple[str, str]:
    """Return a budget's key and its amount as text, checked.

    Raises:
        OptionError: The key or the value is not understood.
    """
    text = value.strip() if isinstance(value, str) else f"{value}"
    parse_budget(key.lower(), "?" if isinstance(value, bool) else text)
    return key.lower(), text


def check_requirements(requirements: Sequence[Requirement], measured: Mapping[str, float | None]) -> None:
    """Refuse a result that misses a gate; all missed gates are named in one line.

    Raises:
        GateError: A requirement is not met, or could not be measured.
    """
    missed = [f"{r} (is {r.shown(measured[r.key])})" for r in requirements if not r.met(measured[r.key])]
    if missed:
        raise GateError("required but not met: " + ", ".join(missed))
