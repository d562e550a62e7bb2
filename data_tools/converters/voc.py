"""Converter for Pascal VOC: one XML file of boxes per image, and lists of names per split.

    ROOT/JPEGImages/NAME.jpg        images (any common suffix)
    ROOT/Annotations/NAME.xml       boxes
    ROOT/ImageSets/Main/SPLIT.txt   names, one per line

Without lists, folders named after a split are splits (`ROOT/valid/NAME.xml` and its image, or
`images` and `annotations` in them), and a source without such folders is `train`.

The list `trainval` is the union of two others and is not converted, unless both are absent.

Coordinates: the original devkit counts pixels from 1 and includes both ends (`one_based=True`
converts such a box to `x1 - 1 .. x2`). Tools that write the same XML (LabelImg among them) mostly
store plain edges, and results on BCCD are published with the numbers as stored. The default
therefore does not change them: a box is `xmin, ymin, xmax - xmin, ymax - ymin`, clipped to the
image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from data_tools.converters.voc_layouts import VocSample, find_voc_layout
from data_tools.reading.class_names import collect_class_names
from data_tools.reading.image_io import measure_stated_size
from data_tools.reading.safe_xml import read_xml
from data_tools.shapes.boxes import SourceBox, add_clipped_box
from data_tools.shapes.invalid_shape import InvalidShapeError
from data_tools.shapes.labeled_objects import LabeledObject, add_labeled_object
from data_tools.shapes.outlines import rotate_points
from data_tools.shapes.relative_coordinates import require_coordinate_unit
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary, add_unused_images
from resnet_tasks.data.coco.box_formats import scale_to_pixels
from resnet_tasks.errors import DataError

Box = tuple[float, float, float, float]

MAX_ANGLE = 2 * math.pi + 1e-6
"""Largest angle of a rotated box in radians: one turn. A larger one is in degrees."""
DIFFICULT_WORDS = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "y", "t"), True),
    **dict.fromkeys(("0", "0.0", "false", "no", "n", "f", "unspecified", ""), False),
}
"""Values of `difficult` in lower case. The devkit writes 0 and 1, other tools write words."""


@dataclass(frozen=True)
class VocObject:
    """One `<object>` of a VOC file.

    Attributes:
        name: Class of the object.
        corners: (xmin, ymin, xmax, ymax) in pixels, as stored; of a rotated box before its
            rotation.
        difficult: Whether the object is marked as ignored in the evaluation.
        number: Index among the objects of the file.
        angle: Angle of a rotated box in radians, clockwise as displayed; None for other boxes.
    """

    name: str
    corners: Box
    difficult: bool
    number: int
    angle: float | None = None


@dataclass(frozen=True)
class VocFile:
    """One annotation file.

    Attributes:
        file: Path of the file.
        size: (height, width) stated in the file; None if it is missing or zero.
        objects: Objects in the order of the file.
        invalid: (object, error) of the objects whose box is invalid.
    """

    file: Path
    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    invalid: tuple[tuple[str, DataError], ...]


def convert_voc(
    source: Path,
    out: Path,
    *,
    classes: Sequence[str] | None = None,
    one_based: bool = False,
    relative: bool = False,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert every native split to COCO JSON with boxes.

    Objects marked difficult become crowd objects, which training and evaluation ignore. Boxes
    without area are skipped and listed in the summary. Rotated boxes (`robndbox` of roLabelImg)
    become the polygons of their corners; a split counts as annotated with masks if every object is
    a rotated box.

    Args:
        source: Folder that contains `JPEGImages`, `Annotations` and `ImageSets`, or the images and
            XML files in other usual folders.
        out: Folder for one of `train.json`, `val.json`, `test.json` per split.
        classes: Names in order of their ids; default: all names that occur, sorted.
        one_based: Whether coordinates count from 1 and include both ends.
        relative: Whether coordinates are fractions of the image size instead of pixels.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a folder, file, image or class is missing or invalid; the message names it.
    """
    layout = find_voc_layout(source)
    samples = [sample for split in layout.splits.values() for sample in split]
    annotations = {sample.xml: read_voc_file(sample.xml) for sample in samples}
    labels = (
        (object_.name, annotation.file)
        for annotation in annotations.values()
        for object_ in annotation.objects
    )
    class_names = collect_class_names(labels, classes)
    errors = [error for annotation in annotations.values() for _, error in annotation.invalid]
    if not class_names and errors:
        raise errors[0]
    for split, split_samples in layout.splits.items():
        files = (annotations[sample.xml] for sample in split_samples)
        boxes = (entry.corners for file in files for entry in file.objects)
        require_coordinate_unit(boxes, f"{source}, {split}", relative=relative)
    dataset = DatasetWriter(
        out,
        [CategorySpec(name) for name in class_names],
        annotated=("boxes",),
        description="Converted from Pascal VOC, {split}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )

    def add_image(writer: CocoWriter, sample: VocSample) -> None:
        annotation = annotations[sample.xml]
        _add_image(writer, sample.image, annotation, one_based=one_based, relative=relative)

    summaries = dataset.write(
        track_splits(layout.splits, progress), add_image, CocoWriter.declare_outlines
    )
    first, *others = add_unused_images(summaries, source, layout.images, layout.unused_reason)
    return (replace(first, warnings=(*first.warnings, *layout.warnings)), *others)


def read_voc_file(file: Path) -> VocFile:
    """Read one annotation file.

    Raises:
        DataError: If the file is missing, is not XML, declares a document type (entities can expand
            without bound), or an object has an unknown value of `difficult`.
    """
    root = read_xml(file)
    objects, invalid = [], []
    for number, element in enumerate(root.iter("object")):
        try:
            objects.append(_parse_object(element, number, file))
        except InvalidShapeError as error:
            name = (element.findtext("name") or "").strip()
            invalid.append((f"{name} (object {number})".lstrip(), error))
    return VocFile(file, _parse_size(root), tuple(objects), tuple(invalid))


def _parse_size(root: ElementTree.Element) -> tuple[int, int] | None:
    try:
        height, width = (int(float(root.findtext(f"size/{k}", "0"))) for k in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _parse_object(element: ElementTree.Element, number: int, file: Path) -> VocObject:
    location = f"object {number} of {file}"
    name = (element.findtext("name") or "").strip()
    if not name:
        raise InvalidShapeError(f"{location} has no name; every object needs its class")
    difficult = _parse_difficult(element, location)
    if element.find("robndbox") is not None and element.find("bndbox") is None:
        corners, angle = _parse_rotated_box(element, location)
        return VocObject(name, corners, difficult, number, angle)
    texts = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        xmin, ymin, xmax, ymax = (float(text) for text in texts if text is not None)
    except ValueError:
        raise InvalidShapeError(
            f"{location} has the box {texts}; xmin, ymin, xmax and ymax must all be numbers"
        ) from None
    return VocObject(name, (xmin, ymin, xmax, ymax), difficult, number)


def _parse_rotated_box(element: ElementTree.Element, location: str) -> tuple[Box, float]:
    """Return the corners and the angle of a `robndbox`, which roLabelImg writes."""
    texts = {key: element.findtext(f"robndbox/{key}") for key in ("cx", "cy", "w", "h", "angle")}
    try:
        x, y, width, height, angle = (float(text) for text in texts.values() if text is not None)
    except ValueError:
        raise InvalidShapeError(
            f"{location} has the rotated box {texts}; cx, cy, w, h and angle must all be numbers"
        ) from None
    if not abs(angle) <= MAX_ANGLE:
        raise InvalidShapeError(
            f"{location} has a rotated box with angle = {texts['angle']}; allowed: radians, "
            f"-{MAX_ANGLE:.2f} to {MAX_ANGLE:.2f}: multiply degrees by 0.01745"
        )
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2), angle


def _parse_difficult(element: ElementTree.Element, location: str) -> bool:
    text = (element.findtext("difficult") or "").strip()
    value = DIFFICULT_WORDS.get(text.lower())
    if value is None:
        raise DataError(
            f"{location} has difficult = {text!r}; allowed: "
            f"{', '.join(word for word in DIFFICULT_WORDS if word)}, in any case"
        )
    return value


def _add_image(
    writer: CocoWriter, image: Path, annotation: VocFile, *, one_based: bool, relative: bool
) -> None:
    """Add an image with its objects.

    Args:
        writer: Writer of the split.
        image: Path of the image.
        annotation: Annotation of the image.
        one_based: Whether coordinates count from 1 and include both ends.
        relative: Whether coordinates are fractions of the image size.
    """
    statement = f"{annotation.file} describes an image of size"
    size = measure_stated_size(image, annotation.size, statement, "its boxes would be misplaced")
    image_id = writer.add_image(image, size=size)
    for description, error in annotation.invalid:
        writer.report.skip_invalid(annotation.file.name, description, error)
    for object_ in annotation.objects:
        corners: Sequence[float] = object_.corners
        if relative:
            corners = scale_to_pixels(corners, writer.get_image_size(image_id))
        if object_.angle is not None:
            add_labeled_object(
                writer,
                image_id,
                _rotate_box(object_, corners),
                writer.get_image_size(image_id),
                annotation.file.name,
            )
            writer.report.count_change("rotated boxes became the polygons of their corners")
            continue
        description = f"{object_.name} (object {object_.number}), corners {object_.corners}"
        box = SourceBox(object_.name, corners, description, object_.difficult)
        add_clipped_box(
            writer, image_id, box, annotation.file.name, first_pixel=1 if one_based else None
        )


def _rotate_box(voc_object: VocObject, corners: Sequence[float]) -> LabeledObject:
    x1, y1, x2, y2 = corners
    polygon = rotate_points((x1, y1, x2, y1, x2, y2, x1, y2), voc_object.angle or 0.0)
    return LabeledObject(
        voc_object.name,
        f"object {voc_object.number}",
        polygons=(polygon,),
        iscrowd=voc_object.difficult,
    )
