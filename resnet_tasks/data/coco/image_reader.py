"""Validation of the image records of a COCO file, with safe repairs and a finding for each."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from resnet_tasks.data.coco.field_values import (
    format_value,
    is_id,
    is_length,
    is_spacing,
    to_whole_id,
)
from resnet_tasks.data.coco.problems import Findings, Id
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.images.image_files import try_read_image_size
from resnet_tasks.files.safe_names import is_inside

_BOOKKEEPING = frozenset(
    {"id", "file_name", "height", "width", "sem_seg_file_name", "group", "spacing"}
    | {"license", "coco_url", "flickr_url", "date_captured"}
)


class ImageReader:
    """Reader that validates the image records of a file in one pass.

    Args:
        root: Folder of the images.
        findings: Collector of the problems.
        allow_outside: Whether to accept file names outside `root`; see `read_coco`.
    """

    def __init__(self, root: Path, findings: Findings, *, allow_outside: bool = False) -> None:
        self._root = root
        self._allow_outside = allow_outside
        self._findings = findings
        self._ids: set[Id] = set()
        self._names: set[str] = set()

    def read(self, position: int, raw: Any) -> ImageRecord | None:
        """Return the record, or None after adding a finding if it cannot be used.

        Args:
            position: Index in the file's `images`.
            raw: Decoded JSON of the record.
        """
        self._findings.location = ("images", position)
        record = self._parse_image(position, raw)
        if record is None:
            return None
        if record.id in self._ids:
            self._findings.add("duplicate_image", record.id, detail=record.file_name)
        if record.file_name in self._names:
            self._findings.add("repeated_file", record.id, detail=record.file_name)
        self._ids.add(record.id)
        self._names.add(record.file_name)
        return record

    def _parse_image(self, position: int, raw: Any) -> ImageRecord | None:
        root, findings = self._root, self._findings
        if not isinstance(raw, dict):
            findings.add("image_record", detail=f"images[{position}] is {format_value(raw)}")
            return None
        image_id, name = to_whole_id(raw.get("id")), _get_file_name(raw)
        if not is_id(image_id):
            findings.add(
                "image_record", detail=f"images[{position}] has id {format_value(image_id)}"
            )
            return None
        if not isinstance(name, str) or not name:
            findings.add("image_record", image_id, detail=f"file_name {format_value(name)}")
            return None
        semantic = raw.get("sem_seg_file_name")
        for file_name in (name, semantic):
            if file_name is not None and not self._is_allowed(file_name):
                findings.add("image_path", image_id, detail=str(file_name))
                return None
        height, width = raw.get("height"), raw.get("width")
        if height in (None, 0) and width in (None, 0):
            size = try_read_image_size(root / name)
            if size is None:
                stated = "no height and width" if height is width is None else "size 0 x 0"
                detail = f"{stated}, and {root / name} cannot be read"
                findings.add("image_record", image_id, detail=detail)
                return None
            findings.add("missing_size", image_id)
            height, width = size
        if not (is_length(height) and is_length(width)):
            detail = f"height {format_value(height)}, width {format_value(width)}"
            findings.add("image_record", image_id, detail=detail)
            return None
        group, spacing = raw.get("group"), raw.get("spacing")
        if spacing is not None and not is_spacing(spacing):
            findings.add("bad_spacing", image_id, detail=f"spacing {format_value(spacing)}")
            return None
        return ImageRecord(
            id=image_id,
            file_name=name,
            height=int(height),
            width=int(width),
            sem_seg_file_name=semantic,
            group=None if group is None else str(group),
            spacing=None if spacing is None else (float(spacing[0]), float(spacing[1])),
            extra={key: value for key, value in raw.items() if key not in _BOOKKEEPING},
        )

    def _is_allowed(self, name: object) -> bool:
        return isinstance(name, str) and (self._allow_outside or is_inside(name))


def _get_file_name(raw: dict[str, Any]) -> Any:
    """Return the file name, or the folder and name at the end of LVIS's `coco_url`."""
    url = raw.get("coco_url")
    if raw.get("file_name") is None and isinstance(url, str):
        return "/".join(PurePosixPath(url).parts[-2:])
    return raw.get("file_name")
