"""COCO files taken apart record by record: the whole file never becomes Python objects at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import msgspec

from resnet_tasks.data.coco.problems import format_value
from resnet_tasks.data.coco.top_level import require_coco
from resnet_tasks.errors import DataError
from resnet_tasks.files.atomic import json_text
from resnet_tasks.files.json_files import read_json

LISTS = ("images", "annotations")
"""Keys whose entries are many."""


@dataclass(frozen=True)
class CocoContent:
    """A COCO file whose records are decoded when they are asked for.

    Attributes:
        top: The file's keys in its order; `images` and `annotations` are lists of entries that are
            still text (`msgspec.Raw`), all else is decoded.
    """

    top: dict[str, Any]

    def iter_entries(self, key: str) -> Iterator[Any]:
        """The records under `images` or `annotations`, decoded one at a time."""
        return map(decode_record, self.top.get(key) or ())

    def iter_annotation_ids(self) -> Iterator[Any]:
        """The ids of all annotations; None where one has none."""
        for entry in self.top.get("annotations") or ():
            if isinstance(entry, msgspec.Raw) and bytes(memoryview(entry)[:1]) == b"{":
                yield msgspec.json.decode(entry, type=_HasId).id
            else:
                yield entry.get("id") if isinstance(entry, dict) else None


class _HasId(msgspec.Struct):
    id: Any = None


def open_content(path: Path) -> CocoContent:
    """A COCO file; what is in its records is not looked at.

    Raises:
        DataError: If it is not there, no JSON, or no COCO file at all.
    """
    try:
        parts = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
        top = {key: _decode_value(key, raw) for key, raw in parts.items()}
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        # What is unusual (NaN, other encodings) or no JSON at all: read in one piece, or explained.
        top = read_json(path)
    return CocoContent(require_coco(path, top))


def decode_record(entry: Any) -> Any:
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
        raise DataError(f"is not JSON: {error}, in {format_value(text)}") from None


def write_content(
    stream: TextIO, top: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]
) -> None:
    """Writes a COCO file, its records one a line; those that are still text stay as they are.

    Args:
        stream: Where to.
        top: The file's keys in order.
        lists: What stands for `images` and `annotations` in place of what `top` holds.
    """
    for number, (key, value) in enumerate(top.items()):
        stream.write(f"{',' if number else '{'}\n{json.dumps(key)}: ")
        if key not in lists:
            stream.write(json_text(value, is_lossless=True))
            continue
        stream.write("[")
        for place, entry in enumerate(lists[key]):
            stream.write(",\n" if place else "\n")
            stream.write(_encode_record(entry))
        stream.write("\n]")
    stream.write("\n}\n")


def relocate_info(
    info: Mapping[str, Any], roots: Mapping[str, Path], folder: Path
) -> dict[str, Any]:
    """The `info` of a file that is written to another folder: its images are found from there.

    Args:
        info: Of the file as it was read.
        roots: `images_root` and `sem_seg_root`: where the folders lie.
        folder: Where the file will lie.
    """
    relocated = dict(info)
    for key, root in roots.items():
        folder_path, root_path = os.path.realpath(folder), os.path.realpath(root)
        if os.path.realpath(folder / str(info.get(key) or "")) == root_path:
            continue
        try:
            relocated[key] = Path(os.path.relpath(root_path, folder_path)).as_posix()
        except ValueError:  # another drive
            relocated[key] = Path(root_path).as_posix()
    return relocated


def _encode_record(entry: Any) -> str:
    if isinstance(entry, msgspec.Raw):
        return bytes(entry).decode("utf-8")
    return json_text(entry, is_lossless=True)


def _decode_value(key: str, raw: msgspec.Raw) -> Any:
    if key in LISTS and bytes(memoryview(raw)[:1]) == b"[":
        return msgspec.json.decode(raw, type=list[msgspec.Raw])
    return msgspec.json.decode(raw)
