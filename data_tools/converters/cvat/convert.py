"""Converter for CVAT's own XML, for images and for video, version 1.1.

    ROOT/annotations.xml               shapes of all images, or tracks over the frames of a video
    ROOT/images/NAME.jpg               images; also ROOT/NAME.jpg, and images/SUBSET/NAME.jpg as
                                       projects are exported
    ROOT/images/frame_000000.png       the frames of a video

A subset called Train, Validation or Test becomes the split of that name; the subset `default`
becomes train. Images without shapes count as annotated and empty, because the XML cannot express
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_tools.converters.cvat.annotations import read_cvat
from data_tools.converters.cvat.images import ANNOTATIONS_FILE, CvatImage, CvatImageFinder
from data_tools.reading.image_io import measure_stated_size
from data_tools.reading.safe_xml import read_xml
from data_tools.reading.source_folder import SPLITS, require_parts
from data_tools.shapes.labeled_objects import add_labeled_image
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.errors import DataError, format_allowed


def convert_cvat(
    source: Path,
    out: Path,
    *,
    classes: Sequence[str] | None = None,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert an export of CVAT to COCO JSON with boxes and outlines.

    Boxes, polygons, masks and ellipses are converted; a rotated box becomes the polygon of its
    corners. Lines, points, skeletons, cuboids, tags and a few invalid shapes are skipped and listed
    in the summary. The frames of a video form one group. A split counts as annotated with masks if
    every object has an outline.

    Args:
        source: Folder that contains `annotations.xml` and the images.
        out: Folder for one of `train.json`, `val.json`, `test.json` per subset.
        classes: Names in order of their ids; default: the labels of the task that can have an area,
            in the order of the task.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a file or image is missing, a label or subset is invalid, or many shapes are.
    """
    require_parts(source, (ANNOTATIONS_FILE,))
    file = source / ANNOTATIONS_FILE
    images, labels = read_cvat(read_xml(file), file)
    class_names = _resolve_classes(images, labels if classes is None else classes, file)
    finder = CvatImageFinder(source)
    splits = {
        split: split_images
        for split in SPLITS
        if (split_images := [image for image in images if image.split == split])
    }
    dataset = DatasetWriter(
        out,
        [CategorySpec(name) for name in class_names],
        annotated=("boxes",),
        description="Converted from CVAT, {split}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )

    def add_image(writer: CocoWriter, image: CvatImage) -> None:
        path, statement = finder.find(image), f"{file}: {image.name} has the size"
        size = measure_stated_size(path, image.size, statement, "its shapes would be misplaced")
        add_labeled_image(
            writer,
            path,
            size,
            image.objects,
            image.skipped,
            image.name,
            group=image.group,
            invalid=image.invalid,
        )

    return dataset.write(track_splits(splits, progress), add_image, CocoWriter.declare_outlines)


def _resolve_classes(images: Sequence[CvatImage], labels: Sequence[str], file: Path) -> list[str]:
    used_labels = {labeled_object.label for image in images for labeled_object in image.objects}
    class_names = list(dict.fromkeys(labels)) or sorted(used_labels)
    unknown = sorted(used_labels - set(class_names))
    if unknown:
        raise DataError(
            f"{file} has an object of class {unknown[0]!r}; the classes are "
            f"{format_allowed(class_names)}: "
            "add this class or correct the file"
        )
    errors = [error for image in images for _, error in image.invalid]
    if not class_names and errors:
        raise errors[0]
    if not class_names:
        raise DataError(
            f"{file} has no label whose objects have an area; there is nothing to train on"
        )
    return class_names
