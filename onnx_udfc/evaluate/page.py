"""The shell of all pages, and the parts that they share: no script, no font, no request; light, dark and on paper.

Where the window is narrow, a row of a table becomes a card whose lines carry the heads of the columns: nothing is cut,
and nothing has to be scrolled sideways.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from onnx_udfc.evaluate.report import FileReport, OutputFidelity, Report
from onnx_udfc.evaluate.wording import answer_words, decibel, verdict_words
from onnx_udfc.version import Tool

if TYPE_CHECKING:
    from onnx_udfc.evaluate.validate import Validation

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SHOWN_DIGITS = 12  # of a hash, where the whole one stands elsewhere


def page(title: str, tool: Tool, sections: Iterable[tuple[str, str, str]], facts: str = "") -> str:
    """Return a self-contained page.

    `sections` are key, name and HTML of each; empty ones are left out. `facts` is HTML under the title: which file,
    when.
    """
    shown = [s for s in sections if s[2]]
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name, _ in shown)
    body = "".join(f'<section id="{key}"><h2>{name}</h2>{inner}</section>' for key, name, inner in shown)
    style = resources.files("onnx_udfc.evaluate").joinpath("html_style.css").read_text(encoding="utf-8")
    made = f"{escape(tool.name)} {escape(tool.version)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<a class="skip" href="#{shown[0][0]}">To the content</a>'
        f"<header><h1>{escape(title)}</h1><p class=soft>{' · '.join([*([facts] if facts else []), made])}</p>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main>{body}</main></body></html>\n'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str, numbers: Sequence[int] = ()) -> str:
    """Return a table; cells are HTML already.

    `label` says what the table shows; columns in `numbers` are set to the right.
    """
    kinds = ["name" if i == 0 else "n" if i in numbers else "" for i in range(len(head))]
    classes = [f" class={kind}" if kind else "" for kind in kinds]
    top = "".join(f"<th{c}>{escape(h)}</th>" for c, h in zip(classes, head, strict=True))
    heads = [f' data-h="{escape(h)}"' if h else "" for h in head]

    def line(row: Sequence[str]) -> str:
        cells = zip(classes, heads, row, strict=True)
        return f"<tr>{''.join(f'<td{c}{h}>{cell}</td>' for c, h, cell in cells)}</tr>"

    body = "".join(map(line, rows))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(name: str, inner: str, opened: bool = False) -> str:
    """Return something that opens when its name is chosen."""
    return f"<details{' open' if opened else ''}><summary>{escape(name)}</summary>{inner}</details>"


def card(value: str, name: str) -> str:
    """Return a figure with what it is, for a list of cards."""
    return f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>"


def figure(chart: str, name: str, scale: str, axis: str = "") -> str:
    """Return a chart with what it shows, its scale, and an axis of names below."""
    words = f"<figcaption><span>{escape(name)}</span><span>{escape(scale)}</span></figcaption>"
    return f"<figure>{chart}{axis}{words}</figure>"


def verdict_html(report: Report | Validation) -> str:
    """Return the verdict, in its colour, with its reason."""
    words, verdict = escape(verdict_words(report)), report.verdict
    return f'<p class="verdict {verdict}"><b>Verdict: {verdict}</b>{words}</p>'


def outputs_table(outputs: Sequence[OutputFidelity]) -> str:
    """Return the figures of each output and of its parts."""
    rows = [
        (
            escape(o.name),
            o.kind,
            p.part if p else "",
            decibel(p.sqnr_db if p else o.sqnr_db),
            decibel(p.worst_db if p else None),
            _number(p.cosine if p else o.cosine),
            escape(", ".join(answer_words(o))),
        )
        for o in outputs
        for p in (o.parts or (None,))
    ]
    head = ("output", "kind", "part", "SQNR", "worst column", "cosine", "answers")
    return table(head, rows, "Outputs", (3, 4, 5)) if rows else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def moment(created: str) -> str:
    """Return `2026-01-31 12:00 UTC` of what ISO 8601 says, or what is given."""
    day, _, clock = created.partition("T")
    return f"{day} {clock[:5]} UTC" if clock.endswith("+00:00") else created


def facts(source: FileReport | None, created: str) -> str:
    """Return the line under the title: the file with the beginning of its hash, and when."""
    told = []
    if source is not None:
        digest = f", SHA-256 {source.sha256[:SHOWN_DIGITS]}…" if source.sha256 else ""
        told.append(f"{escape(source.name or 'a model in memory')}, {source.bytes:,} bytes{digest}")
    return " · ".join([*told, *([escape(moment(created))] if created else [])])


def files_and_versions(
    command: str, files: Mapping[str, FileReport | None], versions: Mapping[str, str], created: str
) -> str:
    """Return the command, the files with their hashes, and the versions of the packages."""
    rows = [
        (name, escape(f.name or "–"), f"{f.bytes:,}", f"<code>{escape(f.sha256 or '–')}</code>")
        for name, f in files.items()
        if f is not None
    ]
    packages = ", ".join(f"{escape(name)} {escape(version)}" for name, version in versions.items())
    return (
        (f"<pre>{escape(command)}</pre>" if command else "")
        + (table(("", "file", "bytes", "SHA-256"), rows, "Files", (2,)) if rows else "")
        + (f"<p>Made on {escape(moment(created))} with {packages}.</p>" if packages else "")
    )
