"""Escaping of foreign text: names of classes and files, attributes, messages of libraries.

Such text comes from files that anybody may have written. On a terminal, its control characters
could move the cursor, clear lines, change colors or reverse the order of letters; in Markdown, its
punctuation could become links, images and HTML.
"""

from __future__ import annotations

import html
import re

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
_LINE_ENDS = re.compile(r"[\s\u2028\u2029]*[\r\n\v\f\x85\u2028\u2029][\s\u2028\u2029]*")
_MARKDOWN = re.compile(
    r"\\(?=[!-/:-@\[-`{-~]|$)"  # itself an escape
    r"|[\[\]`*|$~]"  # links, images, code, emphasis, cells, formulas
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis; inside a word it is none
    r"|<(?=[A-Za-z/!?]|$)|&(?=#?\w+;)"  # HTML
    r"|(?<=[A-Za-z]):(?=//)|(?<=[Ww]{3})\.|@(?=\w)"  # addresses that become links
    r"|^>|^(?:\#{1,6}|[-+])(?=\s+\S)|(?<=^\d)[.)](?=\s)|(?<=^\d\d)[.)](?=\s)"  # blocks
)
"""Signs with a meaning in Markdown, only where they have it, so that the text stays readable."""
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", ":": "&#58;", "@": "&#64;"}
_BACKTICKS = re.compile("`+")


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


def escape_markdown(text: str) -> str:
    """Escape a text on one line of Markdown, outside code: it is shown as it is."""
    return _MARKDOWN.sub(_escape_sign, _join_lines(text))


def format_markdown_code(text: str) -> str:
    """Format a text as code inside a line of Markdown."""
    line = _join_lines(text)
    fence = "`" * (1 + max(map(len, _BACKTICKS.findall(line)), default=0))
    padding = " " if len(fence) > 1 else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def format_markdown_block(text: str, language: str) -> str:
    """Format a text of several lines as a block of code, which no line of it can end."""
    fence = "`" * max(3, 1 + max(map(len, _BACKTICKS.findall(text)), default=0))
    return f"{fence}{language}\n{escape_controls(text)}\n{fence}"


def escape_html(text: str) -> str:
    """Escape a text on one line of an HTML element."""
    return html.escape(_join_lines(text))


def _join_lines(text: str) -> str:
    """Return a text on one line without control characters."""
    return escape_controls(_LINE_ENDS.sub(" ", text))


def _escape_sign(match: re.Match[str]) -> str:
    sign = match[0]
    if sign == "." and match.string[max(0, match.start() - 3) : match.start()].lower() == "www":
        return "&#46;"
    return _ENTITIES.get(sign) or f"\\{sign}"
