"""FCOS and RetinaNet beyond torchvision: options, extreme values, skipped levels, duplicates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from resnet_tasks.errors import HeadError
from resnet_tasks.heads.base import HEADS
from resnet_tasks.heads.dense.dense_head import DenseDetector
from resnet_tasks.heads.dense.fcos import FCOS, compute_centerness
from resnet_tasks.heads.dense.retinanet import RetinaNet
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.targets import Target
from resnet_tasks.testing.random_batches import random_features, resnet_specs

SPECS = resnet_specs(8)
SIZE = (64, 96)
SMALL = {"pyramid_channels": 64, "num_convs": 1, "detections_per_image": 10}
V2 = {"tower_norm": "group", "extra_levels": "convolved_c5", "box_loss": "giou"}
HEAD_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "fcos": ("fcos", SMALL),
    "retinanet": ("retinanet", SMALL),
    "retinanet_v2": ("retinanet", {**SMALL, **V2}),
}


def build(name: str, **options: Any) -> DenseDetector:
    torch.manual_seed(0)
    head_type, defaults = HEAD_OPTIONS[name]
    head = HEADS.get(head_type)(SPECS, ("a", "b"), {**defaults, **options})
    assert isinstance(head, DenseDetector)
    return head


def view(*boxes: list[list[float]]) -> BatchView:
    targets = tuple(
        Target(boxes=torch.tensor(rows).view(-1, 4), labels=torch.zeros(len(rows)).long())
        for rows in boxes
    )
    count = len(boxes)
    return BatchView(targets, (SIZE,) * count, SIZE, tuple(range(count)), tuple(range(count)))


def sum_losses(head: DenseDetector, features: dict[str, Tensor], batch: BatchView) -> Tensor:
    terms = head.loss(features, batch)
    return torch.stack([term.mean() for term in terms.values()]).sum()


@pytest.mark.parametrize("name", HEAD_OPTIONS)
def test_large_features_give_no_nan_in_bfloat16(name: str) -> None:
    head = build(name)
    features = {
        level: (1000 * values.detach()).bfloat16().requires_grad_()
        for level, values in random_features(SPECS).items()
    }
    with torch.autocast("cpu", torch.bfloat16):
        total = sum_losses(head, features, view([[8, 8, 40, 50]], []))
        raw = head(features)
    total.backward()  # type: ignore[no-untyped-call]
    assert total.isfinite()
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    outputs = head.outputs(raw, torch.tensor([SIZE] * 2))
    assert all(values.isfinite().all() for values in outputs.values())


@pytest.mark.parametrize("name", HEAD_OPTIONS)
def test_levels_without_objects_need_no_box_tower(name: str) -> None:
    head = build(name)
    calls: list[tuple[int, ...]] = []
    branch = head.head.get_submodule("regression_head")
    branch.register_forward_hook(lambda _, inputs, __: calls.append(tuple(inputs[0].shape[2:])))
    # The object is learned on P3 only; P7 is always computed.
    total = sum_losses(head, random_features(SPECS), view([[18.0, 18, 48, 46]], []))
    assert calls == [(8, 12), (1, 1)]
    total.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in head.parameters())
    calls.clear()
    sum_losses(head, random_features(SPECS), view([], [])).backward()  # type: ignore[no-untyped-call]
    assert calls == [(1, 1)]


@pytest.mark.parametrize("name", HEAD_OPTIONS)
def test_scores_start_at_the_prior(name: str) -> None:
    head = build(name, prior_probability=0.05, score_threshold=0.0)
    logits = head.head(head._compute_pyramid(random_features(SPECS))[0])[0]
    assert float(logits.detach().sigmoid().mean()) == pytest.approx(0.05, rel=0.2)


def test_center_sampling_and_the_box_loss_are_options() -> None:
    features, batch = random_features(SPECS), view([[2.0, 2, 58, 50]], [])
    terms = {
        (radius, box_loss): build("fcos", center_radius=radius, box_loss=box_loss).loss(
            features, batch
        )
        for radius in (1.5, None)
        for box_loss in ("giou", "iou")
    }
    counts = {key: int(value["box"].count) for key, value in terms.items()}
    # Points of P3 are multiples of 8. Within 12 pixels of the center (30, 26) lie 24, 32 and 40 in
    # x, and 16, 24 and 32 in y; inside the box lie 8 to 56 and 8 to 48.
    assert counts[1.5, "giou"] == counts[1.5, "iou"] == 3 * 3
    assert counts[None, "giou"] == counts[None, "iou"] == 7 * 6
    assert terms[1.5, "giou"]["box"].sum != terms[1.5, "iou"]["box"].sum
    assert terms[1.5, "giou"]["focal"].sum == terms[1.5, "iou"]["focal"].sum


def test_centerness_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 8.0, 4.0]]).repeat(2, 1)
    points = torch.tensor([[4.0, 2.0], [2.0, 1.0]])
    expected = torch.tensor([1.0, (2 / 6 * 1 / 3) ** 0.5])
    torch.testing.assert_close(compute_centerness(points, boxes), expected)


def test_images_of_a_batch_are_normalized_as_the_docs_state() -> None:
    """RetinaNet divides per image; FCOS divides by the points with an object of the batch."""
    features, batch = random_features(SPECS), view([[18.0, 18, 48, 46]], [])
    fcos = build("fcos").loss(features, batch)
    assert fcos["focal"].count == fcos["box"].count == fcos["centerness"].count > 0
    assert fcos["focal"].min_count == 1
    retinanet = build("retinanet").loss(features, batch)
    assert retinanet["focal"].count == retinanet["box"].count == 2


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        (RetinaNet, {"bg_iou": 0.6}, r"bg_iou \(0\.6\) must not exceed fg_iou \(0\.5\)"),
        (RetinaNet, {"anchor_sizes": (8, 16)}, r"head RetinaNet: anchor_sizes needs one entry per"),
        (RetinaNet, {"tower_norm": "group", "pyramid_channels": 48}, "multiples of 32"),
        (FCOS, {"pyramid_channels": 32}, "at least 64, got 32; set pyramid_channels"),
        (FCOS, {"center_radius": 0}, "center_radius"),
        (FCOS, {"box_loss": "l1"}, "box_loss"),
        (FCOS, {"center_radus": 1}, "center_radus is not an option; did you mean"),
    ],
)
def test_options_that_do_not_fit(head: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        head(SPECS, ("a",), options)


def test_dilated_backbones_are_refused() -> None:
    dilated = {**SPECS, "C5": type(SPECS["C5"])(SPECS["C5"].channels, 16)}
    with pytest.raises(HeadError, match=r"levels of head FCOS must double .*C4 16, C5 16"):
        FCOS(dilated, ("a",))
