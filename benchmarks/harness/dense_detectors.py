"""Two one-stage detectors, torchvision's and ours, with the same weights, settings and images.

They are FCOS and RetinaNet, both versions. Backbones and norms are those of `detectors`. Both
predict the same classes; torchvision's models get no row for the background.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import fcos, retinanet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from benchmarks.harness.detectors import (
    build_task_model,
    get_backbone_state,
    require_matching_detections,
    to_peer_targets,
    unpad_images,
)
from benchmarks.harness.model_pairs import make_training_step
from benchmarks.harness.side_by_side import (
    THINGS,
    Work,
    flatten_tensors,
    get_tolerance,
    require_close,
)
from resnet_tasks.heads.dense.dense_head import DenseDetector
from resnet_tasks.heads.dense.fcos import FCOS
from resnet_tasks.heads.dense.retinanet import RetinaNet
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime.devices import autocast
from resnet_tasks.structures.samples import Batch

V2 = {"tower_norm": "group", "extra_levels": "convolved_c5", "box_loss": "giou"}
DETECTORS: dict[str, tuple[str, type[DenseDetector], dict[str, str]]] = {
    "fcos": ("FCOS", FCOS, {}),
    "retinanet": ("RetinaNet", RetinaNet, {}),
    "retinanet_v2": ("RetinaNet v2", RetinaNet, V2),
}
"""Name of a pair -> name of the model, class of the head, and options other than the defaults."""
LOSSES = {"focal": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"}


def build_our_detector(backbone: str, batch: Batch, head: str) -> TaskModel:
    """Build our detector with torchvision's options, in training mode.

    Args:
        backbone: Name of the ResNet.
        batch: Batch whose statistics the norms get; the model is moved to its device.
        head: A key of `DETECTORS`.
    """
    _, head_class, options = DETECTORS[head]

    def build_head(specs: Any) -> DenseDetector:
        detector = head_class(specs, THINGS, options)
        _initialize_wide(detector)
        return detector

    return build_task_model(backbone, batch, build_head)


def _initialize_wide(head: DenseDetector) -> None:
    """Give the last layers a large deviation, and scores of which many exceed the threshold."""
    for name, parameter in head.named_parameters():
        if name.endswith(("bbox_ctrness.weight", "cls_logits.weight")):
            nn.init.normal_(parameter, std=0.03)
        elif name.endswith("bbox_reg.weight"):
            # Boxes that move out of the image would have no area; torchvision keeps them.
            nn.init.normal_(parameter, std=0.003)
        elif name.endswith("cls_logits.bias"):
            nn.init.constant_(parameter, -2.0)
        elif name.endswith("bbox_reg.bias") and isinstance(head, FCOS):
            nn.init.constant_(parameter, 2.0)


def build_peer_detector(backbone: str, ours: TaskModel, **options: Any) -> Any:
    """Build torchvision's detector of the same kind with the weights of ours, in training mode.

    Args:
        backbone: Name of the ResNet.
        ours: Result of `build_our_detector` for the same name.
        options: Options of torchvision's `FCOS` or `RetinaNet`.
    """
    head = _get_head(ours)
    assert head.fpn is not None
    body = resnet_fpn_backbone(
        backbone_name=backbone,
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        trainable_layers=3,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(head.fpn.extra_blocks.p6.in_channels, head.channels),
    )
    num_classes = len(THINGS)
    detector: nn.Module
    if isinstance(head, FCOS):
        detector = fcos.FCOS(body, num_classes, **options)
    else:
        assert isinstance(head, RetinaNet)
        is_v2 = head.options.tower_norm == "group"
        layers = retinanet.RetinaNetHead(
            body.out_channels,
            head.anchors.per_cell,
            num_classes,
            norm_layer=partial(nn.GroupNorm, 32) if is_v2 else None,
        )
        layers.regression_head._loss_type = head.options.box_loss
        detector = retinanet.RetinaNet(body, num_classes, head=layers, **options)
    state = {f"backbone.body.{k}": v for k, v in get_backbone_state(ours.backbone).items()}
    for key, value in head.state_dict().items():
        state[f"backbone.{key}" if key.startswith("fpn.") else key] = value
    detector.load_state_dict(state)
    return detector.train()


def _get_head(model: TaskModel) -> DenseDetector:
    head = model.named_heads["boxes"]
    assert isinstance(head, FCOS | RetinaNet)
    return head


def list_parts(model: Any) -> dict[str, nn.Module]:
    """Return the modules of our model, or of the peer's, whose time is measured separately."""
    if isinstance(model, TaskModel):
        head = _get_head(model)
        assert head.fpn is not None
        modules = (model.backbone, head.fpn, head.head)
    else:
        modules = (model.backbone.body, model.backbone.fpn, model.head)
    return dict(zip(("backbone", "pyramid", "towers"), modules, strict=True))


