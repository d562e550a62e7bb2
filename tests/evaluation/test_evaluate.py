"""Truth of any data set comes back to the original frame, and files may lack a category."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from resnet_tasks.data.coco import CategoryMap, read_coco
from resnet_tasks.data.dataset import CocoDataset
from resnet_tasks.errors import HeadError, RecipeError
from resnet_tasks.evaluation.evaluate import best_metric, evaluate, truth_of
from resnet_tasks.evaluation.intervals import Bootstrap
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.heads.faster_rcnn import FasterRCNN
from resnet_tasks.heads.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.structures import Geometry, LabelTable, Metric, Sample, Target, Truth
from resnet_tasks.testing import resnet_specs


class Mirrored(Dataset[Sample]):
    """One picture of 4 x 8 pixels, shown at 8 x 16 and mirrored left to right."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        semantic = torch.zeros(8, 16, dtype=torch.int64)
        semantic[:, 12:] = 1
        target = Target(
            boxes=torch.tensor([[12.0, 0.0, 16.0, 8.0]]),
            labels=torch.tensor([1]),
            semantic=semantic,
        )
        geometry = Geometry((4, 8), (8, 16), scale=(2.0, -2.0), offset=(0.0, 16.0))
        return Sample(torch.zeros(3, 8, 16), geometry, 7, "x.png", target)


def test_boxes_and_pixels_come_back_through_a_mirror() -> None:
    truth = truth_of(Mirrored(), 0, LabelTable.identity(("a", "b")))
    assert truth.boxes_xywh is not None
    assert truth.boxes_xywh.tolist() == [[0.0, 0.0, 2.0, 4.0]]
    assert truth.semantic is not None
    assert truth.semantic.shape == (4, 8)
    assert (truth.semantic[:, :2] == 1).all()
    assert (truth.semantic[:, 2:] == 0).all()


def test_a_file_that_lacks_a_category_keeps_its_labels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8, 3), np.uint8))
    box = {"id": 1, "image_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    image = {"id": 1, "file_name": "x.png", "height": 8, "width": 8}
    files = []
    for name, ids in (("train", (1, 2, 3)), ("val", (1, 3))):
        categories = [{"id": each, "name": "abc"[each - 1]} for each in ids]
        content = {
            "images": [image],
            "annotations": [{**box, "category_id": 3}],
            "categories": categories,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        files.append(read_coco(tmp_path / f"{name}.json"))
    merged = CategoryMap.merged([file.categories for file in files])
    dataset = CocoDataset([files[1]], categories=merged)
    assert dataset[0].target.labels is not None
    assert dataset[0].target.labels.tolist() == [2]
    truth = dataset.truth(0, LabelTable.identity(merged.names))
    assert truth.labels is not None
    assert truth.labels.tolist() == [2]
    assert dataset.counts() == {"a": 0, "b": 0, "c": 1}


def test_best_metric_is_known_before_anything_is_evaluated() -> None:
    heads = {"objects": FasterRCNN(resnet_specs(8), ("a",), {"pyramid_channels": 8})}
    assert best_metric(heads, None) == "objects/AP"
    assert best_metric(heads, "objects/AP75") == "objects/AP75"
    with pytest.raises(RecipeError, match="did you mean 'objects/AP_small'"):
        best_metric(heads, "objects/AP_smal")
    with pytest.raises(RecipeError, match="the heads are objects"):
        best_metric(heads, "object/AP")


class _Dark(nn.Module):
    """Predicts nothing in particular: what one head gives for any picture."""

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
    """Twelve pictures of six patients; pixels of classes `a` and `b` in equal parts."""

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
    """A second opinion on a head: how many pictures there were."""

    protocol = "Pictures are counted."

    def __init__(self, name: str = "pictures") -> None:
        self.seen: list[int | str] = []
        self.name = name

    def update(self, prediction: Any, truth: Truth) -> None:
        self.seen.append(truth.image_id)

    def compute(self) -> dict[str, Metric]:
        return {self.name: Metric(float(len(self.seen)))}

    def details(self) -> dict[str, Any]:
        return {"confusion": "never shown: the first evaluator has one", "notes": ["counted"]}


def test_several_evaluators_judge_one_head() -> None:
    model = _model()
    judges = {"scene": [SegmentationEvaluator(("a", "b")), _Counting()]}
    made = evaluate(model, _Pairs(), evaluators=judges, precision="fp32", bootstrap=None)
    assert made.metrics["scene/pictures"].value == 12
    assert made.metrics["scene/pixel_accuracy"].value is not None
    assert made.protocols["scene"].endswith("Pictures are counted.")
    assert made.picture_ids == tuple(range(12))
    assert made.details()["scene"]["notes"][-1] == "counted"
    assert made.resampling is None
    with pytest.raises(HeadError, match=r"SegmentationEvaluator, _Counting.* gives mIoU"):
        evaluate(
            model,
            _Pairs(),
            evaluators={"scene": [SegmentationEvaluator(("a", "b")), _Counting("mIoU")]},
        )


def test_groups_of_the_data_set_are_what_is_drawn() -> None:
    made = evaluate(_model(), _Pairs(), precision="fp32", bootstrap=Bootstrap(20))
    assert made.resampling is not None
    assert (made.resampling.over, made.resampling.units) == ("groups", 6)
    assert "scene" in made.resampling.notes[0]
