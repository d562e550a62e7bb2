from __future__ import annotations

import math

import pytest
import torch
from segmentation_models_pytorch.losses import TverskyLoss
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.layers.segmentation.boundary_loss import boundary
from resnet_tasks.layers.segmentation.lovasz_loss import lovasz
from resnet_tasks.layers.segmentation_losses import (
    cross_entropy,
    dice,
    focal,
    ohem_cross_entropy,
    tversky,
)
from resnet_tasks.structures.evaluation import VOID

# One image of two pixels and two classes: probabilities (3/4, 1/4) and (1/2, 1/2).
TWO_PIXELS = torch.tensor([[[[math.log(3.0), 0.0]], [[0.0, 0.0]]]])


def random_case(*, void: float = 0.3) -> tuple[Tensor, Tensor]:
    labels = torch.randint(0, 4, (2, 8, 12))
    labels[torch.rand(labels.shape) < void] = VOID
    return torch.randn(2, 4, 8, 12, requires_grad=True), labels


def test_cross_entropy_by_hand() -> None:
    term = cross_entropy(TWO_PIXELS, torch.tensor([[[0, 1]]]))
    assert term.sum.item() == pytest.approx(math.log(4 / 3) + math.log(2))
    assert term.count.item() == 2


def test_cross_entropy_counts_class_weights_and_skips_void() -> None:
    weights = torch.tensor([5.0, 0.5])
    term = cross_entropy(TWO_PIXELS, torch.tensor([[[VOID, 1]]]), class_weights=weights)
    assert term.sum.item() == pytest.approx(0.5 * math.log(2))
    assert term.count.item() == pytest.approx(0.5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (0.2, 1.0, 3.0, 0.0)])
def test_mean_of_cross_entropy_is_that_of_torch(
    smoothing: float, weights: tuple[float, ...] | None
) -> None:
    logits, labels = random_case()
    given = None if weights is None else torch.tensor(weights)
    term = cross_entropy(logits, labels, class_weights=given, label_smoothing=smoothing)
    expected = F.cross_entropy(
        logits, labels, weight=given, ignore_index=VOID, label_smoothing=smoothing
    )
    assert term.mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_by_hand() -> None:
    term = focal(TWO_PIXELS, torch.tensor([[[0, 1]]]), gamma=2.0)
    expected = 0.25**2 * math.log(4 / 3) + 0.5**2 * math.log(2)
    assert term.sum.item() == pytest.approx(expected, rel=1e-5)
    assert term.count.item() == 2


def test_focal_with_gamma_zero_is_the_weighted_cross_entropy() -> None:
    logits, labels = random_case()
    weights = torch.tensor([0.2, 1.0, 3.0, 0.5])
    one = focal(logits, labels, gamma=0.0, class_weights=weights)
    other = cross_entropy(logits, labels, class_weights=weights)
    assert one.sum.item() == pytest.approx(other.sum.item(), rel=1e-5)
    assert one.count.item() == pytest.approx(other.count.item())


def test_focal_gradient_is_finite_where_a_pixel_is_certain() -> None:
    logits = torch.tensor([[[[200.0]], [[-200.0]]]], requires_grad=True)
    focal(logits, torch.tensor([[[0]]]), gamma=0.5).sum.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_dice_by_hand() -> None:
    term = dice(TWO_PIXELS, torch.tensor([[[0, 1]]]))
    first = 2 * 0.75 / ((0.75 + 0.5) + 1)
    second = 2 * 0.5 / ((0.25 + 0.5) + 1)
    assert term.sum.item() == pytest.approx((1 - first) + (1 - second))
    assert term.count.item() == 2


def test_dice_masks_void_and_skips_absent_classes() -> None:
    term = dice(TWO_PIXELS, torch.tensor([[[0, VOID]]]))
    assert term.sum.item() == pytest.approx(1 - 2 * 0.75 / (0.75 + 1))
    assert term.count.item() == 1


def test_dice_of_a_perfect_answer_is_zero() -> None:
    _, labels = random_case()
    logits = 1000.0 * F.one_hot(labels.clamp(min=0), 4).permute(0, 3, 1, 2).float()
    term = dice(logits, labels)
    assert term.sum.item() == pytest.approx(0, abs=1e-5)
    assert term.count.item() == 8


def test_tversky_by_hand() -> None:
    term = tversky(TWO_PIXELS, torch.tensor([[[0, 1]]]), alpha=0.2, beta=0.9)
    first = 0.75 / (0.75 + 0.2 * 0.5 + 0.9 * 0.25)
    second = 0.5 / (0.5 + 0.2 * 0.25 + 0.9 * 0.5)
    assert term.sum.item() == pytest.approx((1 - first) + (1 - second))
    assert term.count.item() == 2


