"""Checkpoint files: safe reading, and copying of their tensors into a backbone."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.errors import WeightsError, get_first_line
from resnet_tasks.files.torch_files import load_torch_file
from resnet_tasks.number_formats import Count

CONTAINERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
"""Keys under which training scripts store the state dict; the first one present is opened."""
PREFIXES = ("module.", "backbone.", "encoder.", "model.", "body.", "bottom_up.")
"""Prefixes that wrappers add to the keys of a backbone; each is stripped as often as it occurs."""
PLAIN_SHAPES: dict[tuple[str, tuple[int, ...]], str] = {
    ("conv2", (2, 2, 2, 2)): "resnet18",
    ("conv2", (3, 4, 6, 3)): "resnet34",
    ("conv3", (2, 2, 2, 2)): "resnet26",
    ("conv3", (3, 4, 6, 3)): "resnet50",
    ("conv3", (3, 4, 23, 3)): "resnet101",
    ("conv3", (3, 8, 36, 3)): "resnet152",
}
"""(last convolution of a block, blocks per stage) -> variant; He et al. 2015, Table 1."""
_BACKBONE_KEY = re.compile(r"(conv1|bn1|maxpool|layer[0-9]|stem|stages|norm|final_conv)\.")
_COUNTER = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var")


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file by name and open nested containers.

    Only plain tensors are unpickled, so that reading a file never runs code from it.

    Raises:
        WeightsError: If the file is damaged, is not a checkpoint, or holds more than plain tensors.
    """
    content = _read_file(file)
    state_dict = _unwrap_containers(content)
    tensors = {str(key): value for key, value in state_dict.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(
            f"{file} contains no named tensors (found {type(content).__name__} with "
            f"{', '.join(map(repr, list(state_dict)[:3])) or 'nothing'}); use a file with a "
            "model's state dict"
        )
    return tensors


def strip_prefixes(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Strip the prefixes of wrappers from the names of `tensors`.

    Raises:
        WeightsError: If two tensors have the same name after stripping.
    """
    plain: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = strip_key(key)
        if name in plain:
            raise WeightsError(
                f"{file} holds {name!r} twice once prefixes ({', '.join(PREFIXES)}) are stripped; "
                "save one of the two models to a separate file"
            )
        plain[name] = value
    return plain


def strip_key(key: str) -> str:
    """Strip the prefixes of wrappers from one key."""
    while True:
        prefix = next((candidate for candidate in PREFIXES if key.startswith(candidate)), None)
        if prefix is None:
            return key
        key = key.removeprefix(prefix)


def load_tensors(
    backbone: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    name: str,
    source: WeightsRequest,
    in_channels: int,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Copy `tensors` into a backbone. Either all of its tensors are filled or none.

    Args:
        backbone: Module to fill, in place; values are cast to the dtypes of its tensors.
        tensors: Plain name -> tensor. Batch counters (`num_batches_tracked`) are optional, tensors
            outside a backbone are ignored.
        name: Name of the variant, for error messages.
        source: User request that error messages quote.
        in_channels: Channels of an image; a stem trained for 3 channels is adapted to them.

    Returns:
        Names that were filled, and names that have no place in a backbone.

    Raises:
        WeightsError: If a tensor of the backbone is missing, has another shape or is not finite, or
            if the file has more backbone tensors than this variant.
    """
    own = backbone.state_dict()
    adapted = _adapt_stem(tensors, own, in_channels)
    mismatch = f"{source.key} {source.spec!r} do not fit backbone.name {name!r}"
    required = {key for key in own if not key.endswith(_COUNTER)}
    missing = sorted(required - adapted.keys())
    has_statistics = any(key.endswith(_STATISTICS) for key in own)
    surplus = sorted(
        key
        for key in adapted.keys() - own.keys()
        if _BACKBONE_KEY.match(key)
        and not key.endswith(_COUNTER)
        and (has_statistics or not key.endswith(_STATISTICS))
    )
    if missing or surplus:
        parts = [_format_keys("missing", missing), _format_keys("unexpected", surplus)]
        details = " and ".join(part for part in parts if part)
        raise WeightsError(f"{mismatch}: {details}{_suggest_variant(adapted, name)}")
    differing = [key for key in sorted(required) if adapted[key].shape != own[key].shape]
    if differing:
        key = differing[0]
        raise WeightsError(
            f"{mismatch}: {Count(len(differing)):tensor has} a different shape, first {key} with "
            f"{tuple(adapted[key].shape)} in place of "
            f"{tuple(own[key].shape)}{_suggest_variant(adapted, name)}"
        )
    broken = [key for key in sorted(required) if not bool(torch.isfinite(adapted[key]).all())]
    if broken:
        raise WeightsError(
            f"{source.key} {source.spec!r} hold values that are not finite in "
            f"{Count(len(broken)):tensor}, first {broken[0]}; use another checkpoint"
        )
    matched = tuple(key for key in own if key in adapted)
    with torch.no_grad():
        for key in matched:
            own[key].copy_(adapted[key])
    unexpected = sorted(key for key in adapted.keys() - own.keys() if not key.endswith(_COUNTER))
    return matched, tuple(unexpected)


def _read_file(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return load_torch_file(file)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL ([A-Za-z_][\w.]*\.\w+)", str(error))
        if match is not None:
            raise WeightsError(
                f"{file} holds Python objects beyond plain tensors ({match[1]}), which are never "
                "loaded because they can run code; save the model's state dict alone, best as "
                ".safetensors - if you trust the source of the file: "
                f"{_format_conversion_command(file)}"
            ) from error
        raise WeightsError(
            f"{file} is damaged or is not a checkpoint; fetch or save it again, or use another "
            ".safetensors or .pth file"
        ) from error
    except (SafetensorError, LookupError, TypeError, ValueError, OSError) as error:
        raise WeightsError(
            f"{file} is damaged or not a checkpoint ({get_first_line(error)[:120]}); fetch or save "
            "it again"
        ) from error


def _format_conversion_command(file: Path) -> str:
    """Format a shell command that converts a pickled checkpoint to a file of plain tensors."""
    target = file.with_name(f"{file.stem}-tensors.pth")
    return (
        f"python -c \"import torch; c = torch.load('{file}', map_location='cpu', "
        "weights_only=False); c = c.state_dict() if hasattr(c, 'state_dict') else "
        f"c.get('state_dict', c.get('model', c)); torch.save(dict(c), '{target}')\""
    )


def _unwrap_containers(content: Any) -> Mapping[Any, Any]:
    while isinstance(content, Mapping):
        key = next(
            (container for container in CONTAINERS if isinstance(content.get(container), Mapping)),
            None,
        )
        if key is None:
            return content
        content = content[key]
    return {}


def _adapt_stem(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], in_channels: int
) -> dict[str, Tensor]:
    adapted = dict(tensors)
    # The name of the stem's convolution differs between families, but it is always the first 4-D
    # tensor.
    stem = next(key for key, value in own.items() if value.ndim == 4)
    weight = adapted.get(stem)
    if weight is not None and weight.ndim == 4 and weight.shape[1] == 3 != in_channels:
        adapted[stem] = adapt_input_conv(in_channels, weight)
    return adapted


def _format_keys(problem: str, keys: list[str]) -> str:
    if not keys:
        return ""
    return (
        f"{Count(len(keys)):tensor is} {problem} "
        f"({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
    )


def _suggest_variant(tensors: Mapping[str, Tensor], name: str) -> str:
    """Describe the blocks of the weights and name the variant that they fit."""
    blocks: dict[int, int] = {}
    for key in tensors:
        match = re.match(r"layer([1-4])\.(\d+)\.", key)
        if match:
            stage, block = int(match[1]), int(match[2])
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
    if not blocks:
        first = ", ".join(list(tensors)[:3])
        return f"; the file has no ResNet stages (layer1 to layer4), it starts with {first}"
    counts = tuple(blocks.get(stage, 0) for stage in (1, 2, 3, 4))
    last = "conv3" if "layer1.0.conv3.weight" in tensors else "conv2"
    variant = PLAIN_SHAPES.get((last, counts))
    text = f"; these weights have {counts} {'bottleneck' if last == 'conv3' else 'basic'} blocks"
    if variant is None or variant == name:
        return text
    return f"{text}, as {variant} and its relatives have"
