"""Recognition of the format of a source, by the functions with which the converters search it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from data_tools.converters import (
    cityscapes,
    image_folders,
    instance_masks,
    kitti,
    label_maps,
    labelme,
    nuimages,
    yolo,
)
from data_tools.converters.csv.convert import find_tables
from data_tools.converters.csv.dialect import open_table
from data_tools.converters.csv.tables import resolve_columns
from data_tools.converters.cvat.annotations import is_cvat, read_cvat
from data_tools.converters.cvat.images import ANNOTATIONS_FILE
from data_tools.converters.dicom.convert import find_dicom_folders
from data_tools.converters.dicom.options import is_dicom
from data_tools.converters.nifti.layouts import has_label_volumes, read_layout
from data_tools.converters.voc_layouts import IMAGE_FOLDERS, find_voc_layout
from data_tools.converters.yolo_dataset_file import find_dataset_file, read_yolo_file
from data_tools.reading.coco_splits import find_coco_splits
from data_tools.reading.image_index import pair_images
from data_tools.reading.mask_foreground import MaskReader
from data_tools.reading.safe_xml import read_xml
from data_tools.reading.source_folder import (
    SPLIT_ALIASES,
    SPLITS,
    find_split_folders,
    is_folder,
    list_folders_by_name,
)
from resnet_tasks.data.images.find_images import walk_files
from resnet_tasks.errors import DataError, RecipeError
from resnet_tasks.recipe.dataset_hints import is_coco_file

HELD_OUT = "val_fraction=0.2"
NAME = "NAME"
"""Placeholder of a class name, which only the user knows."""
MASK_FOLDERS = ("masks", "mask")
"""Names of folders of masks in lower case, the first that exists counts."""
NUM_LISTED = 10_000
"""Number of files of a folder among which there must be an annotation file."""
NUM_TRIED = 3
"""Number of files that are read to recognize a format by the content of its files."""

_NO_CLASSES = {"images", "masks", "labels", "annotations"}
"""Names of folders that are no classes of images."""

Content = Literal["boxes", "masks", "pixels", "foreground", "image labels", "images"]


@dataclass(frozen=True)
class SourceLayout:
    """Format of a source, with what its conversion needs.

    Attributes:
        format: Name of the format.
        title: Name of the layout in a sentence.
        content: Annotations that a recipe for the data trains on. `pixels`: all pixels have a
            class; `foreground`: other pixels are background; `images`: no annotations.
        splits: Splits that the conversion writes.
        options: Options of the format, as `key=value`.
        files: Files of annotations, as far as they are few.
    """

    format: str
    title: str
    content: Content
    splits: frozenset[str] = frozenset({"train"})
    options: tuple[str, ...] = ()
    files: frozenset[Path] = frozenset()


def find_layout(source: Path) -> SourceLayout | None:
    """Return the format of a folder, or None if no format is recognized.

    The functions that find the files of a format decide, so the conversion may still find errors.
    """
    for find in _FINDERS:
        try:
            if (layout := find(source)) is not None:
                return layout
        except (DataError, RecipeError, OSError, UnicodeError, csv.Error):
            continue
    return None


def list_dataset_folders(file: Path) -> list[Path]:
    """Return the folders of the dataset that an annotation file may belong to."""
    if file.absolute().parent.name.lower() not in ("annotations", *SPLITS, *SPLIT_ALIASES):
        return [file.parent]
    # The path may begin in the inner folder.
    folder = file.parent if file.parent.name else file.absolute().parent
    return [folder.parent, folder]


def _has(source: Path, *patterns: str) -> bool:
    return all(next(source.glob(pattern), None) is not None for pattern in patterns)


def _find_cityscapes(source: Path) -> SourceLayout | None:
    if not _has(source, cityscapes.IMAGES, "gtFine"):
        return None
    return SourceLayout("cityscapes", "a Cityscapes dataset", "boxes", frozenset(cityscapes.SPLITS))


def _find_kitti(source: Path) -> SourceLayout | None:
    if not _has(source, kitti.IMAGES, kitti.LABELS):
        return None
    options = () if is_folder(source / kitti.LISTS) else (HELD_OUT,)
    return SourceLayout("kitti", "a KITTI dataset", "boxes", frozenset(kitti.SPLITS), options)


def _find_nuimages(source: Path) -> SourceLayout | None:
    if not _has(source, "v1.0-*/object_ann.json"):
        return None
    return SourceLayout("nuimages", "a nuImages dataset", "masks", frozenset(nuimages.SPLITS))


def _find_nifti(source: Path) -> SourceLayout | None:
    if not has_label_volumes(source):
        return None
    title = "a dataset of NIfTI volumes"
    try:
        splits = read_layout(source).splits
    except DataError:
        options = (f"classes={{1: {NAME}}}", HELD_OUT)
        return SourceLayout("nifti", title, "foreground", frozenset(("train", "val")), options)
    is_divisible = "val" not in splits and len(splits["train"]) > 1
    return SourceLayout("nifti", title, "foreground", *_hold_out(splits, is_divisible=is_divisible))


def _hold_out(
    splits: Collection[str], *, is_divisible: bool = True
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the splits after holding out a val split where there is none, and the option."""
    if "val" in splits or not is_divisible:
        return frozenset(splits), ()
    return frozenset((*splits, "val")), (HELD_OUT,)


def _find_cvat(source: Path) -> SourceLayout | None:
    file = source / ANNOTATIONS_FILE
    if not file.is_file() or not is_cvat(root := read_xml(file)):
        return None
    images, _ = read_cvat(root, file)
    splits = frozenset(image.split for image in images)
    return SourceLayout("cvat", "an export of CVAT", "boxes", splits, files=frozenset({file}))


