"""Write the JSON schemas of what the commands give as JSON, from the types that hold it.

    python -m tools report_schemas

A test holds that they are current.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import msgspec

from onnx_udfc.evaluate.inspection import Inspection
from onnx_udfc.evaluate.report import Report
from onnx_udfc.evaluate.validate import Validation
from onnx_udfc.sweep_table import Derived, SweepTable
from tools.places import ROOT

FOLDER = ROOT / "onnx_udfc"
COMMANDS: dict[str, tuple[type, ...]] = {  # what several types hold is one object
    "report": (Report,),
    "inspect": (Inspection,),
    "validate": (Validation,),
    "sweep": (SweepTable, Derived),
}
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n     +.*)*)", re.MULTILINE)


def schema(command: str) -> str:
    """Return the JSON schema of what a command gives as JSON."""
    kinds = COMMANDS[command]
    _, found = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    parts = {name: _part(part) for name, part in found.items()}
    whole, *others = (parts.pop(kind.__name__) for kind in kinds)
    for other in others:
        whole["properties"] |= other["properties"]
        whole["required"] += other["required"]
    whole["description"] += " Keys may be added, none is renamed or removed."
    page = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"onnx-udfc {command}",
        **whole,
        "$defs": dict(sorted(parts.items())),
    }
    return json.dumps(page, indent=2, ensure_ascii=False) + "\n"


def _part(part: dict[str, Any]) -> dict[str, Any]:
    """What one type holds: all of its fields, always, each with what its docstring says of it."""
    told, _, rows = inspect.cleandoc(part["description"]).replace("None", "null").partition("\n\nAttributes:\n")
    about = {name: {"description": " ".join(text.split())} for name, text in _ATTRIBUTE.findall(rows)}
    fields = {
        name: {**about.get(name, {}), **{key: v for key, v in kind.items() if key != "default"}}
        for name, kind in part["properties"].items()
    }
    return {
        "type": "object",
        "description": " ".join(told.split()),
        "properties": fields,
        "required": list(fields),
    }


def main() -> None:
    """Write them all."""
    for command in COMMANDS:
        (FOLDER / f"{command}.schema.json").write_text(schema(command), encoding="utf-8")


if __name__ == "__main__":
    main()
