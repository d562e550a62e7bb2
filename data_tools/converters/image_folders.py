"""Converter for folders of images named by class, as torchvision's `ImageFolder` reads them.

    ROOT/CLASS/IMAGE.jpg                one folder per class
    ROOT/train/CLASS/IMAGE.jpg          the same for each of `train`, `val` and `test`

Classes are the sorted folder names of all splits. Subfolders of a class folder are searched too.
Without native splits, `val_fraction` of every class goes to `val`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_tools.reading.image_io import measure_image_size
from data_tools.reading.source_folder import (
    IMAGE_SUFFIXES,
    find_split_folders,
    format_listing,
    hold_out_fraction,
    is_image,
    require_parts,
)
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.images.find_images import list_children, walk_files
from resnet_tasks.errors import DataError

ImagesByClass = Mapping[str, Sequence[Path]]
"""Class -> sorted paths of its images."""


def convert_image_folders(
    source: Path,
    out: Path,
    *,
    val_fraction: float = 0.0,
    seed: int = 0,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert one folder per class to COCO JSON with one image-level label per image.

    Images that cannot be read are skipped and listed in the summary.

    Args:
        source: Folder that contains the class folders or the split folders.
        out: Folder for the JSON files.
        val_fraction: Fraction of every class that goes to `val`, 0 to below 1; only for sources
            without native splits. The choice depends on `seed`, the class and the sorted paths of
            its images.
        seed: Seed of the random choice of validation images.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If there is no class, a class has no image, folders of splits and classes are
            mixed, or `val_fraction` is not applicable.
    """
    require_parts(source, ())
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction}; it must be at least 0 and below 1")
    splits = find_splits(source)
    if splits and val_fraction:
        raise DataError(f"{source} already has splits ({', '.join(splits)}); remove val_fraction")
    if not splits:
        splits = _split_classes(_list_class_files(source), val_fraction, seed)
    names = sorted({name for images in splits.values() for name in images})
    filled = {name for images in splits.values() for name, files in images.items() if files}
    if not filled:
        raise DataError(
            f"{source} contains no image ({', '.join(IMAGE_SUFFIXES)}) in folders named by class; "
            f"found {format_listing(source)}: pass the folder that contains the class folders"
        )
    if filled != set(names):
        empty = ", ".join(sorted(set(names) - filled)[:5])
        raise DataError(
            f"{source}: the folders {empty} contain no image ({', '.join(IMAGE_SUFFIXES)}); every "
            "folder is a class, so remove the folders that are not classes"
        )
    dataset = DatasetWriter(
        out,
        [CategorySpec(name) for name in names],
        annotated=("image",),
        description="Converted from folders of classes, {split}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )

    def add_image(writer: CocoWriter, labeled_file: tuple[str, Path]) -> None:
        name, file = labeled_file
        try:
            size = measure_image_size(file)
        except DataError as error:
            writer.report.skip(file.relative_to(source).as_posix(), name, str(error))
            return
        writer.add_label(writer.add_image(file, size=size), name)

    labeled_files = {
        split: [(name, file) for name, files in images.items() for file in files]
        for split, images in splits.items()
    }
    return dataset.write(track_splits(labeled_files, progress), add_image)


def find_splits(source: Path) -> dict[str, ImagesByClass]:
    """Return the images of every split with a folder; empty if there is no `train` folder."""
    # A class may be called "test": only folders that hold folders of images are splits.
    splits = {
        split: folder
        for split, folder in find_split_folders(source).items()
        if _list_folders(folder)
    }
    other_names = [folder.name for folder in _list_folders(source) if folder not in splits.values()]
    if "train" not in splits:
        return {}
    if other_names:
        raise DataError(
            f"{source} contains the splits {', '.join(splits)} and also "
            f"{', '.join(other_names[:5])}; move everything but the splits to another folder"
        )
    return {split: _list_class_files(folder) for split, folder in splits.items()}


def _list_folders(folder: Path) -> list[Path]:
    return [child for child in list_children(folder) if child.is_dir()]


def _list_class_files(folder: Path) -> dict[str, Sequence[Path]]:
    return {
        class_folder.name: sorted(filter(is_image, walk_files(class_folder)))
        for class_folder in _list_folders(folder)
    }


def _split_classes(
    classes: ImagesByClass, val_fraction: float, seed: int
) -> dict[str, ImagesByClass]:
    """Return `train` and, if requested, a `val` with a fraction of every class."""
    if not val_fraction:
        return {"train": classes}
    splits: dict[str, dict[str, Sequence[Path]]] = {"train": {}, "val": {}}
    for name, files in classes.items():
        for split, split_files in hold_out_fraction(files, val_fraction, f"{seed}/{name}").items():
            splits[split][name] = split_files
    return dict(splits)
