"""Decoding of the JSON of COCO files: the only module that knows its records as JSON.

`open_content` leaves the records undecoded, so that a file of any content is read one record at a
time. `decode_file` and `iter_detections` decode files of the usual form in bulk, as typed records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TextIO, TypedDict, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import require_category_count
from resnet_tasks.data.coco.field_values import format_value
from resnet_tasks.data.coco.top_level import require_coco
from resnet_tasks.errors import DataError
from resnet_tasks.files.atomic import json_text
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.files.json_files import (
    TOO_DEEP,
    parse_json,
    read_json_bytes,
    require_shallow,
)
from resnet_tasks.files.regular_files import read_file_or_pipe

LISTS = ("images", "annotations")
"""Keys whose lists have many entries and are decoded record by record."""
CHUNK_BYTES = 1 << 18
"""Number of bytes of a results file that are decoded at a time."""

_NOT_DECODABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
UNUSUAL = (OSError, OverflowError, *_NOT_DECODABLE)
"""Errors of a file that cannot be decoded in bulk. It may still be readable entry by entry."""

_BETWEEN_ENTRIES = re.compile(rb"\}\s*,\s*(?=\{)")

File = TypeVar("File")
Entry = TypeVar("Entry")
Box = tuple[float, float, float, float]


# Structs without containers need no tracking by the garbage collector (gc=False).
class ImageName(msgspec.Struct, gc=False):
    """Image record, limited to the fields that identify the image file and its group."""

    file_name: str
    raw_group: str | int | float | None = msgspec.field(name="group", default=None)

    @property
    def group(self) -> str | None:
        """Patient, study or sequence."""
        return None if self.raw_group is None else str(self.raw_group)


class ImageEntry(ImageName, kw_only=True, gc=False):
    """Image record of the usual form."""

    id: int
    height: int
    width: int


class AnnotationEntry(msgspec.Struct, gc=False):
    """Annotation of the usual form, its segmentation undecoded."""

    id: int
    image_id: int
    category_id: int
    bbox: Box
    area: float
    iscrowd: int
    segmentation: msgspec.Raw = msgspec.Raw()


class Detection(msgspec.Struct, gc=False):
    """Entry of a results file of boxes."""

    image_id: int
    category_id: int
    bbox: Box
    score: float


class CompressedMask(TypedDict):
    """Compressed run lengths as text."""

    size: list[int]
    counts: str


class MaskDetection(msgspec.Struct, gc=False):
    """Entry of a results file of masks, with or without a box."""

    image_id: int
    category_id: int
    segmentation: CompressedMask
    score: float
    bbox: Box | None = None


class ImageNames(msgspec.Struct):
    """COCO file without its annotations."""

    images: list[ImageName]
    info: Any = None


class CocoEntries(msgspec.Struct):
    """COCO file whose records have the usual form."""

    images: list[ImageEntry]
    annotations: list[AnnotationEntry]
    raw_categories: msgspec.Raw = msgspec.field(name="categories")

    def decode_categories(self) -> Any:
        """Return the decoded `categories`.

        Raises:
            DataError: If there are too many.
        """
        return _decode_value("categories", self.raw_categories)


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
    except _NOT_DECODABLE:
        # Unusual JSON (NaN, other encodings) is parsed as a whole. Invalid JSON raises a DataError
        # that explains the fault.
        top = parse_json(content, path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    for key in LISTS if accept_keyed and isinstance(top, dict) else ():
        if isinstance(top.get(key), dict):
            top[key] = list(top[key].values())
    return CocoContent(require_coco(path, top, _decode_first_annotation(top)))


def _decode_first_annotation(top: Any) -> Any:
    entries = top.get("annotations") if isinstance(top, dict) else None
    if not isinstance(entries, list) or not entries:
        return None
    try:
        return decode_record(entries[0])
    except DataError:
        return None  # the reader reports it with its position


def decode_record(entry: Any) -> Any:
    """Return one record as Python objects.

    Raises:
        DataError: If the record is not JSON.
    """
    if not isinstance(entry, msgspec.Raw):
        return entry
    text = bytes(entry)
    try:
        try:
            value = msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeError):
            value = json.loads(text)  # also accepts integers beyond the range of floats
        require_shallow(text)
        return value
    except RecursionError:
        raise DataError(f"is damaged: {TOO_DEEP}, in {format_value(text)}") from None
    except ValueError as error:
        raise DataError(f"is not JSON: {error}, in {format_value(text)}") from None


def decode_key(entry: Any, key: Literal["id", "image_id"]) -> Any:
    """Return one value of a record, None if it has no such key; other values are not decoded.

    Raises:
        DataError: If the record is not JSON.
    """
    if isinstance(entry, msgspec.Raw):
        try:
            return getattr(msgspec.json.decode(entry, type=_Ids), key)
        except _NOT_DECODABLE:
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
        stream.write(f"{',' if number else '{'}\n{encode_json(key)}: ")
        if key not in lists:
            stream.write(json_text(value, is_lossless=True))
            continue
        stream.write("[")
        for place, entry in enumerate(lists[key]):
            stream.write(",\n" if place else "\n")
            stream.write(_encode_record(entry))
        stream.write("\n]")
    stream.write("\n}\n")


def decode_file(path: Path, kind: type[File]) -> File | None:
    """Return a file as typed records, or None if it cannot be read or has another form.

    Args:
        path: Path of the JSON file.
        kind: Type of the content, `CocoEntries` or `ImageNames`.
    """
    try:
        return msgspec.json.decode(read_file_or_pipe(path), type=kind)
    except UNUSUAL:
        return None


def iter_detections(path: Path, kind: type[Entry]) -> Iterator[list[Entry]]:
    """Decode a results file, some entries at a time.

    Args:
        path: Path of the JSON file.
        kind: Type of its entries, `Detection` or `MaskDetection`.

    Raises:
        UNUSUAL: If the file cannot be read or has another form.
    """
    decoder = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
    yield from map(decoder.decode, _split_list(read_file_or_pipe(path)))


def extract_column(records: Sequence[Any], name: str, kind: Any) -> NDArray[Any]:
    """Return one field of typed records as an array of type `kind`.

    Raises:
        OverflowError: If an integer does not fit into 64 bits.
    """
    return np.fromiter(map(attrgetter(name), records), kind, len(records))


def extract_boxes(records: Sequence[Any]) -> NDArray[np.float64]:
    """Return the `(N, 4)` float64 xywh boxes of typed records."""
    flat = chain.from_iterable(map(attrgetter("bbox"), records))
    return np.fromiter(flat, np.float64, 4 * len(records)).reshape(-1, 4)


def extract_segmentations(entries: Sequence[AnnotationEntry]) -> list[bytes | memoryview]:
    """Return the segmentations as JSON, empty for annotations without one.

    Raises:
        UNUSUAL: If one cannot be decoded, for example because a number is out of range.
    """
    texts: list[bytes | memoryview] = []
    for entry in entries:
        text = memoryview(entry.segmentation)
        is_present = len(text) > 0 and msgspec.json.decode(text) is not None
        require_shallow(bytes(text))
        texts.append(text if is_present else b"")
    return texts


def _split_list(raw: bytes) -> Iterator[bytes]:
    """Split a JSON list of objects into several shorter lists, cut between objects."""
    text = memoryview(raw)
    begin, end = raw.find(b"["), raw.rfind(b"]")
    if end - begin <= CHUNK_BYTES or raw[:begin].strip() or raw[end + 1 :].strip():
        yield raw
        return
    begin += 1
    while begin < end:
        # A cut inside a string or a nested object gives invalid JSON, so that decoding fails and
        # the file is read entry by entry.
        cut = _BETWEEN_ENTRIES.search(raw, min(begin + CHUNK_BYTES, end), end)
        stop = end if cut is None else cut.start() + 1
        yield b"[" + text[begin:stop] + b"]"
        begin = end if cut is None else cut.end()


def _encode_record(entry: Any) -> str:
    if isinstance(entry, msgspec.Raw):
        return bytes(entry).decode("utf-8")
    return json_text(entry, is_lossless=True)


def _decode_value(key: str, raw: msgspec.Raw) -> Any:
    if key in LISTS and bytes(memoryview(raw)[:1]) == b"[":
        return msgspec.json.decode(raw, type=list[msgspec.Raw])
    if key == "categories" and bytes(memoryview(raw)[:1]) == b"[":
        # Counted before each of them becomes a Python object of several hundred bytes.
        require_category_count(len(msgspec.json.decode(raw, type=list[msgspec.Raw])))
    value = msgspec.json.decode(raw)
    require_shallow(bytes(raw))
    return value
