"""The boundary loss on distance maps of scipy, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch.nn import functional as F

from resnet_tasks.layers.segmentation.boundary_loss import boundary, compute_signed_distances
from resnet_tasks.structures.evaluation import VOID


def reference_distances(inside: np.ndarray) -> np.ndarray:
    """`one_hot2dist` of the authors' code: positive outside, at most 0 inside."""
    outside = ~inside
    return distance_transform_edt(outside) * outside - (distance_transform_edt(inside) - 1) * inside


def make_labels() -> torch.Tensor:
    labels = torch.zeros(2, 24, 31, dtype=torch.int64)
    labels[0, 3:11, 5:20] = 1
    labels[0, 15:20, 25:] = 2
    labels[1, 12:, 9:13] = 2
    return labels


def test_distances_are_those_of_scipy() -> None:
    labels = make_labels()[0].numpy()
    for label in (0, 1, 2):
        found = compute_signed_distances(labels, label)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, reference_distances(labels == label), atol=1e-4)


def test_is_the_papers_loss_up_to_its_constant() -> None:
    logits, labels = torch.randn(2, 3, 24, 31, requires_grad=True), make_labels()
    maps = [
        [torch.from_numpy(reference_distances((image == k).numpy())) for k in range(3)]
        for image in labels
    ]
    maps[1][1][:] = 0  # the authors' code gives 0 for a class that is absent from an image
    distances = torch.stack([torch.stack(image_maps) for image_maps in maps])
    truth = F.one_hot(labels, 3).permute(0, 3, 1, 2)
    papers_loss = (distances * logits.softmax(1)).sum() / (24 * 31)
    constant = (distances * truth).sum() / (24 * 31)
    term = boundary(logits, labels)
    assert term.count.item() == 5
    assert term.sum.item() == pytest.approx((papers_loss - constant).item(), rel=1e-5)
    (expected,) = torch.autograd.grad(papers_loss, logits)
    (gradient,) = torch.autograd.grad(term.sum, logits)
    torch.testing.assert_close(gradient, expected.float())


def test_a_line_by_hand() -> None:
    # Distances of class 0 on pixels 0, 0, 1, 1, 1: -1, 0, 1, 2, 3; of class 1: 2, 1, 0, -1, -2.
    labels = torch.tensor([[[0, 0, 1, 1, 1]]])
    np.testing.assert_allclose(compute_signed_distances(labels[0].numpy(), 0), [[-1, 0, 1, 2, 3]])
    np.testing.assert_allclose(compute_signed_distances(labels[0].numpy(), 1), [[2, 1, 0, -1, -2]])
    # With a probability of 1/2 everywhere, the halves of all distances are on the wrong side.
    assert boundary(torch.zeros(1, 2, 1, 5), labels).sum.item() == pytest.approx((7 + 6) / 2 / 5)


def test_void_belongs_to_no_side() -> None:
    labels = torch.tensor([[[0, VOID, VOID, 1, 1]]])
    np.testing.assert_allclose(compute_signed_distances(labels[0].numpy(), 0), [[-2, 0, 0, 3, 4]])
    logits = torch.zeros(1, 2, 1, 5)
    expected = boundary(logits, labels)
    logits[..., 1:3] = torch.tensor([5.0, -5.0])
    assert boundary(logits, labels).sum.item() == pytest.approx(expected.sum.item())


def test_a_perfect_prediction_costs_nothing_and_all_others_cost_something() -> None:
    labels = make_labels()
    perfect = 1000.0 * F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert boundary(perfect, labels).sum.item() == pytest.approx(0, abs=1e-5)
    moved = perfect.roll(1, dims=3)
    assert boundary(moved, labels).sum.item() > 0
    assert boundary(perfect.roll(3, dims=3), labels).sum > boundary(moved, labels).sum
