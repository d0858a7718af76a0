"""The HTML report, as text and as a real browser shows it."""

from __future__ import annotations

import http.server
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from onnx_udfc.evaluate.html import loss_share, to_html
from onnx_udfc.evaluate.report import Report
from tools.check.browser import CHROMIUM, Shown, looked_at

VOID = {"meta", "link", "br", "wbr"}
NO_BROWSER = "no Chromium here; apt-get install chromium"


def test_every_part_is_there(report: Report) -> None:
    page = to_html(report)
    for text in (
        "35.6 %",
        "18.2 dB",
        "93.8 %",
        "/stage6/block5/Conv",
        "more bits there",
        "dead",
        "NonMaxSuppression_7",
    ):
        assert text in page
    assert "onnx-udfc IN.onnx OUT.onnx --prune 0.5 --bits 4" in page


def test_the_file_the_date_and_the_verdict_come_first(report: Report) -> None:
    page = to_html(report)
    assert "<h1>in &lt;b&gt;.onnx → out.onnx</h1>" in page
    assert f"SHA-256 {12 * 'a'}… · 2026-01-31 12:00 UTC" in page
    assert 64 * "a" in page
    assert "numpy 2.0" in page
    places = [page.index(text) for text in ("</nav>", "<b>Verdict: unknown</b>", "<ul class=cards>", "<pre>onnx-udfc")]
    assert places == sorted(places)


def test_what_was_factored_is_told(report: Report) -> None:
    assert "What was factored" not in to_html(report)
    first = replace(report.layers[0], kind="factored", rank=17)
    page = to_html(replace(report, layers=(first, *report.layers[1:])))
    assert "What was factored" in page
    assert "split, rank 17" in page


def test_names_are_escaped(report: Report) -> None:
    page = to_html(report)
    assert "<script" not in page
    assert "s&lt;1&gt;" in page


def test_every_tag_is_closed(report: Report) -> None:
    stack: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
            if tag not in VOID:
                stack.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert stack.pop() == tag

    Checker().feed(to_html(report))
    assert stack == []


def test_nothing_is_loaded_from_elsewhere(report: Report) -> None:
    page = to_html(report)
    assert not re.search(r"""(src|href)=(?!"#|"data:)|url\(|@import|https?://""", page)


def test_small_for_a_network_of_the_size_of_resnet50(report: Report) -> None:
    assert len(to_html(report).encode()) < 1_000_000


def test_a_report_with_nothing_in_it_is_a_page(report: Report) -> None:
    empty = replace(report, layers=(), groups=(), skips=(), attribution=(), warnings=(), timings={})
    page = to_html(empty)
    assert "No channels can be pruned" in page
    assert 'id="losses"' not in page


def test_errors_are_drawn_between_nothing_and_all() -> None:
    assert loss_share(None) == 0
    assert loss_share(0.0) == 0
    assert loss_share(1e-9) == 0
    assert loss_share(1e-3) == pytest.approx(0.5)
    assert loss_share(1.0) == 1
    assert loss_share(7.0) == 1


@dataclass
class Served:
    """A page on localhost, and what was asked for."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Served]:
    served = Served("")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            super().do_GET()

        def translate_path(self, path: str) -> str:
            return str(tmp_path / path.lstrip("/"))

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/page.html"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served
    server.shutdown()


def browse(url: str, tmp_path: Path, width: int, dark: bool, *what: str) -> str:
    """Open a page in a fresh headless Chromium and return what it prints."""
    assert CHROMIUM is not None
    flags = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=2000",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1400",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    )  # fmt: skip
    done = subprocess.run([CHROMIUM, *flags, *what, url], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it_and_asks_for_nothing(
    report: Report, serve: Served, tmp_path: Path, width: int, dark: bool
) -> None:
    from PIL import Image

    page = to_html(report)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    shot = tmp_path / "shot.png"
    browse(serve.url, tmp_path, width, dark, f"--screenshot={shot}")
    assert serve.asked == ["/page.html"]
    pixels = np.asarray(Image.open(shot).convert("L")).astype(int)
    assert pixels.shape[1] == width
    ground = int(np.bincount(pixels.ravel()).argmax())
    assert ground < 60 if dark else ground > 220
    contrast = np.abs(pixels - ground)
    for band in np.array_split(contrast, 4):  # words and bars in every quarter of the screen
        assert (band > 100).mean() > 0.005


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_no_text_is_cut_and_nothing_sticks_out(report: Report) -> None:
    shown = [Shown(to_html(report), width, dark) for width in (400, 1280) for dark in (False, True)]
    for want, found in zip(shown, looked_at(shown), strict=True):
        assert found.cut == []
        assert found.wide <= 0
        assert found.words > 5000
        assert found.dark == want.dark


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_a_cut_text_is_found(report: Report) -> None:
    page = to_html(report)
    hidden = page.replace("</style>", "td{white-space:nowrap!important;overflow:hidden}</style>")
    pushed = page.replace("</style>", "h1{margin-left:500px!important;white-space:nowrap}</style>")
    first, second = looked_at([Shown(hidden, 400), Shown(pushed, 400)])
    assert first.cut
    assert second.cut
    assert second.wide > 0


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_it_prints(report: Report, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(to_html(report), encoding="utf-8")
    browse((tmp_path / "page.html").as_uri(), tmp_path, 1280, True, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    printed = (tmp_path / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 5  # what is folded on the screen is open on paper
