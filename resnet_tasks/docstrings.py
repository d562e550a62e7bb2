"""Descriptions of attributes and parameters, read from docstrings, the only place that has them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

SECTIONS = ("Attributes", "Args")
"""Sections that describe attributes or parameters, one entry each."""

_YAML_CONSTANTS = {"None": "null", "True": "true", "False": "false"}
_CONSTANT = re.compile(r"\b(None|True|False)\b")
_SECTION = re.compile(r"^([A-Z][A-Za-z ]*):\s*$")
_ENTRY = re.compile(r"^\*{0,2}`?(\w+)`?(?: ?\([^:]*\))?: *(.*)$")
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!\bal)(?<!\bvs)[.!?](?=\s+[^a-z\s])")


def parse_descriptions(docstring: str | None) -> dict[str, str]:
    """Return the description of each name in the sections `Attributes:` and `Args:`.

    Constants are converted to those of YAML, which users write: `None` becomes `null`.

    Args:
        docstring: Docstring in Google style, or None. Types in parentheses after a name are
            dropped.
    """
    descriptions: dict[str, list[str]] = {}
    is_inside, entry_indent, current = False, 0, []
    for line in inspect.cleandoc(docstring or "").splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent == 0:
            header = _SECTION.match(line)
            is_inside, entry_indent = header is not None and header[1] in SECTIONS, 0
            continue
        if not is_inside or not line.strip():
            continue
        entry_indent = entry_indent or indent
        if indent == entry_indent and (entry := _ENTRY.match(line.strip())):
            current = descriptions.setdefault(entry[1], [])
            current.append(entry[2].replace("``", "`"))
        elif descriptions:
            current.append(line.strip().replace("``", "`"))
    return {
        name: _CONSTANT.sub(lambda match: _YAML_CONSTANTS[match[0]], " ".join(filter(None, lines)))
        for name, lines in descriptions.items()
    }


def get_descriptions(described: type) -> dict[str, str]:
    """Return the descriptions of a class's attributes; a subclass overrides those of its bases."""
    merged: dict[str, str] = {}
    for base in reversed(described.__mro__):
        merged.update(parse_descriptions(base.__doc__))
    return merged


def get_introduction(docstring: str | None) -> str:
    """Return the text before the first section, one line per paragraph."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    end = next((i for i, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    paragraphs = "\n".join(lines[:end]).strip().split("\n\n")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def get_first_sentence(text: str) -> str:
    """Return the first sentence of a text."""
    paragraph = text.partition("\n")[0]
    end = _SENTENCE_END.search(paragraph)
    return paragraph[: end.end()] if end else paragraph


def add_descriptions(schema: dict[str, object], described: type) -> None:
    """Add the docstring of a class and the descriptions of its attributes to its JSON schema.

    Args:
        schema: JSON schema of the class, changed in place. Descriptions that it has are kept,
            except that of the class itself.
        described: Class with an `Attributes:` section.
    """
    introduction = get_introduction(described.__doc__)
    if introduction:
        schema["description"] = introduction
    descriptions = get_descriptions(described)
    properties = schema.get("properties", {})
    assert isinstance(properties, Mapping)
    for name, node in properties.items():
        if name in descriptions:
            node.setdefault("description", descriptions[name])
