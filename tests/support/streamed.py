"""A quick predictor for the tests of streams, and images and videos for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.inference.predictor import Prepared
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap


@dataclass
class MeanPredictor:
    """Finds one box whose score is the mean of the image, and what of it is bright."""

    batch_size: int = 2
    preparation: Preparation = field(default_factory=Preparation)
    seen: list[int] = field(default_factory=list)

    classes: ClassVar = {"objects": ("a", "b"), "scene": ("dark", "bright")}
    category_ids: ClassVar = {"objects": (3, 90), "scene": (1, 2)}
    categories: ClassVar = ({"id": 3, "name": "a"}, {"id": 90, "name": "b"})

    def read(self, source: Path | NDArray[Any], name: str) -> Prepared:
        image = self.preparation.read(source) if isinstance(source, Path) else source
        return Prepared(0, name, image.shape[:2], image, self.preparation.open_image(image, name))

    def predict(self, images: Sequence[Prepared]) -> list[dict[str, Any]]:
        self.seen.append(len(images))
        found = []
        for each in images:
            height, width = each.size
            boxes = torch.tensor([[1.0, 2.0, width / 2, height / 2]])
            score = torch.tensor([float(each.inputs.mean()) / 255])
            bright = torch.from_numpy((each.inputs.mean(axis=2) > 127).astype(np.int64))
            found.append(
                {
                    "objects": Detections(boxes, score, torch.tensor([1])),
                    "scene": SegmentationMap(bright, None),
                }
            )
        return found


def image(path: Path, value: int, size: tuple[int, int] = (24, 32)) -> Path:
    """A gray image whose right half is twice as bright."""
    pixels = np.full((*size, 3), value, np.uint8)
    pixels[:, size[1] // 2 :] = min(255, 2 * value)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)
    return path


def video(path: Path, frames: int, size: tuple[int, int] = (48, 64)) -> Path:
    """Frames that grow brighter by 10 each, at 10 a second; by Motion JPEG, hardly lossy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), code, 10.0, (size[1], size[0]))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((*size, 3), min(250, 10 * (number + 1)), np.uint8))
    writer.release()
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {
        each.relative_to(folder).as_posix(): each.read_bytes()
        for each in sorted(folder.rglob("*"))
        if each.is_file() and not each.name.startswith(".lock")
    }
