"""Random samples for measuring the cost of a recipe without its data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from resnet_tasks.assemble.labels import Labels
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.instance_masks import InstanceMasks, make_ellipse
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.targets import Target

SIZE = (480, 640)
"""(height, width) of the images if the recipe has neither `data.resize` nor `data.tiles`."""
NUM_OBJECTS = 8
"""Objects per image."""
CELLS = 8
"""Patches of one class along each side of a semantic label map."""


class SyntheticSamples(Dataset[Sample]):
    """Dataset of noise images with random boxes, masks, label maps and labels.

    A sample is a function of its position only.

    Args:
        length: Number of samples.
        channels: Number of channels of the images.
        size: (height, width) of the images, in pixels.
        categories: Number of categories to sample labels from.
        fields: Fields of `Target` that are generated.
    """

    def __init__(
        self,
        length: int,
        *,
        channels: int,
        size: tuple[int, int],
        categories: int,
        fields: Iterable[str],
    ) -> None:
        self._length = length
        self._channels = channels
        self._size = size
        self._categories = categories
        self._fields = frozenset(fields)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> Sample:
        generator = torch.Generator().manual_seed(position)
        image = torch.rand(self._channels, *self._size, generator=generator)
        target = Target(**self._make_target_fields(generator))
        return Sample(image, Geometry(self._size, self._size), position, "drawn", target, position)

    def _make_target_fields(self, generator: torch.Generator) -> dict[str, Any]:
        fields: dict[str, Any] = {}

        def sample_labels(*shape: int) -> torch.Tensor:
            return torch.randint(self._categories, shape, generator=generator)

        if "boxes" in self._fields:
            height, width = self._size
            extent = torch.tensor([width, height], dtype=torch.float32)
            sides = (0.05 + 0.35 * torch.rand(NUM_OBJECTS, 2, generator=generator)) * extent
            corner = torch.rand(NUM_OBJECTS, 2, generator=generator) * (extent - sides)
            fields["boxes"] = torch.cat((corner, corner + sides), dim=1)
            fields["labels"] = sample_labels(NUM_OBJECTS)
            fields["ignore"] = torch.zeros(NUM_OBJECTS, dtype=torch.bool)
            if "masks" in self._fields:
                fields["masks"] = _fill_boxes_with_ellipses(fields["boxes"])
        if "semantic" in self._fields:
            patches = sample_labels(1, 1, CELLS, CELLS).float()
            fields["semantic"] = F.interpolate(patches, self._size)[0, 0].long()
        if "image_labels" in self._fields:
            fields["image_labels"] = sample_labels(1)
        return fields


def _fill_boxes_with_ellipses(boxes: torch.Tensor) -> InstanceMasks:
    """Return an elliptic mask for each box, in the smallest window of pixels around it."""
    windows = torch.cat((boxes[:, :2].floor(), boxes[:, 2:].ceil()), dim=1).long().tolist()
    bitmaps = [make_ellipse((y2 - y1, x2 - x1)) for x1, y1, x2, y2 in windows]
    return InstanceMasks.from_bitmaps(bitmaps, [(x, y) for x, y, _, _ in windows])


def build_synthetic_samples(recipe: Recipe, labels: Labels, model: TaskModel) -> SyntheticSamples:
    """Build samples of a recipe's image size, with the annotations that its heads learn from.

    Args:
        recipe: Recipe whose image size and batch size are used.
        labels: Categories to sample from.
        model: Model whose heads learn from the samples.
    """
    options, box = recipe.training, recipe.data.resize or recipe.data.tiles
    return SyntheticSamples(
        1000 * options.batch_size * options.accumulation,
        channels=recipe.data.channels,
        size=SIZE if box is None else (box.height, box.width),
        categories=len(labels.categories),
        fields={field for head in model.named_heads.values() for field in head.task_spec.fields},
    )
