"""Losses made one image at a time are those of the whole batch, with less memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.layers.efficiency.per_image_losses import compute_terms_per_image
from resnet_tasks.layers.segmentation_losses import cross_entropy, dice, focal
from resnet_tasks.runs.model_cost import measure_peak_bytes
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.loss_term import LossTerm

SIZE = (24, 32)
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0])


def all_terms(logits: Tensor, labels: Tensor) -> dict[str, LossTerm]:
    full = F.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)
    return {
        "cross_entropy": cross_entropy(full, labels, class_weights=WEIGHTS, label_smoothing=0.1),
        "dice": dice(full, labels),
        "focal": focal(full, labels, class_weights=WEIGHTS),
    }


def case(layout: torch.memory_format = torch.channels_last) -> tuple[Tensor, Tensor]:
    """Three images: labels of all kinds, of two classes, and nothing but void."""
    labels = torch.randint(0, 4, (3, *SIZE))
    labels[0][torch.rand(SIZE) < 0.3] = VOID
    labels[1].clamp_(max=1)
    labels[2] = VOID
    return torch.randn(3, 4, 6, 8).to(memory_format=layout).requires_grad_(), labels


def weighted(terms: dict[str, LossTerm]) -> Tensor:
    factors = dict(zip(("cross_entropy", "dice", "focal"), (1.0, 0.5, 3.0), strict=True))
    return torch.stack([factors[name] * term.mean() for name, term in terms.items()]).sum()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_sums_counts_and_gradients_are_those_of_the_batch(layout: torch.memory_format) -> None:
    logits, labels = case(layout)
    whole, apart = all_terms(logits, labels), compute_terms_per_image(all_terms, logits, labels)
    assert list(apart) == list(whole)
    for name, term in whole.items():
        torch.testing.assert_close(apart[name].sum, term.sum)
        assert apart[name].count == term.count
        assert not apart[name].count.requires_grad
    (wanted,) = torch.autograd.grad(weighted(whole), logits)
    (found,) = torch.autograd.grad(weighted(apart), logits)
    torch.testing.assert_close(found, wanted)
    assert found[2].count_nonzero() == 0


def test_a_term_of_its_own_has_its_own_gradient() -> None:
    logits, labels = case()
    terms = compute_terms_per_image(all_terms, logits, labels)
    for name, term in all_terms(logits, labels).items():
        (wanted,) = torch.autograd.grad(term.sum, logits)
        (found,) = torch.autograd.grad(terms[name].sum, logits, retain_graph=True)
        torch.testing.assert_close(found, wanted)


def test_without_a_graph_the_terms_are_the_same() -> None:
    logits, labels = case()
    wanted = compute_terms_per_image(all_terms, logits, labels)
    with torch.no_grad():
        found = compute_terms_per_image(all_terms, logits, labels)
    for name, term in found.items():
        torch.testing.assert_close(term.sum, wanted[name].sum.detach())
        assert term.count == wanted[name].count
        assert not term.sum.requires_grad


def test_gradients_of_gradients_are_refused() -> None:
    logits, labels = case()
    total = weighted(compute_terms_per_image(all_terms, logits, labels))
    with pytest.raises(RuntimeError, match="no second-order gradients"):
        torch.autograd.grad(total, logits, create_graph=True)


def test_maps_of_one_image_exist_at_a_time() -> None:
    size = (256, 256)
    logits = torch.randn(8, 4, 64, 64, requires_grad=True)
    labels = torch.randint(0, 4, (8, *size))

    def terms(own: Tensor, truth: Tensor) -> dict[str, LossTerm]:
        full = F.interpolate(own, size=size, mode="bilinear", align_corners=False)
        return {"cross_entropy": cross_entropy(full, truth)}

    def step(made: Callable[[], dict[str, LossTerm]]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(made()["cross_entropy"].mean(), logits)

    device = torch.device("cpu")
    whole = measure_peak_bytes(step(lambda: terms(logits, labels)), device)
    apart = measure_peak_bytes(step(lambda: compute_terms_per_image(terms, logits, labels)), device)
    assert apart < whole / 4
