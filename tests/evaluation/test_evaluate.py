"""A model on a data set: several evaluators of one head, and groups that are drawn together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from resnet_tasks.errors import HeadError
from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.evaluation import GroundTruth, Metric
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.targets import Target
from resnet_tasks.testing.random_batches import resnet_specs


class _Dark(nn.Module):
    """Predicts nothing in particular: what one head gives for any image."""

    def __init__(self) -> None:
        super().__init__()
        self.specs = resnet_specs(8)
        self.mean, self.std = (0.0,) * 3, (1.0,) * 3
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        size = images.shape[-2:]
        return {
            level: self.scale.expand(len(images), spec.channels, *(n // spec.stride for n in size))
            for level, spec in self.specs.items()
        }


class _Pairs(Dataset[Sample]):
    """Twelve images of six patients; pixels of classes `a` and `b` in equal parts."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Sample:
        semantic = torch.zeros(32, 32, dtype=torch.int64)
        semantic[:, 16:] = 1
        geometry = Geometry((32, 32), (32, 32))
        return Sample(torch.rand(3, 32, 32), geometry, index, "", Target(semantic=semantic))

    def group(self, index: int) -> str:
        return f"patient {index // 2}"


def _model() -> TaskModel:
    backbone = _Dark()
    return TaskModel(backbone, {"scene": UNet(backbone.specs, ("a", "b"))})


class _Counting:
    """A second opinion on a head: how many images there were."""

    protocol = "Images are counted."

    def __init__(self, name: str = "images") -> None:
        self.seen: list[int | str] = []
        self.name = name

    def update(self, prediction: Any, truth: GroundTruth) -> None:
        self.seen.append(truth.image_id)

    def compute(self) -> dict[str, Metric]:
        return {self.name: Metric(float(len(self.seen)))}

    def details(self) -> dict[str, Any]:
        return {"confusion": "never shown: the first evaluator has one", "notes": ["counted"]}


def test_several_evaluators_judge_one_head() -> None:
    model = _model()
    judges = {"scene": [SegmentationEvaluator(("a", "b")), _Counting()]}
    made = evaluate(model, _Pairs(), evaluators=judges, precision="fp32", bootstrap=None)
    assert made.metrics["scene/images"].value == 12
    assert made.metrics["scene/pixel_accuracy"].value is not None
    assert made.protocols["scene"].endswith("Images are counted.")
    assert made.image_ids == tuple(range(12))
    assert made.details()["scene"]["notes"][-1] == "counted"
    assert made.resampling is None
    with pytest.raises(HeadError, match=r"SegmentationEvaluator, _Counting.* computes mIoU"):
        evaluate(
            model,
            _Pairs(),
            evaluators={"scene": [SegmentationEvaluator(("a", "b")), _Counting("mIoU")]},
        )


def test_groups_of_the_data_set_are_what_is_drawn() -> None:
    made = evaluate(_model(), _Pairs(), precision="fp32", bootstrap=Bootstrap(20))
    assert made.resampling is not None
    assert (made.resampling.unit_name, made.resampling.units) == ("groups", 6)
    assert "scene" in made.resampling.notes[0]
