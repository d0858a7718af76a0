"""A hook of mkdocs: links of pages that lead out of docs/ lead to the repository, by its address in pyproject.toml."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs imports a hook by its path

from tools.pack.release import address  # noqa: E402

OUTSIDE = re.compile(r"\]\(\.\./([^)\s]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with such links absolute."""
    return OUTSIDE.sub(rf"]({address()}/blob/main/\1)", markdown)
