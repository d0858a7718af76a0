"""What the documents say is there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from onnx_udfc.cli.commands import app
from tools.__main__ import commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
ROOMS = sorted(path.parent.name for path in (ROOT / "onnx_udfc").glob("*/__init__.py"))
WRITTEN = sorted([*ROOT.glob("*.md"), *ROOT.glob(".github/**/*.*"), *PAGES[1:], *(ROOT / "models").glob("*.md")])
FILE = re.compile(
    r"(?<![\w./:<-])((?:docs|models|onnx_udfc|tests|tools|"
    + "|".join(ROOMS)
    + r")/[\w./-]+\.(?:py|md|npz|onnx|json))\b"
)
TOOL = re.compile(r"python(?: -m)? (tools[./ ]\w+)")


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert missing == []


@pytest.mark.parametrize("page", WRITTEN, ids=[p.name for p in WRITTEN])
def test_files_that_are_named_are_there(page: Path) -> None:
    """Paths from the repository, or from the package by the name of a room."""
    named = set(FILE.findall(page.read_text(encoding="utf-8")))
    assert [x for x in sorted(named) if not (ROOT / x).exists() and not (ROOT / "onnx_udfc" / x).exists()] == []


@pytest.mark.parametrize("page", WRITTEN, ids=[p.name for p in WRITTEN])
def test_tools_that_are_named_can_be_started(page: Path) -> None:
    assert set(TOOL.findall(page.read_text(encoding="utf-8"))) <= {f"tools {name}" for name in commands()}


def test_the_page_of_options_names_every_option_of_the_main_command() -> None:
    told = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    command = app.commands["compress"]
    names = [o for p in command.params if isinstance(p, click.Option) for o in p.opts if o.startswith("--")]
    assert [n for n in names if n not in told] == []


def test_the_page_of_options_names_no_option_that_is_not_there() -> None:
    told = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    known = {o for c in app.commands.values() for p in c.params for o in p.opts}
    assert set(re.findall(r"--[a-z][a-z0-9-]+", told)) - known - {"--help"} == set()
