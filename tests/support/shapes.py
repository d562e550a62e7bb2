"""A tiny data set and a tiny model that learns it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.targets import Target

CLASSES = ("square", "disc")
LIGHT_DETECTOR = {
    "anchor_sizes": (16, 32, 64, 128, 256),
    "pyramid_channels": 32,
    "box_head_channels": 64,
    "rpn_batch_size": 64,
    "roi_batch_size": 32,
    "rpn_pre_nms": (100, 100),
    "rpn_post_nms": (60, 60),
}


class Shapes(Dataset[Sample]):
    """Bright squares and dark discs on noise, labeled as boxes and as pixels."""

    def __init__(self, length: int = 4, size: tuple[int, int] = (64, 96)) -> None:
        self._size = size
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        height, width = self._size
        image = torch.from_numpy(rng.normal(0.5, 0.04, (3, height, width))).float()
        semantic = torch.zeros(height, width, dtype=torch.int64)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        boxes, labels = [], []
        for slot in range(2):
            radius = int(rng.integers(10, 16))
            y = int(rng.integers(radius, height - radius))
            x = int(rng.integers(radius, width // 2 - radius)) + slot * width // 2
            label = (index + slot) % 2
            if label == 0:
                inside = ((rows - y).abs() < radius) & ((columns - x).abs() < radius)
            else:
                inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            image[:, inside] += 0.35 if label == 0 else -0.35
            semantic[inside] = label + 1
            where = inside.nonzero()
            low, high = where.min(0).values, where.max(0).values + 1
            boxes.append([low[1], low[0], high[1], high[0]])
            labels.append(label)
        target = Target(
            boxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.tensor(labels),
            ignore=torch.zeros(2, dtype=torch.bool),
            semantic=semantic,
        )
        return Sample(
            image.clamp(0, 1),
            Geometry((height, width), (height, width)),
            index,
            f"{index}.png",
            target,
        )


class Broken(Shapes):
    """Shapes of which one image is not a number."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return replace(sample, image=sample.image * math.nan) if index == 2 else sample