def _find_voc(source: Path) -> SourceLayout | None:
    layout = find_voc_layout(source)
    return SourceLayout("voc", "a Pascal VOC dataset", "boxes", frozenset(layout.splits))


def _find_coco(source: Path) -> SourceLayout | None:
    files = find_coco_splits(source)
    if not all(map(is_coco_file, files.values())):
        return None
    return SourceLayout(
        "coco", "a COCO dataset", "boxes", frozenset(files), files=frozenset(files.values())
    )


def _find_yolo(source: Path) -> SourceLayout | None:
    file = read_yolo_file(find_dataset_file(source, None))
    images = (image for split in file.splits for image in yolo.list_images(file, split))
    if not any(yolo.find_label(image, file.paths.root).is_file() for image in images):
        return None
    return SourceLayout(
        "yolo", "a YOLO dataset", "boxes", frozenset(file.splits), files=frozenset({file.file})
    )


def _find_labelme(source: Path) -> SourceLayout | None:
    first_files = islice(walk_files(source), NUM_LISTED)  # the source may be a home folder
    first = next((file for file in first_files if file.suffix.lower() == ".json"), None)
    if first is None:
        return None
    labelme.read_labelme_file(first, source)  # fails before all files of other folders are listed
    splits = labelme.list_splits(source)
    for file in _take_first(file for files in splits.values() for file in files):
        labelme.read_labelme_file(file, source)
    return SourceLayout("labelme", "a LabelMe dataset", "boxes", frozenset(splits))


def _make_relative(paths: Iterable[Path], source: Path) -> list[str]:
    return [path.relative_to(source).as_posix() for path in paths]


def _format_option(name: str, value: object) -> str:
    return f"{name}={json.dumps(value, ensure_ascii=False)}"


def _take_first(files: Iterable[Path]) -> list[Path]:
    return list(islice(files, NUM_TRIED))


def _find_csv(source: Path) -> SourceLayout | None:
    tables = find_tables(source, None)
    for file in tables.values():
        with open_table(file) as (rows, *_):
            resolve_columns(file, rows.fieldnames or (), {})
    if "train" not in tables:
        return None
    splits, held_out = _hold_out(tables)
    return SourceLayout(
        "csv-boxes",
        "a dataset with a CSV table of boxes",
        "boxes",
        splits,
        held_out,
        frozenset(tables.values()),
    )


def _find_instance_masks(source: Path) -> SourceLayout | None:
    folder = source / instance_masks.IDS_FOLDER
    folder = folder if folder.is_dir() else source
    splits = instance_masks.read_splits(source, folder)
    names = {name for split_names in splits.values() for name in split_names}
    if names & {*SPLITS, *SPLIT_ALIASES}:  # folders of all images of a split, not of one image
        return None
    if not any((folder / name / "masks").is_dir() for name in names):
        return None
    return SourceLayout("instance-masks", "a dataset of instance masks", "masks", frozenset(splits))


def _find_label_maps(source: Path) -> SourceLayout | None:
    splits = [split for split in SPLITS if label_maps.find_pairs(source, split)]
    if not splits:
        return None
    options = (f"classes=[{NAME}, {NAME}]",)
    return SourceLayout(
        "label-maps", "a dataset of label maps", "pixels", frozenset(splits), options
    )


def _find_binary_masks(source: Path) -> SourceLayout | None:
    parents = find_split_folders(source)
    pairs = {split: _find_mask_folders(folder) for split, folder in parents.items()}
    folders = {split: pair for split, pair in pairs.items() if pair is not None}
    if not folders and (pair := _find_mask_folders(source)) is not None:
        folders = {"train": pair}
    if "train" not in folders:
        return None
    reader = MaskReader(allow_lossy=True, group="masks")
    reader.survey(_take_first(mask for pair in folders.values() for _, mask in pair_images(*pair)))
    names = {
        split: dict(zip(("images", "masks"), _make_relative(pair, source), strict=True))
        for split, pair in folders.items()
    }
    splits, held_out = _hold_out(folders)
    options = ("category=object", _format_option("folders", names), *held_out)
    return SourceLayout("binary-masks", "a dataset of binary masks", "foreground", splits, options)


def _find_mask_folders(folder: Path) -> tuple[Path, Path] | None:
    """Return the folders of the images and of the masks in a folder."""
    folders = list_folders_by_name(folder)
    images = next((folders[name] for name in IMAGE_FOLDERS if name in folders), None)
    masks = next((folders[name] for name in MASK_FOLDERS if name in folders), None)
    return None if images is None or masks is None else (images, masks)


def _find_image_folders(source: Path) -> SourceLayout | None:
    splits = image_folders.find_splits(source)
    classes = {name for images in splits.values() for name, files in images.items() if files}
    if not classes or classes & _NO_CLASSES:
        return None
    return SourceLayout(
        "image-folders", "a dataset of image folders", "image labels", frozenset(splits)
    )


def _find_dicom(source: Path) -> SourceLayout | None:
    folders = find_dicom_folders(source)
    first_files = (_take_first(walk_files(folder)) for folder in folders.values())
    if not any(is_dicom(file) for files in first_files for file in files):
        return None
    return SourceLayout("dicom", "a folder of DICOM files", "images", frozenset(folders))


_FINDERS: tuple[Callable[[Path], SourceLayout | None], ...] = (
    _find_cityscapes,
    _find_kitti,
    _find_nuimages,
    _find_nifti,
    _find_cvat,
    _find_voc,
    _find_coco,
    _find_yolo,
    _find_labelme,
    _find_csv,
    _find_instance_masks,
    _find_label_maps,
    _find_binary_masks,
    _find_image_folders,
    _find_dicom,
)
"""Functions that recognize one format each, those with the most specific layouts first."""
