"""Data card: names of classes and files as they are, and no folder of this machine."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from data_tools.writing.data_card import DataCard, DatasetProvenance
from data_tools.writing.split_summary import SkippedObject, SplitSummary

HOSTILE = "<script>x<b> [a](http://evil) ![b](http://evil/c) | `c` **d**"


def make_card(text: str, source: str = "/home/jo doe/cells", *, name: str | None = None) -> str:
    name = text if name is None else name
    summary = SplitSummary(
        split="train",
        images=3,
        objects={name: 2, "granular [/b]": 1},
        pixels={name: 5},
        skipped=(SkippedObject(text, text, text),),
        changed={text: 4},
        notes=(text,),
        warnings=(text,),
    )
    origin = DatasetProvenance(text, text, license=text, citation=text, notes=(text,))
    return DataCard(text, origin, source, (summary,), verified=True).to_markdown()


def test_foreign_names_become_neither_html_nor_links_nor_code() -> None:
    card = make_card(HOSTILE)
    page = MarkdownIt("commonmark").enable("table").render(card)
    tags = set(re.findall(r"</?(\w+)[^>]*>", page))
    assert tags <= {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert "http://evil" not in card
    cells = [html.unescape(cell) for cell in re.findall("<td>(.*?)</td>", page)]
    assert cells.count(HOSTILE) == 6
    assert "granular [/b]" in cells


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\u202eb", "a\x9bb", "a\n# b", "a\u2028b"])
def test_control_characters_are_escaped_and_lines_joined(text: str) -> None:
    card = make_card(text)
    assert not [letter for letter in card if not letter.isprintable() and letter != "\n"]
    assert "\n# b" not in card


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/jo doe/cells", "cells"),
        ("/home/jo doe/a b.zip and /home/jo doe/c.zip", "a b.zip and c.zip"),
        ("C:\\Users\\Jo Doe\\cells", "cells"),
        ("a generator (seed=0)", "a generator (seed=0)"),
    ],
)
def test_the_source_is_named_without_its_folders(source: str, shown: str) -> None:
    assert f"- Converted from: {shown}\n" in make_card("x", source)


def test_messages_name_files_without_their_folders() -> None:
    card = make_card("the DICOM file /home/jo doe/in/a.dcm cannot be read", name="cell")
    assert "jo doe" not in card
    assert card.count("the DICOM file a.dcm cannot be read") >= 6


def test_the_home_page_is_a_link() -> None:
    origin = DatasetProvenance("cells", "https://example.org/a_b?c=1#d")
    card = DataCard("cells", origin, "x", (SplitSummary("train", 0, {}),), verified=True)
    assert "- Home page: https://example.org/a_b?c=1#d\n" in card.to_markdown()
