"""Images with truth and prediction drawn beside each other, as layers over one embedded JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from resnet_tasks.assemble.labels import HeadLabels, Labels
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.images.decoding import read_image
from resnet_tasks.data.images.find_images import make_output_names
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.report.charts import make_element
from resnet_tasks.runs.evaluate_run import build_preparation
from resnet_tasks.structures.evaluation import VOID, GroundTruth
from resnet_tasks.visualization.drawing import get_label_color
from resnet_tasks.visualization.thumbnails import to_canvas

Color = tuple[int, int, int]
MAX_IMAGES = 12
MAX_BYTES = 3_500_000
"""Of all embedded images together; those that would pass it are left out and counted."""
LONGEST_SIDE = 640
LEAST_SCORE = 0.05
"""Boxes below are not in the page at all."""
MAX_BOXES = 100
"""Per image and head, best first."""
START_SCORE = 0.5
"""Where the page's slider stands at first."""
HIT_IOU = 0.5
"""Overlap from which a box of the right class counts as found."""


@dataclass(frozen=True)
class ImageChoice:
    """An image worth a look.

    Attributes:
        index: Position in the data set.
        reasons: Why, in words, as `cells: worst (quality 0.12)`.
    """

    index: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ImageView:
    """One image of the page.

    Attributes:
        name: File name as the data set has it.
        image_id: Its id there.
        size: (height, width), original pixels.
        reasons: Why it is shown.
        labels: Of every classifier: head, annotated classes, predicted classes with scores.
        truth: Drawing of what is annotated.
        prediction: Drawing of what was predicted.
        nbytes: Of both drawings.
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
        """Length of both drawings."""
        return len(self.truth) + len(self.prediction)


@dataclass(frozen=True)
class Gallery:
    """The chosen images, and what has to be said about the choice."""

    images: tuple[ImageView, ...] = ()
    classes: tuple[tuple[str, str], ...] = ()
    has_boxes: bool = False
    has_maps: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PredictedBoxes:
    """Predicted boxes of one image, best first; `hits` is the truth each one finds.

    Attributes:
        boxes: `(N, 4)` xywh, original pixels.
        labels: `(N,)` indices into the head's classes.
        scores: `(N,)`.
        hits: `(N,)` index of the truth box; -1 for none, -2 where it lies in a crowd region.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    hits: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


