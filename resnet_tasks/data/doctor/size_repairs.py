"""Correction of image sizes in COCO records that the images and boxes prove wrong."""

from __future__ import annotations

from collections.abc import Collection

from resnet_tasks.data.coco.field_values import find, is_box
from resnet_tasks.data.coco.json_records import CocoContent
from resnet_tasks.data.coco.problems import Id
from resnet_tasks.data.doctor.check import FileCheck
from resnet_tasks.data.images.image_files import try_read_image_size


def find_true_sizes(
    check: FileCheck, content: CocoContent, leave: Collection[str]
) -> dict[Id, tuple[int, int]]:
    """Return the sizes of images whose records are certainly wrong.

    This is the case if the image has no annotations, or if height and width are swapped: all boxes
    are inside the true size, and at least one exceeds the stated size.
    """
    wrong = {finding.image_id for finding in check.findings if finding.kind == "wrong_size"}
    if "wrong_size" in leave:
        return {}
    measured_sizes: dict[Id, tuple[int, int]] = {}
    stated = {}
    for record in check.images:
        size = (
            try_read_image_size(check.images_root / record.file_name)
            if record.id in wrong
            else None
        )
        if size is not None:
            measured_sizes[record.id] = size
            stated[record.id] = (record.height, record.width)
    annotated_ids: set[Id] = set()
    proven: set[Id] = set()
    doubtful: set[Id] = set()
    for raw in content.iter_entries("annotations") if measured_sizes else ():
        size = find(measured_sizes, raw.get("image_id")) if isinstance(raw, dict) else None
        box, mask = (raw.get("bbox"), raw.get("segmentation")) if size is not None else (None, None)
        if size is None or not (box or mask):
            continue
        image_id = raw["image_id"]
        annotated_ids.add(image_id)
        is_swapped = stated[image_id] == size[::-1]
        fits_mask = not isinstance(mask, dict) or mask.get("size") == list(size)
        if not (is_swapped and fits_mask and is_box(box) and _is_box_inside(box, size)):
            doubtful.add(image_id)
        elif not _is_box_inside(box, stated[image_id]):
            proven.add(image_id)
    return {
        image_id: size
        for image_id, size in measured_sizes.items()
        if image_id not in annotated_ids or (image_id in proven and image_id not in doubtful)
    }


def _is_box_inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    x, y, width, height = box
    return min(x, y) >= -1 and x + width <= size[1] + 1 and y + height <= size[0] + 1
