"""Converter for images or DICOM files with boxes in CSV tables, as VinDr-CXR and RSNA publish them.

    ROOT/annotations/annotations_train.csv   image_id,rad_id,class_name,x_min,y_min,x_max,y_max
    ROOT/train/IMAGE_ID.dicom                images, at any depth; the same for `val` and `test`
    ROOT/train.csv                           table of a dataset with one split

A row of the class `No finding` states that a reader looked at the image and found nothing: the
image is converted without a box. An image without any row was not annotated and is skipped. DICOM
files are written as images; other images are referred to or copied. The image column may contain
folders that do not exist, as long as the name of the file identifies the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_tools.converters.csv.images import (
    SourceImage,
    TableEntry,
    are_dicom_files,
    find_folder,
    find_images,
    get_stem,
    list_image_files,
)
from data_tools.converters.csv.tables import TableBox, TableImage, merge_findings, read_box_table
from data_tools.converters.dicom.convert import AddedFrame, open_dicom
from data_tools.converters.dicom.gray_plan import GrayPlan
from data_tools.converters.dicom.options import DicomOptions
from data_tools.reading.class_names import collect_class_names
from data_tools.reading.recorded_paths import RecordedPaths
from data_tools.reading.source_folder import (
    SPLIT_ALIASES,
    SPLITS,
    find_split_folders,
    format_listing,
    hold_out,
    is_file,
    list_split_names,
    require_parts,
)
from data_tools.shapes.boxes import SourceBox, add_clipped_box
from data_tools.shapes.relative_coordinates import require_coordinate_unit
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.images.find_images import list_children
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

TABLES = (
    "annotations/annotations_{split}.csv",
    "annotations_{split}.csv",
    "{split}.csv",
    "{split}/_annotations.csv",
)
"""Paths where the table of a split is looked for, in this order; the last one is Roboflow's."""


