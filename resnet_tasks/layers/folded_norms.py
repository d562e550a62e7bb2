"""Folding of batch norms into the convolutions before them, while the norms learn no statistics.

In evaluation mode, or if it is frozen, a batch norm multiplies every channel by a number and adds
another one. A convolution with scaled filters and an adapted bias gives the same result without
another pass over its output, and without saving that output for the backward. Folding is
reversible: parameters, buffers and the keys of the state dict stay as they are, and a norm in
training mode works as before. Gradients reach the filters and the norm through the scaling.

The filters are scaled in every forward and again in the backward. This costs one pass over the
filters, where a separate norm costs two passes over the output of the convolution.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from resnet_tasks.layers.efficiency.recomputation import apply_with_recomputation


class FoldingConv2d(nn.Conv2d):
    """Convolution that includes the batch norm after it while the norm learns no statistics."""

    # (parent, name) of the norm; a tuple, since a module attribute would be registered as a child.
    _partner: tuple[nn.Module, str]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Map `(B, C, H, W)` to `(B, channels, H', W')`, normalized if the norm is folded."""
        norm = self._get_folded_norm()
        if norm is None:
            return super().forward(input)
        scale, bias = self._compute_scale_and_bias(norm)
        # Saving the scaled filters for the backward would double the memory of all weights, so
        # they are recomputed.
        return apply_with_recomputation(
            lambda filters: self._conv_forward(input, filters, bias),
            partial(_scale_filters, dtype=_get_conv_dtype(input)),
            self.weight,
            scale,
        )

    def get_filters(self) -> tuple[Tensor, Tensor | None]:
        """Return the filters and bias that `forward` uses, including the norm if it is folded."""
        norm = self._get_folded_norm()
        if norm is None:
            return self.weight, self.bias
        return self._fold(norm)

    def _get_folded_norm(self) -> FoldedBatchNorm2d | None:
        norm = _get_partner(self)
        return norm if isinstance(norm, FoldedBatchNorm2d) and not norm.training else None

    def _fold(self, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        """Return filters and bias that include the norm."""
        scale, bias = self._compute_scale_and_bias(norm)
        return _scale_filters(self.weight, scale), bias

    def _compute_scale_and_bias(self, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        """Return the norm's scale per filter, and the bias that includes its shift."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        bias = -norm.running_mean * scale
        if norm.bias is not None:
            bias = bias + norm.bias
        if self.bias is not None:
            bias = bias + self.bias * scale
        return scale, bias


def _scale_filters(filters: Tensor, scale: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Multiply every filter by its scale, and cast the result to `dtype` if one is given."""
    scaled = filters * scale[:, None, None, None]
    return scaled if dtype is None else scaled.to(dtype)


def _get_conv_dtype(values: Tensor) -> torch.dtype | None:
    """Return the dtype of a convolution of `values` under autocast; None without autocast."""
    device = values.device.type
    if values.dtype == torch.float64:  # autocast does not cast float64
        return None
    # Devices such as meta know no autocast, and asking them whether it is on is an error.
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose work the convolution before it does, unless the norm is in training mode."""

    _partner: tuple[nn.Module, str]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Map `(B, C, H, W)` to the same shape."""
        if self.training or not isinstance(_get_partner(self), FoldingConv2d):
            return super().forward(input)
        return input


def _get_partner(module: FoldingConv2d | FoldedBatchNorm2d) -> nn.Module | None:
    """Return the module that is now at the partner's place: layers may have been replaced."""
    parent, name = module._partner
    return getattr(parent, name, None)


def fold_norms(module: nn.Module) -> int:
    """Fold the batch norms of a module into the convolutions right before them.

    A norm is folded if it follows a convolution in an `nn.Sequential`, or if the two are named
    `conv1`, `bn1` and so on, as in the blocks of timm's ResNets. Norms of other kinds, or with an
    activation inside, stay as they are.

    Args:
        module: Module to change, in place; its outputs stay the same up to rounding.

    Returns:
        Number of norms that are folded.
    """
    pairs = [
        (child, *names) for child in module.modules() for names in _find_conv_norm_pairs(child)
    ]
    for parent, convolution, norm in pairs:
        # The class is changed in place, so that parameters, hooks and state dict keys survive.
        getattr(parent, convolution).__class__ = FoldingConv2d
        getattr(parent, norm).__class__ = FoldedBatchNorm2d
        getattr(parent, convolution).__dict__["_partner"] = (parent, norm)
        getattr(parent, norm).__dict__["_partner"] = (parent, convolution)
    return len(pairs)


def fold_permanently(module: nn.Module) -> None:
    """Replace folding convolutions by plain ones whose filters include the norms.

    Meant for models that only predict: keys of the state dict change, and nothing is scaled at run
    time any more.

    Args:
        module: Module to change, in place.
    """
    for convolution in [child for child in module.modules() if isinstance(child, FoldingConv2d)]:
        norm = _get_partner(convolution)
        if not isinstance(norm, FoldedBatchNorm2d):
            continue
        parent, name = norm._partner
        with torch.no_grad():
            filters, bias = convolution._fold(norm)
        convolution.__class__ = nn.Conv2d  # type: ignore[assignment]
        convolution.weight = nn.Parameter(filters)
        convolution.bias = nn.Parameter(bias)
        assert getattr(parent, name) is convolution
        setattr(parent, convolution._partner[1], nn.Identity())


def _find_conv_norm_pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Return (convolution, norm) names of a module's children whose norm can be folded."""
    children = dict(module.named_children())
    if isinstance(module, nn.Sequential):
        pairs = list(pairwise(children))
    else:
        names = [name for name in children if name.startswith("conv")]
        pairs = [(name, name.replace("conv", "bn", 1)) for name in names]
    return [pair for pair in pairs if _can_fold(*map(children.get, pair))]


def _can_fold(convolution: nn.Module | None, norm: nn.Module | None) -> bool:
    return (
        type(convolution) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and norm.track_running_stats
        and convolution.out_channels == norm.num_features
    )
