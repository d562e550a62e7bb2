"""Foreign text: escaping for a terminal and for Markdown."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from resnet_tasks.foreign_text import escape_controls

SHOWN_FORMATS = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
"""Format characters with a shape: signs of Arabic, Syriac and Kaithi around numbers."""


def test_every_control_character_is_escaped_and_letters_stay() -> None:
    escaped, kept = [], []
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        (kept if escape_controls(character) == character else escaped).append(code)
    wrong = [
        hex(code)
        for code in kept
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and code not in SHOWN_FORMATS
        and chr(code) not in "\n\t"
    ]
    assert not wrong
    lost = [
        hex(code)
        for code in escaped
        if unicodedata.category(chr(code))[0] in "LNPSZ"
        and code not in (0x115F, 0x1160, 0x3164, 0xFFA0, 0x2028, 0x2029)  # empty letters, line ends
    ]
    assert not lost


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("Zelle größer\tβ-2 \n日本 עברית 👩", "Zelle größer\tβ-2 \n日本 עברית 👩"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x00\x9b\x7f", r"\x00\x9b\x7f"),
        ("\u202eabc\u2066\u200f", r"\u202eabc\u2066\u200f"),
        ("caf\udce9", r"caf\xe9"),
        ("\U000e0041", r"\U000e0041"),
        ("a\r\nb", "a\\r\nb"),
    ],
)
def test_controls_are_escaped_as_python_writes_them(text: str, escaped: str) -> None:
    assert escape_controls(text) == escaped
    assert escape_controls(escaped) == escaped
