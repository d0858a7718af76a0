"""What is shown of a name, and that JSON keeps it."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass

import pytest

from onnx_udfc.escapes import json_text, visible, visible_all


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain/name_1:0", "plain/name_1:0"),
        ("[bold]名é−×", "[bold]名é−×"),
        ("\x1b[2J\x07\n\t", r"\x1b[2J\x07\x0a\x09"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("a\u202eb\u2066\u200b\ufeff", r"a\u202eb\u2066\u200b\ufeff"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_nothing_that_controls_or_formats_is_left() -> None:
    for code in range(0x110000):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and chr(code) not in SCRIPTS:
            assert visible(chr(code)) != chr(code), hex(code)


# marks of single scripts (Arabic numbers, Kaithi, Egyptian, shorthand, music): drawn, or a matter of their neighbours
SCRIPTS = {
    chr(c)
    for c in (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440),
              *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B))
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    name: str
    size: int
    inner: tuple[object, ...] = ()


def test_every_text_of_a_value_is_made_visible_and_the_rest_kept() -> None:
    row = Row("\x1b", 3, ({"\x07": ["\u202e", 1.5, None]}, Row("b", 2)))
    assert visible_all(row) == Row(r"\x1b", 3, ({r"\x07": [r"\u202e", 1.5, None]}, Row("b", 2)))


def test_json_reads_back_as_the_same_value() -> None:
    value = {"é\u202e\x1b\x9b\ud800": ["\U000e0001", 1, {"名": "\n"}]}
    text = json_text(value)
    assert json.loads(text) == value
    assert visible(text.replace("\n", "")) == text.replace("\n", "")
    assert "名" in text
