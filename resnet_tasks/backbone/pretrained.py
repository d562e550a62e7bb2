"""Where pretrained weights come from: `backbone.weights` -> tensors in a backbone.

Constants for normalisation and the licence travel with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torchvision
from torch import nn

from resnet_tasks.backbone.checkpoints import cover, read_checkpoint
from resnet_tasks.backbone.downloads import cached_download, hub_file, hub_metadata
from resnet_tasks.errors import WeightsError
from resnet_tasks.registry import nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""RGB, 0..1, the constants of torchvision's ImageNet models."""
IMAGENET_STD = (0.229, 0.224, 0.225)
FORMS = (
    "none, imagenet, timm:TAG, torchvision:ENUM, hf-hub:REPO, https://...#sha256=HEX, or a "
    ".safetensors, .pth or .pt file"
)
"""What `backbone.weights` may be."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class LoadReport:
    """What loading did to a backbone.

    Attributes:
        matched: Tensors of the backbone that were filled.
        missing: Tensors of the backbone that the file lacks; always empty, since that is an error.
        unexpected: Tensors of the file that have no place in a backbone (`fc.weight`, heads), as
            named in the file.
        source: Where the weights came from.
        license: Their licence, or why it is not known.
        mean: Per channel of the weights, 0..1 scale.
        std: Per channel of the weights, 0..1 scale.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    source: str
    license: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


@dataclass(frozen=True)
class _Origin:
    """A file of weights on this machine and what is known of it."""

    file: Path
    source: str
    license: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def load_weights(
    backbone: nn.Module,
    spec: str,
    name: str,
    *,
    in_channels: int = 3,
    accept_license: bool = False,
) -> LoadReport:
    """Fills a backbone with pretrained weights.

    Files in the caches of the hub and of torch are used without asking a server.

    Args:
        backbone: Its state dict has timm's keys, without wrapper and classifier.
        spec: `imagenet` (timm's default tag), `timm:TAG`, `torchvision:ENUM`,
            `hf-hub:REPO[@REVISION]`, `URL#sha256=HEX`, or a local file.
        name: The variant, for tags and messages.
        in_channels: Channels of a picture. A stem of three channels is summed for one, tiled and
            scaled for others.
        accept_license: Whether weights for non-commercial use are welcome.

    Returns:
        What was matched, and what travels with the weights.

    Raises:
        WeightsError: If weights cannot be had or read, do not cover the backbone, have other
            shapes, or may not be used commercially and `accept_license` is False.
    """
    origin = _find(spec, name, accept_license)
    tensors = read_checkpoint(origin.file)
    matched, unexpected = cover(backbone, tensors, name=name, source=spec, in_channels=in_channels)
    return LoadReport(
        matched=matched,
        missing=(),
        unexpected=unexpected,
        source=origin.source,
        license=origin.license,
        mean=origin.mean,
        std=origin.std,
    )


def _find(spec: str, name: str, accept_license: bool) -> _Origin:
    kind, _, rest = spec.partition(":")
    if spec == "imagenet":
        return _from_timm(spec, name, None, accept_license)
    if kind == "timm":
        return _from_timm(spec, name, rest, accept_license)
    if kind == "torchvision":
        return _from_torchvision(spec, name, rest)
    if kind == "hf-hub":
        return _from_hub(spec, rest, accept_license)
    if kind in ("http", "https"):
        return _from_url(spec)
    return _from_file(spec)


def _from_timm(spec: str, name: str, tag: str | None, accept_license: bool) -> _Origin:
    config = _timm_config(name, tag)
    if config is None or not config.hf_hub_id:
        tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{name}.*")]
        close = nearest(tag or "", tags)
        raise WeightsError(
            f"backbone.weights: timm has no weights {spec!r} for {name}; its tags are "
            f"{', '.join(tags) or 'none'}" + (f"; did you mean timm:{close}?" if close else "")
        )
    licence = config.license or "not stated by timm"
    _check_license(spec, licence, accept_license)
    file = hub_file(config.hf_hub_id, ("model.safetensors", "pytorch_model.bin"), spec=spec)
    mean, std = tuple(map(float, config.mean)), tuple(map(float, config.std))
    return _Origin(file, f"{config.hf_hub_id} ({spec})", licence, mean, std)


