"""Explanations point at the one object that a model is known to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import DataError, HeadError
from resnet_tasks.heads.base import Head
from resnet_tasks.heads.classifier import Classifier
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.pspnet import PSPNet
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.inference.grad_cam import ExplanationQuery, explain
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Sample

BRIGHT = (40, 8, 56, 24)  # xyxy, input pixels: what the model looks for
DARK = (8, 40, 24, 56)


class Looks(nn.Module):
    """C5, stride 8: how bright a place is, and how dark."""

    specs: ClassVar = {"C4": FeatureSpec(3, 4), "C5": FeatureSpec(2, 8)}
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    frozen_stages = 5

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        gray = images.mean(dim=1, keepdim=True)
        c4 = F.avg_pool2d(images, 4)
        return {"C4": c4, "C5": F.avg_pool2d(torch.cat((gray.relu(), (-gray).relu()), 1), 8)}


class Boxes(Head):
    """Scores of two fixed boxes: how bright the first is, how dark the second."""

    task, in_levels = "detection", ("C5",)

    def loss(self, features: Any, view: Any) -> Any:
        raise NotImplementedError

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        level = features["C5"]
        boxes = torch.tensor([BRIGHT, DARK], dtype=torch.float32)
        cells = [[int(v) // 8 for v in box] for box in boxes.tolist()]
        scores = [
            level[:, i, y1:y2, x1:x2].mean(dim=(1, 2)).sigmoid()
            for i, (x1, y1, x2, y2) in enumerate(cells)
        ]
        return {
            "boxes": boxes[None],
            "scores": torch.stack(scores, 1),
            "labels": torch.tensor([[0, 1]]),
            "valid": torch.ones(1, 2, dtype=torch.bool),
        }


class Pixels(Head):
    """Logits of `background`, `bright`, `dark`."""

    task, in_levels = "semantic_segmentation", ("C5",)
    loss = Boxes.loss

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        level = features["C5"]
        logits = torch.cat((torch.full_like(level[:, :1], 0.3), level), 1)
        return {"logits": F.interpolate(logits, scale_factor=8)}


def _model() -> TaskModel:
    backbone = Looks()
    whole = Classifier(backbone.specs, ("bright", "dark"))
    with torch.no_grad():
        for parameter in whole.parameters():  # the identity without bias
            identity = parameter.ndim > 1
            parameter.copy_(torch.eye(2).reshape(parameter.shape) if identity else torch.zeros(2))
    return TaskModel(
        backbone,
        {
            "objects": Boxes(backbone.specs, ("bright", "dark")),
            "scene": Pixels(backbone.specs, ("background", "bright", "dark")),
            "whole": whole,
        },
    )


def _sample(scale: float = 1.0) -> Sample:
    """The bright and the dark square on gray; 64 x 64, from an image `scale` times as large."""
    image = torch.full((3, 64, 64), 0.5)
    for (x1, y1, x2, y2), value in ((BRIGHT, 0.95), (DARK, 0.1)):
        image[:, y1:y2, x1:x2] = value
    size = round(64 * scale)
    return Sample(image, Geometry.from_resize((size, size), (64, 64)), 1, "squares.png")


def _mass_inside(heat: Any, box: tuple[int, int, int, int], margin: int = 4) -> float:
    x1, y1, x2, y2 = box
    inside = heat[max(0, y1 - margin) : y2 + margin, max(0, x1 - margin) : x2 + margin]
    return float(inside.sum() / heat.sum())


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
@pytest.mark.parametrize(
    ("head", "question", "where"),
    [
        ("objects", ExplanationQuery("bright"), BRIGHT),
        ("objects", ExplanationQuery("dark"), DARK),
        ("objects", ExplanationQuery(box=(9, 41, 24, 56)), DARK),
        ("scene", ExplanationQuery("bright"), BRIGHT),
        ("scene", ExplanationQuery(box=(0, 32, 32, 64)), DARK),
        ("whole", ExplanationQuery("bright"), BRIGHT),
        ("whole", ExplanationQuery("dark"), DARK),
    ],
)
def test_heat_lies_on_the_one_object_that_is_looked_at(
    head: str, question: ExplanationQuery, where: tuple[int, int, int, int], method: Any
) -> None:
    found = explain(_model(), _sample(), head=head, query=question, method=method)
    assert found.heat.shape == (64, 64)
    assert found.heat.max() == pytest.approx(1.0)
    assert _mass_inside(found.heat, where) > 0.95
    assert found.class_name == ("bright" if where == BRIGHT else "dark")


def test_heat_is_in_original_pixels() -> None:
    found = explain(_model(), _sample(scale=2), head="objects", query=ExplanationQuery("dark"))
    assert found.heat.shape == (128, 128)
    assert found.box == tuple(2.0 * value for value in DARK)
    assert _mass_inside(found.heat, tuple(2 * v for v in DARK), margin=8) > 0.95  # type: ignore[arg-type]


def test_a_score_without_gradient_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Boxes.forward

    def sure(self: Boxes, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raw = forward(self, features)
        return {**raw, "scores": raw["scores"] * 0 + 1}

    monkeypatch.setattr(Boxes, "forward", sure)
    with pytest.raises(DataError, match=r"the bright at \[40\.0, .* is 1\.0000000, where float32"):
        explain(_model(), _sample(), head="objects", query=ExplanationQuery("bright"))


def test_strongest_prediction_is_explained_unless_asked() -> None:
    # The bright square lies 0.45 above the gray, the dark one 0.4 below it.
    found = explain(_model(), _sample(), head="objects")
    assert (found.class_name, found.method) == ("bright", "hirescam")
    assert found.evidence == pytest.approx((0.95 - 0.5) / 0.25, rel=1e-5)
    assert explain(_model(), _sample(), head="whole").method == "gradcam"


@pytest.mark.parametrize(
    ("head", "level", "question", "error", "text"),
    [
        ("objets", "C5", None, HeadError, "did you mean 'objects'"),
        ("objects", "C3", None, HeadError, "the model has C4, C5"),
        ("objects", "C4", None, HeadError, "does not use C4 (it reads C5)"),
        ("objects", "C5", ExplanationQuery("brigth"), HeadError, "did you mean 'bright'"),
        ("objects", "C5", ExplanationQuery(box=(0, 0, 8, 8)), DataError, "overlaps the box"),
        (
            "scene",
            "C5",
            ExplanationQuery("dark", (40, 8, 56, 24)),
            DataError,
            "no pixel of this image or box is predicted",
        ),
        ("scene", "C5", ExplanationQuery(box=(-9, -9, -1, -1)), DataError, "contains no pixel"),
        ("whole", "C5", ExplanationQuery(box=(0, 0, 8, 8)), DataError, "remove the box"),
    ],
)
def test_what_cannot_be_explained_is_said(
    head: str, level: str, question: ExplanationQuery | None, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text.replace("(", r"\(").replace(")", r"\)")):
        explain(_model(), _sample(), head=head, level=level, query=question)


def test_stages_that_no_head_reads_are_not_explained() -> None:
    backbone = ResNet("resnet10t")
    head = PSPNet(backbone.specs, ("a", "b"), {"decoder_channels": 8, "depth": 3})
    model = TaskModel(backbone, {"scene": head})
    sample = Sample(torch.rand(3, 64, 96), Geometry.from_resize((48, 72), (64, 96)), 1)
    assert explain(model, sample, head="scene").level == "C3"
    with pytest.raises(HeadError, match=r"head scene does not use C5 \(it reads C3\)"):
        explain(model, sample, head="scene", level="C5")


@pytest.mark.parametrize("level", ["C1", "C3", "C5"])
def test_real_heads_are_explained_through_frozen_stages_and_left_as_they_were(level: str) -> None:
    torch.manual_seed(0)
    backbone = ResNet("resnet10t", weights="unloaded", frozen_stages=3)
    heads = {
        "objects": FasterRCNN(
            backbone.specs,
            ("a", "b"),
            {"score_threshold": 0.0, "pyramid_channels": 32, "box_head_channels": 32},
        ),
        "scene": UNet(backbone.specs, ("a", "b"), {"decoder_channels": (16, 16, 16, 16, 16)}),
    }
    model = TaskModel(backbone, heads).train()
    sample = Sample(torch.rand(3, 64, 96), Geometry.from_resize((48, 72), (64, 96)), 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for head in heads:
        found = explain(model, sample, head=head, level=level)
        assert found.heat.shape == (48, 72)
        assert np.isfinite(found.heat).all()
        assert found.heat.min() >= 0
    assert model.training
    assert backbone.frozen_stages == 3
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
