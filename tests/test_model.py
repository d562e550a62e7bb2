"""One backbone for all heads, padding, partial annotation: with a tiny backbone and tiny heads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import RecipeError
from resnet_tasks.heads.base import Head
from resnet_tasks.heads.classifier import Classifier
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.deeplab import DeepLabV3Plus
from resnet_tasks.heads.semantic.fpn import SemanticFPN
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.layers.feature_pyramid import FeaturePyramid
from resnet_tasks.layers.folded_norms import FoldedBatchNorm2d
from resnet_tasks.layers.norms import find_batch_norms
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime.devices import autocast, resolve_device, resolve_precision
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import Batch, BatchView, Sample, collate
from resnet_tasks.structures.targets import Target
from resnet_tasks.testing.random_batches import random_batch


class Backbone(nn.Module):
    """One level of stride 32; counts its calls."""

    specs = {"C5": FeatureSpec(4, 32)}  # noqa: RUF012 - a protocol's field
    mean = (0.5, 0.25, 0.125)
    std = (0.5, 0.5, 0.25)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 32, stride=32)
        self.calls = 0

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"C5": self.layer(images)}


class Pixels(Head):
    """Squared distance of every cell to its label."""

    task = "semantic_segmentation"
    in_levels = ("C5",)

    def __init__(self, specs: Mapping[str, FeatureSpec], classes: Sequence[str]) -> None:
        super().__init__(specs, classes)
        self.layer = nn.Conv2d(4, 1, 1)

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        found = self.layer(features["C5"])[:, 0]
        labels = view.semantic[:, ::32, ::32]
        assert len(found) == len(labels) == len(view)
        kept = labels != VOID
        return {"square": LossTerm(((found - labels) ** 2)[kept].sum(), kept.sum())}

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"values": self.layer(features["C5"])}

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Logits of class b against class a, for every pixel."""
        logits = F.interpolate(raw["values"], scale_factor=32.0)
        return {"logits": torch.cat((-logits, logits), dim=1)}


class Image(Pixels):
    """Squared distance of the mean to the first image label."""

    task = "classification"

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        found = self.layer(features["C5"]).mean(dim=(1, 2, 3))
        labels = torch.stack([each.image_labels[0] for each in view.targets])  # type: ignore[index]
        return {"square": LossTerm(((found - labels) ** 2).sum(), torch.tensor(len(view)))}

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        return {"logits": super().outputs(raw, sizes)["logits"].mean(dim=(2, 3))}


def model(**options: Any) -> TaskModel:
    backbone = Backbone()
    heads = {
        "pixels": Pixels(backbone.specs, ("a", "b")),
        "image": Image(backbone.specs, ("a", "b")),
    }
    return TaskModel(backbone, heads, **options)


def batch(*targets: Target, size: tuple[int, int] = (32, 32)) -> Batch:
    samples = [
        Sample(torch.rand(3, *size), Geometry(size, size), i, f"{i}.png", each, i)
        for i, each in enumerate(targets)
    ]
    return collate(samples)


PIXELS = Target(semantic=torch.ones(32, 32, dtype=torch.int64))
LABEL = Target(image_labels=torch.tensor([1]))
BOTH = Target(semantic=PIXELS.semantic, image_labels=LABEL.image_labels)


def test_backbone_runs_once_for_all_heads() -> None:
    whole = model()
    losses = whole(batch(BOTH, BOTH), mode="loss")
    assert list(losses) == ["pixels/square", "image/square"]
    assert whole.backbone.calls == 1
    raw = whole(batch(BOTH), mode="raw")
    assert {name: list(each) for name, each in raw.items()} == {
        "pixels": ["values"],
        "image": ["values"],
    }
    assert whole.backbone.calls == 2


def test_padding_is_zero_after_normalizing() -> None:
    images = torch.full((2, 3, 4, 6), 1.0)
    images[0, :, 2:] = 0
    images[0, :, :, 5:] = 0
    normal = model().normalize(images, [(2, 5), (4, 6)])
    assert normal[0, :, :2, :5].amax(dim=(1, 2)).tolist() == [1, 1.5, 3.5]
    assert normal[0, :, :2, :5].amin(dim=(1, 2)).tolist() == [1, 1.5, 3.5]
    assert (normal[0, :, 2:] == 0).all()
    assert (normal[0, :, :, 5:] == 0).all()
    assert (normal[1] != 0).all()
    assert normal.is_contiguous(memory_format=torch.channels_last)


def test_partial_annotation_costs_what_its_subset_costs() -> None:
    whole = model()
    mixed = batch(LABEL, PIXELS, Target(), PIXELS)
    alone = Batch(
        mixed.images[[1, 3]],
        mixed.geometries[:2],
        (1, 3),
        ("1.png", "3.png"),
        (PIXELS, PIXELS),
        (1, 3),
    )
    term = whole(mixed, mode="loss")["pixels/square"]
    expected = whole(alone, mode="loss")["pixels/square"]
    assert term.count == expected.count == 2
    assert torch.allclose(term.sum, expected.sum)


def test_head_without_annotation_is_left_out_and_gets_no_gradient() -> None:
    whole = model()
    losses = whole(batch(LABEL, LABEL), mode="loss")
    assert list(losses) == ["image/square"]
    whole.compute_total_loss(losses).backward()
    heads = whole.named_heads
    assert all(each.grad is None for each in heads["pixels"].parameters())
    assert all(each.grad is not None for each in heads["image"].parameters())


