"""Two detectors, torchvision's and ours, with the same weights, settings and images.

They are Faster R-CNN or Mask R-CNN.

Norms are frozen, as in torchvision. Their statistics are those of the images, so that features have
the scale of trained ones. The weights that determine boxes and classes have a large standard
deviation, so that scores differ and boxes move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import box_iou
from torchvision.ops.misc import FrozenBatchNorm2d

from benchmarks.harness.model_pairs import make_inference, make_training_step
from benchmarks.harness.side_by_side import (
    THINGS,
    Work,
    flatten_tensors,
    get_tolerance,
    require_close,
)
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import DataError
from resnet_tasks.heads.base import Head
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.rcnn.mask_rcnn import MaskRCNN
from resnet_tasks.layers.norms import find_batch_norms
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime.devices import autocast
from resnet_tasks.structures.evaluation import ABSENT
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.samples import Batch

PEER = f"torchvision {version('torchvision')}"
FROZEN_STAGES = 2
"""Stem and C2, the stages that torchvision's default `trainable_layers=3` leaves untrained."""
EVERYTHING = 1_000_000
"""Sample size that includes all candidates, so that nothing is sampled at random."""
LOSSES = {
    "rpn_objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "roi_classification": "loss_classifier",
    "roi_box": "loss_box_reg",
    "mask": "loss_mask",
}
DETECTORS: dict[str, tuple[str, type[FasterRCNN]]] = {
    "faster_rcnn": ("Faster R-CNN", FasterRCNN),
    "mask_rcnn": ("Mask R-CNN", MaskRCNN),
}
"""Type of a head -> name of the model, and class of the head."""


def build_our_detector(backbone: str, batch: Batch, head: str = "faster_rcnn") -> TaskModel:
    """Build our detector with its defaults, which are torchvision's, in training mode.

    Args:
        backbone: Name of the ResNet.
        batch: Batch whose statistics the norms get; the model is moved to its device.
        head: Type of the head, a key of `DETECTORS`.
    """

    def build_head(specs: Mapping[str, FeatureSpec]) -> FasterRCNN:
        detector = DETECTORS[head][1](specs, THINGS)
        _initialize_wide(detector)
        return detector

    return build_task_model(backbone, batch, build_head)


def build_task_model(
    backbone: str, batch: Batch, build_head: Callable[[Mapping[str, FeatureSpec]], Head]
) -> TaskModel:
    """Build a model with frozen norms and one head, `boxes`, in training mode.

    Args:
        backbone: Name of the ResNet.
        batch: Batch whose statistics the norms get; the model is moved to its device.
        build_head: Function from the levels of the backbone to the head.
    """
    device = batch.images.device
    warmup_model = TaskModel(
        _build_random_resnet(backbone),
        {"boxes": FasterRCNN(_build_random_resnet(backbone).specs, THINGS)},
    )
    warmup_model.to(device)
    with torch.no_grad():
        sizes = [geometry.input_size for geometry in batch.geometries]
        warmup_model.train().compute_features(warmup_model.normalize(batch.images, sizes))
    frozen = ResNet(backbone, weights="unloaded", frozen_stages=FROZEN_STAGES, norm="frozen")
    frozen.load_state_dict(warmup_model.backbone.state_dict())
    torch.manual_seed(1)
    detector = build_head(frozen.specs)
    table = LabelTable(THINGS, (*range(len(THINGS)), *(ABSENT,) * 8))
    return TaskModel(frozen, {"boxes": detector}, label_tables={"boxes": table}).to(device).train()


def _build_random_resnet(name: str) -> ResNet:
    """Build a random ResNet whose norms adopt the statistics of the next batch."""
    torch.manual_seed(0)
    backbone = ResNet(name)
    for norm in find_batch_norms(backbone):
        if not norm.weight.any():
            # The last norm of a block starts at 0, as the identity. A scale of 1 would make the
            # branches as large as the shortcuts, and a deep random net would amplify rounding.
            nn.init.constant_(norm.weight, 0.2)
        norm.momentum = 1.0
    return backbone


def _initialize_wide(head: FasterRCNN) -> None:
    for name, parameter in head.named_parameters():
        if name.endswith("bbox_pred.weight"):
            nn.init.normal_(parameter, std=0.003)
        elif name.endswith("cls_logits.weight"):
            nn.init.normal_(parameter, std=0.01)
        elif name.endswith(("cls_score.weight", "mask_fcn_logits.weight")):
            nn.init.normal_(parameter, std=0.1)


