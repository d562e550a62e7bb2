"""NMS of groups equals NMS of each group, in eager mode and in a traced graph."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from resnet_tasks.layers.nms import compute_nms_mask


class Suppress(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        return compute_nms_mask(boxes, scores, iou_threshold=0.4, score_threshold=0.2)


def random_groups(groups: int, number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(groups, number, 2, generator=generator) * 40
    sides = 5 + 30 * torch.rand(groups, number, 2, generator=generator)
    return torch.cat((corners, corners + sides), 2), torch.rand(groups, number, generator=generator)


@pytest.mark.parametrize(("groups", "number"), [(4, 50), (3, 700), (1, 1)])
def test_equals_nms_of_each_group(groups: int, number: int) -> None:
    boxes, scores = random_groups(groups, number)
    mask = Suppress()(boxes, scores)
    for group in range(groups):
        good = torch.where(scores[group] > 0.2)[0]
        expected = good[nms(boxes[group][good], scores[group][good], 0.4)]
        assert mask[group].nonzero()[:, 0].tolist() == sorted(expected.tolist())


def test_boxes_below_the_threshold_suppress_nothing() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(1, 3, 1)
    scores = torch.tensor([[-1.0, 0.5, 0.2]])
    assert Suppress()(box, scores).tolist() == [[False, True, False]]
    assert not Suppress()(box, torch.full((1, 3), -1.0)).any()


def test_a_traced_graph_suppresses_the_same() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Suppress(), random_groups(3, 40), check_trace=False)  # type: ignore[no-untyped-call]
    boxes, scores = random_groups(3, 40, seed=1)
    assert torch.equal(traced(boxes, scores), Suppress()(boxes, scores))
