"""Writing of predictions as COCO results, PNGs and drawings; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.read import to_coco_results
from resnet_tasks.files.safe_names import require_head_names
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.visualization.drawing import draw_prediction, resize_prediction
from resnet_tasks.visualization.thumbnails import encode_and_write, write_image


class PredictionWriter:
    """Writer that writes semantic PNGs and drawings immediately and collects COCO results.

    Args:
        folder: Output folder, created if needed. Gets `<head>.json` (COCO results; for a classifier
            one entry per image, classes by falling probability) or `<head>/<name>.png` (category
            ids), and `overlays/<name>.png`.
        classes: Head name -> class names.
        category_ids: Head name -> category id of every label.
        least_score: Minimum score of detections and labels that are written and drawn. None: all
            are written, and those with a score of at least 0.5 are drawn. The best three classes of
            a single-label classifier are always drawn.
        thresholds: Head name -> minimum detection score of every label; overrides `least_score`.

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
    ) -> None:
        require_head_names(classes)
        self.folder = folder
        self._classes = classes
        self._ids = category_ids
        self._least = least_score
        self._thresholds = thresholds or {}
        self.results: dict[str, list[dict[str, Any]]] = {}

    def write(self, image_id: int | str, name: str, predictions: Mapping[str, Any]) -> None:
        """Write the semantic maps of one image, and collect its other predictions in `results`.

        Args:
            image_id: Id of the image.
            name: Name of the PNG file, without suffix.
            predictions: Head name -> prediction, in pixels of the original image.
        """
        for head, prediction in predictions.items():
            if isinstance(prediction, Detections):
                detections = self._filter_by_score(head, prediction)
                ids = self._ids[head]
                self.results.setdefault(head, []).extend(to_coco_results(detections, image_id, ids))
            elif isinstance(prediction, SegmentationMap):
                self._write_map(self.folder / head / f"{name}.png", prediction, self._ids[head])
            elif isinstance(prediction, Classification):
                entry = classification_to_result(
                    prediction, image_id, self._ids[head], self._least or 0.0
                )
                self.results.setdefault(head, []).append(entry)

    def draw(
        self,
        name: str,
        image: NDArray[np.uint8],
        predictions: Mapping[str, Any],
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
                head: resize_prediction(prediction, ratio, image_size)
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
        write_image(path, draw_prediction(image, filtered, self._classes, least_score=scores))
        return path

    def _filter_by_score(self, head: str, detections: Detections) -> Detections:
        if head in self._thresholds:
            return filter_by_score(
                detections, np.asarray(self._thresholds[head])[as_array(detections.labels)]
            )
        return detections if self._least is None else filter_by_score(detections, self._least)

    @staticmethod
    def _write_map(path: Path, prediction: SegmentationMap, ids: Sequence[int]) -> None:
        table = np.asarray(ids, dtype=np.uint8 if max(ids) < 255 else np.uint16)
        encode_and_write(path, table[as_array(prediction.labels)])


def classification_to_result(
    classification: Classification,
    image_id: int | str,
    ids: Sequence[int],
    least_score: float = 0.0,
) -> dict[str, Any]:
    """Convert a classification to a JSON entry `{image_id, category_ids, scores}`.

    The classes are sorted by falling probability.

    Args:
        classification: Prediction to convert.
        image_id: Id of the image.
        ids: Category id of every label.
        least_score: Minimum probability of the listed classes.
    """
    probs = as_array(classification.probs)
    order = np.argsort(-probs, kind="stable").tolist()
    scores = {label: round(float(probs[label]), 6) for label in order}
    kept_labels = [label for label in order if scores[label] >= least_score]
    return {
        "image_id": image_id,
        "category_ids": [ids[label] for label in kept_labels],
        "scores": [scores[label] for label in kept_labels],
    }


def filter_by_score(
    detections: Detections, least_score: float | NDArray[np.floating[Any]]
) -> Detections:
    """Return the detections with a score of at least `least_score`.

    Args:
        detections: Detections to filter.
        least_score: Minimum score for all detections, or `(N,)` minimum scores, one per detection.
    """
    scores = as_array(detections.scores)
    kept_indices = np.flatnonzero(scores >= np.asarray(least_score, scores.dtype))
    return Detections(
        detections.boxes[kept_indices],
        detections.scores[kept_indices],
        detections.labels[kept_indices],
    )
