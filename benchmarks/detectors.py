"""Faster R-CNN twice: torchvision's model and ours with the same weights, settings and pictures.

Norms are frozen, as torchvision freezes them; their statistics are those of the pictures, so that
features have the size that trained ones have. Weights that decide boxes and classes are drawn wide,
so that scores differ and boxes move.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import box_iou
from torchvision.ops.misc import FrozenBatchNorm2d

from benchmarks.model_pairs import inference, training_step
from benchmarks.side_by_side import THINGS, Work, joined, of_precision, require_close
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import DataError
from resnet_tasks.heads.faster_rcnn import FasterRCNN
from resnet_tasks.layers.norms import batch_norms_of
from resnet_tasks.model import TaskModel, autocast
from resnet_tasks.structures import ABSENT, Batch, LabelTable

PEER = f"torchvision {version('torchvision')}"
FROZEN_STAGES = 2
"""Stem and C2: what torchvision's `trainable_layers=3`, its default, leaves untrained."""
EVERYTHING = 1_000_000
"""A sample size that takes all candidates, so that nothing is left to chance."""
LOSSES = {
    "rpn_objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "roi_classification": "loss_classifier",
    "roi_box": "loss_box_reg",
}


def our_detector(backbone: str, batch: Batch) -> TaskModel:
    """Our Faster R-CNN with its defaults, which are torchvision's; in training mode.

    Args:
        backbone: Name of the ResNet.
        batch: What the norms' statistics are of; the model is on its device.
    """
    device = batch.images.device
    learner = TaskModel(_learner(backbone), {"boxes": FasterRCNN(_learner(backbone).specs, THINGS)})
    learner.to(device)
    with torch.no_grad():
        sizes = [each.input_size for each in batch.geometries]
        learner.train().features(learner.normalise(batch.images, sizes))
    frozen = ResNet(backbone, weights="unloaded", frozen_stages=FROZEN_STAGES, norm="frozen")
    frozen.load_state_dict(learner.backbone.state_dict())
    torch.manual_seed(1)
    head = FasterRCNN(frozen.specs, THINGS)
    _draw_wide(head)
    table = LabelTable(THINGS, (*range(len(THINGS)), *(ABSENT,) * 8))
    return TaskModel(frozen, {"boxes": head}, label_tables={"boxes": table}).to(device).train()


def _learner(name: str) -> ResNet:
    """A random ResNet whose norms take over the statistics of the one batch that they see."""
    torch.manual_seed(0)
    made = ResNet(name)
    for norm in batch_norms_of(made):
        if not norm.weight.any():
            # The last of a block, which starts as the identity. Branches as wide as shortcuts would
            # make a deep net of random weights blow up every rounding.
            nn.init.constant_(norm.weight, 0.2)
        norm.momentum = 1.0
    return made


def _draw_wide(head: FasterRCNN) -> None:
    for name, parameter in head.named_parameters():
        if name.endswith("bbox_pred.weight"):
            nn.init.normal_(parameter, std=0.003)
        elif name.endswith("cls_logits.weight"):
            nn.init.normal_(parameter, std=0.01)
        elif name.endswith("cls_score.weight"):
            nn.init.normal_(parameter, std=0.1)


