"""Search for the images and XML files of Pascal VOC data in their usual folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_tools.reading.image_index import ImageIndex
from data_tools.reading.name_lists import normalize_name, read_names
from data_tools.reading.source_folder import (
    SPLITS,
    find_split_folders,
    find_split_lists,
    format_listing,
    is_file,
    is_folder,
    list_folders_by_name,
    require_parts,
)
from resnet_tasks.data.images.find_images import list_children
from resnet_tasks.errors import DataError

LISTS = "ImageSets/Main"
PARTS = ("JPEGImages", "Annotations", LISTS)
"""Folders of the original devkit."""
IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs")
XML_FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels")
"""Names of folders in lower case, the first that exists counts."""


@dataclass(frozen=True)
class VocSample:
    """Image with its annotation file.

    Attributes:
        image: Path of the image.
        xml: Path of the annotation file, which may not exist if a list names it.
    """

    image: Path
    xml: Path


@dataclass(frozen=True)
class VocLayout:
    """Splits of a source.

    Attributes:
        splits: Split -> samples.
        images: Folder of all images, relative to the source.
        unused_reason: Reason why other images of that folder are skipped.
        warnings: Sentences on the choice of the lists.
    """

    splits: Mapping[str, tuple[VocSample, ...]]
    images: str
    unused_reason: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _FolderPair:
    images: Path
    annotations: Path

    def list_samples(self) -> tuple[VocSample, ...]:
        """Return a sample for every XML file."""
        index = ImageIndex(self.images)
        files = _list_xml_files(self.annotations)
        return tuple(VocSample(index.find(file.stem, self.annotations), file) for file in files)


def find_voc_layout(source: Path) -> VocLayout:
    """Return the splits of a source by its lists, else by its folders.

    Folders named after a split contain images and XML files, together or in two folders; the two
    folders may also contain folders named after the splits. Without such folders everything is
    `train`.

    Raises:
        DataError: If there is no such folder, or a listed image is missing.
    """
    if not is_folder(source):
        require_parts(source, PARTS)
    pair = _find_pair(source)
    if is_folder(source / LISTS):
        require_parts(source, ("JPEGImages", "Annotations"))
        return _read_lists(source)
    split_pairs = {
        split: split_pair
        for split, folder in find_split_folders(source).items()
        if (split_pair := _find_pair(folder)) is not None
    }
    if not split_pairs and pair is not None:
        xml_folders = find_split_folders(pair.annotations)
        image_folders = find_split_folders(pair.images)
        split_pairs = {
            split: _FolderPair(image_folders[split], xml_folders[split])
            for split in xml_folders
            if split in image_folders
        } or {"train": pair}
    splits = {
        split: samples
        for split in SPLITS
        if split in split_pairs and (samples := split_pairs[split].list_samples())
    }
    if not splits:
        require_parts(source, PARTS)
        raise DataError(f"{source} contains no XML file; add the annotations of the images")
    return VocLayout(splits, "", "no XML file describes them")


def _read_lists(source: Path) -> VocLayout:
    lists = find_split_lists(source / LISTS)
    warnings: tuple[str, ...] = ()
    union = source / LISTS / "trainval.txt"
    if not {"train", "val"} & set(lists) and is_file(union):
        lists = {"train": union, **lists}
        warnings = (f"{union.name} is read as train, because there is no list for train or val",)
    if not lists:
        raise DataError(
            f"{source / LISTS} contains none of train.txt, val.txt, test.txt; found "
            f"{format_listing(source / LISTS)}: rename the list of a split"
        )
    images = ImageIndex(source / "JPEGImages")
    annotations = source / "Annotations"
    xml_files = {normalize_name(file.stem): file for file in _list_xml_files(annotations)}
    known = {**images.by_name, **xml_files}
    splits = {
        split: tuple(
            VocSample(images.find(name, file), xml_files.get(name, annotations / f"{name}.xml"))
            for name in read_names(file, known)
        )
        for split, file in lists.items()
    }
    return VocLayout(splits, "JPEGImages", "no list names them", warnings)


def _list_xml_files(folder: Path) -> list[Path]:
    return [file for file in list_children(folder) if file.suffix.lower() == ".xml"]


def _find_pair(folder: Path) -> _FolderPair | None:
    """Return the folders of images and XML files in a folder, or the folder if it has XML files."""
    folders = list_folders_by_name(folder)
    images = next((folders[name] for name in IMAGE_FOLDERS if name in folders), None)
    annotations = _find_xml_folder(folders)
    if images is not None and annotations is not None:
        return _FolderPair(images, annotations)
    if _list_xml_files(folder):
        return _FolderPair(folder, folder)
    return None


def _find_xml_folder(folders: Mapping[str, Path]) -> Path | None:
    """Return the folder of the XML files, which may lie in a folder of all annotations."""
    folder = next((folders[name] for name in XML_FOLDERS if name in folders), None)
    if folder is None or _list_xml_files(folder):
        return folder
    inner = list_folders_by_name(folder)
    return next((inner[name] for name in XML_FOLDERS if name in inner), folder)
