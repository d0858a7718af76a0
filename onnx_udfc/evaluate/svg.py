"""Small static charts as SVG text: they stretch with the page, and carry no words, so that nothing shrinks.

Every bar has a <title>, which is its tooltip and its text for a screen reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def columns(
    values: Sequence[float], titles: Sequence[str], label: str, paint: str = "f-main", back: bool = False
) -> str:
    """Return one column for each value in 0..1.

    `titles` are tooltips, `label` is for a screen reader, `paint` a CSS class; with `back` a faint column shows the
    whole height.
    """
    n = max(1, len(values))
    parts = [_open("chart", n, 100, label)]
    for i, (value, title) in enumerate(zip(values, titles, strict=True)):
        height = 100 * min(1.0, max(0.0, value))
        faint = _rect(i + 0.08, 0, 0.84, 100, "f-faint") if back else ""
        body = _rect(i + 0.08, 100 - height, 0.84, height, paint)
        hit = f'<rect x="{i}" width="1" height="100" fill="transparent"/>'
        parts.append(f"<g><title>{escape(title)}</title>{faint}{body}{hit}</g>")
    return "".join(parts) + "</svg>"


def bar(share: float, title: str, paint: str = "f-main") -> str:
    """Return a single horizontal bar of a share in 0..1 on a faint ground."""
    width = 100 * min(1.0, max(0.0, share))
    inner = _rect(0, 0, 100, 10, "f-faint") + _rect(0, 0, width, 10, paint)
    return _open("row", 100, 10, title) + f"<title>{escape(title)}</title>{inner}</svg>"


def pair(before: float, after: float, title: str) -> str:
    """Return two horizontal bars of shares in 0..1, the first above and faint."""
    widths = [100 * min(1.0, max(0.0, share)) for share in (before, after)]
    inner = _rect(0, 0, widths[0], 9, "f-faint") + _rect(0, 10, widths[1], 9, "f-main")
    return _open("pair", 100, 19, title) + f"<title>{escape(title)}</title>{inner}</svg>"


def steps(counts: Sequence[Sequence[int]], paints: Sequence[str], label: str) -> str:
    """Return histograms over one another as outlines, each scaled to its own highest bin."""
    parts = [_open("small", max(1, max(map(len, counts), default=1)), 100, label)]
    for row, paint in zip(counts, paints, strict=True):
        top = max(row, default=0) or 1
        path = "M0 100" + "".join(f"V{100 - 96 * c / top:.1f}H{i + 1}" for i, c in enumerate(row)) + "V100"
        parts.append(f'<path class="{paint}" d="{path}"/>')
    return "".join(parts) + "</svg>"


def _open(kind: str, width: float, height: float, label: str) -> str:
    box = f'viewBox="0 0 {width:g} {height:g}" preserveAspectRatio="none"'
    return f'<svg class="{kind}" {box} role="img" aria-label="{escape(label)}">'


def _rect(x: float, y: float, width: float, height: float, paint: str) -> str:
    return f'<rect class="{paint}" x="{x:g}" y="{y:.2f}" width="{width:g}" height="{height:.2f}"/>'


def framed(
    picture: str, width: int, height: int, boxes: Sequence[tuple[Sequence[tuple[float, ...]], str]], label: str
) -> str:
    """Return a picture (a data URI) with boxes over it.

    `boxes` are left, top, right and bottom in shares of the picture, and the CSS class they are drawn in. `width` and
    `height` are in units that the frames' lines are told in; `label` is for a screen reader.
    """
    parts = [f'<svg class="photo" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    parts.append(f'<image href="{escape(picture)}" width="{width}" height="{height}" preserveAspectRatio="none"/>')
    for row, paint in boxes:
        for left, top, right, bottom in row:
            x, y = left * width, top * height
            w, h = max(0.0, right - left) * width, max(0.0, bottom - top) * height
            parts.append(f'<rect class="{paint}" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"/>')
    return "".join(parts) + "</svg>"
