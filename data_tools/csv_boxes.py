"""Pictures or DICOM files with boxes in CSV tables, as VinDr-CXR and RSNA publish them.

    ROOT/annotations/annotations_train.csv   image_id,rad_id,class_name,x_min,y_min,x_max,y_max
    ROOT/train/IMAGE_ID.dicom                the pictures, at any depth; same for `val` and `test`
    ROOT/train.csv                           the table where there is one split

A row of the class `No finding` says that somebody looked and found nothing: the picture is there,
without a box. A picture without any row was looked at by nobody and is left out. DICOM files are
written as pictures, others are referred to or copied.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_tools.box_tables import TableBox, TablePicture, merged, read_box_table
from data_tools.coco_writer import Category, CocoWriter
from data_tools.dicom import DICOM_SUFFIXES, AddedFrame, add_frames, open_dicom
from data_tools.dicom_reading import DicomReading, is_dicom
from data_tools.picture_io import picture_size
from data_tools.progress import PictureCount, Progress
from data_tools.source_folder import PICTURE_SUFFIXES, SPLITS, listing, require_parts
from data_tools.split_summary import SplitSummary
from resnet_tasks.errors import DataError

TABLES = ("annotations/annotations_{split}.csv", "annotations_{split}.csv", "{split}.csv")
"""Where the table of a split may lie."""


def convert_csv_boxes(  # noqa: PLR0913  # each is an option on the command line
    source: Path,
    out: Path,
    *,
    tables: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    classes: Sequence[str] | Mapping[str, str] | None = None,
    empty: str = "No finding",
    readers: str = "all",
    val_fraction: float = 0.0,
    seed: int = 0,
    dicom: DicomReading | None = None,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Converts every native split to COCO JSON with boxes.

    Args:
        source: Folder that holds tables and pictures.
        out: Folder for the JSON files, and `images/` where the pictures are DICOM.
        tables: Split -> its CSV, relative to the source; default: the first of `TABLES`.
        columns: Meaning -> name of a column; see `box_tables.COLUMNS`.
        classes: Names in order of their ids, or what the table calls a class -> its name; default:
            all that occur, by name.
        empty: Class of rows that say that nothing was found.
        readers: `all`: every box of every reader, whose name it keeps; `merged`: one box a finding,
            see `box_tables.merged`; or the name of one reader, with the pictures that they saw.
        val_fraction: Share of `train` that goes to `val`, 0 to below 1, where there is no table for
            `val`; groups stay together, and the share holds on average.
        seed: Of that choice.
        dicom: How DICOM files become pictures.
        copy_images: Copy pictures that are no DICOM beside the JSON instead of referring to them.
        license_name: Licence of the data, for the JSON.
        progress: Called with (done, total) after each picture.

    Returns:
        What was written, by split.

    Raises:
        DataError: If a table, column, picture, class or reader is missing or wrong; the message
            names it.
    """
    require_parts(source, ())
    files = _tables(source, tables)
    read = {
        split: read_box_table(file, columns or {}, empty=empty) for split, file in files.items()
    }
    if not 0 <= val_fraction < 1 or (val_fraction and ("val" in read or "train" not in read)):
        raise DataError(
            f"val_fraction is {val_fraction}; it must be at least 0 and below 1, and needs a table "
            f"for train and none for val (there are tables for {', '.join(read)})"
        )
    names = _class_names(read, files, classes)
    chosen = _seen_by(readers, read)
    reading = dicom or DicomReading()
    found = {split: _find_pictures(source, split, chosen[split], files[split]) for split in chosen}
    is_made = _are_dicom(path for each in found.values() for path in each.values())
    writers = {
        split: CocoWriter(
            out,
            split,
            [Category(name) for name in dict.fromkeys(names.values())],
            annotated=("boxes",),
            images_root=None if is_made else source,
            copy_images=copy_images and not is_made,
            description=f"Converted from a table of boxes, {split}",
            license_name=license_name,
        )
        for split in SPLITS
        if split in read or (split == "val" and val_fraction)
    }
    count = PictureCount(sum(map(len, found.values())), progress)
    for split, paths in found.items():
        for name, path in count.over(paths.items()):
            picture = chosen[split][name]
            source_picture = _SourcePicture(path, name, picture.group, reading, is_dicom=is_made)
            is_held_out = split == "train" and _share(seed, source_picture.unit) < val_fraction
            writer = writers["val" if is_held_out else split]
            boxes = _findings(picture, is_merged=readers == "merged")
            _add_boxes(writer, source_picture.add(writer), boxes, names, files[split])
        _count_unread(writers[split], source, split, read[split], chosen[split])
    if val_fraction and not (writers["val"].summary().images and writers["train"].summary().images):
        raise DataError(
            f"val_fraction {val_fraction} and seed {seed} leave a split empty; change one"
        )
    return tuple(writer.write() for writer in writers.values())


