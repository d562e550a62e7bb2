"""Losses over dense maps, with their gradients, one image at a time.

The maps of a loss (resized logits, log-probabilities, and the gradients of both) are as large as
the images. Together they determine the peak memory of a training step. The
gradient of a sum over images is the sum of the gradients per image. Loss and gradient are therefore
computed for one image at a time, already in the forward, and only the gradient of the input is
kept.

Shape glossary: `B` images, `K` channels, `h, w` cells, `H, W` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from resnet_tasks.layers.tracing import is_traced
from resnet_tasks.structures.loss_term import LossTerm

Terms = Callable[[Tensor, Tensor], Mapping[str, LossTerm]]


def compute_terms_per_image(terms: Terms, values: Tensor, labels: Tensor) -> dict[str, LossTerm]:
    """Compute `terms(values, labels)` as the sum of the terms of the single images.

    Args:
        terms: Function from values and labels to named loss terms. It returns the same names for
            any images, and its sums and counts are additive over images. It is called once per
            image, and no graph outlives the call.
        values: `(B, K, h, w)` tensor to differentiate the sums with respect to.
        labels: `(B, H, W)` labels, which get no gradient.

    Returns:
        Name -> loss term of the whole batch; the sums can be differentiated once.

    Raises:
        RuntimeError: If the backward is called with `create_graph=True`.
    """
    if is_traced() or not (torch.is_grad_enabled() and values.requires_grad) or not len(values):
        return dict(terms(values, labels))
    names: list[str] = []
    sums_and_counts: tuple[Tensor, ...] = _PerImageSum.apply(values, labels, terms, names)
    sums, counts = sums_and_counts[: len(names)], sums_and_counts[len(names) :]
    triples = zip(names, sums, counts, strict=True)
    return {name: LossTerm(total, count) for name, total, count in triples}


class _PerImageSum(torch.autograd.Function):
    """Sums of all terms followed by their counts; saves the gradient of each sum."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, labels: Tensor, terms: Terms, names: list[str]
    ) -> tuple[Tensor, ...]:
        saved_gradients: list[Tensor] = []
        sums: list[Tensor] = []
        counts: list[Tensor] = []
        for image in range(len(values)):
            image_values = values[image : image + 1].detach().requires_grad_()
            with torch.enable_grad():
                image_terms = terms(image_values, labels[image : image + 1])
            if not names:
                names += image_terms
                saved_gradients = [torch.empty_like(values) for _ in names]
                sums = [torch.zeros_like(term.sum) for term in image_terms.values()]
                counts = [torch.zeros_like(term.count) for term in image_terms.values()]
            for place, name in enumerate(names):
                is_last = place == len(names) - 1
                (gradient,) = torch.autograd.grad(
                    image_terms[name].sum, image_values, retain_graph=not is_last
                )
                saved_gradients[place][image] = gradient[0]
                sums[place] += image_terms[name].sum.detach()
                counts[place] += image_terms[name].count
        ctx.save_for_backward(*saved_gradients)
        ctx.mark_non_differentiable(*counts)
        return (*sums, *counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # `once_differentiable` would silently drop the second-order gradients.
        if torch.is_grad_enabled():
            raise RuntimeError("losses that are computed per image have no second-order gradients")
        total, *remaining = [
            saved_gradient * sum_gradient
            for saved_gradient, sum_gradient in zip(ctx.saved_tensors, gradients, strict=False)
        ]
        for gradient in remaining:
            total += gradient
        return total, None, None, None
