"""Names that reach a path: heads, splits, and what converters call the files that they write.

Recipes, run folders, export manifests and repositories of a hub come from others; a name in them
must not lead out of the folder that its files belong in, nor be that of another file there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

from resnet_tasks.errors import DataError

Value = TypeVar("Value")

MAX_LENGTH = 64
"""Characters of a name; endings and numbers follow it within the 255 bytes of a file's name."""
MAX_QUOTED = 120
"""Characters of a name that a message quotes."""
RESERVED_HEADS = {
    "unreadable_images": "unreadable_images.jsonl",
    "images": "images.json",
    "overlays": "the folder overlays",
    "stream": "stream.json and stream.jsonl",
    "backbone": "the backbone in extend.freeze and in checkpoints",
    "pyramid": "the pyramid in extend.freeze and in checkpoints",
}
"""Name that no head can have -> what has it already: files that `predict` writes beside those of
the heads, and parts of a model."""
_HEAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_OF_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names of devices, whatever their ending."""
_SPECIAL = frozenset('/\\:*?"<>|')
"""Characters that separate parts of a path or that a file's name cannot hold on Windows."""


def require_head_names(
    names: Iterable[str], location: str = "", error: type[Exception] = DataError
) -> None:
    """Require names that files and folders can be called after, side by side.

    Args:
        names: Names of the heads of one model.
        location: Place of the names, such as a file and a key; precedes the message.
        error: Class of the error.

    Raises:
        error: If a name is no plain file name, is reserved, or differs from another in case only.
    """
    prefix, names_by_key = f"{location}: " if location else "", dict[str, str]()
    for name in names:
        folded = name.lower()
        if len(name) > MAX_LENGTH or not _HEAD.fullmatch(name) or _OF_WINDOWS.fullmatch(name):
            raise error(
                f"{prefix}the head name {_quote_name(name)} cannot name a file of predictions; use "
                "1 to "
                f"{MAX_LENGTH} letters (a-z, A-Z), digits, _ and -, beginning with a letter or "
                "digit, and no device name of Windows such as CON"
            )
        if folded in RESERVED_HEADS:
            raise error(
                f"{prefix}the head name {name!r} is reserved for {RESERVED_HEADS[folded]}; rename "
                f"the head (reserved are {', '.join(sorted(RESERVED_HEADS))})"
            )
        if folded in names_by_key:
            raise error(
                f"{prefix}the head names {names_by_key[folded]!r} and {name!r} differ in case "
                "only, so that "
                "their files would be the same on some disks; rename one of the heads"
            )
        names_by_key[folded] = name


def with_head_names(heads: Mapping[str, Value]) -> Mapping[str, Value]:
    """Return the heads of a recipe, for a field that validates them.

    Raises:
        ValueError: As `require_head_names`.
    """
    require_head_names(heads, error=ValueError)
    return heads


def require_file_name(
    name: str, description: str, location: str = "", error: type[Exception] = DataError
) -> None:
    """Require a name that a file or a folder can have on any system.

    Args:
        name: One part of a path, without its ending; letters of any script.
        description: Kind of name, such as `split`.
        location: Place of the name, such as a file and a key; precedes the message.
        error: Class of the error.

    Raises:
        error: If the name is empty or too long, has a character that separates paths or that files
            cannot have, begins with a dot, ends in a dot or space, or names a device of Windows.
    """
    is_plain = (
        0 < len(name) <= MAX_LENGTH
        and not (_SPECIAL & set(name) or _has_control_characters(name))
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and not _OF_WINDOWS.fullmatch(name)
    )
    if not is_plain:
        place = f"{location}: " if location else ""
        raise error(
            f"{place}the {description} name {_quote_name(name)} cannot name a file; use 1 to "
            f"{MAX_LENGTH} "
            'characters other than / \\ : * ? " < > | and control characters, with '
            "no dot or space at either end, and no device name of Windows such as CON"
        )


def require_class_names(
    names: Iterable[str], location: str = "", error: type[Exception] = DataError
) -> None:
    """Require class names that can be printed; they are free text otherwise and reach no path.

    Args:
        names: Names of classes.
        location: Place of the names, such as a file and a key; precedes the message.
        error: Class of the error.

    Raises:
        error: If a name holds a control character, such as a line break, a zero byte or an escape
            sequence of terminals.
    """
    for name in names:
        if _has_control_characters(name):
            place = f"{location}: " if location else ""
            raise error(
                f"{place}the class name {_quote_name(name)} holds a control character, so that it "
                "cannot be kept in XML or in a list of names; rename the class"
            )


def is_inside(name: str) -> bool:
    """Whether a file name stays inside the folder that it is relative to, on any system."""
    parts = name.replace("\\", "/").split("/")
    is_rooted = parts[0] == "" or parts[0][1:2] == ":"
    return not is_rooted and ".." not in parts and "\0" not in name


def _has_control_characters(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def _quote_name(name: str) -> str:
    """Return a name as a message quotes it: escaped, and shortened."""
    return repr(name) if len(name) <= MAX_QUOTED else f"{name[:MAX_QUOTED]!r}…"
