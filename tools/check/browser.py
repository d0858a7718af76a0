"""Pages as headless Chromium shows them: pictures of them, and text in them that is cut.

A page is shown in a frame of the asked width inside a wider window, because Chromium lays out no window that is
narrower than 500 pixels.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape, unescape
from pathlib import Path

from PIL import Image

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=2000",
)  # fmt: skip
LEAST_WINDOW = 600
WORDS = """<!doctype html><html style="color-scheme: {scheme}"><head><meta charset="utf-8"></head>
<body style="margin: 0">{frames}{script}</body></html>"""
FRAME = """<iframe style="display: block; border: 0; width: {width}px; height: {height}px; color-scheme: {scheme}"
 srcdoc="{page}"></iframe>"""
# every line of text must lie inside the frame, and inside whatever around it hides or scrolls what sticks out
PROBE = """<script>
function look(frame) {
  const page = frame.contentDocument, view = frame.contentWindow, cut = [];
  for (const closed of page.querySelectorAll('details')) closed.open = true;
  const words = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  const clips = e => view.getComputedStyle(e).overflowX !== 'visible';
  while (words.nextNode()) {
    const node = words.currentNode, range = page.createRange();
    if (!node.data.trim() || node.parentElement.closest('.skip, style, title')) continue;
    range.selectNodeContents(node);
    let left = 0, right = view.innerWidth;
    for (let e = node.parentElement; e && e !== page.documentElement; e = e.parentElement) if (clips(e)) {
      const box = e.getBoundingClientRect();
      left = Math.max(left, box.left); right = Math.min(right, box.right);
    }
    const out = r => r.width && (r.left < left - 1 || r.right > right + 1);
    if ([...range.getClientRects()].some(out)) cut.push(node.data.trim());
  }
  return {cut, wide: page.documentElement.scrollWidth - view.innerWidth, words: page.body.innerText.length,
    dark: view.matchMedia('(prefers-color-scheme: dark)').matches};
}
addEventListener('load', () => {
  document.body.dataset.told = JSON.stringify([...document.querySelectorAll('iframe')].map(look));
});</script>"""


@dataclass(frozen=True)
class Shown:
    """A page at a width in pixels, light or dark."""

    page: str
    width: int
    dark: bool = False


@dataclass(frozen=True)
class Found:
    """What was found on a shown page, everything that can be opened being open.

    Attributes:
        cut: Texts that are not seen whole.
        wide: Pixels by which the page is wider than its window.
        words: Characters of text.
        dark: Whether the page was told to be dark.
    """

    cut: list[str]
    wide: int
    words: int
    dark: bool


def _open(shown: Sequence[Shown], height: int, script: str, *what: str) -> str:
    """Open pages in frames of a fresh Chromium, one below the other, and return what that prints."""
    assert CHROMIUM is not None, "look at CHROMIUM first"
    schemes = ["dark" if s.dark else "light" for s in shown]
    frames = [
        FRAME.format(width=s.width, height=height, scheme=scheme, page=escape(s.page))
        for s, scheme in zip(shown, schemes, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(WORDS.format(scheme=schemes[0], frames="".join(frames), script=script), encoding="utf-8")
        window = f"--window-size={max(LEAST_WINDOW, *(s.width for s in shown))},{height}"
        theme = f"--blink-settings=preferredColorScheme={0 if shown[0].dark else 1}"
        words = (CHROMIUM, *FLAGS, theme, window, f"--user-data-dir={folder}/profile", *what, path.as_uri())
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout


def picture(shown: Shown, height: int, path: Path) -> None:
    """Write a picture of the top of a page; the ending of the path says in which format."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        _open([shown], height, "", f"--screenshot={shot}")
        cut = Image.open(shot).convert("RGB").crop((0, 0, shown.width, height))
        if path.suffix == ".png":
            cut.quantize(64).save(path, optimize=True)
        else:
            cut.save(path, quality=70, method=6)


def looked_at(shown: Sequence[Shown]) -> list[Found]:
    """Return what is found on each page."""
    free = [replace(s, page=re.sub(r"<meta http-equiv=[^>]*>", "", s.page)) for s in shown]  # the probe is a script
    dom = _open(free, 1400, PROBE, "--dump-dom")
    told = re.search(r'data-told="([^"]*)"', dom)
    assert told is not None, "the page did not load"
    return [Found(**found) for found in json.loads(unescape(told.group(1)))]
