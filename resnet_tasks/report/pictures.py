"""Pictures with truth and prediction drawn beside each other, as layers over one embedded JPEG."""

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
from resnet_tasks.data.dataset import CocoDataset
from resnet_tasks.data.decoding import read_image
from resnet_tasks.data.label_files import read_label_map
from resnet_tasks.drawing import color_of
from resnet_tasks.prediction_files import output_names, shown
from resnet_tasks.recipe.schema import Recipe
from resnet_tasks.report.charts import element
from resnet_tasks.structures import VOID, Truth
from resnet_tasks.training.judging import preparation_of

Color = tuple[int, int, int]
MAX_PICTURES = 12
MAX_BYTES = 3_500_000
"""Of all embedded pictures together; those that would pass it are left out and counted."""
LONGEST_SIDE = 640
LEAST_SCORE = 0.05
"""Boxes below are not in the page at all."""
MAX_BOXES = 100
"""Per picture and head, best first."""
START_SCORE = 0.5
"""Where the page's slider stands at first."""
HIT_IOU = 0.5
"""Overlap from which a box of the right class counts as found."""


@dataclass(frozen=True)
class Choice:
    """A picture worth a look.

    Attributes:
        index: Position in the data set.
        reasons: Why, in words, as `cells: worst (quality 0.12)`.
    """

    index: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class PictureView:
    """One picture of the page.

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
    """The chosen pictures, and what has to be said about the choice."""

    pictures: tuple[PictureView, ...] = ()
    classes: tuple[tuple[str, str], ...] = ()
    has_boxes: bool = False
    has_maps: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundBoxes:
    """Predicted boxes of one picture, best first; `hits` is the truth each one finds.

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