class _SourcePicture:
    """A picture of the source with its group known before it is written.

    Args:
        path: The file.
        name: What the table calls it.
        group: As the table has it; takes the place of what a DICOM file says.
        reading: How DICOM files become pictures.
        is_dicom: Whether it is one.
    """

    def __init__(
        self, path: Path, name: str, group: str | None, reading: DicomReading, *, is_dicom: bool
    ) -> None:
        self.path, self._name = path, name
        self._dicom = open_dicom(path, reading) if is_dicom else None
        self.group = None if group is None else reading.hashed("group", group)
        if self._dicom is not None:
            why = self._dicom.lacks_picture()
            if why is None and self._dicom.num_frames != 1:
                why = f"it has {self._dicom.num_frames} frames"
            if why is not None:
                raise DataError(f"a table names {path}, but {why}; boxes need one picture")
            self.group = self.group or self._dicom.group

    @property
    def unit(self) -> str:
        """What a split must not cut through: the group, else the picture itself."""
        return self.group or self._name

    def add(self, writer: CocoWriter) -> AddedFrame:
        """Adds it to a split."""
        if self._dicom is None:
            size = picture_size(self.path)
            return AddedFrame(writer.add_image(self.path, size=size, group=self.group), size)
        (added,) = add_frames(writer, self._dicom, Path(self._name), self.group)
        return added


def _tables(source: Path, tables: Mapping[str, str] | None) -> dict[str, Path]:
    if tables:
        unknown = [split for split in tables if split not in SPLITS]
        if unknown:
            raise DataError(
                f"tables names the split {unknown[0]!r}; splits are {', '.join(SPLITS)}"
            )
        return {split: source / tables[split] for split in SPLITS if split in tables}
    found: dict[str, Path] = {}
    for split in SPLITS:
        for each in TABLES:
            if (file := source / each.format(split=split)).is_file():
                found.setdefault(split, file)
    if not found:
        raise DataError(
            f"{source} holds no table (none of {', '.join(TABLES).format(split='train')}); there "
            f"is {listing(source)}: name them, for example tables={{train: boxes.csv}}"
        )
    return found


def _class_names(
    read: Mapping[str, Mapping[str, TablePicture]],
    files: Mapping[str, Path],
    classes: Sequence[str] | Mapping[str, str] | None,
) -> dict[str, str]:
    """What the tables call a class -> its name, in order of the ids.

    Raises:
        DataError: If a table has another class, or none has a box.
    """
    first: dict[str, str] = {}
    for split, pictures in read.items():
        for box in (box for picture in pictures.values() for box in picture.boxes):
            first.setdefault(box.label, f"{files[split]}:{box.line}")
    if classes is None:
        if not first:
            raise DataError(
                f"{', '.join(map(str, files.values()))}: no row has a box; give classes"
            )
        return {name: name for name in sorted(first)}
    names = dict(classes) if isinstance(classes, Mapping) else {name: name for name in classes}
    for label, where in first.items():
        if label not in names:
            raise DataError(
                f"{where} has a box of class {label!r}; the classes given are {', '.join(names)}: "
                "add it to them or correct the table"
            )
    return names


def _seen_by(
    readers: str, read: Mapping[str, Mapping[str, TablePicture]]
) -> dict[str, dict[str, TablePicture]]:
    """By split, the pictures that the chosen readers looked at, with their boxes.

    A table without readers (a consensus, as in VinDr-CXR's test split) is taken as it is.

    Raises:
        DataError: If no table has the reader.
    """
    if readers in ("all", "merged"):
        return {split: dict(pictures) for split, pictures in read.items()}
    by_table = {
        split: {reader for picture in pictures.values() for reader in picture.readers}
        for split, pictures in read.items()
    }
    known = set().union(*by_table.values()) - {""}
    if readers not in known:
        raise DataError(
            f"no row is by the reader {readers!r}; readers are "
            f"{', '.join(sorted(known)) or 'not stated'}; choose one, or all, or merged"
        )
    return {
        split: {
            name: replace(each, boxes=[box for box in each.boxes if box.reader in wanted])
            for name, each in pictures.items()
            if each.readers & wanted
        }
        for split, pictures in read.items()
        for wanted in ({readers} if by_table[split] != {""} else {""},)
    }