def make_peer_step(model: nn.Module, batch: Batch, precision: str) -> Work:
    """Make a training step of torchvision's model, as in its reference training."""
    images, targets = unpad_images(batch), to_peer_targets(batch, first_label=0)

    def compute_loss() -> Tensor:
        return torch.stack(list(model(images, targets).values())).sum()

    return make_training_step(model, compute_loss, batch.images.device, precision)


@torch.no_grad()
def require_same_losses(ours: TaskModel, theirs: nn.Module, batch: Batch, precision: str) -> str:
    """Compare the losses, and describe the difference.

    Raises:
        DataError: If they differ by more than the precision explains.
    """
    with autocast(batch.images.device, precision):
        our_losses = ours(batch, mode="loss")
        peer_losses = theirs(unpad_images(batch), to_peer_targets(batch, first_label=0))
    names = [name for name in LOSSES if f"boxes/{name}" in our_losses]
    max_difference = require_close(
        f"losses in {precision}",
        flatten_tensors([our_losses[f"boxes/{name}"].mean() for name in names]),
        flatten_tensors([peer_losses[LOSSES[name]] for name in names]),
        get_tolerance(precision),
    )
    assert len(names) == len(peer_losses), "every loss is compared"
    return f"the {len(names)} losses {max_difference:.1g} apart"


def require_same_detections(ours: Work, theirs: Work) -> str:
    """Measure the share of the peer's detections that ours contain too, in fp32.

    Raises:
        DataError: If the share is too small, see `require_matching_detections`.
    """
    return require_matching_detections(ours, theirs, first_label=0)


@torch.no_grad()
def require_same_stages(ours: TaskModel, theirs: Any, batch: Batch, precision: str) -> str:
    """Compare pyramid, class logits and boxes at all places, and describe the difference.

    Raises:
        DataError: If they differ by more than the precision explains.
    """
    with autocast(batch.images.device, precision):
        outputs = _compute_outputs(ours, theirs, batch)
    tolerance = get_tolerance(precision)
    max_difference = max(
        require_close(f"{name} in {precision}", our_output, peer_output, tolerance)
        for name, (our_output, peer_output) in outputs.items()
    )
    return f"pyramid, class logits and box regression at most {max_difference:.1g} apart"


def _compute_outputs(
    ours: TaskModel, theirs: Any, batch: Batch
) -> Mapping[str, tuple[Tensor, Tensor]]:
    head = _get_head(ours)
    images = ours.normalize(batch.images, [geometry.input_size for geometry in batch.geometries])
    levels = head._compute_pyramid(ours.compute_features(images))
    logits, boxes = (
        torch.cat(parts, dim=1)
        for parts in list(zip(*(head.head(level) for level in levels), strict=True))[:2]
    )
    peer_levels: OrderedDict[str, Tensor] = theirs.backbone(images)
    raw = theirs.head(list(peer_levels.values()))
    return {
        "pyramid": (flatten_tensors(levels), flatten_tensors(list(peer_levels.values()))),
        "class logits": (logits, raw["cls_logits"]),
        "box regression": (boxes, raw["bbox_regression"]),
    }