def convert_csv_boxes(  # noqa: PLR0913  # each is an option on the command line
    source: Path,
    out: Path,
    *,
    tables: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    classes: Sequence[str] | Mapping[str, str] | None = None,
    empty: str = "No finding",
    readers: str = "all",
    relative: bool = False,
    val_fraction: float = 0.0,
    seed: int = 0,
    dicom: DicomOptions | None = None,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert every native split to COCO JSON with boxes.

    Args:
        source: Folder that contains tables and images, or a table in the folder of its images.
        out: Folder for the JSON files, and for `images/` if the images are DICOM files.
        tables: Split -> CSV file, relative to the source; default: the first that exists of
            annotations/annotations_{split}.csv, annotations_{split}.csv, {split}.csv and
            {split}/_annotations.csv. Without these, the only table in the folder of each split, and
            the only table in the source as `train`.
        columns: Meaning -> name of a column, for the meanings image, class, reader, x_min, y_min,
            x_max, y_max, width, height, group and crowd (boxes around several objects, which
            training ignores); default: the columns of VinDr-CXR, or usual names such as filename,
            class, xmin, ymin, xmax, ymax and IsGroupOf.
        classes: Names in order of their ids, or class in the table -> name; default: all classes
            that occur, sorted.
        empty: Class of rows that state that nothing was found.
        readers: `all` for every box of every reader, with the name of the reader; `merged` for one
            box per finding, the mean of its readers; or the name of one reader, for the images
            that this reader annotated.
        relative: Whether coordinates are fractions of the image size instead of pixels.
        val_fraction: Fraction of `train` that goes to `val`, 0 to below 1, for sources without a
            table for `val`. Groups stay together, and the fraction holds on average.
        seed: Seed of the random choice of validation groups.
        dicom: Options of the conversion from DICOM files to images.
        copy_images: Whether to copy images that are not DICOM files next to the JSON instead of
            referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a table, column, image, class or reader is missing or invalid; the message
            names it.
    """
    files = find_tables(source, tables)
    source = source.parent if is_file(source) else source
    tables_by_split = {
        split: read_box_table(file, columns or {}, empty=empty) for split, file in files.items()
    }
    if not 0 <= val_fraction < 1 or (
        val_fraction and ("val" in tables_by_split or "train" not in tables_by_split)
    ):
        raise DataError(
            f"val_fraction is {val_fraction}; it must be at least 0 and below 1, and needs a table "
            f"for train and no table for val (there are tables for {', '.join(tables_by_split)})"
        )
    for split, images in tables_by_split.items():
        corners = (box.corners for image in images.values() for box in image.boxes)
        require_coordinate_unit(corners, files[split], relative=relative)
    names = _map_class_names(tables_by_split, files, classes)
    images_by_split = _select_readers(readers, tables_by_split)
    recorded_paths = RecordedPaths(source)
    entries = {
        split: find_images(recorded_paths, split, images_by_split[split], files[split])
        for split in images_by_split
    }
    are_dicom = are_dicom_files(
        entry.path for split_entries in entries.values() for entry in split_entries
    )
    dataset = DatasetWriter(
        out,
        [CategorySpec(name) for name in dict.fromkeys(names.values())],
        annotated=("boxes",),
        description="Converted from a table of boxes, {split}",
        images_root=None if are_dicom else source,
        copy_images=copy_images and not are_dicom,
        license_name=license_name,
    )

    dicom_options = dicom or DicomOptions()
    plan = GrayPlan.from_files(
        (entry.path for table_entries in entries.values() for entry in table_entries if are_dicom),
        partial(open_dicom, options=dicom_options),
    )
    open_image = partial(SourceImage, dicom_options=dicom_options, is_dicom=are_dicom, plan=plan)

    def add_image(writer: CocoWriter, entry: TableEntry) -> None:
        boxes = _iterate_findings(entry.image, is_merged=readers == "merged")
        added = open_image(entry).add_to(writer)
        if relative:
            height, width = writer.get_image_size(added.image_id)
            added = AddedFrame(added.image_id, (float(height), float(width)))
        _add_boxes(writer, added, boxes, names, entry)

    def finish_split(writer: CocoWriter) -> None:
        if plan.has_mixed_depths and writer.split == next(iter(entries)):
            writer.report.warn(plan.describe_mixed_depths())
        writer.report.warn(*recorded_paths.describe_shortened(writer.split))
        if (split := writer.split) in tables_by_split:
            _report_unread(writer, source, split, tables_by_split[split], images_by_split[split])

    if val_fraction:
        # The group of a DICOM file is in its header, which is read once more for the conversion.
        units = [open_image(entry).unit for entry in entries["train"]]
        val_indices = {i for i, u in enumerate(units) if _hash_to_fraction(seed, u) < val_fraction}
        entries |= hold_out(entries["train"], val_indices)
        if not (entries["train"] and entries["val"]):
            raise DataError(
                f"val_fraction {val_fraction} and seed {seed} leave a split empty; change one of "
                "them"
            )
    splits = {split: entries[split] for split in SPLITS if split in entries}
    return dataset.write(track_splits(splits, progress), add_image, finish_split)


def find_tables(source: Path, tables: Mapping[str, str] | None) -> dict[str, Path]:
    """Return the table of every split.

    Args:
        source: Folder of the tables, or a single table.
        tables: Split -> table, relative to the source; None for those with the usual names.

    Raises:
        DataError: If a split is unknown, there is no table, or a single table is given both ways.
    """
    if is_file(source):
        if tables:
            raise DataError(
                f"the source {source} is a single table, so tables cannot name others; pass its "
                "folder, or omit tables"
            )
        split = SPLIT_ALIASES.get(source.stem, source.stem)
        return {split if split in SPLITS else "train": source}
    require_parts(source, ())
    if tables:
        unknown = [split for split in tables if split not in SPLITS]
        if unknown:
            raise DataError(f"tables names the split {unknown[0]!r}; allowed: {', '.join(SPLITS)}")
        return {split: source / tables[split] for split in SPLITS if split in tables}
    files: dict[str, Path] = {}
    for split in SPLITS:
        names = list_split_names(split)
        paths = (source / pattern.format(split=name) for name in names for pattern in TABLES)
        if file := next(filter(is_file, paths), None):
            files[split] = file
    files = files or _find_only_tables(source)
    if not files:
        raise DataError(
            f"{source} contains no table (none of {', '.join(TABLES).format(split='train')}); "
            f"found {format_listing(source)}: name the tables, for example tables={{train: "
            "boxes.csv}"
        )
    return files


def _find_only_tables(source: Path) -> dict[str, Path]:
    """Return the only table in the folder of every split, and that of the source as `train`.

    Raises:
        DataError: If the folder of a split contains several tables.
    """
    files = {split: _list_tables(folder) for split, folder in find_split_folders(source).items()}
    if not files.get("train") and len(others := _list_tables(source)) == 1:
        files["train"] = others
    for split, tables in files.items():
        if len(tables) > 1:
            raise DataError(
                f"{tables[0]} and {tables[1]} are both in the folder of the split {split}; name "
                f"one table per split with tables={{{split}: FILE, ...}}"
            )
    return {split: files[split][0] for split in SPLITS if files.get(split)}


def _list_tables(folder: Path) -> list[Path]:
    return [file for file in list_children(folder) if file.suffix.lower() == ".csv"]


def _map_class_names(
    tables_by_split: Mapping[str, Mapping[str, TableImage]],
    files: Mapping[str, Path],
    classes: Sequence[str] | Mapping[str, str] | None,
) -> dict[str, str]:
    """Return class in the tables -> name, in order of the ids.

    Raises:
        DataError: If a table has another class, or no table has a box.
    """
    labels = (
        (box.label, f"{files[split]}:{box.line}")
        for split, images in tables_by_split.items()
        for image in images.values()
        for box in image.boxes
    )
    class_names = collect_class_names(labels, classes, shape="a box", container="table")
    errors = [
        row.error
        for images in tables_by_split.values()
        for image in images.values()
        for row in image.invalid
    ]
    if not class_names and errors:
        raise errors[0]
    if classes is None and not class_names:
        raise DataError(
            f"{', '.join(map(str, files.values()))}: no row has a box; set the option classes"
        )
    return dict(classes) if isinstance(classes, Mapping) else {name: name for name in class_names}


def _select_readers(
    readers: str, tables_by_split: Mapping[str, Mapping[str, TableImage]]
) -> dict[str, dict[str, TableImage]]:
    """Return the images that the requested readers annotated, with their boxes, by split.

    A table without readers (a consensus, as in VinDr-CXR's test split) is not filtered.

    Raises:
        DataError: If no table has the reader.
    """
    if readers in ("all", "merged"):
        return {split: dict(images) for split, images in tables_by_split.items()}
    by_table = {
        split: {reader for image in images.values() for reader in image.readers}
        for split, images in tables_by_split.items()
    }
    known_readers = set().union(*by_table.values()) - {""}
    if readers not in known_readers:
        raise DataError(
            f"no row is by the reader {readers!r}; the readers are "
            f"{', '.join(sorted(known_readers)) or 'not stated'}; choose one of them, "
            "or all, or merged"
        )
    return {
        split: {
            name: replace(
                image,
                boxes=[box for box in image.boxes if box.reader in requested_readers],
                invalid=[row for row in image.invalid if row.reader in requested_readers],
            )
            for name, image in images.items()
            if image.readers & requested_readers
        }
        for split, images in tables_by_split.items()
        for requested_readers in ({readers} if by_table[split] != {""} else {""},)
    }


def _iterate_findings(
    image: TableImage, *, is_merged: bool
) -> Iterator[tuple[TableBox, Mapping[str, object]]]:
    """Yield the boxes with their attributes."""
    if is_merged:
        yield from ((box, {"readers": count}) for box, count in merge_findings(image.boxes))
    else:
        yield from ((box, {"reader": box.reader} if box.reader else {}) for box in image.boxes)


def _hash_to_fraction(seed: int, unit: str) -> float:
    """Return a pseudo-random number in 0..1 that depends only on the arguments."""
    # Not `hash`, which differs between processes, and no generator, whose order would matter.
    digest = hashlib.blake2b(f"{seed}/{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _add_boxes(
    writer: CocoWriter,
    added: AddedFrame,
    boxes: Iterable[tuple[TableBox, Mapping[str, object]]],
    names: Mapping[str, str],
    entry: TableEntry,
) -> None:
    for row in entry.image.invalid:
        writer.report.skip_invalid(entry.table.name, row.description, row.error)
    scale_y, scale_x = added.scale
    for box, attributes in boxes:
        x1, y1, x2, y2 = box.corners
        source_box = SourceBox(
            names[box.label],
            (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y),
            f"{box.label} (line {box.line}), corners {box.corners}",
            iscrowd=box.is_crowd,
            attributes=attributes,
        )
        add_clipped_box(writer, added.image_id, source_box, entry.table.name)


def _report_unread(
    writer: CocoWriter,
    source: Path,
    split: str,
    table_images: Mapping[str, TableImage],
    selected: Mapping[str, TableImage],
) -> None:
    """Report the numbers of images that are skipped because they were not annotated."""
    if num_unseen := len(table_images) - len(selected):
        writer.report.skip(
            split, f"{Count(num_unseen):image}", "the chosen reader did not review them"
        )
    # Splits may share a folder, whose other images belong to the other tables.
    if find_folder(source, split) != source:
        table_stems = {get_stem(name) for name in table_images}
        if unread := sum(
            stem not in table_stems for stem in list_image_files(find_folder(source, split))
        ):
            writer.report.skip(
                split, f"{Count(unread):image}", "no row of the table refers to them"
            )
