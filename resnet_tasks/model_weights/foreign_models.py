"""Recognition of models of other libraries, and their conversion to the norms of this package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.errors import HeadError, WeightsError
from resnet_tasks.heads.base import HEADS, Head
from resnet_tasks.heads.foreign_weights import ForeignModel

ZERO_EPSILON = ("258fb6c6", "bf2d0c1e", "fc266e95", "eeacb38b")
"""First digits of the sha256 of torchvision checkpoints whose norms have an epsilon of 0.

They are the first COCO checkpoints of Faster, Mask and Keypoint R-CNN and RetinaNet, whose frozen
norms add nothing to the variance (`overwrite_eps(model, 0.0)` in torchvision's constructors).
"""
EPSILON = 1e-5
"""Value that the norms of our backbones add to the variance."""
_WRAPPERS = ("module.", "model.")


def split_for_heads(
    tensors: Mapping[str, Tensor], heads: Mapping[str, Head], request: WeightsRequest
) -> dict[str, ForeignModel]:
    """Split a model for every head that can read it: head name -> backbone and head.

    Args:
        tensors: Tensors of the file.
        heads: Name -> head of the model that is filled.
        request: Source of the weights, for error messages.

    Raises:
        WeightsError: If no head can read the model; the message names the head that can.
    """
    tensors = _strip_wrapper_prefix(tensors)
    models = {name: _split(head, tensors, request) for name, head in heads.items()}
    fitting = {name: model for name, model in models.items() if model is not None}
    if fitting:
        return fitting
    head_classes = [HEADS.get(name) for name in HEADS]
    for head_class in head_classes:
        model = _split(head_class, tensors, request)
        if model is not None:
            available = ", ".join(f"{name} ({type(head).__name__})" for name, head in heads.items())
            raise WeightsError(
                f"{request} holds {model.kind}, which needs a head {head_class.__name__}; the "
                f"recipe has {available}"
            )
    if {"backbone", "heads"} <= {key.split(".")[0] for key in tensors}:
        raise WeightsError(
            f"{request} holds a model of a run of this package; load its backbone with "
            f"backbone.weights={request.spec}"
        )
    sources = [head_class.foreign_weights.source for head_class in head_classes]
    first_names = ", ".join(list(tensors)[:3])
    raise WeightsError(
        f"{request} is not a supported whole model ({_format_sources(sources)}): its names begin "
        f"with {first_names}; weights of a backbone alone belong under backbone.weights"
    )


def _format_sources(sources: Iterable[str]) -> str:
    """Join texts such as "a U-Net of LIBRARY" by library: "FPN, U-Net of LIBRARY; ..."."""
    models: dict[str, list[str]] = {}
    sources_without_article = {re.sub(r"^an? ", "", source) for source in sources if source}
    for name in sorted(sources_without_article):
        model, _, library = name.rpartition(" of ")
        models.setdefault(library, []).append(model)
    return "; ".join(
        f"{', '.join(names)} of {library}" if all(names) else library
        for library, names in sorted(models.items(), reverse=True)
    )


def _split(
    head: Head | type[Head], tensors: Mapping[str, Tensor], request: WeightsRequest
) -> ForeignModel | None:
    try:
        return head.foreign_weights.split(tensors)
    except HeadError as error:
        raise WeightsError(f"{request}: {error}; fetch or save the file again") from None


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
