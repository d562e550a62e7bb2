"""Converter for Pascal VOC: one XML file of boxes per image, and lists of names per split.

    ROOT/JPEGImages/NAME.jpg        images (any common suffix)
    ROOT/Annotations/NAME.xml       boxes
    ROOT/ImageSets/Main/SPLIT.txt   names, one per line

The list `trainval` is the union of two others and is not converted.

Coordinates: the original devkit counts pixels from 1 and includes both ends (`one_based=True`
converts such a box to `x1 - 1 .. x2`). Tools that write the same XML (LabelImg among them) mostly
store plain edges, and results on BCCD are published with the numbers as stored. The default
therefore does not change them: a box is `xmin, ymin, xmax - xmin, ymax - ymin`, clipped to the
image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from data_tools.reading.image_io import measure_image_size
from data_tools.reading.safe_xml import read_xml
from data_tools.reading.source_folder import (
    find_image,
    find_split_lists,
    index_images_by_stem,
    read_names,
    require_parts,
    strip_image_suffix,
)
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.progress import Progress, ProgressCounter
from data_tools.writing.split_summary import SplitSummary, add_unused_images
from resnet_tasks.errors import DataError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class VocObject:
    """One `<object>` of a VOC file.

    Attributes:
        name: Class of the object.
        corners: (xmin, ymin, xmax, ymax) in pixels, as stored.
        difficult: Whether the object is marked as ignored in the evaluation.
    """

    name: str
    corners: Box
    difficult: bool


@dataclass(frozen=True)
class VocFile:
    """One annotation file.

    Attributes:
        file: Path of the file.
        size: (height, width) stated in the file; None if it is missing or zero.
        objects: Objects in the order of the file.
    """

    file: Path
    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def convert_voc(
    source: Path,
    out: Path,
    *,
    classes: Sequence[str] | None = None,
    one_based: bool = False,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert every native split to COCO JSON with boxes.

    Objects marked difficult become crowd objects, which training and evaluation ignore. Boxes
    without area are skipped and listed in the summary.

    Args:
        source: Folder that contains `JPEGImages`, `Annotations` and `ImageSets`.
        out: Folder for `train.json`, `val.json`, `test.json`, as far as there are lists.
        classes: Names in order of their ids; default: all names that occur, sorted.
        one_based: Whether coordinates count from 1 and include both ends.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a folder, file, image or class is missing or invalid; the message names it.
    """
    require_parts(source, ("JPEGImages", "Annotations", "ImageSets/Main"))
    lists = find_split_lists(source / "ImageSets" / "Main")
    names = {
        split: [strip_image_suffix(name) for name in read_names(file)]
        for split, file in lists.items()
    }
    if not names:
        raise DataError(f"{source / 'ImageSets/Main'} holds none of train.txt, val.txt, test.txt")
    annotations = {
        name: read_voc_file(source / "Annotations" / f"{name}.xml")
        for name in dict.fromkeys(name for split in names.values() for name in split)
    }
    class_names = _resolve_classes(annotations.values(), classes)
    images = index_images_by_stem(source / "JPEGImages")
    count = ProgressCounter(sum(map(len, names.values())), progress)
    summaries = []
    for split, split_names in names.items():
        writer = CocoWriter(
            out,
            split,
            [CategorySpec(name) for name in class_names],
            annotated=("boxes",),
            images_root=source,
            copy_images=copy_images,
            description=f"Converted from Pascal VOC, {split}",
            license_name=license_name,
        )
        for name in count.track(split_names):
            image = find_image(images, name, source / "JPEGImages", lists[split])
            _add_image(writer, image, annotations[name], one_based=one_based)
        summaries.append(writer.write())
    return add_unused_images(summaries, source, "JPEGImages", "no list names them")


def read_voc_file(file: Path) -> VocFile:
    """Read one annotation file.

    Raises:
        DataError: If the file is missing, is not XML, declares a document type (entities can expand
            without bound), or an object lacks its name or a coordinate.
    """
    root = read_xml(file)
    return VocFile(file, _parse_size(root), tuple(_parse_objects(root, file)))


def _parse_size(root: ElementTree.Element) -> tuple[int, int] | None:
    try:
        height, width = (int(float(root.findtext(f"size/{k}", "0"))) for k in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _parse_objects(root: ElementTree.Element, file: Path) -> Iterator[VocObject]:
    for number, element in enumerate(root.iter("object")):
        name = (element.findtext("name") or "").strip()
        texts = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            xmin, ymin, xmax, ymax = (float(text) for text in texts if text is not None)
        except ValueError:
            raise DataError(
                f"object {number} of {file} has the box {texts}; xmin, ymin, xmax and ymax must "
                "all be numbers"
            ) from None
        if not name:
            raise DataError(f"object {number} of {file} has no name; every object needs its class")
        difficult = (element.findtext("difficult") or "0").strip() == "1"
        yield VocObject(name, (xmin, ymin, xmax, ymax), difficult)


def _resolve_classes(annotations: Iterable[VocFile], classes: Sequence[str] | None) -> list[str]:
    first_seen: dict[str, Path] = {}
    for annotation in annotations:
        for object_ in annotation.objects:
            first_seen.setdefault(object_.name, annotation.file)
    class_names = sorted(first_seen) if classes is None else list(classes)
    for name, file in first_seen.items():
        if name not in class_names:
            raise DataError(
                f"{file} has an object of class {name!r}; the given classes are "
                f"{', '.join(class_names)}: add this class or correct the file"
            )
    return class_names


def _add_image(writer: CocoWriter, image: Path, annotation: VocFile, *, one_based: bool) -> None:
    size = measure_image_size(image)
    if annotation.size is not None and annotation.size != size:
        raise DataError(
            f"{annotation.file} describes an image of size {annotation.size} (height, width), but "
            f"{image} has {size}; its boxes would be misplaced, so put the original image there"
        )
    image_id = writer.add_image(image, size=size)
    for number, object_ in enumerate(annotation.objects):
        x, y, width, height = corners_to_coco_box(object_.corners, size, one_based=one_based)
        if width > 0 and height > 0:
            box = (x, y, width, height)
            writer.add_box(image_id, object_.name, box, iscrowd=object_.difficult)
        else:
            description = f"{object_.name} (object {number}), corners {object_.corners}"
            writer.skip(annotation.file.name, description, "its box has no area inside the image")


def corners_to_coco_box(corners: Box, size: tuple[int, int], *, one_based: bool) -> Box:
    """Convert stored corners to a COCO box clipped to the image.

    Args:
        corners: (xmin, ymin, xmax, ymax) in pixels, as stored.
        size: (height, width) of the image.
        one_based: Whether coordinates count from 1 and include both ends.

    Returns:
        (x, y, width, height) in pixels.
    """
    # An end that is included and counted from 1 is the exclusive end counted from 0.
    start = 1.0 if one_based else 0.0
    x1, x2 = (min(max(x, 0.0), float(size[1])) for x in (corners[0] - start, corners[2]))
    y1, y2 = (min(max(y, 0.0), float(size[0])) for y in (corners[1] - start, corners[3]))
    return x1, y1, x2 - x1, y2 - y1
