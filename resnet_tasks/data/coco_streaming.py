"""COCO files taken apart record by record: the whole file never becomes Python objects at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from resnet_tasks.data.coco_parsing import read_json, require_coco
from resnet_tasks.data.coco_problems import shown
from resnet_tasks.errors import DataError

LISTS = ("images", "annotations")
"""Keys whose entries are many."""


@dataclass(frozen=True)
class Content:
    """A COCO file whose records are decoded when they are asked for.

    Attributes:
        top: The file's keys in its order; `images` and `annotations` are lists of entries that are
            still text (`msgspec.Raw`), all else is decoded.
    """

    top: dict[str, Any]

    def entries(self, key: str) -> Iterator[Any]:
        """The records under `images` or `annotations`, decoded one at a time."""
        return map(decoded, self.top.get(key) or ())


def open_content(path: Path) -> Content:
    """A COCO file; what is in its records is not looked at.

    Raises:
        DataError: If it is not there, no JSON, or no COCO file at all.
    """
    try:
        parts = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
        top = {key: _value(key, raw) for key, raw in parts.items()}
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        # What is unusual (NaN, other encodings) or no JSON at all: read in one piece, or explained.
        top = read_json(path)
    return Content(require_coco(path, top))


def decoded(entry: Any) -> Any:
    """One record as Python objects.

    Raises:
        DataError: If it is no JSON.
    """
    if not isinstance(entry, msgspec.Raw):
        return entry
    try:
        return msgspec.json.decode(entry)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        text = bytes(entry)
    try:
        return json.loads(text)  # takes what is unusual, such as numbers beyond all floats
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}, in {shown(text)}") from None


def _value(key: str, raw: msgspec.Raw) -> Any:
    if key in LISTS and bytes(memoryview(raw)[:1]) == b"[":
        return msgspec.json.decode(raw, type=list[msgspec.Raw])
    return msgspec.json.decode(raw)