def choose(
    details: Mapping[str, Mapping[str, Any]], ids: Sequence[int | str], limit: int = MAX_PICTURES
) -> tuple[list[Choice], list[str]]:
    """The best, the worst and the most surprising pictures of every head.

    Args:
        details: Head -> `Detailed.details`.
        ids: Image ids by position in the data set.
        limit: At most so many pictures.

    Returns:
        The choices, each picture once, and notes. Where no head judged single pictures they are
        spread evenly, which a note says.
    """
    positions = {each: i for i, each in enumerate(ids)}
    judged = {head: _judged(each.get("pictures"), positions) for head, each in details.items()}
    judged = {head: each for head, each in judged.items() if each}
    if not judged:
        spread = np.linspace(0, len(ids) - 1, min(limit, len(ids))).astype(int)
        note = (
            "This evaluation did not judge single pictures; these are spread evenly over the data."
        )
        return [Choice(int(i), ()) for i in dict.fromkeys(spread)], [note] if len(ids) else []
    share = max(1, limit // (3 * len(judged)))
    reasons: dict[int, list[str]] = {}
    for wanted in ("worst", "most surprising", "best"):
        for head, rows in judged.items():
            taken = 0
            for index, quality, surprise in _ordered(rows, wanted):
                if taken == share:
                    break
                if index not in reasons and len(reasons) >= limit:
                    continue
                value = f"surprise {surprise:.2f}" if "surp" in wanted else f"quality {quality:.2f}"
                reasons.setdefault(index, []).append(f"{head}: {wanted} ({value})")
                taken += 1
    return [Choice(index, tuple(each)) for index, each in reasons.items()], []


def _judged(raw: Any, positions: Mapping[int | str, int]) -> list[tuple[int, float, float]]:
    """(position, quality, surprise) of the pictures that are judged and known."""
    return [
        (positions[each["image_id"]], float(each["quality"]), float(each.get("surprise") or 0))
        for each in raw or ()
        if each.get("image_id") in positions and each.get("quality") is not None
    ]


def _ordered(
    rows: Iterable[tuple[int, float, float]], wanted: str
) -> list[tuple[int, float, float]]:
    if wanted == "most surprising":
        return sorted((row for row in rows if row[2] > 0), key=lambda row: (-row[2], row[0]))
    rows = list(rows)
    if wanted == "best" and len({row[1] for row in rows}) == 1:
        return []  # All are alike; the worst ones stand for them.
    sign = -1 if wanted == "best" else 1
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
    """The chosen pictures with their layers.

    Args:
        dataset: What was judged.
        predictions: Folder of the evaluation's predictions, for semantic maps.
        recipe: Of the run.
        labels: Of the run.
        details: Head -> details of the evaluation.
        results: Head -> results of the evaluation: boxes, or classes of whole pictures.
    """
    ids = [dataset.image_id(i) for i in range(len(dataset))]
    names = output_names([dataset.path(i) for i in range(len(dataset))])
    choices, notes = choose(details, ids)
    classified = {
        head: {each["image_id"]: each for each in rows}
        for head, rows in results.items()
        if any("category_ids" in each for each in rows)
    }
    boxes = {
        head: _by_picture(each, labels.heads[head])
        for head, each in results.items()
        if head not in classified
    }
    maps = [head for head in labels.heads if (predictions / head).is_dir()]
    preparation = preparation_of(recipe)
    colors = {name: color_of(i) for i, name in enumerate(labels.categories.names)}
    drawn: list[PictureView] = []
    missing: list[str] = []
    used = too_much = 0
    for choice in choices:
        path = dataset.path(choice.index)
        if not path.is_file():
            missing.append(str(path))
            continue
        image = shown(read_image(path, preparation.channels), preparation)
        painter = _Painter(len(drawn), image, colors)
        image_id = ids[choice.index]
        for head, each in labels.heads.items():
            truth = dataset.truth(choice.index, each.table)
            if head in maps:
                file = predictions / head / f"{names[choice.index]}.png"
                painter.add_maps(each, truth, file)
            if head in boxes:
                painter.add_boxes(each, truth, boxes[head].get(image_id))
            if head in classified:
                painter.add_classes(head, each, truth, classified[head].get(image_id))
        view = painter.view(path.name, image_id, choice.reasons)
        if used + view.nbytes > MAX_BYTES:
            too_much += 1
            continue
        used += view.nbytes
        drawn.append(view)
    if missing:
        notes.append(f"{len(missing)} chosen picture(s) are not there, the first is {missing[0]}.")
    if too_much:
        notes.append(f"{too_much} chosen picture(s) were left out to keep this page small.")
    known = {name for head in (*maps, *boxes) for name in labels.heads[head].classes}
    legend = tuple((name, _css(color)) for name, color in colors.items() if name in known)
    return Gallery(tuple(drawn), legend, bool(boxes), bool(maps), tuple(notes))


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _by_picture(
    results: Iterable[Mapping[str, Any]], head: HeadLabels
) -> dict[int | str, FoundBoxes]:
    table = {category: label for label, category in enumerate(head.category_ids)}
    rows: dict[int | str, list[tuple[float, list[float], int]]] = {}
    for each in results:
        if "bbox" in each and each["score"] >= LEAST_SCORE and each["category_id"] in table:
            row = (float(each["score"]), list(each["bbox"]), table[each["category_id"]])
            rows.setdefault(each["image_id"], []).append(row)
    found = {}
    for image_id, present in rows.items():
        best = sorted(present, key=lambda row: -row[0])[:MAX_BOXES]
        found[image_id] = FoundBoxes(
            np.asarray([row[1] for row in best], np.float64).reshape(-1, 4),
            np.asarray([row[2] for row in best], np.int64),
            np.asarray([row[0] for row in best], np.float64),
        )
    return found


def match(found: FoundBoxes, truth: Truth) -> NDArray[np.int64]:
    """The truth that every predicted box finds, best first, each truth once.

    Returns:
        `(N,)` index into the truth; -1 where there is none of the same class with IoU from 0.5, -2
        where at least half of the box lies in a crowd region of its class.
    """
    hits = np.full(len(found.boxes), -1, np.int64)
    if truth.boxes_xywh is None or truth.labels is None or not len(truth.labels):
        return hits
    crowd = truth.crowd if truth.crowd is not None else np.zeros(len(truth.labels), np.bool_)
    inter, area, other = _overlaps(found.boxes, truth.boxes_xywh)
    iou = inter / np.maximum(area[:, None] + other[None] - inter, 1e-12)
    free = ~crowd
    for i, label in enumerate(found.labels):
        same = truth.labels == label
        candidates = np.where(same & free, iou[i], -1.0)
        best = int(candidates.argmax())
        if candidates[best] >= HIT_IOU:
            hits[i], free[best] = best, False
        elif (inter[i][same & crowd] >= 0.5 * area[i]).any():
            hits[i] = -2
    return hits


def _overlaps(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Intersections `(N, M)` and areas `(N,)`, `(M,)` of two sets of xywh boxes, pixels²."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    sides = np.clip(high - low, 0, None)
    return sides[..., 0] * sides[..., 1], a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]


@dataclass
class _Layers:
    """What lies over a picture, maps below boxes."""

    maps: list[Markup] = field(default_factory=list)
    boxes: list[Markup] = field(default_factory=list)


class _Painter:
    """Builds the two drawings of one picture.

    Args:
        number: Position in the page; makes ids unique.
        image: `(height, width, 3)` uint8 RGB, the original picture.
        colors: By class name, the same in all heads.
    """

    def __init__(self, number: int, image: NDArray[np.uint8], colors: Mapping[str, Color]) -> None:
        self._colors = colors
        self._id = f"picture-{number}"
        self._image = image
        self._height, self._width = int(image.shape[0]), int(image.shape[1])
        self._truth = _Layers()
        self._prediction = _Layers()
        self._labels: list[tuple[str, str, str]] = []

    def add_maps(self, head: HeadLabels, truth: Truth, file: Path) -> None:
        """Semantic maps of both sides, and where they differ."""
        predicted = read_map(file, head, (self._height, self._width))
        if truth.semantic is not None:
            self._truth.maps.append(self._overlay(truth.semantic, head.classes, "maps"))
        if predicted is not None:
            self._prediction.maps.append(self._overlay(predicted, head.classes, "maps"))
        if truth.semantic is not None and predicted is not None:
            wrong = (truth.semantic != VOID) & (truth.semantic != predicted)
            uri = _png(reduced(wrong.astype(np.int64)), [(0, 0, 0, 0), (255, 0, 200, 210)])
            self._prediction.maps.append(self._picture(uri, "differences"))

    def add_boxes(self, head: HeadLabels, truth: Truth, found: FoundBoxes | None) -> None:
        """Boxes of both sides, each told whether the other side has it."""
        if found is None:
            found = FoundBoxes(np.empty((0, 4)), np.empty(0, np.int64), np.empty(0))
        hits = match(found, truth)
        if truth.boxes_xywh is not None and truth.labels is not None:
            score_of = {int(hit): float(found.scores[i]) for i, hit in enumerate(hits) if hit >= 0}
            for i, (box, label) in enumerate(zip(truth.boxes_xywh, truth.labels, strict=True)):
                is_crowd = truth.crowd is not None and bool(truth.crowd[i])
                score = 2.0 if is_crowd else score_of.get(i, -1.0)
                kind = "truth crowd" if is_crowd else "truth"
                name = head.classes[int(label)] + (" (crowd)" if is_crowd else "")
                wrong = " missed" if score < START_SCORE else ""
                self._truth.boxes.append(
                    self._box(
                        box,
                        self._css(head, label),
                        name,
                        class_=f"boxes {kind}{wrong}",
                        score=score,
                    )
                )
        for i, (box, label) in enumerate(zip(found.boxes, found.labels, strict=True)):
            score = float(found.scores[i])
            kind = "found wrong" if hits[i] == -1 else "found"
            hidden = " below" if score < START_SCORE else ""
            name = f"{head.classes[int(label)]} {score:.2f}"
            self._prediction.boxes.append(
                self._box(
                    box, self._css(head, label), name, class_=f"boxes {kind}{hidden}", score=score
                )
            )

    def add_classes(
        self, name: str, head: HeadLabels, truth: Truth, found: Mapping[str, Any] | None
    ) -> None:
        """Classes of the whole picture, the best three predicted ones, as text."""
        expected = "not annotated"
        if truth.image_labels is not None:
            known = [head.classes[int(label)] for label in truth.image_labels if label >= 0]
            expected = ", ".join(known) or "none"
        by_id = dict(zip(head.category_ids, head.classes, strict=True))
        pairs = zip(found["category_ids"], found["scores"], strict=True) if found else ()
        best = [f"{by_id.get(each, each)} {score:.2f}" for each, score in list(pairs)[:3]]
        self._labels.append((name, expected, ", ".join(best) or "none"))

    def view(self, name: str, image_id: int | str, reasons: tuple[str, ...]) -> PictureView:
        """The finished picture."""
        picture = element(
            "image",
            id=self._id,
            href=_jpeg(self._image),
            width=self._width,
            height=self._height,
            preserveAspectRatio="none",
        )
        size = (self._height, self._width)
        truth = self._svg(picture, self._truth, f"truth of {name}")
        again = element("use", href=f"#{self._id}")
        prediction = self._svg(again, self._prediction, f"prediction for {name}")
        return PictureView(name, image_id, size, reasons, tuple(self._labels), truth, prediction)

    def _svg(self, picture: Markup, layers: _Layers, label: str) -> Markup:
        inner = picture + Markup("").join((*layers.maps, *layers.boxes))
        box = f"0 0 {self._width} {self._height}"
        return element("svg", inner, viewBox=box, role="img", class_="panel", aria_label=label)

    def _overlay(self, labels: NDArray[np.int64], classes: Sequence[str], layer: str) -> Markup:
        count = min(len(classes), 255)  # a palette has 256 entries; colours repeat beyond them
        palette = [self._rgba(name) for name in classes[:count]]
        values = np.where(labels == VOID, count, labels % count)
        return self._picture(_png(reduced(values), [*palette, (0, 0, 0, 0)]), layer)

    def _css(self, head: HeadLabels, label: int) -> str:
        return f"--box:{_css(self._colors.get(head.classes[int(label)], (255, 255, 255)))}"

    def _rgba(self, name: str) -> tuple[int, int, int, int]:
        """Colour of a class; a background that is no category of the data stays clear."""
        color = self._colors.get(name)
        return (0, 0, 0, 0) if color is None else (*color, 255)

    def _picture(self, uri: str, layer: str) -> Markup:
        return element(
            "image",
            href=uri,
            class_=layer,
            width=self._width,
            height=self._height,
            preserveAspectRatio="none",
        )

    def _box(
        self, box: NDArray[np.float64], color: str, name: str, *, class_: str, score: float
    ) -> Markup:
        x, y, width, height = (float(each) for each in box)
        size = max(self._width, self._height) * 0.026
        rect = element("rect", x=x, y=y, width=width, height=height)
        text = element(
            "text",
            Markup.escape(name),
            x=min(max(x, 0.0), max(self._width - size * 0.58 * len(name), 0.0)),
            y=max(y - size * 0.25, size),
            font_size=size,
        )
        return element("g", rect + text, class_=class_, style=color, data_score=f"{score:.4f}")


def read_map(file: Path, head: HeadLabels, size: tuple[int, int]) -> NDArray[np.int64] | None:
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


def reduced(labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Label map with its longest side brought to `LONGEST_SIDE`, nearest neighbour."""
    small = np.clip(labels, 0, 255).astype(np.uint8)
    step = LONGEST_SIDE / max(small.shape)
    if step >= 1:
        return small
    rows, columns = (
        ((np.arange(max(1, round(side * step))) + 0.5) / step).astype(int).clip(0, side - 1)
        for side in small.shape
    )
    return np.asarray(small[rows][:, columns], np.uint8)


def _png(values: NDArray[np.uint8], palette: Sequence[tuple[int, int, int, int]]) -> str:
    size = (int(values.shape[1]), int(values.shape[0]))
    picture = Image.frombytes("P", size, values.tobytes())
    picture.putpalette([channel for color in palette for channel in color[:3]])
    alpha = bytes(color[3] for color in palette)
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=alpha, optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _jpeg(image: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
