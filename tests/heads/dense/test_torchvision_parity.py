"""FCOS and RetinaNet next to torchvision's: the same weights give the same outputs and losses."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import (
    fcos,
    fcos_resnet50_fpn,
    retinanet,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from resnet_tasks.heads.dense.dense_head import DenseDetector
from resnet_tasks.heads.dense.fcos import FCOS
from resnet_tasks.heads.dense.retinanet import RetinaNet
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.targets import Target

CLASSES = ("cat", "dog", "cow")
SPECS = {f"C{k}": FeatureSpec(8 * k, 2**k) for k in (3, 4, 5)}
SIZE = (96, 224)  # three rows on C5, two on P6: torchvision's rounded steps
V2 = {"tower_norm": "group", "extra_levels": "convolved_c5", "box_loss": "giou"}


@dataclass(frozen=True)
class Peer:
    """A head and the model of torchvision that it equals.

    Attributes:
        head: Class of the head.
        build: Builder of torchvision's model with a ResNet-50.
        options: Options of the head.
        channels: Channels of the pyramid in the small model.
    """

    head: type[DenseDetector]
    build: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    channels: int = 16


PEERS = {
    "fcos": Peer(FCOS, fcos_resnet50_fpn, channels=64),
    "retinanet": Peer(RetinaNet, retinanet_resnet50_fpn),
    "retinanet_v2": Peer(RetinaNet, retinanet_resnet50_fpn_v2, V2, channels=64),
}


class Pyramid(nn.Module):
    """Body of a small model, which gets the features of the backbone."""

    def __init__(self, channels: int, from_c5: bool) -> None:
        super().__init__()
        self.out_channels = channels
        in_channels = [spec.channels for spec in SPECS.values()]
        p6_channels = in_channels[-1] if from_c5 else channels
        extra = LastLevelP6P7(p6_channels, channels)
        self.fpn = FeaturePyramidNetwork(in_channels, channels, extra)


def small_peer(name: str, **options: Any) -> Any:
    """torchvision's model on the features of `SPECS`."""
    peer = PEERS[name]
    body = Pyramid(peer.channels, from_c5=name == "retinanet_v2")
    if peer.head is FCOS:
        model: Any = fcos.FCOS(
            body, 3, head=fcos.FCOSHead(peer.channels, 1, len(CLASSES), num_convs=2), **options
        )
    else:
        norm = partial(nn.GroupNorm, 32) if name == "retinanet_v2" else None
        head = retinanet.RetinaNetHead(peer.channels, 9, len(CLASSES), norm_layer=norm)
        head.regression_head._loss_type = "giou" if name == "retinanet_v2" else "l1"
        model = retinanet.RetinaNet(body, 3, head=head, **options)
    return make_lively(model)


def make_lively(model: Any, *, has_small_features: bool = True) -> Any:
    """Weights that give varied scores and boxes; with equal scores the order would be arbitrary."""
    for name, parameter in model.head.named_parameters():
        if "cls_logits.weight" in name or "bbox" in name:
            nn.init.normal_(parameter, std=0.05)
        elif has_small_features and ".conv." in name and parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter)
    nn.init.constant_(model.head.classification_head.cls_logits.bias, -1.0)
    if isinstance(model, fcos.FCOS):
        nn.init.constant_(model.head.regression_head.bbox_reg.bias, 1.5)
    return model.eval()


def head_like(name: str, model: Any, specs: dict[str, FeatureSpec], **options: Any) -> Any:
    peer = PEERS[name]
    head = peer.head(specs, CLASSES, {**peer.options, **options})
    split = head.foreign_weights.split(model.state_dict())
    assert split is not None
    head.load_state_dict(split.head)
    return head.eval()


def make_features(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        level: torch.randn(
            2, spec.channels, SIZE[0] // spec.stride, SIZE[1] // spec.stride, generator=generator
        ).contiguous(memory_format=torch.channels_last)
        for level, spec in SPECS.items()
    }


def run_peer(model: Any, features: dict[str, Tensor]) -> tuple[dict[str, Tensor], Any, list[int]]:
    """Raw outputs, anchors and number of anchors per level of torchvision's model."""
    levels = list(model.backbone.fpn(OrderedDict(features)).values())
    raw = model.head(levels)
    anchors = model.anchor_generator(ImageList(torch.zeros(2, 3, *SIZE), [SIZE] * 2), levels)
    per_cell = len(anchors[0]) // sum(level.shape[2] * level.shape[3] for level in levels)
    return raw, anchors, [per_cell * level.shape[2] * level.shape[3] for level in levels]


def detect_like_peer(
    model: Any, raw: dict[str, Tensor], anchors: Any, counts: list[int]
) -> list[dict[str, Tensor]]:
    split_raw = {name: list(values.split(counts, dim=1)) for name, values in raw.items()}
    split_anchors = [list(image_anchors.split(counts)) for image_anchors in anchors]
    detections: list[dict[str, Tensor]] = model.postprocess_detections(
        split_raw, split_anchors, [SIZE] * 2
    )
    return detections


