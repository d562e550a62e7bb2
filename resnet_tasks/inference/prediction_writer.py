"""Images by their files, and predictions as files: COCO results, PNGs and drawings; no torch."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.read import to_coco_results
from resnet_tasks.data.images.image_files import SUFFIXES
from resnet_tasks.data.images.intensity import resize_pixels
from resnet_tasks.data.images.preprocessing import Preparation, PreparedImage
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.errors import DataError
from resnet_tasks.files.safe_names import require_head_names
from resnet_tasks.structures.evaluation import as_array
from resnet_tasks.structures.predictions import Classification, Detections, SegmentationMap
from resnet_tasks.visualization.drawing import as_rgb8, draw_prediction, resize_prediction

MAX_DRAWING_SIDE = 4096
"""Longest side of a drawing, pixels; of larger images a smaller one is drawn."""


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Images as named, in folders (not below) and by pattern, as `find_files` finds them.

    Raises:
        DataError: If a path does not exist, or nothing is found.
    """
    files, _ = find_files(paths, SUFFIXES)
    if not files:
        raise DataError(
            f"there is no image ({', '.join(sorted(SUFFIXES))}) {describe_search(paths)}"
        )
    return files


def find_files(
    paths: Iterable[Path], endings: Collection[str], *, recursive: bool = False
) -> tuple[list[Path], int]:
    """Files as named, folders searched and sorted, patterns (`*`, `?`, `[`, `**`) expanded.

    Args:
        paths: Files, whatever their ending, folders and patterns.
        endings: Of the files in folders that are wanted, in lower case.
        recursive: Search folders below folders too.

    Returns:
        The files, each once, and how many files and folders in the folders were passed over.

    Raises:
        DataError: If a path does not exist, or a pattern matches no file.
    """
    files: list[Path] = []
    num_skipped = 0
    for path in paths:
        if path.is_dir():
            entries = path.rglob("*") if recursive else path.iterdir()
            children = [child for child in entries if not (recursive and child.is_dir())]
            matching = [child for child in children if child.suffix.lower() in endings]
            num_skipped += len(children) - len(matching)
            files += sorted(matching)
        elif path.exists():
            files.append(path)
        else:
            files += _expand_pattern(path)
    return list(dict.fromkeys(files)), num_skipped


def _expand_pattern(pattern: Path) -> list[Path]:
    """Files that a pattern stands for, sorted.

    Raises:
        DataError: If it is none, or stands for nothing.
    """
    text = str(pattern)
    if not glob.has_magic(text):
        raise DataError(f"{text} does not exist; name files, patterns, or folders of files")
    files = [path for path in map(Path, glob.glob(text, recursive=True)) if not path.is_dir()]  # noqa: PTH207  # may be absolute
    if not files:
        raise DataError(f"no file matches the pattern {text}")
    return sorted(files)


def describe_search(paths: Iterable[Path]) -> str:
    """Where was looked, for a message."""
    return f"in {', '.join(map(str, paths)) or 'nothing'}"


def make_output_names(files: Sequence[Path]) -> list[str]:
    """One output name per file: its stem, numbered where stems repeat."""
    names: list[str] = []
    used_names: set[str] = set()
    numbers: dict[str, int] = {}  # all below are taken: thousands of files may share a stem
    for file in files:
        name, number = file.stem, numbers.get(file.stem, 2)
        while name in used_names:
            name, number = f"{file.stem}-{number}", number + 1
        numbers[file.stem] = number
        used_names.add(name)
        names.append(name)
    return names


class PredictionWriter:
    """Writes predictions as they come: semantic PNGs and drawings at once, results at the end.

    Args:
        folder: Is made where needed. Gets `<head>.json` (COCO results; for a classifier one entry
            per image, its classes best first) or `<head>/<name>.png` (category ids), and
            `overlays/<name>.png`.
        classes: Head name -> class names.
        category_ids: Head name -> category id of every label.
        least_score: Detections and labels below are neither written nor drawn; None writes all and
            draws those from 0.5. Of a single-label classifier the best three are drawn anyway.
        thresholds: Head -> least score of the detections of every label, in place of `least_score`.

    Raises:
        DataError: If a head has a name that no file beside the others can have.
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
        """Takes one image's predictions."""
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
        """Draws all heads' predictions over an RGB image.

        Args:
            name: Of the file, without its ending.
            image: `(h', w', 3)`.
            predictions: Head name -> prediction, in pixels of the image.
            size: (height, width) of the image, where `image` is a smaller one of it.
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
        # What a head's own thresholds keep is drawn, however low it scores.
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
        _write_png(path, table[as_array(prediction.labels)])


def classification_to_result(
    classification: Classification,
    image_id: int | str,
    ids: Sequence[int],
    least_score: float = 0.0,
) -> dict[str, Any]:
    """One image's classes as JSON: `{image_id, category_ids, scores}`, best first.

    Args:
        classification: The prediction.
        image_id: Id of the image.
        ids: Category id of every label.
        least_score: Classes below are left out.
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
    """The detections that score at least `least_score`: one for all, or `(N,)`, one for each."""
    scores = as_array(detections.scores)
    kept_indices = np.flatnonzero(scores >= np.asarray(least_score, scores.dtype))
    return Detections(
        detections.boxes[kept_indices],
        detections.scores[kept_indices],
        detections.labels[kept_indices],
    )


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes an RGB image.

    Raises:
        DataError: If it cannot be written.
    """
    _write_png(path, np.ascontiguousarray(image[:, :, ::-1]), path.suffix)


def _write_png(path: Path, pixels: NDArray[Any], suffix: str = ".png") -> None:
    """Encode an image in memory and write it: OpenCV crashes on names that are not UTF-8.

    Raises:
        DataError: If the file cannot be written.
    """
    is_encoded, encoded = cv2.imencode(suffix, pixels)
    try:
        if not is_encoded:
            raise OSError(f"{pixels.dtype} of shape {pixels.shape} cannot be encoded")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path} cannot be written ({reason}); is the disk full?") from None


def to_canvas(image: NDArray[Any], preparation: Preparation) -> NDArray[np.uint8]:
    """A stored image as 8-bit RGB to draw on, through the model's own intensity step."""
    return as_rgb8(preparation.intensity(image))


def make_overview(image: PreparedImage, longest: int = MAX_DRAWING_SIDE) -> NDArray[np.uint8]:
    """An image as 8-bit RGB to draw on, shrunk by area where a side is longer than `longest`.

    It is read a band of rows at a time.

    Args:
        image: Read through its intensity step.
        longest: Pixels.

    Returns:
        `(h', w', 3)`.
    """
    height, width = image.original_size
    factor = -(-max(height, width) // longest)
    rows = height if factor == 1 else factor * 64
    bands = []
    for top in range(0, height, rows):
        tile = Tile(top, 0, min(rows, height - top), width)
        values = image.read_original_values(tile)
        bands.append(
            as_rgb8(resize_pixels(values, (-(-tile.height // factor), -(-width // factor))))
        )
    return np.concatenate(bands) if len(bands) > 1 else bands[0]
