"""Export of COCO to Pascal VOC: one XML file of boxes per image, and a list of names per split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from data_tools.exporters.image_files import ImageMode, assign_flat_names, copy_or_link_image
from data_tools.exporters.split_export import SplitExport
from data_tools.reading.image_io import READ_ERRORS
from data_tools.writing.progress import Progress, ProgressCounter
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.data.images.image_files import open_image
from resnet_tasks.errors import DataError


def export_voc(
    splits: Mapping[str, CocoFile],
    out: Path,
    *,
    one_based: bool = False,
    images: ImageMode = "copy",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Write `JPEGImages`, `Annotations` and `ImageSets/Main`.

    Crowd objects become `difficult`, which VOC evaluators ignore as COCO evaluators ignore crowds.
    Masks have no place in the XML and are counted. Image-level labels are skipped and listed.

    Args:
        splits: Name of the split -> COCO file.
        out: Path of the output folder.
        one_based: Whether pixels count from 1 with both ends included, as in the original devkit.
            Otherwise xmin, ymin, xmax, ymax are plain edges, as most tools write them.
        images: `copy` the images, `link` to them, or `none` to write labels only.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If an image is missing, two splits contain the same image, or XML cannot hold a
            class name.
    """
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (out / folder).mkdir(parents=True)
    count = ProgressCounter(sum(len(coco.images) for coco in splits.values()), progress)
    summaries = []
    for name, coco in splits.items():
        _check_names(coco.categories.names)
        export = SplitExport(name, coco.categories.names)
        stems = []
        for record, file_name in count.track(assign_flat_names(coco.images)):
            copy_or_link_image(coco.image_path(record), out / "JPEGImages" / file_name, images)
            root = _build_root(record, file_name, coco.image_path(record))
            for annotation in coco.annotations[record.id]:
                _add_object(root, annotation, record, export, one_based=one_based)
            indent(root)
            file = (out / "Annotations" / file_name).with_suffix(".xml")
            if file.exists():
                raise DataError(
                    f"{file_name} is in two splits, but VOC keeps the images of all splits in one "
                    "folder; export one split at a time, or rename one of the images"
                )
            ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
            stems.append(file.stem)
            export.images += 1
        text = "".join(f"{stem}\n" for stem in stems)
        (out / "ImageSets" / "Main" / f"{name}.txt").write_text(text, encoding="utf-8")
        summaries.append(export.summarize())
    return tuple(summaries)


def _check_names(names: tuple[str, ...]) -> None:
    invalid_names = [name for name in names if not name.isprintable() or name != name.strip()]
    if invalid_names:
        raise DataError(f"the class name {invalid_names[0]!r} cannot be stored in XML; rename it")


def _build_root(record: ImageRecord, file_name: str, image: Path) -> Element:
    root = Element("annotation")
    for tag, text in (("folder", "JPEGImages"), ("filename", file_name)):
        SubElement(root, tag).text = text
    SubElement(SubElement(root, "source"), "database").text = "converted from COCO"
    size = SubElement(root, "size")
    sides = {"width": record.width, "height": record.height, "depth": _read_depth(image)}
    for tag, side in sides.items():
        SubElement(size, tag).text = str(side)
    SubElement(root, "segmented").text = "0"
    return root


def _read_depth(image: Path) -> int:
    """Return the number of channels of an image; 3 if the image cannot be read."""
    try:
        with open_image(image) as opened_image:
            return len(opened_image.getbands())
    except READ_ERRORS:
        return 3


def _add_object(
    root: Element,
    annotation: Annotation,
    record: ImageRecord,
    export: SplitExport,
    *,
    one_based: bool,
) -> None:
    if annotation.bbox is None:
        export.skip_object(record, annotation, "an image-level label has no box")
        return
    if annotation.segmentation is not None:
        export.count_change("masks, of which only the boxes are kept")
    x, y, width, height = annotation.bbox
    start = 1 if one_based else 0
    corners = {"xmin": x + start, "ymin": y + start, "xmax": x + width, "ymax": y + height}
    object_ = SubElement(root, "object")
    fields = {
        "name": export.classes[annotation.category],
        "pose": "Unspecified",
        "truncated": str(int((annotation.truncated or 0) > 0)),
        "difficult": str(int(annotation.is_crowd)),
    }
    if annotation.occluded is not None:
        fields["occluded"] = str(int(annotation.occluded > 0))
    for tag, text in fields.items():
        SubElement(object_, tag).text = text
    box = SubElement(object_, "bndbox")
    for tag, value in corners.items():
        SubElement(box, tag).text = f"{round(value, 4):.10g}"
    export.count_object(annotation)