def peers_detector(backbone: str, ours: TaskModel, **options: Any) -> TorchvisionFasterRCNN:
    """The Faster R-CNN of torchvision with the weights of `our_detector`; in training mode.

    Args:
        backbone: Name of the ResNet.
        ours: Made by `our_detector` with the same name.
        options: Of torchvision's `FasterRCNN`.
    """
    body = resnet_fpn_backbone(
        backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    made = TorchvisionFasterRCNN(body, num_classes=len(THINGS) + 1, **options)
    state = {f"backbone.body.{key}": value for key, value in _state(ours.backbone).items()}
    for key, value in ours.named_heads["boxes"].state_dict().items():
        state[f"backbone.{key}" if key.startswith("fpn.") else key] = value
    made.load_state_dict(state)
    return made.train()


def _state(backbone: object) -> dict[str, Tensor]:
    assert isinstance(backbone, ResNet)
    return {k: v for k, v in backbone.state_dict().items() if "num_batches_tracked" not in k}


def pictures_of(batch: Batch) -> list[Tensor]:
    """The pictures of a batch without padding, as torchvision takes them."""
    sizes = [each.input_size for each in batch.geometries]
    pairs = zip(batch.images, sizes, strict=True)
    return [image[:, :height, :width] for image, (height, width) in pairs]


def peers_targets(batch: Batch) -> list[dict[str, Tensor]]:
    """The boxes of a batch as torchvision takes them: class 0 is the background."""
    found = []
    for target in batch.targets:
        assert target.boxes is not None
        assert target.labels is not None
        found.append({"boxes": target.boxes, "labels": target.labels + 1})
    return found


def our_step(model: TaskModel, batch: Batch, precision: str) -> Work:
    """A training step, see `training_step`."""

    def loss() -> Tensor:
        return model.total_loss(model(batch, mode="loss"))

    return training_step(model, loss, batch.images.device, precision)


def peers_step(model: TorchvisionFasterRCNN, batch: Batch, precision: str) -> Work:
    """The same of torchvision's model, as its reference training does it."""
    images, targets = pictures_of(batch), peers_targets(batch)

    def loss() -> Tensor:
        return torch.stack(list(model(images, targets).values())).sum()

    return training_step(model, loss, batch.images.device, precision)


def require_same_losses(
    ours: TaskModel, theirs: TorchvisionFasterRCNN, batch: Batch, precision: str
) -> str:
    """How near the losses are where all anchors and proposals are sampled.

    Raises:
        DataError: If they are further apart than the precision explains.
    """
    head = ours.named_heads["boxes"]
    assert isinstance(head, FasterRCNN)
    ours_before = [(stage, stage.sampling) for stage in (head.rpn, head.roi_heads)]
    samplers = [theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler]
    theirs_before = [(each.batch_size_per_image, each.positive_fraction) for each in samplers]
    try:
        for stage, sampling in ours_before:
            stage.sampling = replace(sampling, size=EVERYTHING, positive_fraction=1.0)
        for sampler in samplers:
            sampler.batch_size_per_image, sampler.positive_fraction = EVERYTHING, 1.0
        with torch.no_grad(), autocast(batch.images.device, precision):
            mine = ours(batch, mode="loss")
            yours = theirs(pictures_of(batch), peers_targets(batch))
    finally:
        for stage, sampling in ours_before:
            stage.sampling = sampling
        for sampler, before in zip(samplers, theirs_before, strict=True):
            sampler.batch_size_per_image, sampler.positive_fraction = before
    apart = require_close(
        f"losses in {precision}",
        joined([mine[f"boxes/{name}"].mean() for name in LOSSES]),
        joined([yours[name] for name in LOSSES.values()]),
        of_precision(precision),
    )
    return f"the 4 losses {apart:.1g} apart"


def our_forward(model: TaskModel, batch: Batch, precision: str) -> Work:
    """Detections of the batch, in pixels of the original pictures."""
    return lambda: model.predict(batch, precision=precision)["boxes"]


def peers_forward(model: TorchvisionFasterRCNN, batch: Batch, precision: str) -> Work:
    """The same of torchvision's model, as its documentation calls it."""
    images = pictures_of(batch)
    return inference(lambda: model(images), batch.images.device, precision)


def require_same_detections(ours: Work, theirs: Work) -> str:
    """Which share of the peer's detections has one of ours in the same place, in fp32.

    The same place: the same class, IoU of at least 0.99, scores at most 0.01 apart.

    Raises:
        DataError: If it is below 0.98.
    """
    mine, yours = ours(), theirs()
    assert isinstance(mine, list)
    assert isinstance(yours, list)
    found = total = 0
    for each, other in zip(mine, yours, strict=True):
        near = box_iou(other["boxes"], each.boxes) >= 0.99
        near &= (other["scores"][:, None] - each.scores[None]).abs() <= 0.01
        near &= other["labels"][:, None] == each.labels[None] + 1
        found += int(near.any(dim=1).sum())
        total += len(near)
    share = found / max(total, 1)
    if not total or share < 0.98:
        raise DataError(
            f"detections in fp32: {found} of the peer's {total} are among ours; at least 98% must "
            "be, so that the two did not do the same work"
        )
    return f"{share:.0%} of the peer's {total} detections among ours"


@torch.no_grad()
def require_same_stages(
    ours: TaskModel, theirs: TorchvisionFasterRCNN, batch: Batch, precision: str
) -> str:
    """How near pyramid, objectness and class logits of the same boxes are.

    For precisions whose rounding changes which of many nearly equal random boxes come out.

    Raises:
        DataError: If they are further apart than the precision explains.
    """
    head = ours.named_heads["boxes"]
    assert isinstance(head, FasterRCNN)
    sizes = [each.input_size for each in batch.geometries]
    images = ours.normalise(batch.images, sizes)
    boxes = [target["boxes"] for target in peers_targets(batch)]
    pictures = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(b) for b in boxes]))
    with autocast(batch.images.device, precision):
        levels = list(head._pyramid(ours.features(images)))
        mine = head.rpn(levels, batch.padded_size).objectness_logits
        logits, _ = head.roi_heads(levels[:-1], torch.cat(boxes), pictures.to(images.device))
        features = theirs.backbone(images)
        objectness, _ = theirs.rpn.head(list(features.values()))
        pooled = theirs.roi_heads.box_roi_pool(features, boxes, sizes)
        classes, _ = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(pooled))
    yours = torch.cat([each.permute(0, 2, 3, 1).flatten(1) for each in objectness], dim=1)
    allowed = of_precision(precision)
    apart = max(
        require_close(
            f"pyramid in {precision}", joined(levels), joined(list(features.values())), allowed
        ),
        require_close(f"objectness in {precision}", mine, yours, allowed),
        require_close(f"class logits in {precision}", logits, classes, allowed),
    )
    return f"pyramid, objectness and class logits at most {apart:.1g} apart"
