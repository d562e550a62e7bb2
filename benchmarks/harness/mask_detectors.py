"""Inference of Mask R-CNN without pasting: masks as grids over their boxes, in pixels of the input.

The models are those of `detectors`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

from benchmarks.harness.detectors import match_detections, require_same_detections, unpad_images
from benchmarks.harness.model_pairs import make_inference
from benchmarks.harness.side_by_side import Work, get_tolerance, require_close
from resnet_tasks.errors import DataError
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.samples import Batch


def make_our_grids(model: TaskModel, batch: Batch, precision: str) -> Work:
    """Make a forward pass of our model, from the batch to boxes and their grids of mask logits."""
    return lambda: model.compute_outputs(batch, precision=precision)["boxes"]


def make_peer_grids(model: TorchvisionMaskRCNN, batch: Batch, precision: str) -> Work:
    """Make a forward pass of torchvision's model that ends before the masks are pasted."""
    images = unpad_images(batch)

    def forward() -> list[dict[str, Tensor]]:
        transformed, _ = model.transform(images)
        features = model.backbone(transformed.tensors)
        proposals, _ = model.rpn(transformed, features)
        detections, _ = model.roi_heads(features, proposals, transformed.image_sizes)
        return detections  # type: ignore[no-any-return]

    return make_inference(forward, batch.images.device, precision)


def require_same_grids(ours: TaskModel, theirs: TorchvisionMaskRCNN, batch: Batch) -> str:
    """Compare detections and the probabilities of their masks in fp32.

    Raises:
        DataError: If the detections differ, see `require_same_detections`, or the masks of those
            that are the same.
    """
    outputs = ours.compute_outputs(batch)["boxes"]
    our_detections = [
        Detections(boxes[valid], scores[valid], labels[valid])
        for boxes, scores, labels, valid in zip(
            *(outputs[name] for name in ("boxes", "scores", "labels", "valid")), strict=True
        )
    ]
    peer_detections = make_peer_grids(theirs, batch, "fp32")()
    assert isinstance(peer_detections, list)
    agreement = require_same_detections(lambda: our_detections, lambda: peer_detections)
    our_masks, peer_masks = [], []
    for image, (own, peer) in enumerate(zip(our_detections, peer_detections, strict=True)):
        is_match = match_detections(own, peer)
        matched = is_match.any(dim=1)
        probs = outputs["mask_logits"][image][outputs["valid"][image]].sigmoid()
        our_masks.append(probs[is_match.int().argmax(dim=1)[matched]])
        peer_masks.append(peer["masks"][matched, 0])
    both = torch.cat(our_masks), torch.cat(peer_masks)
    if not both[0].std() > 0.01:
        raise DataError("masks in fp32: all cells are nearly equal, so the comparison is void")
    difference = require_close("masks in fp32", *both, get_tolerance("fp32"))
    return f"{agreement}, masks {difference:.1g} apart"
