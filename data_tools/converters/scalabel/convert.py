"""Converter for Scalabel JSON, the format of BDD100K: boxes, polygons, drivable area and lanes.

    ROOT/images/100k/train/NAME.jpg          images (option `images`)
    ROOT/labels/det_20/det_train.json        frames with labels (option `labels`)
    ROOT/labels/100k/train/NAME.json         or one file per image, as in 2018

A file is a list of frames, or contains the list under `frames`. A frame has `name` and `labels`; a
label has `category`, `attributes`, and `box2d` or `poly2d` (BDD100K's format page, Yu et al., CVPR
2020). Boxes include both ends, as in BDD100K's own `to_coco`: width = x2 - x1 + 1. The labels of
test are not public.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data_tools.converters.scalabel.categories import (
    CLASSES,
    DRIVABLE,
    IGNORED,
    LANES,
    RENAMED,
    ConversionPlan,
    Semantic,
    resolve_category,
)
from data_tools.converters.scalabel.frames import ScalabelFrame, group_labels_by_name, read_frames
from data_tools.converters.scalabel.label_files import (
    IMAGES,
    LABELS,
    choose_image_pattern,
    find_image,
    find_label_files,
    measure_bytes,
)
from data_tools.converters.scalabel.paths import Poly2dPath, flatten_path, parse_corners, read_paths
from data_tools.reading.image_io import measure_image_size
from data_tools.reading.source_folder import require_parts
from data_tools.shapes.boxes import SourceBox, add_clipped_box
from data_tools.shapes.invalid_shape import InvalidShapeError
from data_tools.writing.coco_writer import Annotated, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import EstimatedCounter, Progress
from data_tools.writing.split_summary import SplitSummary, add_unused_images
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

SIZE = (720, 1280)
MAX_REACH = 10
"""Maximum absolute coordinate, in multiples of the longer side of the image. A point beyond it is a
mistake, and rasterizing it would take much memory."""


@dataclass
class _SkippedCounts:
    """Counts of labels and frames that are not converted, for the data card."""

    labels: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    images_without_map: int = 0


def convert_scalabel(  # noqa: PLR0913 - each is an option of the format
    source: Path,
    out: Path,
    *,
    labels: Sequence[str] = LABELS,
    images: str = IMAGES,
    classes: Sequence[str] = CLASSES,
    rename: Mapping[str, str] = RENAMED,
    ignore: Mapping[str, str] = IGNORED,
    semantic: Semantic = "none",
    stuff: Sequence[str] = (),
    lane_width: int = 8,
    masks: bool = False,
    need_images: bool = True,
    size: tuple[int, int] = SIZE,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert every split with a label file to COCO JSON.

    Boxes and closed polygons of `classes` become objects. Those marked crowd or ignored, and those
    of the categories in `ignore`, become crowd objects. Objects and images keep their attributes. A
    few invalid shapes are skipped and listed in the summary.

    Args:
        source: Folder that `labels` and `images` are relative to.
        out: Folder for the JSON files and `semantic/`.
        labels: Label files, with `{split}` in place of the split. The first file defines the images
            and is read frame by frame. Other files add labels to these images and are kept in
            memory. A folder contains one file per image, as BDD100K had in 2018; it is found
            without this option if it is labels/100k/{split} or labels/{split}.
        images: Folder of the images, with `{split}` in place of the split; images/{split} is found
            without this option.
        classes: Categories of objects, in order of their ids.
        rename: Category -> category of which it is another name.
        ignore: Category -> class for which its objects are crowd objects.
        semantic: Labels from which the label maps are drawn: drivable areas, lanes, or all polygons
            (the categories of `classes` and `stuff`, later ones over earlier ones). All other
            pixels are unlabeled.
        stuff: Categories for `semantic=polygons` that do not occur as objects.
        lane_width: Width of a drawn lane marking in pixels.
        masks: Whether the objects are annotated by polygons, which then become their masks.
        need_images: Whether the images must exist. If False, only their names are used, and a frame
            that does not state its size has `size`.
        size: (height, width) of the images if `need_images` is False.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image; the total is an estimate,
            because the frames are streamed.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a file, frame or category is missing or invalid, or many shapes are; the
            message names it.
    """
    require_parts(source, ())
    if copy_images and not need_images:
        raise DataError("copy_images needs the images; omit need_images")
    stuff_by_semantic = {
        "none": (),
        "drivable": DRIVABLE,
        "lanes": LANES,
        "polygons": (*classes, *stuff),
    }
    plan = ConversionPlan(
        tuple(classes), stuff_by_semantic[semantic], semantic, rename, ignore, lane_width
    )
    files = find_label_files(source, labels)
    images = choose_image_pattern(source, images, files)
    count = EstimatedCounter([measure_bytes(first) for first, *_ in files.values()], progress)
    annotated: tuple[Annotated, ...] = ("boxes", "masks") if masks else ("boxes",)
    dataset = DatasetWriter(
        out,
        plan.categories,
        annotated=annotated if semantic == "none" else (*annotated, "semantic"),
        description="Converted from Scalabel, {split}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )
    skipped_counts = {split: _SkippedCounts() for split in files}

    def add_frame(writer: CocoWriter, frame: ScalabelFrame) -> None:
        image = find_image(source / images.format(split=writer.split), frame.name)
        frame_size = measure_image_size(image) if need_images else frame.size or size
        _add_frame(writer, image, frame, plan, frame_size, skipped_counts[writer.split])

    def finish_split(writer: CocoWriter) -> None:
        _add_notes(writer, skipped_counts[writer.split], semantic, need_images=need_images)

    frames = {
        split: count.track(_read_all_labels(split_files, skipped_counts[split]))
        for split, split_files in files.items()
    }
    summaries = dataset.write(frames, add_frame, finish_split)
    if not need_images:
        return summaries
    return add_unused_images(summaries, source, images, "no frame is about them")


def _read_all_labels(
    files: Sequence[Path], skipped_counts: _SkippedCounts
) -> Iterator[tuple[ScalabelFrame, float]]:
    """Yield the frames of the first file with the labels of all files.

    Each comes with the fraction of the first file that has been read, for the progress bar.
    """
    first, *other_files = files
    labels_by_frame = group_labels_by_name(other_files)
    for frame in read_frames(first):
        is_annotated = not other_files or frame.name in labels_by_frame
        skipped_counts.images_without_map += not is_annotated
        frame.labels.extend(labels_by_frame.pop(frame.name, ()))
        yield replace(frame, is_annotated=is_annotated), frame.fraction
    skipped_counts.frames = len(labels_by_frame)


def _add_frame(
    writer: CocoWriter,
    image: Path,
    frame: ScalabelFrame,
    plan: ConversionPlan,
    size: tuple[int, int],
    skipped_counts: _SkippedCounts,
) -> None:
    image_id = writer.add_image(image, size=size, group=frame.group, attributes=frame.attributes)
    has_map = plan.semantic != "none"
    # An image without area labels was not annotated: its pixels must not count as background.
    fill_value = 0 if frame.is_annotated else writer.void
    ids = np.full(size if has_map else (0, 0), fill_value, dtype=np.int64)
    names = [plan_category.name for plan_category in plan.categories]
    for location, label in frame.labels:
        attributes = _parse_attributes(label, location)
        category = resolve_category(label, attributes, plan)
        is_object = category in plan.things or category in plan.ignore
        if not is_object and category not in plan.stuff:
            _require_known_category(category, plan, location)
            skipped_counts.labels[category] += 1
            continue
        try:
            paths = _read_paths(label, size, location)
            if has_map and category in plan.stuff and paths:
                ids[_rasterize_paths(paths, size, plan)] = names.index(category) + 1
                writer.report.num_areas += not is_object
            elif not is_object:
                skipped_counts.labels[category] += 1
            if is_object:
                _add_object(writer, image_id, label, category, attributes, paths, plan, location)
        except InvalidShapeError as error:
            writer.report.skip_invalid(location, category, error)
    if has_map:
        writer.add_semantic(image_id, ids)


def _require_known_category(category: str, plan: ConversionPlan, location: str) -> None:
    if category not in (*DRIVABLE, *LANES, *plan.stuff):
        known_categories = ", ".join((*plan.things, *plan.ignore, *plan.rename))
        raise DataError(
            f"{location} has the category {category!r}; known categories: {known_categories}; add "
            "it to classes, rename, ignore or stuff"
        )


def _read_paths(label: Mapping[str, Any], size: tuple[int, int], location: str) -> list[Poly2dPath]:
    paths = read_paths(label.get("poly2d"), location)
    reach = MAX_REACH * max(size)
    if any(abs(value) > reach for path in paths for point in path.points for value in point):
        raise InvalidShapeError(
            f"{location} has a point more than {reach} pixels from the origin; correct the point"
        )
    return paths


def _parse_attributes(label: Mapping[str, Any], location: str) -> dict[str, Any]:
    raw_attributes = label.get("attributes")
    if raw_attributes is not None and not isinstance(raw_attributes, dict):
        raise DataError(
            f"{location}: attributes are {raw_attributes!r:.60}; they must be an object"
        )
    plain = {key: value for key, value in (raw_attributes or {}).items() if value is not None}
    # Files of different years spell keys in two ways, such as Occluded and occluded.
    return {key[:1].lower() + key[1:]: value for key, value in plain.items()}


def _add_object(
    writer: CocoWriter,
    image_id: int,
    label: Mapping[str, Any],
    category: str,
    attributes: dict[str, Any],
    paths: Sequence[Poly2dPath],
    plan: ConversionPlan,
    location: str,
) -> None:
    flags = [attributes.pop(key, False) for key in ("crowd", "ignored")]
    iscrowd = category in plan.ignore or any(flag is True for flag in flags)
    name = plan.ignore.get(category, category)
    polygons = [flatten_path(path) for path in paths if path.is_closed]
    if polygons:
        added = writer.add_polygons(
            image_id, name, polygons, iscrowd=iscrowd, attributes=attributes
        )
        if not added:
            writer.report.skip(location, name, "its polygons cover no pixel of the image")
        return
    if label.get("box2d") is None:
        writer.report.skip(location, name, "it has neither a box nor a closed polygon")
        return
    corners = parse_corners(label["box2d"], location)
    box = SourceBox(name, corners, name, iscrowd, attributes)
    add_clipped_box(writer, image_id, box, location, first_pixel=0)


def _rasterize_paths(
    paths: Sequence[Poly2dPath], size: tuple[int, int], plan: ConversionPlan
) -> NDArray[np.bool_]:
    """Return the (height, width) bool pixels in closed paths and, for lanes, along all paths."""
    covered = np.zeros(size, dtype=np.uint8)
    for path in paths:
        flat = flatten_path(path)
        if plan.semantic == "lanes":
            # OpenCV takes fixed-point coordinates: 4 fractional bits keep 1/16 pixel.
            points = np.rint(np.reshape(flat, (-1, 2)) * 16).astype(np.int32)
            cv2.polylines(covered, [points], path.is_closed, 1, plan.lane_width, cv2.LINE_8, 4)
        elif path.is_closed:
            covered |= decode_mask([flat], *size)
    return covered.astype(np.bool_)


def _add_notes(
    writer: CocoWriter, skipped_counts: _SkippedCounts, semantic: Semantic, *, need_images: bool
) -> None:
    if skipped_counts.labels:
        label_counts = ", ".join(
            f"{name} {number}" for name, number in sorted(skipped_counts.labels.items())
        )
        writer.report.add_note(f"skipped labels of other tasks: {label_counts}")
    if skipped_counts.frames:
        writer.report.add_note(
            f"skipped: {Count(skipped_counts.frames):image} that only additional label files list"
        )
    if skipped_counts.images_without_map and semantic != "none":
        writer.report.add_note(
            f"{Count(skipped_counts.images_without_map):image has} no entry in the additional "
            "label files; the label maps are void"
        )
    if not need_images:
        writer.report.add_note("converted without the images: their sizes were not checked")
