"""Validation of names that become part of a path: heads, splits, and output files of converters.

Recipes, run folders, export manifests and hub repositories may come from untrusted sources. A name
in them must not lead outside the folder of its files, nor collide with another file there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import TypeVar

from resnet_tasks.errors import DataError

Value = TypeVar("Value")

MAX_LENGTH = 64
"""Maximum number of characters of a name, so that with suffixes it fits a 255-byte file name."""
MAX_QUOTED = 120
"""Maximum number of characters of a name that an error message quotes."""
RESERVED_HEADS = {
    "unreadable_images": "unreadable_images.jsonl",
    "images": "images.json",
    "overlays": "the folder overlays",
    "stream": "stream.json and stream.jsonl",
    "backbone": "the backbone in extend.freeze and in checkpoints",
    "pyramid": "the pyramid in extend.freeze and in checkpoints",
}
"""Reserved head name -> its use, either a file that `predict` writes next to those of the heads or
a part of the model."""
_HEAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_OF_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Windows device names, which are reserved with any extension."""
_PATH_IN_TEXT = re.compile(
    r"(?<![\w:/.-])(?:file:/*|[A-Za-z]:[\\/]|~[\w.-]*/|/|\\\\)(?=[^\s\\/])"
    # Folders with any characters. In front of another path there is a space, quote or bracket.
    r"(?:[^\n\\/]*[^\s\\/'\"(\[=:,;][\\/]+)*"
    r"[^\s'\",;()\\/]*"
)
"""Absolute path in a sentence. Its last part ends at a space; what is taken off ends at a slash."""
_SPECIAL = frozenset('/\\:*?"<>|')
"""Path separators, and characters that file names on Windows cannot contain."""


def require_head_names(
    names: Iterable[str], location: str = "", error: type[Exception] = DataError
) -> None:
    """Require head names that can name files and folders in one folder.

    Args:
        names: Names of the heads of one model.
        location: Location of the names, such as a file and a key; prefix of the error message.
        error: Class of the error to raise.

    Raises:
        error: If a name is not a plain file name, is reserved, or differs from another only in
            case.
    """
    prefix, names_by_key = f"{location}: " if location else "", dict[str, str]()
    for name in names:
        folded = name.lower()
        if len(name) > MAX_LENGTH or not _HEAD.fullmatch(name) or _OF_WINDOWS.fullmatch(name):
            raise error(
                f"{prefix}the head name {_quote_name(name)} cannot name a file of predictions; "
                f"use 1 to {MAX_LENGTH} letters (a-z, A-Z), digits, _ and -, beginning with a "
                "letter or digit, and no Windows device name such as CON"
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
    """Return the heads of a recipe unchanged if their names are valid (pydantic validator).

    Raises:
        ValueError: If `require_head_names` rejects a name.
    """
    require_head_names(heads, error=ValueError)
    return heads


def require_file_name(
    name: str, description: str, location: str = "", error: type[Exception] = DataError
) -> None:
    """Require a name that a file or a folder can have on any operating system.

    Args:
        name: Single component of a path, without extension; letters of any script are allowed.
        description: Kind of name, such as `split`.
        location: Location of the name, such as a file and a key; prefix of the error message.
        error: Class of the error to raise.

    Raises:
        error: If the name is empty or too long, contains a path separator or a character that file
            names cannot contain, begins with a dot or space, ends in a dot or space, or is a device
            name of Windows.
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
            "no dot or space at either end, and no Windows device name such as CON"
        )


def require_class_names(
    names: Iterable[str], location: str = "", error: type[Exception] = DataError
) -> None:
    """Require class names without control characters; they are free text and never part of a path.

    Args:
        names: Names of classes.
        location: Location of the names, such as a file and a key; prefix of the error message.
        error: Class of the error to raise.

    Raises:
        error: If a name contains a control character, such as a line break, a zero byte or a
            terminal escape sequence.
    """
    for name in names:
        if _has_control_characters(name):
            place = f"{location}: " if location else ""
            raise error(
                f"{place}the class name {_quote_name(name)} contains a control character, so that "
                "it cannot be stored in XML or in a list of names; rename the class"
            )


def is_machine_path(path: str) -> bool:
    """Return whether a path starts at a root or drive, on POSIX or on Windows."""
    return PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive != ""


def remove_folders(text: str) -> str:
    """Reduce a path, or the absolute paths in a sentence, to file names."""
    if is_machine_path(text) and len(_PATH_IN_TEXT.findall(text)) < 2:
        # PureWindowsPath splits at slashes as well as at backslashes.
        return PureWindowsPath(text).name
    return _PATH_IN_TEXT.sub(lambda match: PureWindowsPath(match[0]).name, text)


def is_inside(name: str) -> bool:
    """Return whether a relative file name stays inside its folder, on any operating system."""
    parts = name.replace("\\", "/").split("/")
    is_rooted = parts[0] == "" or parts[0][1:2] == ":"
    return not is_rooted and ".." not in parts and "\0" not in name


def _has_control_characters(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def _quote_name(name: str) -> str:
    """Return a name as error messages quote it: escaped and shortened."""
    return repr(name) if len(name) <= MAX_QUOTED else f"{name[:MAX_QUOTED]!r}…"
