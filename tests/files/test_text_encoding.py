"""The byte order mark states the encoding."""

from __future__ import annotations

import codecs

import pytest

from resnet_tasks.files.text_encoding import detect_encoding


@pytest.mark.parametrize(
    "content",
    [
        "Zähler 1".encode(),
        "Zähler 1".encode("utf-8-sig"),
        codecs.BOM_UTF16_LE + "Zähler 1".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "Zähler 1".encode("utf-16-be"),
    ],
)
def test_marks_are_removed(content: bytes) -> None:
    assert content.decode(detect_encoding(content)) == "Zähler 1"
    assert detect_encoding(b"") == "utf-8-sig"
