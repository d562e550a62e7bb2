"""NMS of groups equals NMS of each group, in eager mode and in a traced graph."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from resnet_tasks.layers.nms import compute_nms_mask, select_candidates, select_detections
from resnet_tasks.layers.tracing import FILLER


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


class SuppressInClasses(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        return compute_nms_mask(
            boxes, scores, iou_threshold=0.4, score_threshold=0.2, labels=labels
        )


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    boxes, scores = random_groups(2, 60)
    labels = torch.randint(0, 3, (2, 60), generator=torch.Generator().manual_seed(1))
    mask = SuppressInClasses()(boxes, scores, labels)
    for group in range(2):
        expected = []
        for label in range(3):
            good = torch.where((scores[group] > 0.2) & (labels[group] == label))[0]
            expected += good[nms(boxes[group][good], scores[group][good], 0.4)].tolist()
        assert mask[group].nonzero()[:, 0].tolist() == sorted(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = (*random_groups(2, 60, seed=2), labels.flip(1))
        traced = torch.jit.trace(SuppressInClasses(), inputs, check_trace=False)  # type: ignore[no-untyped-call]
    assert torch.equal(traced(boxes, scores, labels), mask)


def test_candidates_are_the_best_pairs_above_the_threshold() -> None:
    scores = torch.tensor([[[0.9, 0.1], [0.3, 0.8]], [[0.1, 0.1], [0.2, 0.1]]])
    best, rows, labels = select_candidates(scores, 3, threshold=0.15)
    assert best[0].tolist() == pytest.approx([0.9, 0.8, 0.3])
    assert rows[0].tolist() == [0, 1, 1]
    assert labels[0].tolist() == [0, 1, 0]
    assert best[1].tolist() == pytest.approx([0.2, FILLER, FILLER])
    assert (rows[1, 0], labels[1, 0]) == (1, 0)
    assert select_candidates(scores, 9, threshold=0.0)[0].shape == (2, 4)


def _select(boxes: Tensor, scores: Tensor, sizes: Tensor, **changes: float) -> dict[str, Tensor]:
    limits = {"score_threshold": 0.1, "nms_iou": 0.5, "candidates": 6, "detections_per_image": 4}
    return select_detections(boxes, scores, sizes, **{**limits, **changes})  # type: ignore[arg-type]


def test_detections_of_a_one_stage_detector() -> None:
    """Two classes and three boxes, of which the second lies in the padding in part."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 40, 10], [0, 0, 10, 9]]])
    scores = torch.tensor([[[0.9, 0.3], [0.05, 0.6], [0.8, 0.2]]])
    found = _select(boxes, scores, torch.tensor([[12, 20]]))
    # The third box is a duplicate of the first one in both classes.
    assert found["labels"].tolist() == [[0, 1, 1, 0]]
    torch.testing.assert_close(found["scores"], torch.tensor([[0.9, 0.6, 0.3, 0.0]]))
    assert found["valid"].tolist() == [[True, True, True, False]]
    assert found["boxes"][0].tolist() == [
        [0, 0, 10, 10],
        [5, 0, 20, 10],
        [0, 0, 10, 10],
        [0, 0, 0, 0],
    ]
    inside = _select(boxes, scores, torch.tensor([[12, 5]]), nms_iou=0.95)
    assert inside["labels"].tolist() == [[0, 0, 1, 1]]  # the second box has no area left
    assert inside["boxes"][..., 2].max() == 5
    few = _select(boxes, scores, torch.tensor([[12, 20]]), candidates=2)
    assert few["valid"].sum() == 1
    none = _select(boxes, scores, torch.tensor([[12, 20]]), score_threshold=0.95)
    assert not none["valid"].any()
    assert none["boxes"].shape == (1, 4, 4)


def test_detections_equal_those_of_a_loop() -> None:
    boxes, _ = random_groups(2, 30)
    scores = torch.rand(2, 30, 3, generator=torch.Generator().manual_seed(1))
    sizes = torch.tensor([[60, 70], [30, 80]])
    found = _select(boxes, scores, sizes, candidates=90, detections_per_image=90)
    for image, (height, width) in enumerate(sizes.tolist()):
        clipped = boxes[image].clamp(min=0).minimum(torch.tensor([width, height] * 2).float())
        area = (clipped[:, 2:] - clipped[:, :2]).gt(1e-3).all(dim=1)
        expected = []
        for label in range(3):
            good = torch.where(area & (scores[image, :, label] > 0.1))[0]
            kept = good[nms(clipped[good], scores[image, good, label], 0.5)]
            expected += [(float(scores[image, i, label]), label) for i in kept]
        valid = found["valid"][image]
        scores_and_labels = (found[name][image][valid].tolist() for name in ("scores", "labels"))
        assert list(zip(*scores_and_labels, strict=True)) == sorted(expected, reverse=True)
