"""Write what is made from the table of options: the keywords of Python, the JSON schema, the tables of docs/options.md.

    python -m tools option_pages

A test holds that they are current.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from onnx_udfc.options import (
    GROUPS,
    PYTHON,
    Inspecting,
    Judging,
    Options,
    Spec,
    Sweeping,
    Table,
    Writing,
    specs,
    words_of,
)
from onnx_udfc.options.command import default_text
from tools.places import ROOT

SILENT = ("quiet", "json", "verbose", "debug", "config")  # for those who read a terminal
KEYWORDS = ROOT / "onnx_udfc/options/keywords.py"
SCHEMA = ROOT / "onnx_udfc/options.schema.json"
PAGE = ROOT / "docs/options.md"
_NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"
START, END = "<!-- options: {} -->", "<!-- end of options -->"
TABLES: dict[str, tuple[type[Table], ...]] = {
    "compress": (Options, Writing),
    "inspect": (Inspecting,),
    "validate": (Judging,),
    "sweep": (Sweeping,),
}

_HEAD = '''"""Keywords of the package's functions in all forms that are understood; `python -m tools option_pages`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Literal, SupportsFloat, SupportsIndex, TypedDict

from onnx_udfc.options.goals import Requirement

Whole = SupportsIndex | str  # numbers of numpy, and "8"
Number = SupportsFloat | SupportsIndex | str  # and "50%"
Numbers = SupportsFloat | Iterable[SupportsFloat] | str  # and "0.5,0.5"
Values = SupportsFloat | SupportsIndex | Iterable[SupportsFloat | SupportsIndex | str | None] | str  # and "0.1:0.7:0.1"
'''
_CLASS = '''
class {name}({base}, total=False):
    """{help}"""
