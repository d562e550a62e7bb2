"""Sources of pretrained weights: value of `backbone.weights` -> tensors in a backbone.

Normalization constants and the license are returned together with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torchvision
from torch import nn

from resnet_tasks.backbone.catalog import forbids_commercial_use
from resnet_tasks.backbone.checkpoints import load_tensors, read_checkpoint, strip_prefixes
from resnet_tasks.backbone.downloads import download_file, fetch_hub_file, read_hub_metadata
from resnet_tasks.backbone.key_layouts import convert_layout
from resnet_tasks.backbone.weights_folders import (
    find_in_folder,
    find_run,
    read_license,
    split_checkpoint,
)
from resnet_tasks.backbone.weights_request import BACKBONE_KEY, WeightsRequest
from resnet_tasks.errors import WeightsError
from resnet_tasks.registry import find_nearest, suggest_nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean per channel of torchvision's ImageNet models, RGB, 0..1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
FORMS = (
    "none, imagenet, timm:TAG, torchvision:ENUM, hf-hub:REPO, https://...#sha256=HEX, a "
    ".safetensors, .pth or .pt file, or a run folder (RUN or RUN@best)"
)
"""Allowed forms of `backbone.weights`, as error messages list them."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class LoadReport:
    """Result of loading weights into a backbone or model.

    Attributes:
        matched: Names of the tensors that were filled.
        missing: Names of tensors that the file lacks. Always empty for a backbone, where a missing
            tensor is an error; for a head, the tensors that depend on the classes and keep their
            random initialization.
        unexpected: Names of tensors of the file that have no place in the model (`fc.weight`,
            heads), as named in the file.
        source: Description of the origin of the weights.
        license: License of the weights, or the reason why it is unknown.
        mean: Mean per channel that the weights expect, 0..1 scale.
        std: Standard deviation per channel that the weights expect, 0..1 scale.
        notes: Sentences about conversions, assumptions and reinitialized tensors.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    source: str
    license: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for logs; of the matched tensors only their number."""
        return {
            "source": self.source,
            "license": self.license,
            "matched": len(self.matched),
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class WeightSource:
    """Local file of weights with its known properties.

    Attributes:
        file: Path of the file.
        source: Description of the origin of the weights.
        license: License of the weights, or the reason why it is unknown.
        mean: Mean per channel that the weights expect, 0..1 scale.
        std: Standard deviation per channel that the weights expect, 0..1 scale.
        backbone: Name of the variant; None if unknown.
        settings: Recipe settings that select this backbone; empty if unknown.
    """

    file: Path
    source: str
    license: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    backbone: str | None = None
    settings: str = ""


def load_weights(
    backbone: nn.Module,
    spec: str,
    name: str,
    *,
    in_channels: int = 3,
    accept_license: bool = False,
) -> LoadReport:
    """Fill a backbone with pretrained weights.

    Files in the caches of the hub and of torch are used without asking a server.

    Args:
        backbone: Module to fill, in place; its state dict has timm's keys, without wrapper and
            classifier.
        spec: `imagenet` (timm's default tag), `timm:TAG`, `torchvision:ENUM`,
            `hf-hub:REPO[@REVISION]`, `URL#sha256=HEX`, a local file, or a run folder (`RUN`,
            `RUN@best`).
        name: Name of the variant, for tags and error messages.
        in_channels: Channels of an image. A stem of three channels is summed for one channel, and
            tiled and scaled for any other number.
        accept_license: Whether to accept weights that forbid commercial use.

    Returns:
        Report of matched tensors, normalization constants and license.

    Raises:
        WeightsError: If the weights cannot be fetched or read, do not cover the backbone, have
            other shapes, or forbid commercial use and `accept_license` is False.
    """
    request = WeightsRequest(spec)
    weight_source = find_weights(request, name, accept_license)
    if weight_source.backbone not in (None, name):
        raise WeightsError(
            f"{request} is a run whose backbone is {weight_source.backbone}, but backbone.name is "
            f"{name}; "
            f"set {weight_source.settings}, or choose other weights"
        )
    plain = strip_prefixes(read_checkpoint(weight_source.file), weight_source.file)
    layout = convert_layout(plain, str(request))
    matched, unexpected = load_tensors(
        backbone, layout.tensors, name=name, source=request, in_channels=in_channels
    )
    return LoadReport(
        matched=matched,
        missing=(),
        unexpected=unexpected,
        source=weight_source.source,
        license=weight_source.license,
        mean=layout.mean or weight_source.mean,
        std=layout.std or weight_source.std,
        notes=layout.notes,
    )


def find_weights(request: WeightsRequest, name: str, accept_license: bool) -> WeightSource:
    """Find the file that a request names, and download it if it is not on this machine.

    Args:
        request: Request of any form except `none`.
        name: Name of the variant, which selects the default weights or the tag.
        accept_license: Whether to accept weights that forbid commercial use.

    Raises:
        WeightsError: If the file cannot be fetched, or forbids commercial use.
    """
    spec = request.spec
    kind, _, reference = spec.partition(":")
    if spec == "imagenet":
        return _resolve_timm(request, name, None, accept_license)
    if kind == "timm":
        return _resolve_timm(request, name, reference, accept_license)
    if kind == "torchvision":
        return _resolve_torchvision(request, name, reference)
    if kind == "hf-hub":
        return _resolve_hub(request, reference, accept_license)
    if kind in ("http", "https"):
        return _resolve_url(request)
    folder, checkpoint = split_checkpoint(spec)
    if folder.is_dir():
        return _resolve_folder(request, folder, checkpoint, accept_license)
    return _resolve_file(request, accept_license)


def _resolve_timm(
    request: WeightsRequest, name: str, tag: str | None, accept_license: bool
) -> WeightSource:
    config = _get_timm_config(name, tag)
    if config is None or not config.hf_hub_id:
        tags = [model_name.partition(".")[2] for model_name in timm.list_pretrained(f"{name}.*")]
        close = find_nearest(tag or "", tags)
        raise WeightsError(
            f"{request.key}: timm has no weights {request.spec!r} for {name}; its tags are "
            f"{', '.join(tags) or 'none'}" + (f"; did you mean timm:{close}?" if close else "")
        )
    license_name = config.license or "not stated by timm"
    _check_license(request, license_name, accept_license)
    file = fetch_hub_file(
        config.hf_hub_id, ("model.safetensors", "pytorch_model.bin"), request=request
    )
    mean, std = tuple(map(float, config.mean)), tuple(map(float, config.std))
    return WeightSource(file, f"{config.hf_hub_id} ({request.spec})", license_name, mean, std)


def _get_timm_config(name: str, tag: str | None) -> Any:
    try:
        return timm.get_pretrained_cfg(f"{name}.{tag}" if tag else name)
    except RuntimeError:
        return None


def _resolve_torchvision(request: WeightsRequest, name: str, enum: str) -> WeightSource:
    try:
        if "." in enum:
            entry: Any = torchvision.models.get_weight(enum)
            if request.key == BACKBONE_KEY and _is_for_other_variant(entry, name):
                raise KeyError(name)  # refused before the download
        else:
            entry = torchvision.models.get_model_weights(name)[enum]
    except (ValueError, KeyError):
        raise WeightsError(
            f"{request.key}: torchvision has no weights {enum!r} for {name}; "
            f"{_format_torchvision_choices(name)}"
        ) from None
    # torchvision names files `<model>-<first 8 digits of the sha256>.pth`.
    digits = Path(entry.url).stem.rpartition("-")[2]
    file = download_file(entry.url, digits, request=request)
    constants = entry.transforms() if entry.transforms else SimpleNamespace()
    return WeightSource(
        file,
        f"torchvision {entry} ({entry.url})",
        "BSD-3-Clause (torchvision)",
        tuple(map(float, getattr(constants, "mean", IMAGENET_MEAN))),
        tuple(map(float, getattr(constants, "std", IMAGENET_STD))),
    )


def _is_for_other_variant(entry: Any, name: str) -> bool:
    """Return whether torchvision knows the variant but publishes these weights for another one."""
    is_known = name in torchvision.models.list_models()
    return is_known and entry not in list(torchvision.models.get_model_weights(name))


def _format_torchvision_choices(name: str) -> str:
    try:
        weight_names = [weights.name for weights in torchvision.models.get_model_weights(name)]
    except ValueError:
        return f"it has no {name} at all"
    return f"it has {', '.join(f'torchvision:{weight_name}' for weight_name in weight_names)}"


def _resolve_hub(request: WeightsRequest, reference: str, accept_license: bool) -> WeightSource:
    repo, _, revision = reference.partition("@")
    config = read_hub_metadata(repo, revision or None, request=request)
    license_name = str(config.get("license") or "not stated in the repository")
    _check_license(request, license_name, accept_license)
    names = ("model.safetensors", "pytorch_model.bin")
    file = fetch_hub_file(repo, names, revision=revision or None, request=request)
    return WeightSource(
        file,
        f"{reference} (hf-hub)",
        license_name,
        tuple(map(float, config.get("mean") or IMAGENET_MEAN)),
        tuple(map(float, config.get("std") or IMAGENET_STD)),
    )


def _resolve_url(request: WeightsRequest) -> WeightSource:
    url, _, digits = request.spec.partition("#sha256=")
    if len(digits) != 64 or any(digit not in "0123456789abcdef" for digit in digits.lower()):
        raise WeightsError(
            f"{request} needs the file's sha256 (64 hexadecimal digits); write "
            f"{url.partition('#')[0]}#sha256=HEX, with HEX from sha256sum"
        )
    file = download_file(url, digits.lower(), request=WeightsRequest(url, request.key))
    return WeightSource(file, request.spec, "not stated (downloaded file)")


def _resolve_folder(
    request: WeightsRequest, folder: Path, checkpoint: str, accept_license: bool
) -> WeightSource:
    folder_weights = find_in_folder(request, folder, checkpoint)
    _check_license(request, folder_weights.license, accept_license)
    return WeightSource(
        folder_weights.file,
        folder_weights.source,
        folder_weights.license,
        folder_weights.mean or IMAGENET_MEAN,
        folder_weights.std or IMAGENET_STD,
        folder_weights.backbone,
        folder_weights.settings,
    )


def _resolve_file(request: WeightsRequest, accept_license: bool) -> WeightSource:
    file = Path(request.spec).expanduser()
    if file.suffix == ".pkl":
        raise WeightsError(
            f"{request} is a pickle, which is never opened because it can run code; if you "
            'trust its source, convert its arrays to plain tensors: python -c "import pickle, '
            f"torch; d = pickle.load(open('{file.name}', 'rb'), encoding='latin1'); torch.save("
            "{k: torch.as_tensor(v) for k, v in d['model'].items()}, "
            f"'{file.stem}.pth')\""
        )
    if file.suffix not in SUFFIXES:
        hint = suggest_nearest(request.spec, ["imagenet", "none"])
        raise WeightsError(
            f"{request.key} is {request.spec!r}, but {file.absolute()} is not a folder; allowed: "
            f"{FORMS}{hint}"
        )
    if not file.is_file():
        raise WeightsError(f"{request.key}: there is no file {file.absolute()}")
    run = find_run(file)
    license_name = "not stated (local file)" if run is None else read_license(run)
    _check_license(request, license_name, accept_license)
    return WeightSource(file, str(file), license_name)


def _check_license(request: WeightsRequest, license_name: str, accepted: bool) -> None:
    if forbids_commercial_use(license_name) and not accepted:
        raise WeightsError(
            f"{request} is under {license_name}, which forbids commercial use; set "
            "backbone.accept_license=true if you accept that, or choose other weights"
        )
