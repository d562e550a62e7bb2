"""Contact sheets of a dataset: a grid of images with annotations and captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.errors import DataError, format_allowed
from resnet_tasks.registry import suggest_nearest
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.predictions.truth_drawing import draw_annotations
from resnet_tasks.visualization.canvas import ImageCanvas
from resnet_tasks.visualization.colors import Color, assign_class_colors
from resnet_tasks.visualization.drawing import fit_truth
from resnet_tasks.visualization.legend import draw_legend, stack_vertically
from resnet_tasks.visualization.thumbnails import make_overview

CELL = (270, 360)
"""(height, width) that an image of the sheet fits into, pixels."""
CAPTION = 40
GAP = 8
_DRAWN_FIELDS = ("semantic", "masks", "boxes", "image_labels")

Pixels = NDArray[np.uint8]


def choose_images(
    dataset: CocoDataset, *, number: int, seed: int = 0, category: str | None = None
) -> list[int]:
    """Sample image positions at random.

    Args:
        dataset: Dataset to sample from.
        number: Maximum number of images.
        seed: Seed of the random sample.
        category: Category name; only images with an object, pixels or an image-level label of it
            are sampled. None: all images.

    Returns:
        Sorted positions of the sampled images.

    Raises:
        DataError: If the category does not exist, or no image contains it.
    """
    positions = list(range(len(dataset)))
    if category is not None:
        names = dataset.categories.names
        if category not in names:
            hint = suggest_nearest(category, names)
            raise DataError(
                f"{category!r} is not a category of the file ({format_allowed(names)}){hint}"
            )
        category_index = names.index(category)
        positions = [i for i in positions if _has_category(dataset, i, category_index)]
        if not positions:
            raise DataError(f"no image has an object of the category {category!r}")
    sampled_indices = np.random.default_rng(seed).permutation(len(positions))[:number]
    return sorted(positions[i] for i in sampled_indices)


def _has_category(dataset: CocoDataset, index: int, category: int) -> bool:
    file, record = dataset.image_index.record(index)
    if any(annotation.category == category for annotation in file.annotations[record.id]):
        return True
    if "semantic" not in file.annotated or record.sem_seg_file_name is None:
        return False
    semantic = dataset.truth(index, LabelTable.identity(dataset.categories.names)).semantic
    return semantic is not None and bool((semantic == category).any())


def draw_sheet(
    dataset: CocoDataset, positions: Sequence[int], notes: Mapping[int, str] | None = None
) -> Pixels:
    """Draw a grid of images, each with its ground truth and a caption, and a legend below them.

    The cell of an image that cannot be read stays empty, and its caption reports the problem.

    Args:
        dataset: Dataset of the images.
        positions: Positions of the images in the dataset.
        notes: Position -> additional line of the caption.

    Returns:
        `(height, width, 3)` uint8 RGB.
    """
    columns = max(1, min(len(positions), round(math.sqrt(len(positions) * 1.3))))
    height, width = CELL[0] + CAPTION + GAP, CELL[1] + GAP
    rows = -(-len(positions) // columns)
    legend: dict[str, Color] = {}
    sheet = np.full((rows * height + GAP, columns * width + GAP, 3), 255, np.uint8)
    for number, index in enumerate(positions):
        top, left = GAP + number // columns * height, GAP + number % columns * width
        note = (notes or {}).get(index, "")
        try:
            drawing = _draw_image(dataset, index, legend)
            cell = sheet[top : top + drawing.shape[0], left : left + drawing.shape[1]]
            cell[:] = drawing
        except DataError:
            note = note or "cannot be read"
        corner = (left, top + CELL[0] + 14)
        _write_caption(
            sheet, f"{dataset.image_id(index)}: {dataset.path(index).name}", corner, (0, 0, 0)
        )
        _write_caption(sheet, note, (left, corner[1] + 18), (190, 30, 30))
    names = draw_legend(sorted(legend.items()), sheet.shape[1], 0.5)
    return stack_vertically([sheet, names])


def _draw_image(dataset: CocoDataset, index: int, legend: dict[str, Color]) -> Pixels:
    """Draw an image, resized to its cell, with all its annotations; add its classes to `legend`."""
    prepared = dataset.prepare_image(index)
    original = prepared.original_size
    scale = min(CELL[0] / original[0], CELL[1] / original[1])
    size = (max(1, int(original[0] * scale)), max(1, int(original[1] * scale)))
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = make_overview(prepared, longest=4 * max(CELL))
    small = np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=mode), np.uint8)
    names = dataset.categories.names
    truth = dataset.truth(index, LabelTable.identity(names))
    canvas = ImageCanvas(small, colors=assign_class_colors(names))
    canvas.set_classes(names)
    draw_annotations(canvas, fit_truth(truth, _DRAWN_FIELDS, size), names, _DRAWN_FIELDS)
    legend.update(canvas.drawn_classes)
    return canvas.finish()


def _write_caption(
    sheet: Pixels, text: str, corner: tuple[int, int], color: tuple[int, int, int]
) -> None:
    """Write a line of text, shortened in the middle if it is wider than a cell."""
    scale, font = 0.45, cv2.FONT_HERSHEY_SIMPLEX
    plain = text.encode("ascii", "replace").decode()  # OpenCV fonts have ASCII only
    line, num_chars = plain, len(plain)
    while cv2.getTextSize(line, font, scale, 1)[0][0] > CELL[1] and num_chars > 8:
        num_chars -= 1
        line = f"{plain[: num_chars // 2]}...{plain[-(num_chars - num_chars // 2) :]}"
    cv2.putText(sheet, line, corner, font, scale, color, 1, cv2.LINE_AA)
