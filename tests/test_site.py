"""The documentation as a site: it builds without a warning, links lead somewhere, nothing is loaded from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MISSING = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason="no mkdocs here; pip install -e '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder))
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = {p.stem for p in (ROOT / "docs").glob("*.md")} - {"index"}
    assert {p.parent.name for p in site.glob("*/index.html")} >= pages


def test_the_reference_has_what_the_docstrings_say(site: Path) -> None:
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    for text in ("compress", "sweep", "GateError", "predicted_loss", "The input or the request cannot be served"):
        assert text in page
    assert "<blockquote" not in page  # what `>>>` outside "Examples:" is taken for


def test_links_out_of_the_pages_lead_to_the_repository(site: Path) -> None:
    page = (site / "security" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'href="https://[^"]+/blob/main/SECURITY\.md"', page)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    tag = re.compile(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"?(https?:[^\">\s]*)")
    for path in site.rglob("*.html"):
        assert tag.findall(path.read_text("utf-8")) == [], path
