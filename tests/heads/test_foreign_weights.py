"""A head without foreign weights reads none; a head of a user can read models of its own kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import WeightsError
from resnet_tasks.heads.classifier import Classifier
from resnet_tasks.heads.foreign_weights import ForeignModel, ForeignWeights, format_names
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.model_weights.fill_model import fill_model


class TrunkAndTop(ForeignWeights):
    source = "a net of a user"

    def split(self, tensors: Mapping[str, Tensor]) -> ForeignModel | None:
        if not all(key.startswith(("trunk.", "top.")) for key in tensors):
            return None
        parts: dict[str, dict[str, Tensor]] = {"trunk": {}, "top": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][f"classifier.{name}" if part == "top" else name] = value
        return ForeignModel("a net", parts["trunk"], parts["top"], "classifier.")

    def check_configuration(self, configuration: Mapping[str, object]) -> str | None:
        return "is of the future" if configuration.get("version") == 2 else None


class MyClassifier(Classifier):
    foreign_weights: ClassVar[ForeignWeights] = TrunkAndTop()


def write_net(folder: Path) -> tuple[ResNet, str]:
    torch.manual_seed(3)
    backbone = ResNet("resnet10t", weights="none")
    tensors = {f"trunk.{key}": value for key, value in backbone.state_dict().items()}
    tensors |= {"top.weight": torch.ones(2, 512, 1, 1), "top.bias": torch.ones(2)}
    torch.save(tensors, folder / "net.pth")
    return backbone, str(folder / "net.pth")


def test_a_head_of_a_user_reads_its_own_kind_of_models(tmp_path: Path) -> None:
    theirs, file = write_net(tmp_path)
    torch.manual_seed(4)
    backbone = ResNet("resnet10t", weights="unloaded")
    head = MyClassifier(backbone.specs, ("a", "b"))
    before = head.classifier.weight.clone()
    report = fill_model(TaskModel(backbone, {"a": head}), file)
    for key, value in theirs.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key
    # The base class cannot know the classes of the file, so that the predictor starts anew.
    assert torch.equal(head.classifier.weight, before)
    assert "heads.a: the head's predictor starts from random weights" in report.notes
    assert report.missing == ("heads.a.classifier.bias", "heads.a.classifier.weight")
    (tmp_path / "config.json").write_text('{"version": 2}')
    with pytest.raises(WeightsError, match=r"config\.json is of the future"):
        fill_model(TaskModel(backbone, {"a": head}), file)


def test_other_heads_do_not_read_it(tmp_path: Path) -> None:
    _, file = write_net(tmp_path)
    backbone = ResNet("resnet10t", weights="unloaded")
    model = TaskModel(backbone, {"a": Classifier(backbone.specs, ("a", "b"))})
    told = (
        r"not a supported whole model \(.*FCOS, Faster R-CNN, Mask R-CNN, RetinaNet of "
        r"torchvision; .*U-Net\+\+, UPerNet of segmentation_models_pytorch\): its names begin"
    )
    with pytest.raises(WeightsError, match=told):
        fill_model(model, file)


def test_what_built_in_heads_read() -> None:
    assert Classifier.foreign_weights.source == ""
    assert Classifier.foreign_weights.split({"backbone.a": torch.zeros(1)}) is None
    assert FasterRCNN.foreign_weights.source == "a Faster R-CNN of torchvision"
    assert UNet.foreign_weights.source == "a U-Net of segmentation_models_pytorch"
    assert FasterRCNN.foreign_weights.split({"encoder.a": torch.zeros(1)}) is None


def test_many_names_end_with_dots() -> None:
    assert format_names("abcde") == "a, b, c, d, e"
    assert format_names("abcdef") == "a, b, c, d, e, ..."
