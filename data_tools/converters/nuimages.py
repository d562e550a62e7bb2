"""Converter for nuImages: database tables per split, masks as run lengths in base64.

    ROOT/v1.0-train/TABLE.json    sample_data, sample, log, category, attribute, object_ann,
                                  surface_ann; the same for v1.0-val, else v1.0-mini
    ROOT/samples/CAMERA/NAME.jpg  the annotated images

Fields are those of the development kit's `docs/schema_nuimages.md`. A row of `object_ann` has
`sample_data_token`, `category_token`, `attribute_tokens`, `bbox` [xmin, ymin, xmax, ymax] and
`mask`. A row of `surface_ann` has `mask` without a box. Only key frames of cameras are annotated.
The annotations of test are not public.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.reading.image_io import measure_stated_size
from data_tools.reading.json_streaming import stream_objects
from data_tools.reading.source_folder import require_parts
from data_tools.shapes.boxes import clip_corners
from data_tools.shapes.outlines import is_number
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, ProgressCounter
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.errors import DataError, format_allowed

SPLITS = ("train", "val")
MINI = "mini"
TABLES = ("sample_data", "sample", "log", "category", "attribute", "object_ann", "surface_ann")
EGO = "vehicle.ego"
"""Category of the car that carries the camera: a surface whose pixels are void."""
OTHER = "other"
"""Class of the objects of categories that `rename` does not have."""
SURFACES = ("flat.driveable_surface",)

Row = dict[str, Any]
LocatedRows = list[tuple[str, Row]]
"""Rows, each with its location in the table."""
_AnnotatedImage = tuple[Row, LocatedRows, LocatedRows]
"""Image with the rows of its objects and of its surfaces."""


@dataclass(frozen=True)
class _SplitTables:
    """Tables of one split, and the classes of its objects.

    Attributes:
        folder: Folder of the tables.
        categories: Token -> name.
        attributes: Token -> name.
        groups: Token of a sample -> name of its log.
        things: Classes of objects in order.
        rename: Category -> class; empty if every category is a class.
    """

    folder: Path
    categories: Mapping[str, str]
    attributes: Mapping[str, str]
    groups: Mapping[str, str]
    things: tuple[str, ...]
    rename: Mapping[str, str]


def convert_nuimages(
    source: Path,
    out: Path,
    *,
    version: str = "v1.0",
    rename: Mapping[str, str] | None = None,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert train and val to COCO JSON with boxes, masks and label maps.

    Label maps contain the drivable surface and, over it, the objects, larger ones first, as the
    development kit draws them. The ego vehicle is void and everything else is unlabeled. The group
    of an image is its log. The rows of a split are kept in memory (about 1 kB per object).

    Args:
        source: Folder that contains `samples` and the folders of the tables.
        out: Folder for the JSON files and `semantic/`.
        version: Prefix of the folders of the tables.
        rename: Category of an object -> class; default: every category is a class. Objects of other
            categories become crowd objects of the class `other`.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a table, row, token, mask or image is missing or invalid; the message names
            it.
    """
    require_parts(source, ())
    folders = {split: source / f"{version}-{split}" for split in SPLITS}
    folders = {split: folder for split, folder in folders.items() if folder.is_dir()}
    is_mini = not folders
    if is_mini:
        require_parts(source, (f"{version}-{MINI}",))
        folders = {"train": source / f"{version}-{MINI}"}
    tables_by_split = {
        split: _read_split(folder, rename or {}) for split, folder in folders.items()
    }
    things = tuple(dict.fromkeys(name for t in tables_by_split.values() for name in t.things))
    tables_by_split = {split: replace(t, things=things) for split, t in tables_by_split.items()}
    images = {split: _list_images(tables) for split, tables in tables_by_split.items()}
    count = ProgressCounter(sum(map(len, images.values())), progress)
    dataset = DatasetWriter(
        out,
        [*map(CategorySpec, things), *(CategorySpec(name, isthing=False) for name in SURFACES)],
        annotated=("boxes", "masks", "semantic"),
        description=f"Converted from nuImages, {version}-{MINI if is_mini else '{split}'}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )

    def add_image(writer: CocoWriter, image: _AnnotatedImage) -> None:
        _add_image(writer, source, tables_by_split[writer.split], *image)

    def finish_split(writer: CocoWriter) -> None:
        if is_mini:
            writer.report.add_note("nuImages mini, 50 images, stands in for train")

    samples = {
        split: count.track(_read_annotations(tables_by_split[split].folder, rows))
        for split, rows in images.items()
    }
    return dataset.write(samples, add_image, finish_split)


def _read_split(folder: Path, rename: Mapping[str, str]) -> _SplitTables:
    require_parts(folder, tuple(f"{table}.json" for table in TABLES))
    categories = _read_names(folder, "category", "name")
    logs = _read_names(folder, "log", "logfile")
    groups = {}
    for location, row in _read_table(folder, "sample"):
        token = _get_field(row, "log_token", str, location)
        groups[_get_field(row, "token", str, location)] = _look_up(logs, token, "log", location)
    names = sorted(set(categories.values()) - {EGO, *SURFACES})
    for name, label in rename.items():
        if name not in names:
            raise DataError(f"rename has {name!r}; the categories are {format_allowed(names)}")
        if label in SURFACES:
            raise DataError(
                f"rename maps {name!r} to {label!r}, which is a surface; choose another class"
            )
    labels = [rename.get(name, OTHER) for name in (*rename, *names)] if rename else names
    things = tuple(dict.fromkeys(labels))
    attributes = _read_names(folder, "attribute", "name")
    return _SplitTables(folder, categories, attributes, groups, things, rename)


def _read_table(folder: Path, table: str) -> Iterator[tuple[str, Row]]:
    file = folder / f"{table}.json"
    for number, row in enumerate(stream_objects(file)):
        yield f"{file}, row {number} ({row.get('token')})", row


def _read_names(folder: Path, table: str, key: str) -> dict[str, str]:
    return {
        _get_field(row, "token", str, location): _get_field(row, key, str, location)
        for location, row in _read_table(folder, table)
    }


def _get_field(row: Row, key: str, kind: type, location: str) -> Any:
    value = row.get(key)
    if type(value) is not kind:
        raise DataError(
            f"{location} has {value!r:.60} as {key}; it must be of the type {kind.__name__}"
        )
    return value


def _look_up(names: Mapping[str, str], token: str, table: str, location: str) -> str:
    if token not in names:
        raise DataError(f"{location} names {token!r}, which {table}.json does not have")
    return names[token]


def _list_images(split: _SplitTables) -> list[Row]:
    image_rows = []
    for location, row in _read_table(split.folder, "sample_data"):
        # Neither lidar sweeps nor frames between key frames are annotated.
        if row.get("is_key_frame") is not True or row.get("fileformat") == "pcd":
            continue
        name = _get_field(row, "filename", str, location)
        if PurePosixPath(name).suffix not in (".jpg", ".jpeg", ".png"):
            continue
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{location} has the filename {name!r}; it must lie inside the source")
        group = _look_up(
            split.groups, _get_field(row, "sample_token", str, location), "sample", location
        )
        size = (_get_field(row, "height", int, location), _get_field(row, "width", int, location))
        token = _get_field(row, "token", str, location)
        image_rows.append(
            {"token": token, "name": name, "group": group, "size": size, "where": location}
        )
    return image_rows


def _group_by_image(folder: Path, table: str) -> dict[str, LocatedRows]:
    rows_by_image: dict[str, LocatedRows] = {}
    for location, row in _read_table(folder, table):
        rows_by_image.setdefault(_get_field(row, "sample_data_token", str, location), []).append(
            (location, row)
        )
    return rows_by_image


def _read_annotations(folder: Path, image_rows: Sequence[Row]) -> Iterator[_AnnotatedImage]:
    """Yield the images of a split with the rows of their objects and surfaces.

    Raises:
        DataError: If a table is missing or invalid, or a row belongs to none of the images.
    """
    objects, surfaces = (_group_by_image(folder, t) for t in ("object_ann", "surface_ann"))
    for row in image_rows:
        token = str(row["token"])
        yield row, objects.pop(token, []), surfaces.pop(token, [])
    for location, row in chain(*objects.values(), *surfaces.values()):
        raise DataError(
            f"{location} belongs to the image {row['sample_data_token']!r}, which is not a key "
            "frame of sample_data.json"
        )


def _add_image(
    writer: CocoWriter,
    source: Path,
    split: _SplitTables,
    row: Row,
    objects: LocatedRows,
    surfaces: LocatedRows,
) -> None:
    image, size = source / row["name"], row["size"]
    measure_stated_size(image, size, f"{row['where']} states the size")
    image_id = writer.add_image(image, size=size, group=row["group"])
    names = [*split.things, *SURFACES]
    ids = np.zeros(size, np.int64)
    for location, annotation in surfaces:
        mask = _parse_mask(annotation, size, location)
        name = _get_category(annotation, split, location)
        if name != EGO and name not in SURFACES:
            raise DataError(
                f"{location} is a surface of the category {name!r}; expected {SURFACES[0]}"
            )
        if mask is not None:
            ids[mask] = writer.void if name == EGO else names.index(name) + 1
    object_masks: list[tuple[int, int, NDArray[np.bool_]]] = []
    for location, annotation in objects:
        name = _get_category(annotation, split, location)
        if name == EGO or name in SURFACES:
            raise DataError(f"{location} is an object of the category {name!r}, which is a surface")
        label = split.rename.get(name, OTHER) if split.rename else name
        attributes = _parse_attributes(annotation, split, location) | (
            {"category": name} if split.rename else {}
        )
        iscrowd = bool(split.rename) and name not in split.rename
        mask = _add_object(writer, image_id, annotation, label, attributes, iscrowd, location)
        if mask is not None:
            value = writer.void if iscrowd else names.index(label) + 1
            object_masks.append((int(mask.sum()), value, mask))
    # Larger objects first, so that small objects stay visible.
    for _, value, mask in sorted(object_masks, key=lambda object_mask: -object_mask[0]):
        ids[mask] = value
    writer.add_semantic(image_id, ids)


def _add_object(
    writer: CocoWriter,
    image_id: int,
    row: Row,
    label: str,
    attributes: dict[str, Any],
    iscrowd: bool,
    location: str,
) -> NDArray[np.bool_] | None:
    """Add an object by its mask, else by its box, and return the mask."""
    size = writer.get_image_size(image_id)
    edges = _get_field(row, "bbox", list, location)
    if len(edges) != 4 or not all(map(is_number, edges)):
        raise DataError(f"{location} has the bbox {edges!r:.60}; it needs [xmin, ymin, xmax, ymax]")
    box = clip_corners(edges, size)
    mask = _parse_mask(row, size, location)
    if mask is not None and mask.any():
        writer.add_mask(image_id, label, mask, iscrowd=iscrowd, attributes=attributes, box=box)
        return mask
    if box is not None:
        writer.add_box(image_id, label, box, iscrowd=iscrowd, attributes=attributes)
    else:
        writer.report.skip(
            location, label, "it has neither a mask nor a box with area inside the image"
        )
    return None


def _get_category(row: Row, split: _SplitTables, location: str) -> str:
    token = _get_field(row, "category_token", str, location)
    return _look_up(split.categories, token, "category", location)


def _parse_attributes(row: Row, split: _SplitTables, location: str) -> dict[str, Any]:
    tokens = row.get("attribute_tokens") or []
    if not isinstance(tokens, list):
        raise DataError(f"{location} has {tokens!r:.60} as attribute_tokens; it must be a list")
    names = [_look_up(split.attributes, str(token), "attribute", location) for token in tokens]
    # `vehicle.parked` is the value `parked` of the attribute `vehicle`.
    return {name.rpartition(".")[0] or name: name.rpartition(".")[2] for name in names}


def _parse_mask(row: Row, size: tuple[int, int], location: str) -> NDArray[np.bool_] | None:
    raw = row.get("mask")
    if raw is None:
        return None
    try:
        counts = base64.b64decode(raw["counts"], validate=True)
        return decode_mask({"size": raw["size"], "counts": counts}, *size)
    except (TypeError, KeyError, binascii.Error, ValueError, DataError):
        raise DataError(
            f"{location} has a mask that is not base64-encoded run lengths of the size "
            f"{list(size)} (height, width): {raw!r:.60}"
        ) from None
