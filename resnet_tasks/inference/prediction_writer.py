"""Writing of predictions as COCO results, PNGs and drawings; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.files.safe_names import require_head_names
from resnet_tasks.structures.predictions.base import Prediction
from resnet_tasks.visualization.colors import Color, assign_class_colors, build_palette
from resnet_tasks.visualization.drawing import draw_prediction
from resnet_tasks.visualization.thumbnails import write_image, write_label_image


class PredictionWriter:
    """Writer that writes semantic PNGs and drawings immediately and collects COCO results.

    Args:
        folder: Output folder, created if needed. Gets `<head>.json` (COCO results; for a classifier
            one entry per image, classes by descending probability) or `<head>/<name>.png` (category
            ids, with the colors of the classes as palette), and `overlays/<name>.png`.
        classes: Head name -> class names.
        category_ids: Head name -> category id of every label.
        least_score: Minimum score of detections and labels that are written and drawn. None: all
            are written, and those with a score of at least 0.5 are drawn. The best three classes of
            a single-label classifier are always drawn.
        thresholds: Head name -> minimum detection score of every label; overrides `least_score`.
        categories: Category names of the dataset; with the classes of the heads, they determine the
            colors.

    Raises:
        DataError: If a head's name is not usable as a file name next to the other output files.
    """

    def __init__(
        self,
        folder: Path,
        classes: Mapping[str, Sequence[str]],
        category_ids: Mapping[str, Sequence[int]],
        *,
        least_score: float | None = None,
        thresholds: Mapping[str, Sequence[float]] | None = None,
        categories: Sequence[str] = (),
    ) -> None:
        require_head_names(classes)
        self.folder = folder
        self._classes = classes
        self._ids = category_ids
        self._least = least_score
        self._thresholds = thresholds or {}
        self._categories = categories
        self.results: dict[str, list[dict[str, Any]]] = {}

    def write(self, image_id: int | str, name: str, predictions: Mapping[str, Prediction]) -> None:
        """Write the semantic maps of one image, and collect its other predictions in `results`.

        Args:
            image_id: Id of the image.
            name: Name of the PNG file, without suffix.
            predictions: Head name -> prediction, in pixels of the original image.
        """
        for head, prediction in predictions.items():
            filtered, ids = self._filter_by_score(head, prediction), self._ids[head]
            entries = filtered.to_results(image_id, ids, self._least or 0.0)
            if entries is not None:
                self.results.setdefault(head, []).extend(entries)
            label_image = filtered.to_label_image(ids)
            if label_image is not None:
                path = self.folder / head / f"{name}.png"
                write_label_image(path, label_image, self._get_id_colors(head))

    def draw(
        self,
        name: str,
        image: NDArray[np.uint8],
        predictions: Mapping[str, Prediction],
        size: tuple[int, int] | None = None,
    ) -> Path:
        """Draw the predictions of all heads on an RGB image, and write the drawing.

        Args:
            name: Name of the file, without suffix.
            image: `(h', w', 3)` uint8 RGB.
            predictions: Head name -> prediction, in pixels of the original image.
            size: (height, width) of the original image, if `image` is a reduced version of it.

        Returns:
            Path of the drawing.
        """
        image_size = (int(image.shape[0]), int(image.shape[1]))
        if size is not None and size != image_size:
            ratio = (image_size[0] / size[0], image_size[1] / size[1])
            predictions = {
                head: prediction.resize(ratio, image_size)
                for head, prediction in predictions.items()
            }
        path = self.folder / "overlays" / f"{name}.png"
        least = 0.5 if self._least is None else self._least
        # Detections above their head's thresholds are drawn, even if their score is low.
        filtered = {
            head: self._filter_by_score(head, prediction)
            if head in self._thresholds
            else prediction
            for head, prediction in predictions.items()
        }
        scores = {head: 0.0 if head in self._thresholds else least for head in predictions}
        drawing = draw_prediction(
            image, filtered, self._classes, least_score=scores, categories=self._categories
        )
        write_image(path, drawing)
        return path

    def _get_id_colors(self, head: str) -> dict[int, Color]:
        """Return category id -> color of the classes of a head."""
        colors = assign_class_colors(self._categories, *self._classes.values())
        palette = build_palette(self._classes[head], colors)
        return dict(zip(self._ids[head], palette, strict=True))

    def _filter_by_score(self, head: str, prediction: Prediction) -> Prediction:
        limit = self._thresholds.get(head, self._least)
        return prediction if limit is None else prediction.filter_by_score(limit)
