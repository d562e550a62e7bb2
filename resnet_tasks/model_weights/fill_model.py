"""Loading of `model_weights` into a new model: backbone, head, normalization and license."""

from __future__ import annotations

import re
from typing import Any

import torch
import torchvision
from torch import Tensor

from resnet_tasks.backbone.checkpoints import load_tensors, read_checkpoint, strip_prefixes
from resnet_tasks.backbone.key_layouts import convert_layout
from resnet_tasks.backbone.pretrained import LoadReport, WeightSource, find_weights
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.backbone.weights_request import MODEL_KEY, WeightsRequest
from resnet_tasks.errors import WeightsError
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.files.json_files import read_configuration
from resnet_tasks.heads.base import Head
from resnet_tasks.heads.foreign_weights import ForeignModel
from resnet_tasks.model import TaskModel
from resnet_tasks.model_weights.encoder_check import check_encoder
from resnet_tasks.model_weights.foreign_models import absorb_epsilon, split_for_heads
from resnet_tasks.model_weights.infer_options import find_differing_options, suggest_options
from resnet_tasks.number_formats import Count

_COUNTER = "num_batches_tracked"
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
    """Fill the backbone and one head of a new model.

    Only tensors that depend on the classes may keep their random initialization (see
    `ForeignWeights.select_predictor_rows`).

    Args:
        model: Model whose backbone is a `ResNet`. It also takes over mean, std, license and report.
        spec: `torchvision:ENUM`, `hf-hub:REPO`, `URL#sha256=HEX`, a file, or a folder with
            `model.safetensors`: a whole model that a head of `model` can read (see
            `Head.foreign_weights`), such as a Faster R-CNN of torchvision.
        head: Name of the head; default: the only one that fits.
        in_channels: Channels of an image.
        accept_license: Whether to accept weights that forbid commercial use.

    Returns:
        Report of the matched tensors. Missing ones keep their random initialization, and a note
        gives the reason.

    Raises:
        WeightsError: If the file cannot be fetched or does not contain such a model, or if its
            backbone or head has another structure; the message names the options to set.
    """
    request = WeightsRequest(spec, MODEL_KEY)
    backbone: Any = model.backbone
    assert isinstance(backbone, ResNet), "whole models are loaded into the package's own backbones"
    origin = _resolve_weights(request, backbone.name, accept_license)
    files = split_for_heads(read_checkpoint(origin.file), model.named_heads, request)
    name = _choose_head(list(files), head, request)
    file = files[name]
    configuration = read_configuration(origin.file.with_name("config.json"))
    _check_configuration(model.named_heads[name], configuration, request)
    encoder = model.named_heads[name].foreign_weights.read_encoder(configuration)
    if encoder is not None:
        check_encoder(backbone, encoder, request)
    notes = absorb_epsilon(file.backbone, compute_sha256(origin.file))
    layout = convert_layout(strip_prefixes(file.backbone, origin.file), str(request))
    rows, predictor_notes = model.named_heads[name].foreign_weights.select_predictor_rows(
        model.named_heads[name], file, name
    )
    # The head is checked before anything is filled, so that an error leaves the model as it was.
    own = _collect_tensors(model, name)
    filled, missing, unused = _fit_head(
        model.named_heads[name], own, file, rows, configuration, request=request, name=name
    )
    matched, unexpected = load_tensors(
        backbone, layout.tensors, name=backbone.name, source=request, in_channels=in_channels
    )
    with torch.no_grad():
        for key, value in filled.items():
            own[key].copy_(value)
    notes += _describe_assumptions(model.named_heads[name], configuration, name)
    if num_finer := _count_finer_levels(model, name):
        assert model.pyramid is not None
        finer_levels = ", ".join(list(model.pyramid.specs)[:num_finer])
        predictor_notes.append(
            f"levels of the shared pyramid that are not in the file start from random weights: "
            f"{finer_levels}"
        )
    other_heads = [head_name for head_name in model.named_heads if head_name != name]
    if other_heads:
        predictor_notes.append(
            f"heads that are not in the file start from random weights: {', '.join(other_heads)}"
        )
    report = LoadReport(
        matched=(
            *(f"backbone.{key}" for key in matched),
            *(_build_full_name(model, name, key) for key in filled),
        ),
        missing=tuple(f"heads.{name}.{key}" for key in missing),
        unexpected=(*unexpected, *unused),
        source=f"{origin.source}, {file.kind}",
        license=origin.license,
        mean=layout.mean or origin.mean,
        std=layout.std or origin.std,
        notes=(*layout.notes, *notes, *predictor_notes),
    )
    backbone.apply_load_report(report, in_channels)
    model.mean.copy_(torch.tensor(backbone.mean))
    model.std.copy_(torch.tensor(backbone.std))
    return report


def _resolve_weights(request: WeightsRequest, name: str, accept_license: bool) -> WeightSource:
    kind, _, weights_name = request.spec.partition(":")
    if request.spec in ("imagenet", "none", "unloaded") or kind == "timm":
        raise WeightsError(
            f"{request} names a backbone, not a whole model; write backbone.weights="
            f"{request.spec}, or use {_FORMS}"
        )
    if kind == "torchvision":
        try:
            torchvision.models.get_weight(weights_name)
        except ValueError:
            raise WeightsError(
                f"{request}: torchvision has no such weights; use {_FORMS}"
            ) from None
    return find_weights(request, name, accept_license)


