"""Losses of the semantic heads: their options, and the terms that an option names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, field_validator
from torch import Tensor

from resnet_tasks.heads.base import HeadOptions
from resnet_tasks.layers.segmentation.boundary_loss import boundary
from resnet_tasks.layers.segmentation.lovasz_loss import lovasz
from resnet_tasks.layers.segmentation_losses import (
    cross_entropy,
    dice,
    focal,
    ohem_cross_entropy,
    tversky,
)
from resnet_tasks.structures.loss_term import LossTerm

Positive = Annotated[float, Field(gt=0, le=10)]


class LossOptions(HeadOptions):
    """Options of the losses of a semantic head.

    Attributes:
        loss: `cross_entropy`, `ohem_cross_entropy`, `focal`, `dice`, `tversky`, `lovasz`,
            `boundary`, or a sum such as `cross_entropy+dice`. `boundary` needs another loss next to
            it, as in its paper.
        class_weights: Class weights of both cross entropies and the focal loss: one number per
            class in order, or class name -> weight, with a weight of 1 for classes that are not
            named. None gives all classes the weight 1. A recipe can also name a weighting that is
            computed from the training data.
        label_smoothing: Label smoothing of `cross_entropy`, 0 to below 1.
        focal_gamma: Exponent of the focal loss (Lin et al. 2017: 2).
        ohem_threshold: Probability of the true class below which `ohem_cross_entropy` trains on a
            pixel.
        ohem_min_kept: Fraction of an image's labeled pixels that `ohem_cross_entropy` trains on at
            least, the hardest ones first.
        tversky_alpha: Weight of false positives in the Tversky loss (Salehi et al. 2017: 0.3).
        tversky_beta: Weight of false negatives in the Tversky loss (Salehi et al. 2017: 0.7).
        boundary_weight: Factor of the boundary loss, whose unit is pixels (Kervadec et al. 2019:
            0.01, raised by 0.01 per epoch).
    """

    loss: str = "cross_entropy"
    class_weights: dict[str, float] | tuple[float, ...] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    ohem_threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    ohem_min_kept: Annotated[float, Field(ge=0, le=1)] = 1 / 16
    tversky_alpha: Positive = 0.3
    tversky_beta: Positive = 0.7
    boundary_weight: Positive = 0.01

    @field_validator("loss")
    @classmethod
    def _loss_is_a_sum_of_known_terms(cls, value: str) -> str:
        terms = [term.strip() for term in value.split("+")]
        unknown = [term for term in terms if term not in LOSSES]
        if unknown or len(set(terms)) < len(terms):
            raise ValueError(f"write one of {', '.join(LOSSES)}, or several of them joined by '+'")
        if terms == ["boundary"]:
            raise ValueError("write another loss next to boundary, such as cross_entropy+boundary")
        return "+".join(terms)

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the terms in `loss`."""
        return tuple(self.loss.split("+"))


def compute_loss_terms(
    options: LossOptions, class_weights: Tensor | None, logits: Tensor, labels: Tensor
) -> dict[str, LossTerm]:
    """Compute the terms that the option `loss` names.

    Args:
        options: Options of the head.
        class_weights: `(K,)` float32; None gives every class the weight 1.
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.
    """
    return {
        name: LOSSES[name](options, class_weights, logits, labels) for name in options.loss_terms
    }


def _compute_cross_entropy(
    options: LossOptions, weights: Tensor | None, logits: Tensor, labels: Tensor
) -> LossTerm:
    smoothing = options.label_smoothing
    return cross_entropy(logits, labels, class_weights=weights, label_smoothing=smoothing)


def _compute_ohem(
    options: LossOptions, weights: Tensor | None, logits: Tensor, labels: Tensor
) -> LossTerm:
    return ohem_cross_entropy(
        logits,
        labels,
        threshold=options.ohem_threshold,
        min_kept=options.ohem_min_kept,
        class_weights=weights,
    )


def _compute_focal(
    options: LossOptions, weights: Tensor | None, logits: Tensor, labels: Tensor
) -> LossTerm:
    return focal(logits, labels, gamma=options.focal_gamma, class_weights=weights)


def _compute_dice(
    options: LossOptions, weights: Tensor | None, logits: Tensor, labels: Tensor
) -> LossTerm:
    del options, weights
    return dice(logits, labels)


def _compute_tversky(
    options: LossOptions, weights: Tensor | None, logits: Tensor, labels: Tensor
) -> LossTerm:
    del weights
    return tversky(logits, labels, alpha=options.tversky_alpha, beta=options.tversky_beta)


def _compute_lovasz(
    options: LossOptions, weights: Tensor | None, logits: Tensor, labels: Tensor
) -> LossTerm:
    del options, weights
    return lovasz(logits, labels)


def _compute_boundary(
    options: LossOptions, weights: Tensor | None, logits: Tensor, labels: Tensor
) -> LossTerm:
    del weights
    term = boundary(logits, labels)
    return LossTerm(options.boundary_weight * term.sum, term.count)


LOSSES: dict[str, Callable[[LossOptions, Tensor | None, Tensor, Tensor], LossTerm]] = {
    "cross_entropy": _compute_cross_entropy,
    "ohem_cross_entropy": _compute_ohem,
    "focal": _compute_focal,
    "dice": _compute_dice,
    "tversky": _compute_tversky,
    "lovasz": _compute_lovasz,
    "boundary": _compute_boundary,
}
