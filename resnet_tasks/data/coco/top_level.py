"""Top level of COCO files: required keys, declared kinds of annotations and the image folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resnet_tasks.data.coco.field_values import format_value
from resnet_tasks.data.coco.problems import Findings
from resnet_tasks.errors import DataError, format_list

ANNOTATED = ("boxes", "masks", "semantic", "image")
"""Kinds of annotations that a file can declare."""


def require_coco(path: Path, raw: Any) -> dict[str, Any]:
    """Return the top level of a COCO file after checking its images, annotations and categories.

    Raises:
        DataError: If it is not an object, such as a results file, lacks images or categories, or
            has images or annotations that are not a list.
    """
    if isinstance(raw, list):
        raise DataError(
            f"{path} is a list: that is a COCO results file (predictions); pass the annotation "
            "file, an object with `images`, `annotations` and `categories`"
        )
    if not isinstance(raw, dict):
        raise DataError(f"{path} must contain a COCO object, got {format_value(raw)}")
    for key in ("images", "categories"):
        if key not in raw:
            raise DataError(
                f"{path} has no `{key}` (its keys: {format_list(raw, 20)}); a COCO file needs "
                "`images` and `categories`"
            )
    for key in ("images", "annotations"):
        if not isinstance(raw.get(key, []), list):
            raise DataError(f"{path}: `{key}` must be a list, got {format_value(raw[key])}")
    return raw


def read_info(content: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Return the `info` of a COCO file, empty after adding a finding if the file has none."""
    info = content.get("info")
    if isinstance(info, dict):
        return info
    findings.add("missing_info")
    return {}


def resolve_image_folder(
    path: Path, info: Mapping[str, Any], images_root: str | Path | None = None
) -> Path:
    """Return the folder that the file names of the images are relative to.

    Raises:
        DataError: If `images_root` does not exist, or a folder name in `info` has a zero byte.
    """
    for key in ("images_root", "sem_seg_root"):
        if "\0" in str(info.get(key, "")):
            raise DataError(
                f"{path}: info.{key} contains a null byte, which no folder name can; fix it"
            )
    if images_root is None:
        return path.parent / _get_text(info, "images_root")
    if not Path(images_root).is_dir():
        raise DataError(f"{path}: its image folder {images_root} does not exist; fix `images:`")
    return Path(images_root)


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


def parse_annotated_kinds(path: Path, raw: object) -> frozenset[str]:
    """Return the kinds of annotations that a file or a caller declares.

    Raises:
        DataError: If one is not in `ANNOTATED`.
    """
    kinds = [raw] if isinstance(raw, str) else raw
    if not isinstance(kinds, Iterable):
        raise DataError(
            f"{path}: `annotated` must be a list of {format_list(ANNOTATED)}, got {raw!r}"
        )
    values = list(kinds)
    unknown = [value for value in values if value not in ANNOTATED]
    if unknown:
        raise DataError(
            f"{path}: `annotated` contains {format_list(map(repr, unknown))}; allowed: "
            f"{format_list(ANNOTATED)}"
        )
    return frozenset(map(str, values))


def _get_text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    return value if isinstance(value, str) else ""
