"""Fills a freshly built model from `model_weights`: backbone, head, and what travels with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from resnet_tasks.backbone.checkpoints import cover, read_checkpoint, without_prefixes
from resnet_tasks.backbone.layouts import recognised
from resnet_tasks.backbone.pretrained import LoadReport, Origin, find_weights
from resnet_tasks.backbone.request import MODEL_KEY, Request
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.backbone.transfer import sha256_of
from resnet_tasks.errors import WeightsError
from resnet_tasks.heads.base import Head
from resnet_tasks.heads.faster_rcnn import FasterRCNN
from resnet_tasks.model import TaskModel
from resnet_tasks.model_weights.known_models import ModelFile, absorb_epsilon, take_apart
from resnet_tasks.model_weights.options import differing_options, option_advice
from resnet_tasks.model_weights.predictors import predictor_rows

_COUNTER = "num_batches_tracked"
_OWN_PYRAMID = "fpn."
"""What the names of a detector's pyramid begin with."""
_FORMS = (
    "torchvision:ENUM of a detector (torchvision:FasterRCNN_ResNet50_FPN_Weights.COCO_V1), "
    "hf-hub:REPO, https://...#sha256=HEX, a .safetensors, .pth or .pt file, or a folder that "
    "segmentation_models_pytorch saved"
)


def fill_model(
    model: TaskModel,
    spec: str,
    *,
    head: str | None = None,
    in_channels: int = 3,
    accept_license: bool = False,
) -> LoadReport:
    """Fills the backbone and one head of a freshly built model.

    Only what depends on the classes may start anew (see `predictors.predictor_rows`).

    Args:
        model: Its backbone is a `ResNet`; takes over mean, std, licence and report.
        spec: `torchvision:ENUM`, `hf-hub:REPO`, `URL#sha256=HEX`, a file, or a folder with
            `model.safetensors`: a torchvision Faster R-CNN, or a U-Net or FPN of
            segmentation_models_pytorch.
        head: Name of the head; default: the only one that fits.
        in_channels: Channels of a picture.
        accept_license: Whether weights for non-commercial use are welcome.

    Returns:
        What was matched; what is missing starts anew, with a note that says why.

    Raises:
        WeightsError: If the file cannot be had or is no such model, or backbone or head are built
            otherwise than its own; the message names the options to set.
    """
    request = Request(spec, MODEL_KEY)
    backbone: Any = model.backbone
    assert isinstance(backbone, ResNet), "whole models are loaded into the package's own backbones"
    origin = _find(request, backbone.name, accept_license)
    file = take_apart(read_checkpoint(origin.file), request)
    name = _choose_head(model, file, head, request)
    _check_upsampling(origin.file.with_name("config.json"), request)
    notes = absorb_epsilon(file.backbone, sha256_of(origin.file))
    layout = recognised(without_prefixes(file.backbone, origin.file), str(request))
    rows, told = predictor_rows(model.named_heads[name], file, name)
    # The head is checked before anything is filled, so that an error leaves the model as it was.
    own = _tensors_of(model, name)
    filled, missing, unused = _fitted_head(
        model.named_heads[name], own, file, rows, request=request, name=name
    )
    matched, unexpected = cover(
        backbone, layout.tensors, name=backbone.name, source=request, in_channels=in_channels
    )
    with torch.no_grad():
        for key, value in filled.items():
            own[key].copy_(value)
    others = [each for each in model.named_heads if each != name]
    if others:
        told.append(f"heads that the file does not have start anew: {', '.join(others)}")
    report = LoadReport(
        matched=(
            *(f"backbone.{key}" for key in matched),
            *(_full_name(model, name, key) for key in filled),
        ),
        missing=tuple(f"heads.{name}.{key}" for key in missing),
        unexpected=(*unexpected, *unused),
        source=f"{origin.source}, {file.kind}",
        license=origin.license,
        mean=layout.mean or origin.mean,
        std=layout.std or origin.std,
        notes=(*layout.notes, *notes, *told),
    )
    backbone.adopt(report, in_channels)
    model.mean.copy_(torch.tensor(backbone.mean))
    model.std.copy_(torch.tensor(backbone.std))
    return report


