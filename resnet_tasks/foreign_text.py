"""Escaping of foreign text: names of classes and files, attributes, messages of libraries.

Such text comes from files that anybody may have written. On a terminal, its control characters
could move the cursor, clear lines, change colors or reverse the order of letters; in Markdown, its
punctuation could become links, images and HTML.
"""

from __future__ import annotations

import re
import string

_CONTROLS = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065"  # no width
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # direction of the text
    "\u2028\u2029"  # other ends of a line
    "\ud800-\udfff"  # undecodable bytes of file names
    "\U00013430-\U0001343f\U000e0000-\U000e0fff"
    "]"
)
"""Characters that a terminal obeys or does not show."""
_LINE_ENDS = re.compile(r"\s*[\r\n\x0b\x0c\x85\u2028\u2029]\s*")
_MARKDOWN = {ord(sign): f"\\{sign}" for sign in string.punctuation if sign not in "<>&,;:/-.'\"%="}
_MARKDOWN |= {ord("<"): "&lt;", ord(">"): "&gt;", ord("&"): "&amp;"}
_ADDRESS = re.compile(r"(?i)(?<=[a-z])(:)(?=//)|(?<=www)(\.)|(?<=[a-z0-9])(@)")
"""Sign without which an address is not a link."""
_BLOCK_START = re.compile(r"^(\s*)([-+=:]|\d+(?=[.)]))")
_ENTITIES = {":": "&#58;", ".": "&#46;", "@": "&#64;"}


def escape_character(character: str) -> str:
    r"""Return a character as Python writes it; an undecodable byte of a file name as `\xe9`."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's surrogate for a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return ascii(character)[1:-1]


def escape_controls(text: str) -> str:
    r"""Escape the characters that a terminal obeys or does not show, such as ESC as `\x1b`.

    Letters of all scripts, tabs and newlines stay.
    """
    return _CONTROLS.sub(lambda match: escape_character(match[0]), text)
