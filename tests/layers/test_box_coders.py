"""Coders equal torchvision's, and decoding reverts encoding."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder as TorchvisionCoder

from resnet_tasks.layers.box_coders import BoxCoder, PointCoder, clip_boxes, has_min_size


def random_boxes(number: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * 200
    return torch.cat((corners, corners + 1 + 100 * torch.rand(number, 2, generator=generator)), 1)


def test_equals_torchvision() -> None:
    weights = (10.0, 10.0, 5.0, 5.0)
    boxes, references = random_boxes(50, 0), random_boxes(50, 1)
    deltas = 3 * torch.randn(50, 4)
    deltas[0, 2:] = 100.0  # clamped
    ours, theirs = BoxCoder(weights), TorchvisionCoder(weights)
    torch.testing.assert_close(
        ours.encode(boxes, references), theirs.encode_single(boxes, references), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(
        ours.decode(deltas, references), theirs.decode_single(deltas, references)
    )


def test_leading_axes_broadcast() -> None:
    coder, references = BoxCoder(), random_boxes(6, 2)
    deltas = torch.randn(3, 6, 4, 4) * 0.3
    decoded = coder.decode(deltas, references[:, None])
    assert decoded.shape == (3, 6, 4, 4)
    torch.testing.assert_close(decoded[1, :, 2], coder.decode(deltas[1, :, 2], references))
    torch.testing.assert_close(
        coder.encode(decoded, references[:, None]), deltas, atol=1e-4, rtol=0
    )


def test_distances_of_points_by_hand() -> None:
    coder = PointCoder(stride=4.0)
    box, points = torch.tensor([10.0, 20.0, 50.0, 40.0]), torch.tensor([[30.0, 24.0], [6.0, 30.0]])
    distances = coder.encode(box, points)
    assert distances.tolist() == [[5, 1, 5, 4], [-1, 2.5, 11, 2.5]]
    assert coder.decode(distances, points).tolist() == [box.tolist()] * 2


def test_clipping_and_sizes_by_hand() -> None:
    boxes = torch.tensor([[[-5.0, 3.0, 30.0, 9.0], [1.0, 1.0, 4.0, 4.0]]])
    clipped = clip_boxes(boxes, torch.tensor([[[20.0, 8.0]]]))
    assert clipped.tolist() == [[[0, 3, 20, 8], [1, 1, 4, 4]]]
    assert has_min_size(clipped, 4.0).tolist() == [[True, False]]
    assert not has_min_size(torch.full((4,), torch.nan), 0.0)