def _check_configuration(
    head: Head, configuration: dict[str, Any], request: WeightsRequest
) -> None:
    """Refuse models whose configuration does not fit the head."""
    problem = head.foreign_weights.check_configuration(configuration) if configuration else None
    if problem is not None:
        raise WeightsError(f"{request}: config.json {problem}")


def _describe_assumptions(head: Head, configuration: dict[str, Any], name: str) -> list[str]:
    """Describe the options that the file does not state, because it has no configuration."""
    if configuration or not head.foreign_weights.configured_options:
        return []
    own = head.options.model_dump()
    values = ", ".join(f"{key} {own[key]}" for key in head.foreign_weights.configured_options)
    note = (
        f"heads.{name}: without a config.json next to the file, it is assumed to have the head's "
        f"options: {values}"
    )
    return [note]


def _choose_head(fitting: list[str], requested: str | None, request: WeightsRequest) -> str:
    """Choose the head to fill among those that can read the file.

    Raises:
        WeightsError: If several heads fit and none of them is requested.
    """
    if requested is not None and requested in fitting:
        return requested
    if requested is None and len(fitting) == 1:
        return fitting[0]
    raise WeightsError(
        f"{request} fits the heads {', '.join(fitting)}; choose one with "
        f"model_weights={{source: {request.spec}, head: {fitting[0]}}}"
    )


def _collect_tensors(model: TaskModel, head: str) -> dict[str, Tensor]:
    """Collect the tensors to fill: a head's, and a shared pyramid's under the head's names.

    Levels of the shared pyramid that are finer than those of the head are not in the file.
    """
    own: dict[str, Tensor] = dict(model.named_heads[head].state_dict())
    prefix = _get_pyramid_prefix(model, head)
    if prefix and model.pyramid is not None:
        num_finer = _count_finer_levels(model, head)
        for key, tensor in model.pyramid.state_dict().items():
            renumbered = _shift_level(key, -num_finer)
            if renumbered is not None:
                own[f"{prefix}{renumbered}"] = tensor
    return own


def _count_finer_levels(model: TaskModel, head: str) -> int:
    """Return the number of levels of the shared pyramid that are finer than those of a head."""
    if model.pyramid is None or not _get_pyramid_prefix(model, head):
        return 0
    # The levels of the backbone that the head itself would build its pyramid on.
    return model.pyramid.in_levels.index(type(model.named_heads[head]).in_levels[0])


def _shift_level(key: str, shift: int) -> str | None:
    """Shift the number of the level in the name of a pyramid's tensor; None if it is negative."""
    match = re.match(r"(inner_blocks|layer_blocks)\.(\d+)\.(.+)", key)
    if match is None:
        return key
    level = int(match[2]) + shift
    return None if level < 0 else f"{match[1]}.{level}.{match[3]}"


def _get_pyramid_prefix(model: TaskModel, head: str) -> str:
    """Return the prefix of a shared pyramid's tensors in the file; "" if the head has its own."""
    return "" if model.pyramid is None else model.named_heads[head].foreign_weights.pyramid


def _build_full_name(model: TaskModel, head: str, key: str) -> str:
    prefix = _get_pyramid_prefix(model, head)
    if prefix and key.startswith(prefix):
        shifted = _shift_level(key.removeprefix(prefix), _count_finer_levels(model, head))
        return f"pyramid.{shifted}"
    return f"heads.{head}.{key}"


def _fit_head(
    head: Head,
    own: dict[str, Tensor],
    file: ForeignModel,
    rows: dict[str, Tensor] | None,
    configuration: dict[str, Any],
    *,
    request: WeightsRequest,
    name: str,
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Match the file's tensors with those of the head.

    Returns:
        Tensors that fill the head, names that keep their random initialization, and names of the
        file that are not used.

    Raises:
        WeightsError: If any tensor other than the predictor's would not be filled.
    """
    body = {k: v for k, v in file.head.items() if not k.startswith(file.predictor)}
    provided = {**body, **(rows or {})}
    required = {key for key in own if not key.endswith(_COUNTER)}
    renewed = sorted(key for key in required - provided.keys() if key.startswith(file.predictor))
    missing = sorted(required - provided.keys() - set(renewed))
    surplus = sorted(key for key in body.keys() - own.keys() if not key.startswith(file.extras))
    odd = [
        key for key in sorted(required & provided.keys()) if own[key].shape != provided[key].shape
    ]
    wrong = [*odd, *missing, *(key for key in surplus if not key.endswith(_COUNTER))]
    if wrong or find_differing_options(head, file, configuration):
        mismatch = (
            f"{Count(len(wrong)):tensor is} missing, unexpected or of a different shape "
            f"({', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}); "
        )
        raise WeightsError(
            f"{request} does not fit heads.{name}: {mismatch if wrong else ''}"
            f"{suggest_options(head, file, configuration, name)}"
        )
    broken = [key for key, value in provided.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(f"{request} holds values that are not finite, first in {broken[0]}")
    filled = {key: value for key, value in provided.items() if key in own}
    unused = sorted(key for key in file.head.keys() - filled.keys() if not key.endswith(_COUNTER))
    return filled, renewed, unused
