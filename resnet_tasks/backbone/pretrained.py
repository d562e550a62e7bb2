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

from resnet_tasks.backbone.catalogue import forbids_commercial_use
from resnet_tasks.backbone.checkpoints import cover, read_checkpoint, without_prefixes
from resnet_tasks.backbone.downloads import cached_download, hub_file, hub_metadata
from resnet_tasks.backbone.layouts import recognised
from resnet_tasks.backbone.request import BACKBONE_KEY, Request
from resnet_tasks.backbone.run_folders import (
    find_in_folder,
    license_of,
    run_of,
    split_checkpoint,
)
from resnet_tasks.errors import WeightsError
from resnet_tasks.registry import did_you_mean, nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""RGB, 0..1, the constants of torchvision's ImageNet models."""
IMAGENET_STD = (0.229, 0.224, 0.225)
FORMS = (
    "none, imagenet, timm:TAG, torchvision:ENUM, hf-hub:REPO, https://...#sha256=HEX, a "
    ".safetensors, .pth or .pt file, or a run folder (RUN or RUN@best)"
)
"""What `backbone.weights` may be."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class LoadReport:
    """What loading did to a backbone.

    Attributes:
        matched: Tensors of the backbone that were filled.
        missing: Tensors that the file lacks: none of a backbone, since that is an error; of a head
            those that depend on the classes and start anew.
        unexpected: Tensors of the file that have no place in the model (`fc.weight`, heads), as
            named in the file.
        source: Where the weights came from.
        license: Their licence, or why it is not known.
        mean: Per channel of the weights, 0..1 scale.
        std: Per channel of the weights, 0..1 scale.
        notes: What was changed, assumed or begun anew, a sentence each.
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
        """As plain values, for logs; of what matched only the number."""
        return {
            "source": self.source,
            "license": self.license,
            "matched": len(self.matched),
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Origin:
    """A file of weights on this machine and what is known of it."""

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
    """Fills a backbone with pretrained weights.

    Files in the caches of the hub and of torch are used without asking a server.

    Args:
        backbone: Its state dict has timm's keys, without wrapper and classifier.
        spec: `imagenet` (timm's default tag), `timm:TAG`, `torchvision:ENUM`,
            `hf-hub:REPO[@REVISION]`, `URL#sha256=HEX`, a local file, or a run folder (`RUN`,
            `RUN@best`).
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
    request = Request(spec)
    origin = find_weights(request, name, accept_license)
    if origin.backbone not in (None, name):
        raise WeightsError(
            f"{request} is a run whose backbone is {origin.backbone}, but backbone.name is {name}; "
            f"set {origin.settings}, or choose other weights"
        )
    plain = without_prefixes(read_checkpoint(origin.file), origin.file)
    layout = recognised(plain, str(request))
    matched, unexpected = cover(
        backbone, layout.tensors, name=name, source=request, in_channels=in_channels
    )
    return LoadReport(
        matched=matched,
        missing=(),
        unexpected=unexpected,
        source=origin.source,
        license=origin.license,
        mean=layout.mean or origin.mean,
        std=layout.std or origin.std,
        notes=layout.notes,
    )


def find_weights(request: Request, name: str, accept_license: bool) -> Origin:
    """The file that a user means, fetched where it is not on this machine.

    Args:
        request: Any form but `none`.
        name: The backbone, whose default or tag is meant.
        accept_license: Whether weights for non-commercial use are welcome.

    Raises:
        WeightsError: If it cannot be had, or may not be used commercially.
    """
    spec = request.spec
    kind, _, rest = spec.partition(":")
    if spec == "imagenet":
        return _from_timm(request, name, None, accept_license)
    if kind == "timm":
        return _from_timm(request, name, rest, accept_license)
    if kind == "torchvision":
        return _from_torchvision(request, name, rest)
    if kind == "hf-hub":
        return _from_hub(request, rest, accept_license)
    if kind in ("http", "https"):
        return _from_url(request)
    folder, checkpoint = split_checkpoint(spec)
    if folder.is_dir():
        return _from_folder(request, folder, checkpoint, accept_license)
    return _from_file(request, accept_license)


def _from_timm(request: Request, name: str, tag: str | None, accept_license: bool) -> Origin:
    config = _timm_config(name, tag)
    if config is None or not config.hf_hub_id:
        tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{name}.*")]
        close = nearest(tag or "", tags)
        raise WeightsError(
            f"{request.key}: timm has no weights {request.spec!r} for {name}; its tags are "
            f"{', '.join(tags) or 'none'}" + (f"; did you mean timm:{close}?" if close else "")
        )
    licence = config.license or "not stated by timm"
    _check_license(request, licence, accept_license)
    file = hub_file(config.hf_hub_id, ("model.safetensors", "pytorch_model.bin"), request=request)
    mean, std = tuple(map(float, config.mean)), tuple(map(float, config.std))
    return Origin(file, f"{config.hf_hub_id} ({request.spec})", licence, mean, std)


def _timm_config(name: str, tag: str | None) -> Any:
    try:
        return timm.get_pretrained_cfg(f"{name}.{tag}" if tag else name)
    except RuntimeError:
        return None


def _from_torchvision(request: Request, name: str, enum: str) -> Origin:
    try:
        if "." in enum:
            entry: Any = torchvision.models.get_weight(enum)
            if request.key == BACKBONE_KEY and _is_of_another(entry, name):
                raise KeyError(name)  # before anything is fetched
        else:
            entry = torchvision.models.get_model_weights(name)[enum]
    except (ValueError, KeyError):
        raise WeightsError(
            f"{request.key}: torchvision has no weights {enum!r} for {name}; "
            f"{_torchvision_choices(name)}"
        ) from None
    # torchvision names files `<model>-<first 8 digits of the sha256>.pth`.
    digits = Path(entry.url).stem.rpartition("-")[2]
    file = cached_download(entry.url, digits, request=request)
    constants = entry.transforms() if entry.transforms else SimpleNamespace()
    return Origin(
        file,
        f"torchvision {entry} ({entry.url})",
        "BSD-3-Clause (torchvision)",
        tuple(map(float, getattr(constants, "mean", IMAGENET_MEAN))),
        tuple(map(float, getattr(constants, "std", IMAGENET_STD))),
    )


def _is_of_another(entry: Any, name: str) -> bool:
    """Whether torchvision knows the variant, and these weights are not among its own."""
    known = name in torchvision.models.list_models()
    return known and entry not in list(torchvision.models.get_model_weights(name))


def _torchvision_choices(name: str) -> str:
    try:
        known = [each.name for each in torchvision.models.get_model_weights(name)]
    except ValueError:
        return f"it has no {name} at all"
    return f"it has {', '.join(f'torchvision:{each}' for each in known)}"


def _from_hub(request: Request, rest: str, accept_license: bool) -> Origin:
    repo, _, revision = rest.partition("@")
    config = hub_metadata(repo, revision or None, request=request)
    licence = str(config.get("license") or "not stated in the repository")
    _check_license(request, licence, accept_license)
    names = ("model.safetensors", "pytorch_model.bin")
    file = hub_file(repo, names, revision=revision or None, request=request)
    return Origin(
        file,
        f"{rest} (hf-hub)",
        licence,
        tuple(map(float, config.get("mean") or IMAGENET_MEAN)),
        tuple(map(float, config.get("std") or IMAGENET_STD)),
    )


def _from_url(request: Request) -> Origin:
    url, _, digits = request.spec.partition("#sha256=")
    if len(digits) != 64 or any(each not in "0123456789abcdef" for each in digits.lower()):
        raise WeightsError(
            f"{request} needs the file's sha256 (64 hexadecimal digits); write "
            f"{url.partition('#')[0]}#sha256=HEX, with HEX from sha256sum"
        )
    file = cached_download(url, digits.lower(), request=Request(url, request.key))
    return Origin(file, request.spec, "not stated (downloaded file)")


def _from_folder(request: Request, folder: Path, checkpoint: str, accept_license: bool) -> Origin:
    found = find_in_folder(request, folder, checkpoint)
    _check_license(request, found.license, accept_license)
    return Origin(
        found.file,
        found.source,
        found.license,
        found.mean or IMAGENET_MEAN,
        found.std or IMAGENET_STD,
        found.backbone,
        found.settings,
    )


def _from_file(request: Request, accept_license: bool) -> Origin:
    file = Path(request.spec).expanduser()
    if file.suffix == ".pkl":
        raise WeightsError(
            f"{request} is a pickle, which is never opened because it can run code; where you "
            'trust who made it, bring its arrays to plain tensors: python -c "import pickle, '
            f"torch; d = pickle.load(open('{file.name}', 'rb'), encoding='latin1'); torch.save("
            "{k: torch.as_tensor(v) for k, v in d['model'].items()}, "
            f"'{file.stem}.pth')\""
        )
    if file.suffix not in SUFFIXES:
        hint = did_you_mean(request.spec, ["imagenet", "none"])
        raise WeightsError(
            f"{request.key} is {request.spec!r}, and {file.absolute()} is no folder; allowed are "
            f"{FORMS}{hint}"
        )
    if not file.is_file():
        raise WeightsError(f"{request.key}: there is no file {file.absolute()}")
    run = run_of(file)
    licence = "not stated (local file)" if run is None else license_of(run)
    _check_license(request, licence, accept_license)
    return Origin(file, str(file), licence)


def _check_license(request: Request, licence: str, accepted: bool) -> None:
    if forbids_commercial_use(licence) and not accepted:
        raise WeightsError(
            f"{request} is under {licence}, which forbids commercial use; set "
            "backbone.accept_license=true if that suits you, or choose other weights"
        )
