"""Fields of COCO files that conversion does not interpret and copies unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_tasks.data.coco.json_records import open_content

_INTERPRETED = {
    "images": frozenset(
        ("id", "file_name", "height", "width", "sem_seg_file_name", "group", "spacing")
    ),
    "annotations": frozenset(
        (
            *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"),
            *("occluded", "truncated"),
        )
    ),
    "categories": frozenset(("id", "name", "isthing", "supercategory")),
}
_REWRITTEN = frozenset((*_INTERPRETED, "info", "licenses"))

FieldsById = Mapping[int | str, Mapping[str, Any]]


@dataclass(frozen=True)
class CocoExtraFields:
    """Fields of one COCO file that are copied unchanged.

    Attributes:
        images: Id of an image -> other fields, such as `license`, `coco_url` and `attributes`.
        annotations: Id of an annotation -> other fields, such as `attributes` and `keypoints`.
        categories: Id of a category -> other fields, such as `keypoints` and `skeleton`.
        top: Other top-level keys, such as `videos`.
        licenses: Licenses that the file states.
    """

    images: FieldsById
    annotations: FieldsById
    categories: FieldsById
    top: Mapping[str, Any]
    licenses: list[Any]

    @classmethod
    def from_file(cls, file: Path) -> CocoExtraFields:
        """Read the fields of a file that `read_coco` accepts."""
        content = open_content(file, accept_keyed=True)
        licenses = content.top.get("licenses")
        return cls(
            _collect_fields("images", content.iter_entries("images")),
            _collect_fields("annotations", content.iter_entries("annotations")),
            _collect_fields("categories", content.top["categories"]),
            {key: value for key, value in content.top.items() if key not in _REWRITTEN},
            licenses if isinstance(licenses, list) else [],
        )


def _collect_fields(key: str, records: Iterable[Any]) -> dict[int | str, dict[str, Any]]:
    """Return the fields by id. Of several records with one id, only the first keeps the id."""
    fields_by_id: dict[int | str, dict[str, Any]] = {}
    for record in records:
        if not isinstance(record, dict):
            continue
        fields = {name: value for name, value in record.items() if name not in _INTERPRETED[key]}
        if isinstance(record.get("id"), int | str):
            fields_by_id.setdefault(record["id"], fields)
    return fields_by_id