def build_peer_detector(backbone: str, ours: TaskModel, **options: Any) -> TorchvisionFasterRCNN:
    """Build torchvision's detector of the same kind with the weights of ours, in training mode.

    Args:
        backbone: Name of the ResNet.
        ours: Result of `build_our_detector` for the same name.
        options: Options of torchvision's `FasterRCNN` or `MaskRCNN`.
    """
    body = resnet_fpn_backbone(
        backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    is_mask_rcnn = isinstance(ours.named_heads["boxes"], MaskRCNN)
    build = TorchvisionMaskRCNN if is_mask_rcnn else TorchvisionFasterRCNN
    detector = build(body, num_classes=len(THINGS) + 1, **options)
    state = {
        f"backbone.body.{key}": value for key, value in get_backbone_state(ours.backbone).items()
    }
    for key, value in ours.named_heads["boxes"].state_dict().items():
        state[f"backbone.{key}" if key.startswith("fpn.") else key] = value
    detector.load_state_dict(state)
    return detector.train()


def get_backbone_state(backbone: object) -> dict[str, Tensor]:
    """Return the tensors of a ResNet under torchvision's names, without counters of batches."""
    assert isinstance(backbone, ResNet)
    return {k: v for k, v in backbone.state_dict().items() if "num_batches_tracked" not in k}


def unpad_images(batch: Batch) -> list[Tensor]:
    """Return the images of a batch without padding, as torchvision takes them."""
    sizes = [geometry.input_size for geometry in batch.geometries]
    pairs = zip(batch.images, sizes, strict=True)
    return [image[:, :height, :width] for image, (height, width) in pairs]


def to_peer_targets(batch: Batch, first_label: int = 1) -> list[dict[str, Tensor]]:
    """Convert the objects of a batch to torchvision's targets.

    Masks become `(N, H, W)` stacks of the same pixels.

    Args:
        batch: Batch with boxes and labels.
        first_label: The peer's label of the first class; 1 if its class 0 is the background.
    """
    peer_targets = []
    for target, geometry in zip(batch.targets, batch.geometries, strict=True):
        assert target.boxes is not None
        assert target.labels is not None
        peer_targets.append({"boxes": target.boxes, "labels": target.labels + first_label})
        if target.masks is not None:
            stack = [
                target.masks.rasterize(i, geometry.input_size) for i in range(len(target.masks))
            ]
            peer_targets[-1]["masks"] = torch.stack(stack).to(torch.uint8)
    return peer_targets


def make_our_step(model: TaskModel, batch: Batch, precision: str) -> Work:
    """Make a training step of our model, see `make_training_step`."""

    def compute_loss() -> Tensor:
        return model.compute_total_loss(model(batch, mode="loss"))

    return make_training_step(model, compute_loss, batch.images.device, precision)


def make_peer_step(model: TorchvisionFasterRCNN, batch: Batch, precision: str) -> Work:
    """Make a training step of torchvision's model, as in its reference training."""
    images, targets = unpad_images(batch), to_peer_targets(batch)

    def compute_loss() -> Tensor:
        return torch.stack(list(model(images, targets).values())).sum()

    return make_training_step(model, compute_loss, batch.images.device, precision)


def require_same_losses(
    ours: TaskModel, theirs: TorchvisionFasterRCNN, batch: Batch, precision: str
) -> str:
    """Compare the losses with all anchors and proposals sampled, and describe the difference.

    Raises:
        DataError: If they differ by more than the precision explains.
    """
    head = ours.named_heads["boxes"]
    assert isinstance(head, FasterRCNN)
    ours_before = [(stage, stage.sampling) for stage in (head.rpn, head.roi_heads)]
    samplers = [theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler]
    theirs_before = [
        (sampler.batch_size_per_image, sampler.positive_fraction) for sampler in samplers
    ]
    try:
        for stage, sampling in ours_before:
            stage.sampling = replace(sampling, size=EVERYTHING, positive_fraction=1.0)
        for sampler in samplers:
            sampler.batch_size_per_image, sampler.positive_fraction = EVERYTHING, 1.0
        with torch.no_grad(), autocast(batch.images.device, precision):
            our_losses = ours(batch, mode="loss")
            peer_losses = theirs(unpad_images(batch), to_peer_targets(batch))
    finally:
        for stage, sampling in ours_before:
            stage.sampling = sampling
        for sampler, sampler_settings in zip(samplers, theirs_before, strict=True):
            sampler.batch_size_per_image, sampler.positive_fraction = sampler_settings
    names = [name for name in LOSSES if f"boxes/{name}" in our_losses]
    max_difference = require_close(
        f"losses in {precision}",
        flatten_tensors([our_losses[f"boxes/{name}"].mean() for name in names]),
        flatten_tensors([peer_losses[LOSSES[name]] for name in names]),
        get_tolerance(precision),
    )
    assert len(names) == len(peer_losses), "every loss is compared"
    return f"the {len(names)} losses {max_difference:.1g} apart"


def make_our_forward(model: TaskModel, batch: Batch, precision: str) -> Work:
    """Make a forward pass of our model, from the batch to detections in original pixels.

    Masks are pasted into the original image and compressed (COCO RLE).
    """
    return lambda: model.predict(batch, precision=precision)["boxes"]


def make_peer_forward(model: nn.Module, batch: Batch, precision: str) -> Work:
    """Make a forward pass of torchvision's model, called as in its documentation.

    Masks are pasted into a stack of maps of the original image.
    """
    images = unpad_images(batch)
    return make_inference(lambda: model(images), batch.images.device, precision)


def require_same_detections(ours: Work, theirs: Work) -> str:
    """Measure the share of the peer's detections that ours contain too, in fp32.

    Raises:
        DataError: If the share is too small, see `require_matching_detections`.
    """
    return require_matching_detections(ours, theirs, first_label=1)


def require_matching_detections(ours: Work, theirs: Work, *, first_label: int) -> str:
    """Measure the share of the peer's detections that ours contain too.

    Two detections match if they have the same class, an IoU of at least 0.99, and scores that
    differ by at most 0.01.

    Args:
        ours: Work that returns our detections of every image.
        theirs: Work that returns the peer's.
        first_label: The peer's label of the first class.

    Raises:
        DataError: If the share is below 0.98.
    """
    our_batch, peer_batch = ours(), theirs()
    assert isinstance(our_batch, list)
    assert isinstance(peer_batch, list)
    num_matched = total = 0
    for our_detections, peer_detections in zip(our_batch, peer_batch, strict=True):
        is_match = match_detections(our_detections, peer_detections, first_label)
        num_matched += int(is_match.any(dim=1).sum())
        total += len(is_match)
    fraction = num_matched / max(total, 1)
    if not total or fraction < 0.98:
        raise DataError(
            f"detections in fp32: {num_matched} of the peer's {total} are among ours; at least "
            "98% must be, so the two did not do the same work"
        )
    return f"{fraction:.0%} of the peer's {total} detections among ours"


def match_detections(
    ours: Detections, theirs: Mapping[str, Tensor], first_label: int = 1
) -> Tensor:
    """Return the `(M, N)` bool matches of the peer's M detections with our N."""
    is_match: Tensor = box_iou(theirs["boxes"], ours.boxes) >= 0.99
    is_match &= (theirs["scores"][:, None] - ours.scores[None]).abs() <= 0.01
    return is_match & (theirs["labels"][:, None] == ours.labels[None] + first_label)


@torch.no_grad()
def require_same_stages(
    ours: TaskModel, theirs: TorchvisionFasterRCNN, batch: Batch, precision: str
) -> str:
    """Compare the outputs of the stages for the same boxes, and describe the difference.

    They are pyramid, objectness, class logits and, of Mask R-CNN, mask logits.

    This check is for precisions whose rounding changes the selection among many nearly equal random
    boxes.

    Raises:
        DataError: If they differ by more than the precision explains.
    """
    with autocast(batch.images.device, precision):
        stages = _compute_stages(ours, theirs, batch)
    tolerance = get_tolerance(precision)
    max_difference = max(
        require_close(f"{name} in {precision}", our_output, peer_output, tolerance)
        for name, (our_output, peer_output) in stages.items()
    )
    *names, last = stages
    return f"{', '.join(names)} and {last} at most {max_difference:.1g} apart"


def _compute_stages(
    ours: TaskModel, theirs: TorchvisionFasterRCNN, batch: Batch
) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute the outputs of the stages of both models, the later ones for the true boxes."""
    head = ours.named_heads["boxes"]
    assert isinstance(head, FasterRCNN)
    sizes = [geometry.input_size for geometry in batch.geometries]
    images = ours.normalize(batch.images, sizes)
    targets = to_peer_targets(batch)
    boxes, labels = ([target[name] for target in targets] for name in ("boxes", "labels"))
    image_indices = torch.arange(len(boxes)).repeat_interleave(
        torch.tensor([len(b) for b in boxes])
    )
    levels = list(head._compute_pyramid(ours.compute_features(images)))
    our_objectness = torch.cat(head.rpn(levels, batch.padded_size).objectness_logits, dim=1)
    logits, _ = head.roi_heads(levels[:-1], torch.cat(boxes), image_indices.to(images.device))
    features = theirs.backbone(images)
    objectness, _ = theirs.rpn.head(list(features.values()))
    peer_objectness = torch.cat(
        [level_logits.permute(0, 2, 3, 1).flatten(1) for level_logits in objectness], dim=1
    )
    pooled = theirs.roi_heads.box_roi_pool(features, boxes, sizes)
    classes, _ = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(pooled))
    stages = {
        "pyramid": (flatten_tensors(levels), flatten_tensors(list(features.values()))),
        "objectness": (our_objectness, peer_objectness),
        "class logits": (logits, classes),
    }
    if isinstance(head, MaskRCNN):
        our_boxes, our_labels = torch.stack(boxes), torch.stack(labels) - 1
        masks = head.roi_heads.predict_masks(
            levels[:-1], our_boxes, our_labels, torch.ones_like(our_labels, dtype=torch.bool)
        )
        peer_rois = theirs.roi_heads.mask_roi_pool(features, boxes, sizes)
        peer_masks = theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(peer_rois))
        rows = torch.arange(len(peer_masks), device=images.device)
        stages["mask logits"] = (masks.flatten(0, 1), peer_masks[rows, torch.cat(labels)])
    return stages