def test_batch_without_annotation_costs_nothing() -> None:
    whole = model()
    losses = whole(batch(Target()), mode="loss")
    assert losses == {}
    total = whole.compute_total_loss(losses)
    total.backward()
    assert total.item() == 0
    assert all(each.grad is None or not each.grad.any() for each in whole.parameters())


def test_total_weighs_the_means_of_the_terms() -> None:
    whole = model(loss_weights={"pixels": 0.5})
    losses = {
        "pixels/square": LossTerm(torch.tensor(8.0), torch.tensor(4)),
        "image/square": LossTerm(torch.tensor(9.0), torch.tensor(3)),
        "image/other": LossTerm(torch.tensor(5.0), torch.tensor(0)),
    }
    assert whole.compute_total_loss(losses).item() == 0.5 * 2 + 3


def test_every_head_sees_its_own_labels() -> None:
    swapped = model(label_tables={"pixels": LabelTable(("b", "a"), (1, 0))})
    plain = model()
    plain.load_state_dict(swapped.state_dict())
    ones, zeros = batch(PIXELS), batch(Target(semantic=torch.zeros(32, 32, dtype=torch.int64)))
    zeros = Batch(
        ones.images, zeros.geometries, zeros.image_ids, zeros.file_names, zeros.targets, zeros.seeds
    )
    seen = swapped(ones, mode="loss")["pixels/square"].sum
    assert torch.equal(seen, plain(zeros, mode="loss")["pixels/square"].sum)
    assert not torch.equal(seen, plain(ones, mode="loss")["pixels/square"].sum)


@pytest.mark.parametrize("training", [True, False])
def test_predict_restores_the_mode_also_after_an_error(training: bool) -> None:
    whole = model().train(training)
    found = whole.predict(batch(Target(), Target(), size=(20, 30)))
    assert list(found) == ["pixels", "image"]
    assert [tuple(each.labels.shape) for each in found["pixels"]] == [(20, 30), (20, 30)]
    assert [tuple(each.probs.shape) for each in found["image"]] == [(2,), (2,)]
    assert all(each.training is training for each in whole.modules())
    broken = batch(Target())
    object.__setattr__(broken, "images", torch.zeros(1, 5, 32, 32))
    with pytest.raises(RuntimeError):
        whole.predict(broken)
    assert whole.training is training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ready_to_predict_says_the_same_to_the_bit(precision: str) -> None:
    specs = ResNet("resnet10t").specs
    heads = {
        "boxes": FasterRCNN(specs, ["a", "b"], {"score_threshold": 0.0}),
        "scene": UNet(specs, ["c", "d"]),
        "cover": SemanticFPN(specs, ["c", "d"]),
        "kind": Classifier(specs, ["e", "f"]),
    }
    torch.manual_seed(0)
    whole = TaskModel(ResNet("resnet10t"), heads).to(memory_format=torch.channels_last)
    for norm in find_batch_norms(whole):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
    given = random_batch(image_sizes=[(64, 96), (50, 90)])
    wanted = whole.compute_outputs(given, precision=precision)
    ready = copy.deepcopy(whole).prepare_for_inference()
    assert not any(isinstance(each, FoldedBatchNorm2d) for each in ready.modules())
    found = ready.compute_outputs(given, precision=precision)
    for head, fields in wanted.items():
        for name, value in fields.items():
            assert torch.equal(found[head][name], value), f"{head}/{name}"
    assert not any(each.requires_grad for each in ready.parameters())


def test_model_needs_a_head() -> None:
    with pytest.raises(RecipeError, match="at least one head"):
        TaskModel(Backbone(), {})


def test_devices_and_precisions() -> None:
    cpu = torch.device("cpu")
    assert resolve_device("cpu") == cpu
    with pytest.raises(RecipeError, match=r"training\.device is 'gpu'; allowed: auto, cpu"):
        resolve_device("gpu")
    with pytest.raises(RecipeError, match="fp16, which a CPU emulates"):
        resolve_precision("fp16", cpu)
    assert resolve_precision("fp32", cpu) == "fp32"
    assert resolve_precision("auto", cpu) in ("bf16", "fp32")
    with autocast(cpu, "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(cpu, "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(("depth", "unread"), [(3, True), (5, False)])
def test_stages_above_all_heads_are_known(depth: int, unread: bool) -> None:
    backbone = ResNet("resnet10t")
    options = {"depth": depth, "decoder_channels": 8}
    heads = {"scene": DeepLabV3Plus(backbone.specs, ("a", "b"), options)}
    model = TaskModel(backbone, heads).eval()
    assert model.has_unread_stages is unread
    images = torch.rand(1, 3, 32, 32)
    features = model.compute_features(images)
    assert list(features) == ["C1", "C2", "C3", "C4", "C5"][:depth]  # other stages do not run
    every = backbone(images)
    assert all(torch.equal(feature, every[level]) for level, feature in features.items())
    pyramid = FeaturePyramid({k: v for k, v in backbone.specs.items() if k != "C1"}, 8)
    assert not TaskModel(backbone, heads, pyramid=pyramid).has_unread_stages
