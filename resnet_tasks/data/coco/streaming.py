"""Access to COCO files record by record, without the whole file as Python objects in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

from resnet_tasks.data.coco.problems import format_value
from resnet_tasks.data.coco.top_level import require_coco
from resnet_tasks.errors import DataError
from resnet_tasks.files.atomic import json_text
from resnet_tasks.files.json_files import parse_json, read_json_bytes

LISTS = ("images", "annotations")
"""Keys whose lists have many entries and are decoded record by record."""


@dataclass(frozen=True)
class CocoContent:
    """COCO file whose records are decoded on request.

    Attributes:
        top: Top-level keys in file order. `images` and `annotations` are lists of entries in
            undecoded text (`msgspec.Raw`); all other values are decoded.
    """

    top: dict[str, Any]

    def iter_entries(self, key: str) -> Iterator[Any]:
        """Yield the records under `images` or `annotations`, decoded one at a time."""
        return map(decode_record, self.top.get(key) or ())

    def iter_annotation_ids(self) -> Iterator[Any]:
        """Yield the ids of all annotations, None for an annotation without id."""
        for entry in self.top.get("annotations") or ():
            yield decode_key(entry, "id")


def open_content(path: Path, *, accept_keyed: bool = False) -> CocoContent:
    """Open a COCO file without decoding its records.

    Args:
        path: Path of the JSON file.
        accept_keyed: Whether to accept images and annotations as objects of id -> record, and turn
            them into lists.

    Raises:
        DataError: If the file does not exist, is not JSON, or is not a COCO file.
    """
    content = read_json_bytes(path)
    try:
        parts = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        top = {key: _decode_value(key, raw) for key, raw in parts.items()}
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        # Unusual JSON (NaN, other encodings) is parsed as a whole. Invalid JSON raises a DataError
        # that explains the fault.
        top = parse_json(content, path)
    for key in LISTS if accept_keyed and isinstance(top, dict) else ():
        if isinstance(top.get(key), dict):
            top[key] = list(top[key].values())
    return CocoContent(require_coco(path, top))


def decode_record(entry: Any) -> Any:
    """Return one record as Python objects.

    Raises:
        DataError: If the record is not JSON.
    """
    if not isinstance(entry, msgspec.Raw):
        return entry
    try:
        return msgspec.json.decode(entry)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        text = bytes(entry)
    try:
        return json.loads(text)  # also accepts integers beyond the range of floats
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}, in {format_value(text)}") from None


def decode_key(entry: Any, key: Literal["id", "image_id"]) -> Any:
    """Return one value of a record, None if it has no such key; other values are not decoded.

    Raises:
        DataError: If the record is not JSON.
    """
    if isinstance(entry, msgspec.Raw):
        try:
            return getattr(msgspec.json.decode(entry, type=_Ids), key)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            entry = decode_record(entry)
    return entry.get(key) if isinstance(entry, dict) else None


class _Ids(msgspec.Struct):
    id: Any = None
    image_id: Any = None


def write_content(
    stream: TextIO, top: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]
) -> None:
    """Write a COCO file with one record per line; undecoded records are copied unchanged.

    Args:
        stream: Text stream to write to.
        top: Top-level keys in order.
        lists: Entries of `images` and `annotations`, which replace those in `top`.
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
    """Return the `info` for a copy of the file in another folder, with updated image folders.

    Args:
        info: The `info` of the file as it was read.
        roots: Folders of `images_root` and `sem_seg_root`.
        folder: Folder of the copy.
    """
    relocated = dict(info)
    for key, root in roots.items():
        folder_path, root_path = os.path.realpath(folder), os.path.realpath(root)
        if os.path.realpath(folder / str(info.get(key) or "")) == root_path:
            continue
        try:
            relocated[key] = Path(os.path.relpath(root_path, folder_path)).as_posix()
        except ValueError:  # on another drive
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