def _findings(
    picture: TablePicture, *, is_merged: bool
) -> Iterator[tuple[TableBox, Mapping[str, object]]]:
    """Boxes with their attributes."""
    if is_merged:
        yield from ((box, {"readers": count}) for box, count in merged(picture.boxes))
    else:
        yield from ((box, {"reader": box.reader} if box.reader else {}) for box in picture.boxes)


def _find_pictures(
    source: Path, split: str, pictures: Mapping[str, TablePicture], table: Path
) -> dict[str, Path]:
    """File of every picture.

    Raises:
        DataError: If some are missing, or two files could be one picture.
    """
    folder = _folder(source, split)
    files = _picture_files(folder)
    found = {name: files.get(_stem(name), []) for name in pictures}
    missing = [name for name, paths in found.items() if not paths]
    if missing:
        raise DataError(
            f"{table} has rows of {len(missing)} pictures that are not in {folder}, {missing[0]!r} "
            "first; add them, or take the rows out"
        )
    for name, paths in found.items():
        if len(paths) > 1:
            raise DataError(
                f"{table} has rows of {name!r}, which may be {paths[0]} or {paths[1]}; keep one"
            )
    return {name: paths[0] for name, paths in found.items()}


def _folder(source: Path, split: str) -> Path:
    return source / split if (source / split).is_dir() else source


def _picture_files(folder: Path) -> dict[str, list[Path]]:
    """Pictures and DICOM files below a folder by name without suffix."""
    files: dict[str, list[Path]] = {}
    for parent, below, names in os.walk(folder):
        below[:] = sorted(each for each in below if not each.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in (*PICTURE_SUFFIXES, *DICOM_SUFFIXES) or is_dicom(path):
                files.setdefault(_stem(name), []).append(path)
    return files


def _stem(name: str) -> str:
    suffix = Path(name).suffix
    # What looks like a suffix may be the end of `1.2.840.113`.
    return (
        name.removesuffix(suffix)
        if suffix.lower() in (*PICTURE_SUFFIXES, *DICOM_SUFFIXES)
        else name
    )


def _are_dicom(paths: Iterable[Path]) -> bool:
    """Whether the pictures are DICOM files.

    Raises:
        DataError: If some are and some are not.
    """
    kinds: dict[bool, Path] = {}
    for path in paths:
        kinds.setdefault(path.suffix.lower() not in PICTURE_SUFFIXES, path)
    if len(kinds) > 1:
        raise DataError(
            f"{kinds[True]} is a DICOM file, {kinds[False]} is none; convert them apart"
        )
    return True in kinds


def _share(seed: int, unit: str) -> float:
    """A number 0..1 that depends on nothing else."""
    digest = hashlib.blake2b(f"{seed}/{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _add_boxes(
    writer: CocoWriter,
    added: AddedFrame,
    boxes: Iterable[tuple[TableBox, Mapping[str, object]]],
    names: Mapping[str, str],
    table: Path,
) -> None:
    height, width = added.size
    for box, attributes in boxes:
        x1, x2 = (min(max(x * added.scale[1], 0.0), width) for x in box.corners[::2])
        y1, y2 = (min(max(y * added.scale[0], 0.0), height) for y in box.corners[1::2])
        if x2 > x1 and y2 > y1:
            corner = (x1, y1, x2 - x1, y2 - y1)
            writer.add_box(added.image_id, names[box.label], corner, attributes=attributes)
        else:
            what = f"{box.label} (line {box.line}), corners {box.corners}"
            writer.skip(table.name, what, "its box has no area inside the picture")


def _count_unread(
    writer: CocoWriter,
    source: Path,
    split: str,
    read: Mapping[str, TablePicture],
    chosen: Mapping[str, TablePicture],
) -> None:
    """Lists how many pictures are left out because nobody looked at them."""
    if others := len(read) - len(chosen):
        writer.skip(split, f"{others} pictures", "the chosen reader did not look at them")
    # Tables of several splits may share a folder: what the others have is theirs.
    if _folder(source, split) != source:
        named = {_stem(name) for name in read}
        if unread := sum(stem not in named for stem in _picture_files(_folder(source, split))):
            writer.skip(split, f"{unread} pictures", "no row of the table is about them")
