"""Heads that read pixels instead of features, so that what they predict is known beforehand."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from resnet_tasks.heads.base import Head
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView


class Pixels(nn.Module):
    """The image itself as the only feature."""

    def __init__(self) -> None:
        super().__init__()
        self.specs = {"C1": FeatureSpec(3, 1)}
        self.mean, self.std = (0.0,) * 3, (1.0,) * 3

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"C1": images}


class PixelHead(Head):
    """Reads the image and learns nothing."""

    in_levels = ("C1",)

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        raise NotImplementedError


class PixelMapHead(PixelHead):
    """Gives logits of every pixel; a subclass writes `forward`."""

    task = "semantic_segmentation"


class PixelBoxHead(PixelHead):
    """Finds boxes; a subclass writes `forward`, and `outputs` unless it gives what is declared."""

    task = "detection"