def _timm_config(name: str, tag: str | None) -> Any:
    try:
        return timm.get_pretrained_cfg(f"{name}.{tag}" if tag else name)
    except RuntimeError:
        return None


def _from_torchvision(spec: str, name: str, enum: str) -> _Origin:
    try:
        if "." in enum:
            entry: Any = torchvision.models.get_weight(enum)
        else:
            entry = torchvision.models.get_model_weights(name)[enum]
    except (ValueError, KeyError):
        raise WeightsError(
            f"backbone.weights: torchvision has no weights {enum!r} for {name}; "
            f"{_torchvision_choices(name)}"
        ) from None
    # torchvision names files `<model>-<first 8 digits of the sha256>.pth`.
    digits = Path(entry.url).stem.rpartition("-")[2]
    file = cached_download(entry.url, digits, spec=spec)
    constants = entry.transforms() if entry.transforms else SimpleNamespace()
    return _Origin(
        file,
        f"torchvision {entry} ({entry.url})",
        "BSD-3-Clause (torchvision)",
        tuple(map(float, getattr(constants, "mean", IMAGENET_MEAN))),
        tuple(map(float, getattr(constants, "std", IMAGENET_STD))),
    )


def _torchvision_choices(name: str) -> str:
    try:
        known = [each.name for each in torchvision.models.get_model_weights(name)]
    except ValueError:
        return f"it has no {name} at all"
    return f"it has {', '.join(f'torchvision:{each}' for each in known)}"


def _from_hub(spec: str, rest: str, accept_license: bool) -> _Origin:
    repo, _, revision = rest.partition("@")
    config = hub_metadata(repo, revision or None, spec=spec)
    licence = str(config.get("license") or "not stated in the repository")
    _check_license(spec, licence, accept_license)
    names = ("model.safetensors", "pytorch_model.bin")
    file = hub_file(repo, names, revision=revision or None, spec=spec)
    return _Origin(
        file,
        f"{rest} (hf-hub)",
        licence,
        tuple(map(float, config.get("mean") or IMAGENET_MEAN)),
        tuple(map(float, config.get("std") or IMAGENET_STD)),
    )


def _from_url(spec: str) -> _Origin:
    url, _, digits = spec.partition("#sha256=")
    if len(digits) != 64 or any(each not in "0123456789abcdef" for each in digits.lower()):
        raise WeightsError(
            f"backbone.weights: {spec!r} needs the file's sha256 (64 hexadecimal digits); write "
            f"{url.partition('#')[0]}#sha256=HEX, with HEX from sha256sum"
        )
    return _Origin(
        cached_download(url, digits.lower(), spec=url), spec, "not stated (downloaded file)"
    )


def _from_file(spec: str) -> _Origin:
    file = Path(spec).expanduser()
    if file.suffix not in SUFFIXES:
        close = nearest(spec, ["imagenet", "none"])
        hint = f"; did you mean {close!r}?" if close else ""
        raise WeightsError(f"backbone.weights is {spec!r}; allowed are {FORMS}{hint}")
    if not file.is_file():
        raise WeightsError(f"backbone.weights: there is no file {file.absolute()}")
    return _Origin(file, str(file), "not stated (local file)")


def _check_license(spec: str, licence: str, accepted: bool) -> None:
    plain = licence.lower().replace("-", "").replace(" ", "").replace("_", "")
    limited = "noncommercial" in plain or "nc" in licence.lower().replace(" ", "-").split("-")
    if limited and not accepted:
        raise WeightsError(
            f"backbone.weights: {spec!r} is under {licence}, which forbids commercial use; set "
            "backbone.accept_license=true if that suits you, or choose other weights"
        )
