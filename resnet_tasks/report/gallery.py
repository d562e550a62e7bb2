"""Gallery of a report: selected images with ground truth and prediction next to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_tasks.assemble.datasets import build_preparation
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.images.decoding import read_image
from resnet_tasks.data.images.find_images import find_file, make_output_names
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.report.box_matching import group_boxes_by_image
from resnet_tasks.report.image_choice import choose_images
from resnet_tasks.report.image_layers import ImagePainter, ImageView
from resnet_tasks.visualization.colors import format_css_color
from resnet_tasks.visualization.thumbnails import to_canvas

MAX_BYTES = 3_500_000
"""Maximum total size of the embedded images, bytes; further images are skipped and counted."""


@dataclass(frozen=True)
class Gallery:
    """Selected images with their legend, and notes about the selection.

    Attributes:
        images: Selected images.
        classes: Class name and CSS color of each class in the legend.
        has_boxes: Whether any head predicts boxes.
        has_maps: Whether any head predicts semantic maps.
        has_masks: Whether any head predicts masks.
        notes: Sentences about the selection.
    """

    images: tuple[ImageView, ...] = ()
    classes: tuple[tuple[str, str], ...] = ()
    has_boxes: bool = False
    has_maps: bool = False
    has_masks: bool = False
    notes: tuple[str, ...] = ()


def draw_gallery(
    dataset: CocoDataset,
    predictions: Path,
    *,
    recipe: Recipe,
    labels: Labels,
    details: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Gallery:
    """Draw the selected images with their ground truth and predictions.

    Args:
        dataset: Dataset of the evaluation.
        predictions: Folder of the evaluation's predictions, which contains the semantic maps.
        recipe: Recipe of the run.
        labels: Categories and classes of the run.
        details: Head name -> details of the evaluation.
        results: Head name -> results of the evaluation: boxes, or classes of whole images.
    """
    ids = [dataset.image_id(i) for i in range(len(dataset))]
    names = make_output_names([dataset.path(i) for i in range(len(dataset))])
    choices, notes = choose_images(details, ids)
    boxes = {
        head: group_boxes_by_image(head_results, labels.heads[head])
        for head, head_results in results.items()
        if all("bbox" in row for row in head_results)
    }
    texts = {
        head: _group_by_image(head_results)
        for head, head_results in results.items()
        if head not in boxes
    }
    masked = {head for head in boxes if any("segmentation" in row for row in results[head])}
    maps = [head for head in labels.heads if (predictions / head).is_dir()]
    preparation = build_preparation(recipe)
    colors = labels.class_colors
    image_views: list[ImageView] = []
    missing: list[str] = []
    used_bytes = num_omitted = 0
    for choice in choices:
        path = dataset.path(choice.index)
        if find_file(path) is None:
            missing.append(str(path))
            continue
        image = to_canvas(read_image(path, preparation.channels), preparation)
        painter = ImagePainter(len(image_views), image, colors)
        image_id = ids[choice.index]
        for head, head_labels in labels.heads.items():
            truth = dataset.truth(choice.index, head_labels.table)
            if head in maps:
                file = predictions / head / f"{names[choice.index]}.png"
                painter.add_maps(head_labels, truth, file)
            if head in boxes:
                painter.add_boxes(
                    head_labels, truth, boxes[head].get(image_id), has_masks=head in masked
                )
            if head in texts:
                painter.add_texts(head, head_labels, truth, texts[head].get(image_id, ()))
        view = painter.build_view(path.name, image_id, choice.reasons)
        if used_bytes + view.nbytes > MAX_BYTES:
            num_omitted += 1
            continue
        used_bytes += view.nbytes
        image_views.append(view)
    if missing:
        notes.append(
            f"{Count(len(missing)):chosen image does} not exist, the first is {missing[0]}."
        )
    if num_omitted:
        notes.append(f"{Count(num_omitted):chosen image was} skipped to keep this page small.")
    shown_classes = {name for head in (*maps, *boxes) for name in labels.heads[head].classes}
    legend = tuple(
        (name, format_css_color(color)) for name, color in colors.items() if name in shown_classes
    )
    return Gallery(
        tuple(image_views), legend, bool(boxes), bool(maps), bool(masked), notes=tuple(notes)
    )


def _group_by_image(
    results: Sequence[Mapping[str, Any]],
) -> dict[int | str, list[Mapping[str, Any]]]:
    """Return image id -> results."""
    groups: dict[int | str, list[Mapping[str, Any]]] = {}
    for row in results:
        groups.setdefault(row["image_id"], []).append(row)
    return groups
