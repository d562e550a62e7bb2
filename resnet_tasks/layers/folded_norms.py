"""Batch norms that only scale and shift are folded into the convolutions before them.

In evaluation mode, and where it is frozen, a batch norm multiplies every channel by a number and
adds another: a convolution whose filters are scaled so, and which has such a bias, gives the same
without a pass over its output, and without keeping that output for the backward. Nothing is
replaced for good: parameters, buffers and the keys of the state dict stay as they are, and a norm
that learns statistics works as ever. Gradients reach the filters through the scaling.

The filters are scaled in every forward, and again in the backward: a pass over them, where a norm
is two over what they make.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from resnet_tasks.layers.recomputation import apply_with_recomputation


class FoldingConv2d(nn.Conv2d):
    """A convolution that does the work of the batch norm behind it while that learns nothing."""

    _partner: tuple[nn.Module, str]  # whose child the norm is; a tuple, lest it become a child

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """`(B, C, H, W)` -> `(B, channels, H', W')`; normalized too, unless the norm learns."""
        norm = self._get_folded_norm()
        if norm is None:
            return super().forward(input)
        scale, bias = self._compute_scale_and_bias(norm)
        # Scaled filters would be kept for the backward, as large as all weights together.
        return apply_with_recomputation(
            lambda filters: self._conv_forward(input, filters, bias),
            partial(_scale_filters, dtype=_get_conv_dtype(input)),
            self.weight,
            scale,
        )

    def get_filters(self) -> tuple[Tensor, Tensor | None]:
        """Filters and bias that `forward` convolves with; they hold the norm while it is folded."""
        norm = self._get_folded_norm()
        if norm is None:
            return self.weight, self.bias
        return self._fold(norm)

    def _get_folded_norm(self) -> FoldedBatchNorm2d | None:
        norm = _get_partner(self)
        return norm if isinstance(norm, FoldedBatchNorm2d) and not norm.training else None

    def _fold(self, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        """Filters and bias that hold the norm."""
        scale, bias = self._compute_scale_and_bias(norm)
        return _scale_filters(self.weight, scale), bias

    def _compute_scale_and_bias(self, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        """What the norm multiplies every filter with, and the bias that holds the rest of it."""
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
    """Every filter times its number, in a type of its own where one is given."""
    scaled = filters * scale[:, None, None, None]
    return scaled if dtype is None else scaled.to(dtype)


def _get_conv_dtype(values: Tensor) -> torch.dtype | None:
    """The type that a convolution of `values` computes in under autocast; None: in their own."""
    device = values.device.type
    if values.dtype == torch.float64:  # autocast leaves doubles alone
        return None
    # Devices such as meta know no autocast, and asking them whether it is on is an error.
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose work is done by the convolution before it, unless it learns."""

    _partner: tuple[nn.Module, str]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """`(B, C, H, W)` -> the same shape."""
        if self.training or not isinstance(_get_partner(self), FoldingConv2d):
            return super().forward(input)
        return input


def _get_partner(module: FoldingConv2d | FoldedBatchNorm2d) -> nn.Module | None:
    """What stands now where its partner was: layers may be replaced."""
    parent, name = module._partner
    return getattr(parent, name, None)


def fold_norms(module: nn.Module) -> int:
    """Lets convolutions do the work of the batch norms right behind them, wherever both are known.

    Known are a convolution and a norm that follow each other in an `nn.Sequential`, and those named
    `conv1`, `bn1` and so on in the blocks of timm's ResNets. Norms of other kinds, or with an
    activation inside, stay as they are.

    Args:
        module: Changed in place; its results stay, up to rounding.

    Returns:
        How many norms are folded.
    """
    pairs = [
        (child, *names) for child in module.modules() for names in _find_conv_norm_pairs(child)
    ]
    for parent, convolution, norm in pairs:
        getattr(parent, convolution).__class__ = FoldingConv2d
        getattr(parent, norm).__class__ = FoldedBatchNorm2d
        getattr(parent, convolution).__dict__["_partner"] = (parent, norm)
        getattr(parent, norm).__dict__["_partner"] = (parent, convolution)
    return len(pairs)


def fold_permanently(module: nn.Module) -> None:
    """Puts plain convolutions, whose filters hold the norms, in the place of folding ones.

    For models that only predict: keys of the state dict change, and nothing is scaled any more.

    Args:
        module: Changed in place.
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
    """Names of a module's own convolutions, with those of the norms that follow them."""
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
