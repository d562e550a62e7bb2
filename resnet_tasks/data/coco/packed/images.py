"""Image records of a COCO file in columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.packed.string_columns import (
    Columns,
    IdColumn,
    TextColumn,
    encode_ids,
    encode_texts,
)
from resnet_tasks.data.coco.problems import Id
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.errors import DataError

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1


def _compute_sort_key(image_id: object) -> int:
    """Return the sort key of an id: the id itself, or a hash that another id may share."""
    if type(image_id) is int and INT64_MIN <= image_id <= INT64_MAX:
        return image_id
    import hashlib  # noqa: PLC0415 - OpenSSL takes 3 MB, and most files have integer ids

    digest = hashlib.blake2b(json.dumps(image_id).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class PackedImages(Sequence[ImageRecord]):
    """Images of a file, whose records are created on request.

    Args:
        columns: Columns in the layout of `from_records`.

    Attributes:
        columns: Columns in the layout of `from_records`.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._ids = IdColumn(columns, "image.id")
        self._names = TextColumn(columns, "image.file_name")
        self._optional_fields = TextColumn(columns, "image.rest")

    @classmethod
    def from_records(cls, records: Iterable[ImageRecord]) -> PackedImages:
        """Pack image records.

        Raises:
            DataError: If two records have the same id.
        """
        records = list(records)
        ids = [record.id for record in records]
        sort_keys = np.fromiter(map(_compute_sort_key, ids), np.int64, len(ids))
        order = np.argsort(sort_keys, kind="stable")
        sizes = [(record.height, record.width) for record in records]
        packed = cls(
            {
                **encode_ids("image.id", ids),
                "image.order": order,
                "image.places": sort_keys[order],
                "image.size": np.asarray(sizes, np.int64).reshape(-1, 2),
                **encode_texts("image.file_name", (record.file_name for record in records)),
                **encode_texts("image.rest", map(_encode_optional_fields, records)),
            }
        )
        if len(set(ids)) < len(ids):
            raise DataError("two images have the same id; give every image a unique id")
        return packed

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedImages, (self.columns,)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """`(P, 2)` int64 height and width of the images in pixels."""
        return self.columns["image.size"]

    def find_position(self, image_id: object) -> int | None:
        """Return the position of the image with this id, or None if the id is unknown."""
        if type(image_id) not in (int, str):
            return None
        sort_keys, sort_key = self.columns["image.places"], _compute_sort_key(image_id)
        # All positions with this sort key are candidates, since hashes may collide. INT64_MAX + 1
        # would overflow, so the largest key is a special case.
        first, last = np.searchsorted(sort_keys, [sort_key, sort_key + (sort_key < INT64_MAX)])
        last = len(sort_keys) if sort_key == INT64_MAX else last
        for position in self.columns["image.order"][first:last].tolist():
            if self._ids[position] == image_id:
                return int(position)
        return None

    @property
    def integer_ids(self) -> NDArray[np.int64] | None:
        """`(P,)` int64 ids of the images in file order, None if an id is of another type."""
        return self.columns.get("image.id")

    def list_ids(self) -> tuple[Id, ...]:
        """Return the ids of all images in file order."""
        if self.integer_ids is not None:
            return tuple(self.integer_ids.tolist())
        return tuple(map(self.get_id, range(len(self))))

    def list_groups(self) -> dict[Id, str]:
        """Return the mapping from image id to group, for the images with a group."""
        return {
            self.get_id(position): optional_fields["group"]
            for position, optional_fields in self.iter_optional_fields()
            if "group" in optional_fields
        }

    def get_id(self, position: int) -> Id:
        """Return the id of the image at a position."""
        return self._ids[position]

    def get_file_name(self, position: int) -> str:
        """Return the file name of the image at a position."""
        return self._names[position]

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, position: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[ImageRecord]: ...
    def __getitem__(self, position: int | slice) -> ImageRecord | Sequence[ImageRecord]:
        if isinstance(position, slice):
            return [self[index] for index in range(*position.indices(len(self)))]
        place = range(len(self))[position]
        height, width = self.sizes[place].tolist()
        optional_fields: dict[str, Any] = json.loads(self._optional_fields[place] or "{}")
        spacing = optional_fields.get("spacing")
        return ImageRecord(
            id=self._ids[place],
            file_name=self._names[place],
            height=height,
            width=width,
            sem_seg_file_name=optional_fields.get("semantic"),
            group=optional_fields.get("group"),
            spacing=None if spacing is None else (spacing[0], spacing[1]),
            extra=optional_fields.get("extra", {}),
        )

    def iter_optional_fields(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield position and optional fields (beyond id, name, size) of the images with any."""
        starts = self.columns["image.rest.starts"]
        for position in np.flatnonzero(np.diff(starts)).tolist():
            yield position, json.loads(self._optional_fields[position])


def _encode_optional_fields(record: ImageRecord) -> str:
    """Return the optional fields as JSON, or an empty string if the record has none."""
    optional_fields = {
        "semantic": record.sem_seg_file_name,
        "group": record.group,
        "spacing": record.spacing,
        "extra": dict(record.extra) or None,
    }
    present = {key: value for key, value in optional_fields.items() if value is not None}
    return json.dumps(present) if present else ""