def _find(request: Request, name: str, accept_license: bool) -> Origin:
    kind, _, rest = request.spec.partition(":")
    if request.spec in ("imagenet", "none", "unloaded") or kind == "timm":
        raise WeightsError(
            f"{request} names a backbone, not a whole model; write backbone.weights="
            f"{request.spec}, or give {_FORMS}"
        )
    if kind == "torchvision":
        try:
            torchvision.models.get_weight(rest)
        except ValueError:
            raise WeightsError(
                f"{request}: torchvision has no such weights; give {_FORMS}"
            ) from None
    return find_weights(request, name, accept_license)


def _check_upsampling(config: Path, request: Request) -> None:
    """Refuses what tensors do not tell: decoders of smp that upsample in another way than ours."""
    try:
        content: Any = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    way = content.get("decoder_interpolation") if isinstance(content, dict) else None
    if way not in (None, "nearest"):
        raise WeightsError(
            f"{request}: {config.name} says that its decoder upsamples by {way!r}, the decoders of "
            "this package by 'nearest'; choose a model that was trained with that"
        )


def _choose_head(model: TaskModel, file: ModelFile, wanted: str | None, request: Request) -> str:
    fitting = [name for name, head in model.named_heads.items() if isinstance(head, file.head_type)]
    if wanted is not None and wanted in fitting:
        return wanted
    if wanted is None and len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise WeightsError(
            f"{request} fits the heads {', '.join(fitting)}; say which one takes it with "
            f"model_weights={{source: {request.spec}, head: {fitting[0]}}}"
        )
    given = ", ".join(f"{k} ({type(v).__name__})" for k, v in model.named_heads.items())
    raise WeightsError(
        f"{request} holds {file.kind}, which needs a head {file.head_type.__name__}; the recipe "
        f"has {given}"
    )


def _tensors_of(model: TaskModel, head: str) -> dict[str, Tensor]:
    """What a file of one model fills: a head, and the shared pyramid in the place of its own."""
    own: dict[str, Tensor] = dict(model.named_heads[head].state_dict())
    if model.pyramid is not None and isinstance(model.named_heads[head], FasterRCNN):
        own |= {f"{_OWN_PYRAMID}{key}": each for key, each in model.pyramid.state_dict().items()}
    return own


def _full_name(model: TaskModel, head: str, key: str) -> str:
    if model.pyramid is not None and key.startswith(_OWN_PYRAMID):
        return f"pyramid.{key.removeprefix(_OWN_PYRAMID)}"
    return f"heads.{head}.{key}"


def _fitted_head(
    head: Head,
    own: dict[str, Tensor],
    file: ModelFile,
    rows: dict[str, Tensor] | None,
    *,
    request: Request,
    name: str,
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """What fills the head, what of it starts anew, and what of the file is not used.

    Raises:
        WeightsError: If anything but the predictor would not be filled.
    """
    body = {k: v for k, v in file.head.items() if not k.startswith(file.predictor)}
    given = {**body, **(rows or {})}
    required = {key for key in own if not key.endswith(_COUNTER)}
    renewed = sorted(key for key in required - given.keys() if key.startswith(file.predictor))
    missing = sorted(required - given.keys() - set(renewed))
    surplus = sorted(key for key in body.keys() - own.keys() if not key.startswith(file.extras))
    odd = [key for key in sorted(required & given.keys()) if own[key].shape != given[key].shape]
    wrong = [*odd, *missing, *(key for key in surplus if not key.endswith(_COUNTER))]
    if wrong or differing_options(head, file):
        found = (
            f"{len(wrong)} tensors are missing, left over or of another shape "
            f"({', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}); "
        )
        raise WeightsError(
            f"{request} does not fit heads.{name}: {found if wrong else ''}"
            f"{option_advice(head, file, name)}"
        )
    broken = [key for key, value in given.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(f"{request} holds values that are not finite, first in {broken[0]}")
    filled = {key: value for key, value in given.items() if key in own}
    unused = sorted(key for key in file.head.keys() - filled.keys() if not key.endswith(_COUNTER))
    return filled, renewed, unused
