"""Foreign text: escaping for a terminal and for Markdown."""

from __future__ import annotations

import html
import re
import sys
import unicodedata

import pytest
from markdown_it import MarkdownIt

from resnet_tasks.foreign_text import (
    escape_controls,
    escape_html,
    escape_markdown,
    format_markdown_block,
    format_markdown_code,
)

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


HOSTILE = [
    "<b>bold</b> & co",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- comment",
    "<https://evil.example>",
    "[link](http://evil.example)",
    "![image](http://evil.example/a.png)",
    "[a]: http://evil.example",
    "&lt;b&gt; &#60; &copy;",
    "`code` ``more`` `",
    "*bold* **bold** _it_ __bold__ ~~gone~~",
    "snake_case_name",
    "a|b \\| c \\",
    "$x^2$ \\(y\\)",
    "# title",
    "- list",
    "+ list",
    "> quote",
    "1. list",
    "12) list",
    "-0.5",
    "granular [/b]",
    "\\[x\\] \\<b>",
    "ends in <",
    "x < y > z, a<3",
    "Zelle größer 日本",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("template", ["{}", "- {}", "# {}", "Note: {}, and more", "**a**: {}"])
def test_markdown_shows_the_text_as_it_is(text: str, template: str) -> None:
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    rendered = page.render(template.format(escape_markdown(text)))
    expected = page.render(template.format("TEXT"))
    assert re.sub(r"\s+", " ", rendered) == re.sub(
        r"\s+", " ", expected.replace("TEXT", html.escape(text, quote=False).replace('"', "&quot;"))
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_cells_of_a_table_show_the_text_as_it_is(text: str) -> None:
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    rendered = page.render(f"| a | b |\n| --- | --- |\n| {escape_markdown(text)} | end |")
    cells = re.findall(r"<td>(.*?)</td>", rendered)
    assert [html.unescape(cell) for cell in cells] == [text, "end"]
    assert "<" not in cells[0]


@pytest.mark.parametrize("text", HOSTILE)
def test_code_shows_the_text_as_it_is(text: str) -> None:
    page = MarkdownIt("commonmark")
    (line,) = re.findall("<code>(.*?)</code>", page.render(f"a {format_markdown_code(text)} b"))
    assert html.unescape(line) == text
    lines = f"a: 1\n```\n{text}\n````\n# b"
    block = page.render(format_markdown_block(lines, "yaml"))
    assert html.unescape(block) == f'<pre><code class="language-yaml">{lines}\n</code></pre>\n'


def test_addresses_do_not_become_links() -> None:
    text = "http://evil.example, www.evil.example, @everyone, me@evil.example"
    escaped = escape_markdown(text)
    assert not re.search(r"://|www\.|@", escaped)
    assert html.unescape(escaped) == text


def test_lines_are_joined_and_controls_escaped() -> None:
    text = "a\r\n# b\u2028\n\n- c\x1b[31m"
    assert escape_markdown(text) == "a # b - c\\x1b\\[31m"
    assert format_markdown_code(text) == "`a # b - c\\x1b[31m`"
    assert escape_html("<b>\n'x'\x1b") == "&lt;b&gt; &#x27;x&#x27;\\x1b"
