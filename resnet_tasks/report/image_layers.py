"""One image as two SVG drawings, ground truth and prediction, as layers over one embedded JPEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from resnet_tasks.assemble.labels import HeadLabels
from resnet_tasks.data.coco.masks import encode_rle
from resnet_tasks.data.images.find_images import find_file
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.report.box_matching import PredictedBoxes, match_boxes
from resnet_tasks.report.charts import make_element
from resnet_tasks.report.embedded_images import encode_jpeg, encode_png, shrink_label_map
from resnet_tasks.report.mask_outlines import trace_mask
from resnet_tasks.structures.evaluation import BACKGROUND, VOID, GroundTruth
from resnet_tasks.visualization.colors import Color, build_palette, format_css_color

START_SCORE = 0.5
"""Initial value of the score slider in the page."""


@dataclass(frozen=True)
class ImageView:
    """One image of the page.

    Attributes:
        name: File name in the dataset.
        image_id: Image id in the dataset.
        size: (height, width) of the original image, pixels.
        reasons: Reasons why the image was selected.
        labels: Head name, annotated classes, and predicted classes with scores, for every
            classifier.
        truth: Drawing of the ground truth.
        prediction: Drawing of the prediction.
        nbytes: Length of both drawings, characters.
    """

    name: str
    image_id: int | str
    size: tuple[int, int]
    reasons: tuple[str, ...]
    labels: tuple[tuple[str, str, str], ...]
    truth: Markup
    prediction: Markup

    @property
    def nbytes(self) -> int:
        """Length of both drawings together."""
        return len(self.truth) + len(self.prediction)


@dataclass
class _Layers:
    """Layers over an image; maps are below masks, masks below boxes."""

    maps: list[Markup] = field(default_factory=list)
    masks: list[Markup] = field(default_factory=list)
    boxes: list[Markup] = field(default_factory=list)


class ImagePainter:
    """Builder of the two drawings of one image.

    Args:
        number: Position of the image in the page; makes element ids unique.
        image: `(height, width, 3)` uint8 RGB, the original image.
        colors: Class name -> color, shared by all heads.
    """

    def __init__(self, number: int, image: NDArray[np.uint8], colors: Mapping[str, Color]) -> None:
        self._colors = colors
        self._id = f"image-{number}"
        self._image = image
        self._height, self._width = int(image.shape[0]), int(image.shape[1])
        self._truth = _Layers()
        self._prediction = _Layers()
        self._labels: list[tuple[str, str, str]] = []

    def add_maps(self, head: HeadLabels, truth: GroundTruth, file: Path) -> None:
        """Add the semantic maps of ground truth and prediction, and their differences."""
        predicted = read_predicted_map(file, head, (self._height, self._width))
        if truth.semantic is not None:
            self._truth.maps.append(self._render_overlay(truth.semantic, head.classes, "maps"))
        if predicted is not None:
            self._prediction.maps.append(self._render_overlay(predicted, head.classes, "maps"))
        if truth.semantic is not None and predicted is not None:
            is_wrong = (truth.semantic != VOID) & (truth.semantic != predicted)
            uri = encode_png(
                shrink_label_map(is_wrong.astype(np.uint8)), [(0, 0, 0, 0), (255, 0, 200, 210)]
            )
            self._prediction.maps.append(self._render_image(uri, "differences"))

    def add_boxes(
        self,
        head: HeadLabels,
        truth: GroundTruth,
        predicted: PredictedBoxes | None,
        *,
        has_masks: bool = False,
    ) -> None:
        """Add the boxes of ground truth and prediction, marked as matched or not.

        If the head predicts masks, those of prediction and ground truth are added too.
        """
        if predicted is None:
            predicted = PredictedBoxes(np.empty((0, 4)), np.empty(0, np.int64), np.empty(0))
        hits = match_boxes(predicted, truth)
        true_masks = self._encode_true_masks(truth) if has_masks else ()
        if truth.boxes_xywh is not None and truth.labels is not None:
            # The page's slider compares `data-score`: a truth box counts as missed while its match
            # scores less than the slider. Crowds (2.0) are never missed, unmatched boxes always.
            score_of = {
                int(hit): float(predicted.scores[i]) for i, hit in enumerate(hits) if hit >= 0
            }
            for i, (box, label) in enumerate(zip(truth.boxes_xywh, truth.labels, strict=True)):
                is_crowd = truth.crowd is not None and bool(truth.crowd[i])
                score = 2.0 if is_crowd else score_of.get(i, -1.0)
                kind = "truth crowd" if is_crowd else "truth"
                name = head.classes[int(label)] + (" (crowd)" if is_crowd else "")
                wrong = " missed" if score < START_SCORE else ""
                style = self._format_box_style(head, label)
                self._truth.boxes.append(
                    self._render_box(box, style, name, class_=f"boxes {kind}{wrong}", score=score)
                )
                if true_masks:
                    self._truth.masks += self._render_mask(
                        true_masks[i], style, class_=f"masks {kind}{wrong}", score=score
                    )
        for i, (box, label) in enumerate(zip(predicted.boxes, predicted.labels, strict=True)):
            score = float(predicted.scores[i])
            kind = "found wrong" if hits[i] == -1 else "found"
            hidden = " below" if score < START_SCORE else ""
            name = f"{head.classes[int(label)]} {score:.2f}"
            style = self._format_box_style(head, label)
            self._prediction.boxes.append(
                self._render_box(box, style, name, class_=f"boxes {kind}{hidden}", score=score)
            )
            if predicted.masks:
                self._prediction.masks += self._render_mask(
                    predicted.masks[i], style, class_=f"masks {kind}{hidden}", score=score
                )

    def add_texts(
        self,
        name: str,
        head: HeadLabels,
        truth: GroundTruth,
        results: Sequence[Mapping[str, Any]],
    ) -> None:
        """Add the results for the whole image as text: classes, or the values of a plugin."""
        if all("category_ids" in row for row in results):
            self._add_classes(name, head, truth, next(iter(results), None))
        else:
            self._add_values(name, head, results)

    def _add_classes(
        self, name: str, head: HeadLabels, truth: GroundTruth, predicted: Mapping[str, Any] | None
    ) -> None:
        """Add the annotated classes of the image and its three best predicted classes, as text."""
        expected = "not annotated"
        if truth.image_labels is not None:
            true_classes = [head.classes[int(label)] for label in truth.image_labels if label >= 0]
            expected = ", ".join(true_classes) or "none"
        by_id = dict(zip(head.category_ids, head.classes, strict=True))
        pairs = (
            zip(predicted["category_ids"], predicted["scores"], strict=True) if predicted else ()
        )
        best = [
            f"{by_id.get(category_id, category_id)} {score:.2f}"
            for category_id, score in list(pairs)[:3]
        ]
        self._labels.append((name, expected, ", ".join(best) or "none"))

    def _add_values(
        self, name: str, head: HeadLabels, results: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add the results of a plugin's head as text: the values of every entry, by class."""
        by_id = dict(zip(head.category_ids, head.classes, strict=True))
        texts = []
        for row in results:
            values = [
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in row.items()
                if key not in ("image_id", "category_id")
            ]
            category = row.get("category_id")
            label = [str(by_id.get(category, category))] if category is not None else []
            texts.append(" ".join([*label, *values]))
        self._labels.append((name, "not drawn", ", ".join(texts) or "none"))

    def build_view(self, name: str, image_id: int | str, reasons: tuple[str, ...]) -> ImageView:
        """Build the view of the finished image."""
        image = make_element(
            "image",
            id=self._id,
            href=encode_jpeg(self._image),
            width=self._width,
            height=self._height,
            preserveAspectRatio="none",
        )
        size = (self._height, self._width)
        truth = self._render_svg(image, self._truth, f"truth of {name}")
        # The second drawing refers to the image of the first one, so that the page embeds it once.
        image_reference = make_element("use", href=f"#{self._id}")
        prediction = self._render_svg(image_reference, self._prediction, f"prediction for {name}")
        return ImageView(name, image_id, size, reasons, tuple(self._labels), truth, prediction)

    def _render_svg(self, image: Markup, layers: _Layers, label: str) -> Markup:
        inner = image + Markup("").join((*layers.maps, *layers.masks, *layers.boxes))
        box = f"0 0 {self._width} {self._height}"
        return make_element("svg", inner, viewBox=box, role="img", class_="panel", aria_label=label)

    def _render_overlay(
        self, labels: NDArray[np.int64], classes: Sequence[str], layer: str
    ) -> Markup:
        small = shrink_label_map(labels)
        # A palette has 256 entries, but a head may have more classes; few images show that many.
        shown_labels = np.unique(small)
        indices = np.searchsorted(shown_labels, small).clip(max=255).astype(np.uint8)
        palette = [self._choose_rgba(classes, label) for label in shown_labels[:256].tolist()]
        return self._render_image(encode_png(indices, palette), layer)

    def _format_box_style(self, head: HeadLabels, label: int) -> str:
        (color,) = build_palette((head.classes[int(label)],), self._colors)
        return f"--box:{format_css_color(color)}"

    def _choose_rgba(self, classes: Sequence[str], label: int) -> tuple[int, int, int, int]:
        """Return the color of a label; transparent for void and background."""
        if label == VOID or classes[label] == BACKGROUND:
            return (0, 0, 0, 0)
        (color,) = build_palette((classes[label],), self._colors)
        return (*color, 255)

    def _render_image(self, uri: str, layer: str) -> Markup:
        return make_element(
            "image",
            href=uri,
            class_=layer,
            width=self._width,
            height=self._height,
            preserveAspectRatio="none",
        )

    def _encode_true_masks(self, truth: GroundTruth) -> tuple[Mapping[str, Any] | None, ...]:
        return tuple(
            None if segmentation is None else encode_rle(segmentation, *truth.size)
            for segmentation in truth.segmentations or ()
        )

    def _render_mask(
        self, mask: Mapping[str, Any] | None, color: str, *, class_: str, score: float
    ) -> list[Markup]:
        """Return the outline of a mask; nothing for a mask without pixels."""
        outline = "" if mask is None else trace_mask(mask)
        if not outline:
            return []
        path = make_element("path", d=outline)
        return [make_element("g", path, class_=class_, style=color, data_score=f"{score:.4f}")]

    def _render_box(
        self, box: NDArray[np.float64], color: str, name: str, *, class_: str, score: float
    ) -> Markup:
        x, y, width, height = (float(value) for value in box)
        # In pixels of the image. Letters are about 0.58 of the font size wide, so the name fits in.
        size = max(self._width, self._height) * 0.026
        rect = make_element("rect", x=x, y=y, width=width, height=height)
        text = make_element(
            "text",
            Markup.escape(name),
            x=min(max(x, 0.0), max(self._width - size * 0.58 * len(name), 0.0)),
            y=max(y - size * 0.25, size),
            font_size=size,
        )
        return make_element("g", rect + text, class_=class_, style=color, data_score=f"{score:.4f}")


def read_predicted_map(
    file: Path, head: HeadLabels, size: tuple[int, int]
) -> NDArray[np.int64] | None:
    """Read a predicted map as labels of the head; None if it is missing or has another size."""
    if find_file(file) is None:
        return None
    values = read_label_map(file).astype(np.int64)
    if values.shape != size:
        return None
    table = np.full(int(max(values.max(), *head.category_ids)) + 1, VOID, np.int64)
    for label, category in enumerate(head.category_ids):
        table[category] = label
    return np.asarray(table[values], np.int64)
