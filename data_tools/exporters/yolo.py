"""Export of COCO to YOLO: a data.yaml, images, and one text file of boxes or polygons per image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from data_tools.exporters.image_files import ImageMode, assign_flat_names, copy_or_link_image
from data_tools.exporters.split_export import SplitExport
from data_tools.shapes.outlines import trace_outline
from data_tools.writing.progress import Progress, ProgressCounter
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.recipe.yaml_text import dump_yaml

DECIMALS = 9
"""Number of decimals of a relative coordinate: finer than a hundredth of a pixel for images of any
size."""


def export_yolo(
    splits: Mapping[str, CocoFile],
    out: Path,
    *,
    shapes: Literal["boxes", "polygons"] = "boxes",
    images: ImageMode = "copy",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Write `data.yaml`, `images/SPLIT` and `labels/SPLIT`.

    Classes count from 0 in the order of their category ids. An image without objects gets an empty
    label file. YOLO has neither crowd objects nor image-level labels: they are skipped and listed.
    A polygon line holds one outline around the whole object. Holes and parts are joined to it by
    bridges of zero width, and masks are traced along the edges of their pixels, so that the pixels
    do not change. An object without a mask becomes the rectangle of its box. All of these changes
    are counted.

    Args:
        splits: Name of the split -> COCO file.
        out: Path of the output folder.
        shapes: Content of the label lines; `polygons` for segmentation.
        images: `copy` the images, `link` to them, or `none` to write labels only.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If an image is missing.
    """
    count = ProgressCounter(sum(len(coco.images) for coco in splits.values()), progress)
    summaries = []
    for name, coco in splits.items():
        export = SplitExport(name, coco.categories.names)
        labels = out / "labels" / name
        (out / "images" / name).mkdir(parents=True)
        labels.mkdir(parents=True)
        for record, file_name in count.track(assign_flat_names(coco.images)):
            copy_or_link_image(coco.image_path(record), out / "images" / name / file_name, images)
            lines = [
                line
                for annotation in coco.annotations[record.id]
                if (line := _format_line(annotation, record, shapes, export))
            ]
            text = "".join(f"{line}\n" for line in lines)
            (labels / file_name).with_suffix(".txt").write_text(text, encoding="utf-8")
            export.images += 1
        summaries.append(export.summarize())
    classes = next(iter(splits.values())).categories.names
    document = {
        **{name: f"images/{name}" for name in splits},
        "nc": len(classes),
        "names": list(classes),
    }
    (out / "data.yaml").write_text(dump_yaml(document), encoding="utf-8")
    return tuple(summaries)


def _format_line(
    annotation: Annotation, record: ImageRecord, shapes: str, export: SplitExport
) -> str | None:
    """Return one line of a label file; None, with a report entry, if YOLO cannot hold it."""
    box = annotation.bbox
    reason = "YOLO has no crowd objects" if annotation.is_crowd else None
    if box is None or reason:
        export.skip_object(record, annotation, reason or "an image-level label has no box")
        return None
    x1, x2 = (min(max(v, 0.0), float(record.width)) for v in (box[0], box[0] + box[2]))
    y1, y2 = (min(max(v, 0.0), float(record.height)) for v in (box[1], box[1] + box[3]))
    values = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    if shapes == "polygons" and annotation.segmentation is None:
        export.count_change("objects without a mask, written as the rectangle of their box")
        values = [x1, y1, x2, y1, x2, y2, x1, y2]
    elif shapes == "polygons":
        polygon = _trace_polygon(annotation, record, export)
        if polygon is None:
            return None
        values = polygon
    export.count_object(annotation)
    sides = (record.width, record.height)
    coordinates = (f"{value / sides[i % 2]:.{DECIMALS}f}" for i, value in enumerate(values))
    return " ".join((str(annotation.category), *(s.rstrip("0").rstrip(".") for s in coordinates)))


def _trace_polygon(
    annotation: Annotation, record: ImageRecord, export: SplitExport
) -> list[float] | None:
    assert annotation.segmentation is not None
    traced_outline = trace_outline(annotation.segmentation, (record.height, record.width))
    if traced_outline is None:
        export.skip_object(record, annotation, "its mask covers no pixel")
        return None
    if traced_outline.parts > 1:
        export.count_change("objects in several parts, joined into one outline")
    if traced_outline.holes:
        export.count_change("objects with holes, joined into one outline")
    points: list[float] = traced_outline.points.ravel().tolist()
    return points