def assert_same_detections(outputs: dict[str, Tensor], theirs: Sequence[dict[str, Tensor]]) -> None:
    for i, detections in enumerate(theirs):
        # torchvision keeps boxes without an area.
        has_area = (detections["boxes"][:, 2:] - detections["boxes"][:, :2] > 1e-3).all(dim=1)
        count = int(outputs["valid"][i].sum())
        assert count == int(has_area.sum()) > 20
        boxes, scores, labels = (outputs[key][i, :count] for key in ("boxes", "scores", "labels"))
        theirs_with_area = {key: values[has_area] for key, values in detections.items()}
        torch.testing.assert_close(scores, theirs_with_area["scores"], atol=1e-5, rtol=0)
        # Detections with equal scores may come in another order.
        distances = (boxes[:, None] - theirs_with_area["boxes"]).abs().amax(dim=2)
        differs = labels[:, None] != theirs_with_area["labels"]
        differs |= (scores[:, None] - theirs_with_area["scores"]).abs() > 1e-5
        nearest, partners = distances.masked_fill(differs, 1e9).min(dim=1)
        assert nearest.max() < 0.01
        assert len(partners.unique()) == count


OPTIONS = (
    ({}, {}),
    (
        {"score_threshold": 0.3, "nms_iou": 0.4, "candidates_per_level": 150},
        {"score_thresh": 0.3, "nms_thresh": 0.4, "topk_candidates": 150},
    ),
)


@pytest.mark.parametrize("options", OPTIONS, ids=("defaults", "others"))
@pytest.mark.parametrize("name", PEERS)
def test_raw_outputs_and_detections(name: str, options: tuple[dict[str, Any], Any]) -> None:
    torch.manual_seed(0)
    ours, theirs = options
    many = 100_000
    model = small_peer(name, detections_per_img=many, **theirs)
    convs = {"num_convs": 2} if name == "fcos" else {}
    channels = PEERS[name].channels
    head = head_like(
        name,
        model,
        SPECS,
        pyramid_channels=channels,
        detections_per_image=2000,
        **convs,
        **ours,
    )
    features = make_features()
    with torch.no_grad():
        raw, anchors, counts = run_peer(model, features)
        per_level = [head.head(level) for level in head._compute_pyramid(features)]
        for k, expected_levels in enumerate(
            zip(*(raw[key].split(counts, 1) for key in raw), strict=True)
        ):
            for values, expected in zip(per_level[k], expected_levels, strict=True):
                torch.testing.assert_close(values, expected.view_as(values), atol=1e-5, rtol=1e-5)
        outputs = head.outputs(head(features), torch.tensor([SIZE] * 2))
    assert_same_detections(outputs, detect_like_peer(model, raw, anchors, counts))


BOXES = (
    [[10.0, 12, 60, 70], [80, 20, 150, 90], [90, 30, 100, 44]],
    [[5.0, 5, 45, 30], [40, 60, 100, 95], [0, 0, 220, 95]],
)
LABELS = ([0, 2, 1], [1, 1, 0])


@pytest.mark.parametrize("filled", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("name", PEERS)
def test_losses_and_gradients(name: str, filled: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    model = small_peer(name).train()
    convs = {"num_convs": 2} if name == "fcos" else {}
    head = head_like(name, model, SPECS, pyramid_channels=PEERS[name].channels, **convs).train()
    boxes = [
        torch.tensor(rows if on else []).view(-1, 4) for rows, on in zip(BOXES, filled, strict=True)
    ]
    labels = [
        torch.tensor(rows if on else []).long() for rows, on in zip(LABELS, filled, strict=True)
    ]
    theirs = {level: values.requires_grad_() for level, values in make_features().items()}
    raw, anchors, counts = run_peer(model, theirs)
    targets = [{"boxes": b, "labels": k} for b, k in zip(boxes, labels, strict=True)]
    extra = (counts,) if name == "fcos" else ()
    expected = model.compute_loss(targets, raw, anchors, *extra)
    sum(expected.values()).backward()

    ours = {level: values.requires_grad_() for level, values in make_features().items()}
    view = BatchView(
        tuple(Target(boxes=b, labels=k) for b, k in zip(boxes, labels, strict=True)),
        (SIZE,) * 2,
        SIZE,
        (0, 1),
        (0, 1),
    )
    terms = head.loss(ours, view)
    sum(term.mean() for term in terms.values()).backward()
    names = {"focal": "classification", "box": "bbox_regression"}
    names |= {"centerness": "bbox_ctrness"} if name == "fcos" else {}
    assert set(terms) == set(names)
    for our_name, their_name in names.items():
        torch.testing.assert_close(
            terms[our_name].mean(), expected[their_name], atol=1e-5, rtol=1e-5
        )
        assert bool(terms[our_name].mean() > 0) is (any(filled) or our_name == "focal")
    for level, values in theirs.items():
        torch.testing.assert_close(ours[level].grad, values.grad, atol=1e-6, rtol=1e-4)
    parameters = dict(head.named_parameters())
    for key, parameter in model.head.named_parameters(prefix="head"):
        gradient = parameters[key].grad
        assert gradient is not None
        assert parameter.grad is not None
        assert (gradient - parameter.grad).norm() <= 1e-5 * parameter.grad.norm() + 1e-6, key


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_whole_models_with_a_resnet50(name: str) -> None:
    torch.manual_seed(0)
    model = make_lively(
        PEERS[name].build(
            weights=None,
            weights_backbone=None,
            num_classes=3,
            min_size=96,
            max_size=128,
            image_mean=[0.0] * 3,
            image_std=[1.0] * 3,
            detections_per_img=100_000,
        ),
        has_small_features=False,
    )
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        expected = model(list(images))
        body = dict(zip(SPECS, model.backbone.body(images).values(), strict=True))
        specs = {
            level: FeatureSpec(values.shape[1], 96 // values.shape[2])
            for level, values in body.items()
        }
        head = head_like(name, model, specs, detections_per_image=4000)
        outputs = head.outputs(head(body), torch.tensor([(96, 128)] * 2))
    assert_same_detections(outputs, expected)
