"""Reading of Markdown pages: code blocks, links and the anchors that links can point to."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


def find_code_blocks(text: str, language: str) -> list[str]:
    """Return the contents of the fenced blocks of a language, in order."""
    return [content for name, content in _BLOCK.findall(text) if name == language]


def find_links(text: str) -> list[str]:
    """Return the targets of all links and images outside code, in order."""
    return _LINK.findall(_CODE.sub("", _remove_blocks(text)))


def find_inline_code(text: str) -> list[str]:
    """Return the contents of all inline code, in order."""
    return _CODE.findall(_remove_blocks(text))


def list_anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub names them."""
    anchors: set[str] = set()
    for heading in _HEADING.findall(_remove_blocks(text)):
        letters = re.sub(r"[^\w\- ]", "", heading.lower())
        anchor = letters.strip().replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in anchors:
            number += 1
        anchors.add(name)
    return anchors


def _remove_blocks(text: str) -> str:
    return _BLOCK.sub("", text)
