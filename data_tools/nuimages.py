"""nuImages: tables of one database per split, masks as run lengths in base64.

    ROOT/v1.0-train/TABLE.json    sample_data, sample, log, category, attribute, object_ann,
                                  surface_ann; the same for v1.0-val, else v1.0-mini
    ROOT/samples/CAMERA/NAME.jpg  the annotated pictures

Fields are those of the development kit's `docs/schema_nuimages.md`: a row of `object_ann` has
`sample_data_token`, `category_token`, `attribute_tokens`, `bbox` [xmin, ymin, xmax, ymax] and
`mask`; one of `surface_ann` has `mask` without a box. Only key frames of cameras are annotated. The
annotations of test are not public.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.coco_writer import Category, CocoWriter
from data_tools.json_streaming import stream_objects
from data_tools.outlines import is_number
from data_tools.picture_io import picture_size
from data_tools.progress import PictureCount, Progress
from data_tools.source_folder import require_parts
from data_tools.split_summary import SplitSummary
from resnet_tasks.data.coco_masks import decode_mask
from resnet_tasks.errors import DataError

SPLITS = ("train", "val")
MINI = "mini"
TABLES = ("sample_data", "sample", "log", "category", "attribute", "object_ann", "surface_ann")
EGO = "vehicle.ego"
"""The car that carries the camera: a surface whose pixels are void."""
SURFACES = ("flat.driveable_surface",)

Row = dict[str, Any]
Rows = dict[str, list[tuple[str, Row]]]
"""Token of a picture -> rows, each with where it stands."""


@dataclass(frozen=True)
class _Split:
    """The tables of one split, and what its objects may be.

    Attributes:
        folder: Of the tables.
        categories: Token -> name.
        attributes: Token -> name.
        groups: Token of a sample -> name of its log.
        things: Classes of objects in order.
        rename: Category -> class.
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
    """Converts train and val to COCO JSON with boxes, masks and label maps.

    Label maps hold the driveable surface and, over it, the objects, larger ones first, as the
    development kit draws them; the own car is void, everything else unlabelled. The log that a
    picture comes from is its group. Rows of a split are kept in memory (about 1 kB an object).

    Args:
        source: Folder of `samples` and of the tables' folders.
        out: Folder for the JSON files and `semantic/`.
        version: What the tables' folders begin with.
        rename: Category of an object -> class; default: every category is a class of its own.
            Objects of categories that it does not name become crowd objects of `other`.
        copy_images: Copy the pictures beside the JSON instead of referring to them.
        license_name: Licence of the data, for the JSON.
        progress: Called with (done, total) after each picture.

    Returns:
        What was written, by split.

    Raises:
        DataError: If a table, row, token, mask or picture is missing or wrong; the message says
            which.
    """
    require_parts(source, ())
    folders = {split: source / f"{version}-{split}" for split in SPLITS}
    folders = {split: folder for split, folder in folders.items() if folder.is_dir()}
    if not folders:
        require_parts(source, (f"{version}-{MINI}",))
        folders = {"train": source / f"{version}-{MINI}"}
    read = {split: _read_split(folder, rename or {}) for split, folder in folders.items()}
    pictures = {split: _pictures(each) for split, each in read.items()}
    count = PictureCount(sum(map(len, pictures.values())), progress)
    summaries = []
    for split, tables in read.items():
        writer = CocoWriter(
            out,
            split,
            [*map(Category, tables.things), *(Category(s, isthing=False) for s in SURFACES)],
            annotated=("boxes", "masks", "semantic"),
            images_root=source,
            copy_images=copy_images,
            description=f"Converted from nuImages, {folders[split].name}",
            license_name=license_name,
        )
        if folders[split].name.endswith(MINI):
            writer.note("nuImages mini, 50 pictures, stands in for train")
        objects, surfaces = (_by_picture(tables.folder, t) for t in ("object_ann", "surface_ann"))
        for row in count.over(pictures[split]):
            token = str(row["token"])
            _add_picture(
                writer, source, row, tables, objects.pop(token, []), surfaces.pop(token, [])
            )
        for left in (objects, surfaces):
            for where, row in (each for rows in left.values() for each in rows):
                raise DataError(
                    f"{where} belongs to the picture {row['sample_data_token']!r}, which is no key "
                    "frame of sample_data.json"
                )
        summaries.append(writer.write())
    return tuple(summaries)


def _read_split(folder: Path, rename: Mapping[str, str]) -> _Split:
    require_parts(folder, tuple(f"{table}.json" for table in TABLES))
    categories = _names(folder, "category", "name")
    logs = _names(folder, "log", "logfile")
    groups = {}
    for where, row in _table(folder, "sample"):
        token = _field(row, "log_token", str, where)
        groups[_field(row, "token", str, where)] = _known(logs, token, "log", where)
    names = sorted(set(categories.values()) - {EGO, *SURFACES})
    for name in rename:
        if name not in names:
            raise DataError(f"rename has {name!r}; the categories are {', '.join(names)}")
    things = tuple(dict.fromkeys(rename.values())) if rename else tuple(names)
    if rename and set(names) - set(rename):
        things += ("other",)
    attributes = _names(folder, "attribute", "name")
    return _Split(folder, categories, attributes, groups, things, rename)


def _table(folder: Path, table: str) -> Iterator[tuple[str, Row]]:
    file = folder / f"{table}.json"
    for number, row in enumerate(stream_objects(file)):
        yield f"{file}, row {number} ({row.get('token')})", row


def _names(folder: Path, table: str, key: str) -> dict[str, str]:
    return {
        _field(row, "token", str, where): _field(row, key, str, where)
        for where, row in _table(folder, table)
    }


