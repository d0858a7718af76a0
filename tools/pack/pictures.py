"""Makes the pictures of the documentation: python -m tools pictures (needs Chromium for the pages).

The closing summary in a terminal, and the three pages (a report, a validation, a sweep) in two widths, light and dark.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from rich.console import Console

from onnx_udfc import compress, sweep, validate
from onnx_udfc.cli.text import summary
from onnx_udfc.evaluate.html import to_html
from onnx_udfc.evaluate.report import Report
from onnx_udfc.evaluate.validation_page import to_page
from tools.check.browser import CHROMIUM, Shown, picture
from tools.places import MODELS, ROOT

PICTURES = ROOT / "docs" / "pictures"
MODEL = MODELS / "digits_resnet_bn.onnx"
IMAGES = str(MODELS / "digits_test.npz")
COMMAND = "onnx-udfc digits_resnet_bn.onnx small.onnx --prune 0.5 --bits 4 --report small.html"
HEIGHTS = {400: 1600, 1280: 1400}  # width → height, in pixels
README_SIZE = (1100, 1250)


def main() -> None:
    """Write the terminal, the README's picture, and the pages."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        result = compress(MODEL, prune=0.5, bits=4, attribution=True, threads=1)
        result.save(small)
        _terminal(result.report)
        if CHROMIUM is None:
            raise SystemExit("no Chromium: no pictures of pages are made")
        for name, page in _pages(result.report.saved_as(small), small, Path(folder)).items():
            for width, height in HEIGHTS.items():
                for dark in (False, True):
                    path = PICTURES / f"{name}-{width}-{'dark' if dark else 'light'}.webp"
                    picture(Shown(page, width, dark), height, path)
            if name == "report":
                picture(Shown(page, README_SIZE[0]), README_SIZE[1], PICTURES / "report.png")


def _pages(report: Report, small: Path, folder: Path) -> dict[str, str]:
    """The three pages, of one network."""
    found = validate(MODEL, small, images=IMAGES, input_mean=0.305, input_std=0.376, seconds=1, threads=1)
    table = sweep(
        MODEL, folder / "sweep", prune=[0, 0.3, 0.6], bits=[8, 4, 3], labelled=IMAGES, input_mean=0.305,
        input_std=0.376, jobs=1, threads=1,
    )  # fmt: skip
    return {"report": to_html(report), "validate": to_page(found), "sweep": table.to_html()}


def _terminal(report: Report) -> None:
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=110, file=nowhere, force_terminal=True, highlight=False)
        console.print(f"$ {COMMAND}", style="bold")
        console.print(summary(report, "small.onnx"))
    drawn = console.export_svg(title="onnx-udfc")
    (PICTURES / "terminal.svg").write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