def test_tversky_is_that_of_smp_on_one_image_with_all_classes() -> None:
    logits, labels = random_case()
    reference = TverskyLoss("multiclass", ignore_index=VOID, alpha=0.3, beta=0.7)
    expected = [reference(logits[i : i + 1], labels[i : i + 1]).item() for i in range(2)]
    term = tversky(logits, labels)
    assert term.count.item() == 8
    assert term.mean().item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_ohem_keeps_pixels_below_the_threshold() -> None:
    # The probabilities of the true classes are 3/4 and 1/2.
    labels = torch.tensor([[[0, 1]]])
    term = ohem_cross_entropy(TWO_PIXELS, labels, threshold=0.6, min_kept=0.0)
    assert term.sum.item() == pytest.approx(math.log(2))
    assert term.count.item() == 1
    assert ohem_cross_entropy(TWO_PIXELS, labels, threshold=0.8).count.item() == 2
    none = ohem_cross_entropy(TWO_PIXELS, labels, threshold=0.4, min_kept=0.0)
    assert none.sum.item() == none.count.item() == 0


@pytest.mark.parametrize(("min_kept", "count"), [(0.0, 0), (0.01, 1), (0.5, 1), (0.51, 2), (1, 2)])
def test_ohem_keeps_the_hardest_pixels_at_least(min_kept: float, count: int) -> None:
    weights = torch.tensor([3.0, 5.0])
    labels = torch.tensor([[[0, 1]]])
    term = ohem_cross_entropy(
        TWO_PIXELS, labels, threshold=0.1, min_kept=min_kept, class_weights=weights
    )
    assert term.sum.item() == pytest.approx(
        [0, 5 * math.log(2), 5 * math.log(2) + 3 * math.log(4 / 3)][count]
    )
    assert term.count.item() == [0, 5, 8][count]


def test_ohem_is_a_sort_per_image() -> None:
    logits, labels = random_case()
    term = ohem_cross_entropy(logits, labels, threshold=0.05, min_kept=0.3)
    total, count = 0.0, 0
    for image_logits, image_labels in zip(logits, labels, strict=True):
        losses = F.cross_entropy(
            image_logits[None], image_labels[None], ignore_index=VOID, reduction="none"
        )
        values = losses[0][image_labels != VOID].sort(descending=True).values
        kept = max(math.ceil(0.3 * len(values)), int((values > -math.log(0.05)).sum()))
        total, count = total + values[:kept].sum().item(), count + kept
    assert term.sum.item() == pytest.approx(total, rel=1e-5)
    assert term.count.item() == count


def test_ohem_with_everything_kept_is_the_cross_entropy() -> None:
    logits, labels = random_case()
    weights = torch.tensor([0.2, 1.0, 3.0, 0.5])
    one = ohem_cross_entropy(logits, labels, min_kept=1.0, class_weights=weights)
    other = cross_entropy(logits, labels, class_weights=weights)
    assert one.sum.item() == pytest.approx(other.sum.item(), rel=1e-5)
    assert one.count.item() == pytest.approx(other.count.item())


@pytest.mark.parametrize(
    "loss", [cross_entropy, ohem_cross_entropy, focal, dice, tversky, lovasz, boundary]
)
class TestEvery:
    def test_adds_up_over_images(self, loss) -> None:
        logits, labels = random_case()
        together = loss(logits, labels)
        alone = [loss(logits[i : i + 1], labels[i : i + 1]) for i in range(2)]
        assert together.sum.item() == pytest.approx(sum(term.sum.item() for term in alone))
        assert together.count.item() == sum(term.count.item() for term in alone)

    def test_void_pixels_get_no_gradient_and_others_do(self, loss) -> None:
        logits, labels = random_case()
        loss(logits, labels).sum.backward()
        per_pixel = logits.grad.abs().sum(dim=1)
        assert per_pixel[labels == VOID].max() == 0
        # Some losses select pixels: hard ones, or those that change the IoU.
        selects = loss in (ohem_cross_entropy, lovasz, boundary)
        share = (per_pixel[labels != VOID] > 0).float().mean()
        assert share > (0.5 if selects else 0.999)

    def test_all_void_is_zero_with_a_graph(self, loss) -> None:
        logits, labels = random_case()
        term = loss(logits, torch.full_like(labels, VOID))
        assert term.sum.item() == term.count.item() == term.mean().item() == 0
        term.mean().backward()
        assert logits.grad is not None
        assert (logits.grad == 0).all()

    def test_a_single_class_costs_nothing_and_stays_finite(self, loss) -> None:
        logits = torch.randn(1, 1, 4, 4, requires_grad=True)
        term = loss(logits, torch.zeros(1, 4, 4, dtype=torch.int64))
        term.sum.backward()
        assert term.sum.item() == pytest.approx(0, abs=1e-6)
        assert logits.grad is not None
        assert logits.grad.isfinite().all()

    def test_bfloat16_logits_are_summed_in_float32(self, loss) -> None:
        logits, labels = random_case()
        rounded = logits.bfloat16()
        term, reference = loss(rounded, labels), loss(rounded.float(), labels)
        assert term.sum.dtype == torch.float32
        assert term.sum.item() == reference.sum.item()
