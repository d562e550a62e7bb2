"""Encoding of text files by their byte order mark."""

from __future__ import annotations

import codecs


def detect_encoding(start: bytes) -> str:
    """Return `utf-16` for a text with its byte order mark, else `utf-8-sig`.

    Excel and Notepad write UTF-16. The codec `utf-8-sig` reads UTF-8 with and without a mark.

    Args:
        start: Beginning of the file, at least two bytes of it.
    """
    is_utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if is_utf16 else "utf-8-sig"