def _field(row: Row, key: str, kind: type, where: str) -> Any:
    value = row.get(key)
    if type(value) is not kind:
        raise DataError(
            f"{where} has {value!r:.60} as {key}; it must be of the type {kind.__name__}"
        )
    return value


def _known(names: Mapping[str, str], token: str, table: str, where: str) -> str:
    if token not in names:
        raise DataError(f"{where} names {token!r}, which {table}.json does not have")
    return names[token]


def _pictures(split: _Split) -> list[Row]:
    found = []
    for where, row in _table(split.folder, "sample_data"):
        # Lidar sweeps and the frames between key frames have no annotations.
        if row.get("is_key_frame") is not True or row.get("fileformat") == "pcd":
            continue
        name = _field(row, "filename", str, where)
        if PurePosixPath(name).suffix not in (".jpg", ".jpeg", ".png"):
            continue
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{where} has the filename {name!r}; it must lie inside the source")
        group = _known(split.groups, _field(row, "sample_token", str, where), "sample", where)
        size = (_field(row, "height", int, where), _field(row, "width", int, where))
        token = _field(row, "token", str, where)
        found.append({"token": token, "name": name, "group": group, "size": size, "where": where})
    return found


def _by_picture(folder: Path, table: str) -> Rows:
    found: Rows = {}
    for where, row in _table(folder, table):
        found.setdefault(_field(row, "sample_data_token", str, where), []).append((where, row))
    return found


def _add_picture(
    writer: CocoWriter,
    source: Path,
    row: Row,
    split: _Split,
    objects: Sequence[tuple[str, Row]],
    surfaces: Sequence[tuple[str, Row]],
) -> None:
    picture, size = source / row["name"], row["size"]
    actual = picture_size(picture)
    if actual != size:
        raise DataError(
            f"{row['where']} states the size {size} (height, width), but {picture} has {actual}; "
            "put the original picture there"
        )
    image_id = writer.add_image(picture, size=size, group=row["group"])
    names = [*split.things, *SURFACES]
    ids = np.zeros(size, np.int64)
    for where, each in surfaces:
        mask = _mask(each, size, where)
        name = _category(each, split, where)
        if name != EGO and name not in SURFACES:
            raise DataError(f"{where} is a surface of the category {name!r}; want {SURFACES[0]}")
        if mask is not None:
            ids[mask] = writer.void if name == EGO else names.index(name) + 1
    drawn: list[tuple[int, int, NDArray[np.bool_]]] = []
    for where, each in objects:
        name = _category(each, split, where)
        if name == EGO or name in SURFACES:
            raise DataError(f"{where} is an object of the category {name!r}, which is a surface")
        label = split.rename.get(name, "other") if split.rename else name
        known = _attributes(each, split, where) | ({"category": name} if split.rename else {})
        iscrowd = bool(split.rename) and name not in split.rename
        mask = _add_object(writer, image_id, each, label, known, iscrowd, where)
        if mask is not None:
            value = writer.void if iscrowd else names.index(label) + 1
            drawn.append((int(mask.sum()), value, mask))
    for _, value, mask in sorted(drawn, key=lambda each: -each[0]):
        ids[mask] = value
    writer.add_semantic(image_id, ids)


def _add_object(
    writer: CocoWriter,
    image_id: int,
    row: Row,
    label: str,
    attributes: dict[str, Any],
    iscrowd: bool,
    where: str,
) -> NDArray[np.bool_] | None:
    """Adds an object by its mask, else by its box; gives the mask."""
    height, width = size = writer.size_of(image_id)
    edges = _field(row, "bbox", list, where)
    if len(edges) != 4 or not all(map(is_number, edges)):
        raise DataError(f"{where} has the bbox {edges!r:.60}; it needs [xmin, ymin, xmax, ymax]")
    left, right = (min(max(edges[i], 0), width) for i in (0, 2))
    top, bottom = (min(max(edges[i], 0), height) for i in (1, 3))
    mask = _mask(row, size, where)
    has_box = right > left and bottom > top
    if mask is not None and mask.any():
        box = (left, top, right - left, bottom - top) if has_box else None
        writer.add_mask(image_id, label, mask, iscrowd=iscrowd, attributes=attributes, box=box)
        return mask
    if has_box:
        box = (left, top, right - left, bottom - top)
        writer.add_box(image_id, label, box, iscrowd=iscrowd, attributes=attributes)
    else:
        writer.skip(where, label, "it has neither a mask nor a box with area inside the picture")
    return None


def _category(row: Row, split: _Split, where: str) -> str:
    token = _field(row, "category_token", str, where)
    return _known(split.categories, token, "category", where)


def _attributes(row: Row, split: _Split, where: str) -> dict[str, Any]:
    tokens = row.get("attribute_tokens") or []
    if not isinstance(tokens, list):
        raise DataError(f"{where} has {tokens!r:.60} as attribute_tokens; it must be a list")
    names = [_known(split.attributes, str(each), "attribute", where) for each in tokens]
    # `vehicle.parked` is the value parked of the attribute vehicle.
    return {name.rpartition(".")[0] or name: name.rpartition(".")[2] for name in names}


def _mask(row: Row, size: tuple[int, int], where: str) -> NDArray[np.bool_] | None:
    raw = row.get("mask")
    if raw is None:
        return None
    try:
        counts = base64.b64decode(raw["counts"], validate=True)
        return decode_mask({"size": raw["size"], "counts": counts}, *size)
    except (TypeError, KeyError, binascii.Error, ValueError, DataError):
        raise DataError(
            f"{where} has a mask that is no run lengths in base64 of the size {list(size)} "
            f"(height, width): {raw!r:.60}"
        ) from None