def choose_images(
    details: Mapping[str, Mapping[str, Any]], ids: Sequence[int | str], limit: int = MAX_IMAGES
) -> tuple[list[ImageChoice], list[str]]:
    """The best, the worst and the most surprising images of every head.

    Args:
        details: Head -> `Detailed.details`.
        ids: Image ids by position in the data set.
        limit: At most so many images.

    Returns:
        The choices, each image once, and notes. Where no head judged single images they are
        spread evenly, which a note says.
    """
    positions = {image_id: i for i, image_id in enumerate(ids)}
    scores_by_head = {
        head: _read_image_scores(head_details.get("images"), positions)
        for head, head_details in details.items()
    }
    scores_by_head = {head: rows for head, rows in scores_by_head.items() if rows}
    if not scores_by_head:
        spaced_indices = np.linspace(0, len(ids) - 1, min(limit, len(ids))).astype(int)
        note = "This evaluation did not judge single images; these are spread evenly over the data."
        return [ImageChoice(int(i), ()) for i in dict.fromkeys(spaced_indices)], [note] if len(
            ids
        ) else []
    quota = max(1, limit // (3 * len(scores_by_head)))
    reasons: dict[int, list[str]] = {}
    for criterion in ("worst", "most surprising", "best"):
        for head, rows in scores_by_head.items():
            num_taken = 0
            for index, quality, surprise in _sort_rows(rows, criterion):
                if num_taken == quota:
                    break
                if index not in reasons and len(reasons) >= limit:
                    continue
                value = (
                    f"surprise {surprise:.2f}" if "surp" in criterion else f"quality {quality:.2f}"
                )
                reasons.setdefault(index, []).append(f"{head}: {criterion} ({value})")
                num_taken += 1
    return [ImageChoice(index, tuple(texts)) for index, texts in reasons.items()], []


def _read_image_scores(
    raw: Any, positions: Mapping[int | str, int]
) -> list[tuple[int, float, float]]:
    """(position, quality, surprise) of the images that are judged and known."""
    return [
        (positions[row["image_id"]], float(row["quality"]), float(row.get("surprise") or 0))
        for row in raw or ()
        if row.get("image_id") in positions and row.get("quality") is not None
    ]


def _sort_rows(
    rows: Iterable[tuple[int, float, float]], criterion: str
) -> list[tuple[int, float, float]]:
    if criterion == "most surprising":
        return sorted((row for row in rows if row[2] > 0), key=lambda row: (-row[2], row[0]))
    rows = list(rows)
    if criterion == "best" and len({row[1] for row in rows}) == 1:
        return []  # All are alike; the worst ones stand for them.
    sign = -1 if criterion == "best" else 1
    return sorted(rows, key=lambda row: (sign * row[1], row[0]))


def draw_gallery(
    dataset: CocoDataset,
    predictions: Path,
    *,
    recipe: Recipe,
    labels: Labels,
    details: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Gallery:
    """The chosen images with their layers.

    Args:
        dataset: What was judged.
        predictions: Folder of the evaluation's predictions, for semantic maps.
        recipe: Of the run.
        labels: Of the run.
        details: Head -> details of the evaluation.
        results: Head -> results of the evaluation: boxes, or classes of whole images.
    """
    ids = [dataset.image_id(i) for i in range(len(dataset))]
    names = make_output_names([dataset.path(i) for i in range(len(dataset))])
    choices, notes = choose_images(details, ids)
    classified = {
        head: {row["image_id"]: row for row in rows}
        for head, rows in results.items()
        if any("category_ids" in row for row in rows)
    }
    boxes = {
        head: _group_by_image(head_results, labels.heads[head])
        for head, head_results in results.items()
        if head not in classified
    }
    maps = [head for head in labels.heads if (predictions / head).is_dir()]
    preparation = build_preparation(recipe)
    colors = {name: get_label_color(i) for i, name in enumerate(labels.categories.names)}
    image_views: list[ImageView] = []
    missing: list[str] = []
    used_bytes = num_omitted = 0
    for choice in choices:
        path = dataset.path(choice.index)
        if not path.is_file():
            missing.append(str(path))
            continue
        image = to_canvas(read_image(path, preparation.channels), preparation)
        painter = _Painter(len(image_views), image, colors)
        image_id = ids[choice.index]
        for head, head_labels in labels.heads.items():
            truth = dataset.truth(choice.index, head_labels.table)
            if head in maps:
                file = predictions / head / f"{names[choice.index]}.png"
                painter.add_maps(head_labels, truth, file)
            if head in boxes:
                painter.add_boxes(head_labels, truth, boxes[head].get(image_id))
            if head in classified:
                painter.add_classes(head, head_labels, truth, classified[head].get(image_id))
        view = painter.build_view(path.name, image_id, choice.reasons)
        if used_bytes + view.nbytes > MAX_BYTES:
            num_omitted += 1
            continue
        used_bytes += view.nbytes
        image_views.append(view)
    if missing:
        notes.append(f"{len(missing)} chosen image(s) are not there, the first is {missing[0]}.")
    if num_omitted:
        notes.append(f"{num_omitted} chosen image(s) were left out to keep this page small.")
    shown_classes = {name for head in (*maps, *boxes) for name in labels.heads[head].classes}
    legend = tuple(
        (name, _format_css_color(color)) for name, color in colors.items() if name in shown_classes
    )
    return Gallery(tuple(image_views), legend, bool(boxes), bool(maps), tuple(notes))


def _format_css_color(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _group_by_image(
    results: Iterable[Mapping[str, Any]], head: HeadLabels
) -> dict[int | str, PredictedBoxes]:
    table = {category: label for label, category in enumerate(head.category_ids)}
    rows: dict[int | str, list[tuple[float, list[float], int]]] = {}
    for detection in results:
        if (
            "bbox" in detection
            and detection["score"] >= LEAST_SCORE
            and detection["category_id"] in table
        ):
            row = (
                float(detection["score"]),
                list(detection["bbox"]),
                table[detection["category_id"]],
            )
            rows.setdefault(detection["image_id"], []).append(row)
    boxes_by_image = {}
    for image_id, image_rows in rows.items():
        best = sorted(image_rows, key=lambda row: -row[0])[:MAX_BOXES]
        boxes_by_image[image_id] = PredictedBoxes(
            np.asarray([row[1] for row in best], np.float64).reshape(-1, 4),
            np.asarray([row[2] for row in best], np.int64),
            np.asarray([row[0] for row in best], np.float64),
        )
    return boxes_by_image


def match_boxes(predicted: PredictedBoxes, truth: GroundTruth) -> NDArray[np.int64]:
    """The truth that every predicted box finds, best first, each truth once.

    Returns:
        `(N,)` index into the truth; -1 where there is none of the same class with IoU from 0.5, -2
        where at least half of the box lies in a crowd region of its class.
    """
    hits = np.full(len(predicted.boxes), -1, np.int64)
    if truth.boxes_xywh is None or truth.labels is None or not len(truth.labels):
        return hits
    crowd = truth.crowd if truth.crowd is not None else np.zeros(len(truth.labels), np.bool_)
    inter, area, other_area = _compute_overlaps(predicted.boxes, truth.boxes_xywh)
    iou = inter / np.maximum(area[:, None] + other_area[None] - inter, 1e-12)
    is_free = ~crowd
    for i, label in enumerate(predicted.labels):
        same = truth.labels == label
        candidates = np.where(same & is_free, iou[i], -1.0)
        best = int(candidates.argmax())
        if candidates[best] >= HIT_IOU:
            hits[i], is_free[best] = best, False
        elif (inter[i][same & crowd] >= 0.5 * area[i]).any():
            hits[i] = -2
    return hits


def _compute_overlaps(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Intersections `(N, M)` and areas `(N,)`, `(M,)` of two sets of xywh boxes, pixels²."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    sides = np.clip(high - low, 0, None)
    return sides[..., 0] * sides[..., 1], a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]


@dataclass
class _Layers:
    """What lies over an image, maps below boxes."""

    maps: list[Markup] = field(default_factory=list)
    boxes: list[Markup] = field(default_factory=list)


class _Painter:
    """Builds the two drawings of one image.

    Args:
        number: Position in the page; makes ids unique.
        image: `(height, width, 3)` uint8 RGB, the original image.
        colors: By class name, the same in all heads.
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
        """Semantic maps of both sides, and where they differ."""
        predicted = read_predicted_map(file, head, (self._height, self._width))
        if truth.semantic is not None:
            self._truth.maps.append(self._render_overlay(truth.semantic, head.classes, "maps"))
        if predicted is not None:
            self._prediction.maps.append(self._render_overlay(predicted, head.classes, "maps"))
        if truth.semantic is not None and predicted is not None:
            is_wrong = (truth.semantic != VOID) & (truth.semantic != predicted)
            uri = _encode_png(
                shrink_label_map(is_wrong.astype(np.int64)), [(0, 0, 0, 0), (255, 0, 200, 210)]
            )
            self._prediction.maps.append(self._render_image(uri, "differences"))

    def add_boxes(
        self, head: HeadLabels, truth: GroundTruth, predicted: PredictedBoxes | None
    ) -> None:
        """Boxes of both sides, each told whether the other side has it."""
        if predicted is None:
            predicted = PredictedBoxes(np.empty((0, 4)), np.empty(0, np.int64), np.empty(0))
        hits = match_boxes(predicted, truth)
        if truth.boxes_xywh is not None and truth.labels is not None:
            score_of = {
                int(hit): float(predicted.scores[i]) for i, hit in enumerate(hits) if hit >= 0
            }
            for i, (box, label) in enumerate(zip(truth.boxes_xywh, truth.labels, strict=True)):
                is_crowd = truth.crowd is not None and bool(truth.crowd[i])
                score = 2.0 if is_crowd else score_of.get(i, -1.0)
                kind = "truth crowd" if is_crowd else "truth"
                name = head.classes[int(label)] + (" (crowd)" if is_crowd else "")
                wrong = " missed" if score < START_SCORE else ""
                self._truth.boxes.append(
                    self._render_box(
                        box,
                        self._format_box_style(head, label),
                        name,
                        class_=f"boxes {kind}{wrong}",
                        score=score,
                    )
                )
        for i, (box, label) in enumerate(zip(predicted.boxes, predicted.labels, strict=True)):
            score = float(predicted.scores[i])
            kind = "found wrong" if hits[i] == -1 else "found"
            hidden = " below" if score < START_SCORE else ""
            name = f"{head.classes[int(label)]} {score:.2f}"
            self._prediction.boxes.append(
                self._render_box(
                    box,
                    self._format_box_style(head, label),
                    name,
                    class_=f"boxes {kind}{hidden}",
                    score=score,
                )
            )

    def add_classes(
        self, name: str, head: HeadLabels, truth: GroundTruth, predicted: Mapping[str, Any] | None
    ) -> None:
        """Classes of the whole image, the best three predicted ones, as text."""
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

    def build_view(self, name: str, image_id: int | str, reasons: tuple[str, ...]) -> ImageView:
        """The finished image."""
        image = make_element(
            "image",
            id=self._id,
            href=_encode_jpeg(self._image),
            width=self._width,
            height=self._height,
            preserveAspectRatio="none",
        )
        size = (self._height, self._width)
        truth = self._render_svg(image, self._truth, f"truth of {name}")
        image_reference = make_element("use", href=f"#{self._id}")
        prediction = self._render_svg(image_reference, self._prediction, f"prediction for {name}")
        return ImageView(name, image_id, size, reasons, tuple(self._labels), truth, prediction)

    def _render_svg(self, image: Markup, layers: _Layers, label: str) -> Markup:
        inner = image + Markup("").join((*layers.maps, *layers.boxes))
        box = f"0 0 {self._width} {self._height}"
        return make_element("svg", inner, viewBox=box, role="img", class_="panel", aria_label=label)

    def _render_overlay(
        self, labels: NDArray[np.int64], classes: Sequence[str], layer: str
    ) -> Markup:
        count = min(len(classes), 255)  # a palette has 256 entries; colors repeat beyond them
        palette = [self._choose_rgba(name) for name in classes[:count]]
        values = np.where(labels == VOID, count, labels % count)
        return self._render_image(
            _encode_png(shrink_label_map(values), [*palette, (0, 0, 0, 0)]), layer
        )

    def _format_box_style(self, head: HeadLabels, label: int) -> str:
        color = self._colors.get(head.classes[int(label)], (255, 255, 255))
        return f"--box:{_format_css_color(color)}"

    def _choose_rgba(self, name: str) -> tuple[int, int, int, int]:
        """Color of a class; a background that is no category of the data stays clear."""
        color = self._colors.get(name)
        return (0, 0, 0, 0) if color is None else (*color, 255)

    def _render_image(self, uri: str, layer: str) -> Markup:
        return make_element(
            "image",
            href=uri,
            class_=layer,
            width=self._width,
            height=self._height,
            preserveAspectRatio="none",
        )

    def _render_box(
        self, box: NDArray[np.float64], color: str, name: str, *, class_: str, score: float
    ) -> Markup:
        x, y, width, height = (float(value) for value in box)
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
    """A predicted map as labels of the head; None where it is not there or of another size."""
    if not file.is_file():
        return None
    values = read_label_map(file).astype(np.int64)
    if values.shape != size:
        return None
    table = np.full(int(max(values.max(), *head.category_ids)) + 1, VOID, np.int64)
    for label, category in enumerate(head.category_ids):
        table[category] = label
    return np.asarray(table[values], np.int64)


def shrink_label_map(labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Label map with its longest side brought to `LONGEST_SIDE`, nearest neighbor."""
    small = np.clip(labels, 0, 255).astype(np.uint8)
    step = LONGEST_SIDE / max(small.shape)
    if step >= 1:
        return small
    rows, columns = (
        ((np.arange(max(1, round(side * step))) + 0.5) / step).astype(int).clip(0, side - 1)
        for side in small.shape
    )
    return np.asarray(small[rows][:, columns], np.uint8)


def _encode_png(values: NDArray[np.uint8], palette: Sequence[tuple[int, int, int, int]]) -> str:
    size = (int(values.shape[1]), int(values.shape[0]))
    image = Image.frombytes("P", size, values.tobytes())
    image.putpalette([channel for color in palette for channel in color[:3]])
    alpha = bytes(color[3] for color in palette)
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=alpha, optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _encode_jpeg(image: NDArray[np.uint8]) -> str:
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    thumbnail.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
