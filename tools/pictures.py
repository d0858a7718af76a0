"""Makes the pictures of the README: python tools/pictures.py (needs Chromium for the HTML report)."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from onnx_udfc.cli.text import summary
from onnx_udfc.evaluate.html import to_html
from onnx_udfc.options import Options
from onnx_udfc.pipeline import compress

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
COMMAND = "onnx-udfc digits.onnx small.onnx --prune 0.5 --bits 4 --report small.html"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1100,1250",
)  # fmt: skip


def main() -> None:
    """Write terminal.svg and report.png."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    options = Options(prune=0.5, bits=4, attribution=True, threads=1)
    report = compress(ROOT / "models" / "digits_resnet_bn.onnx", options).report
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=110, file=nowhere, force_terminal=True, highlight=False)
        console.print(f"$ {COMMAND}", style="bold")
        console.print(summary(report, "small.onnx"))
    picture = console.export_svg(title="onnx-udfc")
    (PICTURES / "terminal.svg").write_text(
        re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL), encoding="utf-8"
    )
    _shoot(to_html(report))


def _shoot(page: str) -> None:
    """Take the picture of a page."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium: report.png is not made")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        shot = f"--screenshot={PICTURES / 'report.png'}"
        subprocess.run([chromium, *FLAGS, f"--user-data-dir={folder}/profile", shot, path.as_uri()], check=True)


if __name__ == "__main__":
    main()
