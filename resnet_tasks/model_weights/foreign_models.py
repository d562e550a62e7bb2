"""Models of other libraries, split into a backbone and a head under the names of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.errors import WeightsError
from resnet_tasks.heads.base import Head
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN, split_torchvision_state_dict
from resnet_tasks.heads.semantic.fpn import SemanticFPN
from resnet_tasks.heads.semantic.unet import UNet

ZERO_EPSILON = ("258fb6c6", "bf2d0c1e", "fc266e95")
"""First digits of the sha256 of torchvision checkpoints whose norms have an epsilon of 0.

They are the first COCO checkpoints of Faster, Mask and Keypoint R-CNN, whose frozen norms add
nothing to the variance (`overwrite_eps(model, 0.0)` in torchvision's constructors).
"""
EPSILON = 1e-5
"""Value that the norms of our backbones add to the variance."""
_WRAPPERS = ("module.", "model.")


@dataclass(frozen=True)
class ModelFile:
    """Tensors of a whole model, split into backbone and head.

    Attributes:
        kind: Library and model, for error messages.
        head_type: Class of the head that the tensors fit.
        backbone: Tensors under the names of a backbone.
        head: Tensors under the names of the head.
        predictor: Prefix of the names of the tensors that depend on the classes.
        extras: Prefixes of tensors that only other heads have, such as mask branches.
    """

    kind: str
    head_type: type[Head]
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    predictor: str
    extras: tuple[str, ...]


def split_model(tensors: Mapping[str, Tensor], request: WeightsRequest) -> ModelFile:
    """Split a model of a known layout into backbone and head.

    Raises:
        WeightsError: If the layout is unknown.
    """
    tensors = _strip_wrapper_prefix(tensors)
    parts = {key.split(".")[0] for key in tensors}
    if {"backbone", "rpn", "roi_heads"} <= parts:
        detector_tensors = {k: v for k, v in tensors.items() if k.split(".")[0] != "transform"}
        body, head = split_torchvision_state_dict(detector_tensors)
        return ModelFile(
            "torchvision's Faster R-CNN",
            FasterRCNN,
            body,
            head,
            "roi_heads.box_predictor.",
            ("roi_heads.mask_", "roi_heads.keypoint_"),
        )
    if {"encoder", "decoder", "segmentation_head"} <= parts:
        encoder: dict[str, Tensor] = {}
        head = {}
        for key, value in tensors.items():
            part, _, suffix = key.partition(".")
            if part == "encoder":
                encoder[suffix] = value
            else:
                head[f"classifier.{suffix}" if part == "segmentation_head" else key] = value
        for kind, head_type, sign in (("U-Net", UNet, "blocks.0."), ("FPN", SemanticFPN, "p5.")):
            if any(key.startswith(f"decoder.{sign}") for key in head):
                kind_text = f"a {kind} of segmentation_models_pytorch"
                extras = ("classification_head.",)
                return ModelFile(kind_text, head_type, encoder, head, "classifier.", extras)
    if {"backbone", "heads"} <= parts:
        raise WeightsError(
            f"{request} holds a model of a run of this package; load its backbone with "
            f"backbone.weights={request.spec}"
        )
    first_names = ", ".join(list(tensors)[:3])
    raise WeightsError(
        f"{request} is not a supported whole model (a Faster R-CNN of torchvision, a U-Net or FPN "
        f"of segmentation_models_pytorch): its names begin with {first_names}; weights of a "
        "backbone alone belong under backbone.weights"
    )


def absorb_epsilon(tensors: dict[str, Tensor], sha256: str) -> list[str]:
    """Convert norms with an epsilon of 0 to norms with an epsilon of `EPSILON`, exactly.

    Only the checkpoints in `ZERO_EPSILON` have such norms, and their tensors do not reveal it. The
    new scale and variance keep scale / sqrt(variance + epsilon) unchanged.

    Args:
        tensors: Tensors of the backbone; changed in place.
        sha256: Hexadecimal sha256 of the file.

    Returns:
        A note if anything was changed, else an empty list.
    """
    if not sha256.startswith(ZERO_EPSILON):
        return []
    for key in [key for key in tensors if key.endswith(".running_var")]:
        scale = f"{key.removesuffix('running_var')}weight"
        variance = tensors[key].double()
        # A variance below EPSILON cannot be reduced by it; the scale makes up for the rest.
        reduced = (variance - EPSILON).clamp(min=0)
        factor = ((reduced + EPSILON) / variance.clamp(min=1e-30)).sqrt()
        tensors[scale] = (tensors[scale].double() * factor).float()
        tensors[key] = reduced.float()
    return [f"norms of epsilon 0 are set to epsilon {EPSILON:g}; their output is the same"]


def _strip_wrapper_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Strip wrapper prefixes that all names have in common."""
    while True:
        prefix = next((w for w in _WRAPPERS if all(k.startswith(w) for k in tensors)), None)
        if prefix is None:
            return tensors
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