'''


def keywords() -> str:
    """Return the module of the keywords; what two functions have in common is a class that both inherit."""
    compress, inspecting, judging, sweeping = (
        {name: _keyword(name, spec) for name, spec in specs(table).items() if table is Options or name not in SILENT}
        for table in (Options, Inspecting, Judging, Sweeping)
    )
    judged = {name: text for name, text in compress.items() if judging.get(name) == text}
    shared = {name: text for name, text in compress.items() if name not in sweeping and name not in judged}
    return "\n".join(
        (
            _HEAD,
            _keywords("_Running", "TypedDict", "What runs of a network are made with.", judged),
            _keywords("_Compressing", "_Running", "What each setting of a sweep has, too.", shared),
            _keywords("Keywords", "_Compressing", "Every option of `compress` by its type.", compress, judged, shared),
            _keywords("InspectingKeywords", "TypedDict", "Every option of `inspect` by its type.", inspecting),
            _keywords("JudgingKeywords", "_Running", "Every option of `validate` by its type.", judging, judged),
            _keywords("SweepKeywords", "_Compressing", "Every option of `sweep` by its type.", sweeping),
        )
    )


def _keywords(name: str, base: str, help_: str, own: Mapping[str, str], *inherited: Mapping[str, str]) -> str:
    known = {key for rows in inherited for key in rows}
    parts = [text for key, text in own.items() if key not in known]
    return "\n".join([_CLASS.format(name=name, base=base, help=help_), *parts]).rstrip("\n") + "\n"


def _keyword(name: str, spec: Spec) -> str:
    """A keyword with its type and what it means."""
    told = PYTHON.respelled(spec.row.help, words_of(Options, Judging, Sweeping))
    text = textwrap.fill(f'"""{told}"""', 116, initial_indent="    ", subsequent_indent="    ")
    return f"    {name}: {_loose(spec)}\n{text}\n"


def _loose(spec: Spec) -> str:
    """The type of a keyword: all that is read."""
    none = " | None" if spec.optional else ""
    match spec.kind:
        case "flag":
            return "bool"
        case "numbers":
            return "Values" if spec.row.read else f"Numbers{none}"
        case "several":
            item = "Requirement | str" if spec.name == "require" else "str"
            return f"{item} | Iterable[{item}]"
        case "pairs":
            return "Mapping[str, Number] | Iterable[str] | str"
        case "one" if spec.is_data:
            return "object"
        case "one":
            number, _ = spec.number
            one = {int: "Whole", float: "Number"}.get(number, "str") if number else "str"
            if spec.explained:  # what an editor offers; any text is read, in any case
                return f"Literal[{', '.join(json.dumps(c) for c in spec.explained)}] | {one}{none}"
            return (one if number else "str | PathLike[str]") + none


def schema() -> str:
    """Return the JSON schema of a configuration file: it takes all that a command reads, and names with _ for -."""
    known: dict[str, list[Spec]] = {}
    for spec in (s for table in (*TABLES["compress"], *TABLES["sweep"]) for s in specs(table).values()):
        known.setdefault(spec.flag, []).append(spec)
    for name in ("config", "print-config"):
        del known[name]
    other = {rows[0].name.replace("_", "[-_]"): flag for flag, rows in known.items() if "_" in rows[0].name}
    page = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Options of onnx-udfc, as a TOML file",
        "type": "object",
        "properties": {
            flag: {"description": rows[0].row.help, "anyOf": _all_forms(rows)} for flag, rows in known.items()
        },
        "patternProperties": {f"^{name}$": {"$ref": f"#/properties/{flag}"} for name, flag in other.items()},
        "additionalProperties": False,
    }
    return json.dumps(page, indent=2, ensure_ascii=False) + "\n"


def _all_forms(rows: Sequence[Spec]) -> list[Any]:
    """The forms of an option; where a sweep takes several values of what is one otherwise, lists of these, too."""
    one = list(_forms(rows[0]))
    if len({spec.kind for spec in rows}) == 1:
        return one
    return [
        *one,
        {"type": "array", "minItems": 1, "items": {"anyOf": one}},
        {"type": "string", "pattern": r"\S[,:\s]+\S"},
    ]


def _forms(spec: Spec) -> Iterator[Any]:
    """The forms of values that a file may have; of text that stands for a number the range is left to the reader."""
    text: dict[str, Any] = {"type": "string", "minLength": 1}
    number = {"type": "string", "pattern": rf"^\s*{_NUMBER}{'%?' if spec.is_share else ''}\s*$"}
    if spec.kind == "flag":
        yield from ({"type": "boolean"}, {"enum": [0, 1]}, *_words("true", "false", "0", "1"))
    elif spec.kind == "several":
        yield from (text, {"type": "array", "items": text})
    elif spec.kind == "pairs":
        held = [{"type": ["string", "number", "boolean"]}] if spec.row.read else [*_typed(spec.type), number]
        pair = {"type": "string", "pattern": "=."}
        both = {"type": "array", "prefixItems": [text, {"anyOf": held}], "minItems": 2, "maxItems": 2}
        yield {"type": "object", "propertyNames": {"minLength": 1}, "additionalProperties": {"anyOf": held}}
        yield from (pair, {"type": "array", "items": {"anyOf": [pair, both]}})
    elif spec.kind == "numbers":
        for kind in _typed(spec.type):
            item = {"anyOf": [(kind.get("prefixItems") or [kind["items"]])[0], number]}
            fixed = {key: count for key, count in kind.items() if key in ("minItems", "maxItems")}
            yield {"type": "array", "items": item, **fixed}
            yield from () if fixed else item["anyOf"]
        yield from ({"type": "string", "pattern": rf"^\s*{_NUMBER}([\s,]+{_NUMBER})*\s*$"}, *_words("none"))
    elif spec.row.choices:
        numbers = [choice for choice in spec.row.choices if isinstance(choice, int)]
        yield from ([{"enum": numbers}] if numbers else [])
        yield from _words(*map(str, spec.row.choices), *spec.words)
    elif spec.number[0]:
        yield from (*(kind for kind in _typed(spec.type) if "enum" not in kind), number, *_words(*spec.words))
    else:
        yield text


def _words(*words: str) -> list[dict[str, Any]]:
    """Words for an editor to offer, and the same in capitals."""
    if not words:
        return []
    known = list(dict.fromkeys(words))
    any_case = ["".join(f"[{c}{c.upper()}]" if c.islower() else c for c in word) for word in known]
    return [{"enum": known}, {"type": "string", "pattern": rf"^\s*({'|'.join(any_case)})\s*$"}]


def _typed(hint: Any) -> list[dict[str, Any]]:
    """The forms of a type without None; of a mapping, those of its values."""
    found = msgspec.json.schema(hint)
    found = found.get("additionalProperties", found)
    return [kind for kind in found.get("anyOf", [found]) if kind != {"type": "null"}]


def page() -> str:
    """Return docs/options.md with its tables replaced."""
    text = PAGE.read_text(encoding="utf-8")
    for command in TABLES:
        start = START.format(command)
        before, found, rest = text.partition(start)
        assert found, f"{PAGE} has no {start}"
        after = rest.partition(END)[2]
        text = before + start + "\n\n" + "\n".join(_tables(command)) + "\n" + END + after
    return text


def _tables(command: str) -> Iterator[str]:
    rows = [spec for table in TABLES[command] for spec in specs(table).values()]
    for group in GROUPS:
        here = [spec for spec in rows if spec.row.group == group]
        if here:
            yield from (f"### {group}", "", "| option | default | meaning |", "|---|---|---|")
            yield from (_line(spec) for spec in here)
            yield ""


def _line(spec: Spec) -> str:
    short = f", `-{spec.row.short}`" if spec.row.short else ""
    value = f" {spec.metavar}" if spec.metavar else ""
    help_ = spec.row.help
    told = {word: what for word, what in spec.explained.items() if what}
    if told:
        help_ += " " + "; ".join(f"`{word}`: {what}" for word, what in told.items()) + "."
    since = "" if spec.row.since == "0.1" else f" Since {spec.row.since}."
    return f"| `--{spec.flag}{value}`{short} | {default_text(spec)} | {help_}{since} |".replace("||", "|")


def main() -> None:
    """Write all three."""
    KEYWORDS.write_text(keywords(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
