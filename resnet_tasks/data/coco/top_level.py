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


_OTHER_TASKS = {
    "segments_info": (
        "a COCO panoptic file, whose objects and areas are in PNG files",
        "pass the instances file of the same images, or create it with panopticapi's converters",
    ),
    "caption": (
        "a COCO captions file, which has texts and no objects",
        "pass the instances file of the same images",
    ),
    "keypoints": (
        "a COCO keypoints file without boxes, and no head learns keypoints",
        "add the `bbox` of each object, or pass the instances file of the same images",
    ),
}
"""Key of an annotation without box and mask -> description of the file, and the remedy."""


def require_coco(path: Path, raw: Any, first_annotation: Any = None) -> dict[str, Any]:
    """Return the top level of a COCO file after checking its images, annotations and categories.

    Args:
        path: Path of the file, for error messages.
        raw: Decoded JSON of the file.
        first_annotation: Decoded JSON of its first annotation, which shows files of other tasks.

    Raises:
        DataError: If it is not an object, such as a results file, is a file of another task, lacks
            images or categories, or has images or annotations that are not a list.
    """
    if isinstance(raw, list):
        raise DataError(
            f"{path} is a list: that is a COCO results file (predictions); pass the annotation "
            "file, an object with `images`, `annotations` and `categories`"
        )
    if not isinstance(raw, dict):
        raise DataError(f"{path} must contain a COCO object, got {format_value(raw)}")
    _require_objects(path, raw, first_annotation)
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


def _require_objects(path: Path, raw: Mapping[str, Any], annotation: Any) -> None:
    if "videos" in raw and "images" not in raw:
        raise DataError(
            f"{path}: this is a file of video instances, as of YouTube-VIS (it lists `videos` and "
            "no `images`); write a COCO file that lists the frames as images"
        )
    if not isinstance(annotation, dict) or annotation.keys() & {"bbox", "segmentation"}:
        return
    for key, (description, remedy) in _OTHER_TASKS.items():
        if key in annotation:
            raise DataError(
                f"{path}: this is {description} (its annotations have `{key}`); {remedy}"
            )


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
