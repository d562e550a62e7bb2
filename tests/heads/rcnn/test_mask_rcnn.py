"""Mask R-CNN: parity with torchvision, losses by hand, objects without masks, export."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection import roi_heads as torchvision_roi_heads
from torchvision.models.detection.roi_heads import maskrcnn_loss
from torchvision.ops import roi_align

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import HeadError
from resnet_tasks.export.graph import ExportGraph
from resnet_tasks.exported.manifest import PixelRange
from resnet_tasks.heads.base import HEADS
from resnet_tasks.heads.rcnn.foreign_weights import split_torchvision_state_dict
from resnet_tasks.heads.rcnn.mask_branch import MaskPredictor, crop_masks
from resnet_tasks.heads.rcnn.mask_rcnn import MaskRCNN
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.targets import Target
from tests.support.mask_stacks import to_stack

CLASSES = ("cat", "dog", "cow")
SPECS = {f"C{k}": FeatureSpec(4 * k, 2**k) for k in (2, 3, 4, 5)}
SIZE = (128, 160)
SMALL = {
    "pyramid_channels": 16,
    "box_head_channels": 32,
    "mask_head_channels": (8, 8),
    "mask_predictor_channels": 8,
    "anchor_sizes": (16, 32, 64, 128, 256),
}
TERMS = {"rpn_objectness", "rpn_box", "roi_classification", "roi_box", "mask"}


def features(images: int = 2, size: tuple[int, int] = SIZE, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for level, spec in SPECS.items():
        shape = (images, spec.channels, size[0] // spec.stride, size[1] // spec.stride)
        level_values = torch.randn(shape, generator=generator)
        values[level] = level_values.to(memory_format=torch.channels_last).requires_grad_()
    return values


def objects(*rows: tuple[int, int, int, int, int], has_masks: bool = True) -> Target:
    """Boxes of whole pixels, each with the mask of its upper half."""
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5)
    bitmaps = []
    for x1, y1, x2, y2, _ in rows:
        bitmaps.append(torch.zeros(y2 - y1, x2 - x1, dtype=torch.bool))
        bitmaps[-1][: (y2 - y1) // 2] = True
    masks = InstanceMasks.from_bitmaps(bitmaps, [(x, y) for x, y, *_ in rows])
    return Target(
        boxes=table[:, :4].float(), labels=table[:, 4], masks=masks if has_masks else None
    )


def view(*targets: Target, size: tuple[int, int] = SIZE) -> BatchView:
    numbers = tuple(range(len(targets)))
    return BatchView(targets, (size,) * len(targets), size, numbers, numbers)


OBJECTS = (
    objects((10, 12, 60, 70, 0), (80, 20, 150, 120, 2)),
    objects((5, 5, 45, 30, 1), (40, 60, 100, 110, 1), (0, 0, 155, 125, 0)),
)


def make_head(**options: Any) -> MaskRCNN:
    torch.manual_seed(0)
    head = MaskRCNN(SPECS, CLASSES, {**SMALL, **options})
    nn.init.normal_(head.roi_heads.box_predictor.cls_score.weight, std=0.3)
    return head


def compute_losses(head: MaskRCNN, *targets: Target) -> dict[str, Any]:
    return head.loss(features(len(targets)), view(*targets))


def without_masks(target: Target, *positions: int) -> Target:
    assert target.masks is not None
    bitmaps: list[Tensor | None] = list(target.masks.bitmaps)
    for position in positions:
        bitmaps[position] = None
    corners = [(x, y) for x, y, _, _ in target.masks.windows.tolist()]
    return replace(target, masks=InstanceMasks.from_bitmaps(bitmaps, corners))


def test_equals_torchvisions_resnet50_model() -> None:
    torch.manual_seed(2)
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=4,
        min_size=96,
        max_size=128,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    ).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):  # or features grow until all scores are 0 or 1
            nn.init.constant_(parameter, 0.2)
        elif "bbox_pred.weight" in name or "cls_logits.weight" in name:
            nn.init.normal_(parameter, std=0.01)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    images = torch.rand(2, 3, 96, 128)
    mask_logits = []
    model.roi_heads.mask_predictor.register_forward_hook(lambda *a: mask_logits.append(a[2]))
    with torch.no_grad():
        expected = model(list(images))
        body = dict(
            zip(("C2", "C3", "C4", "C5"), model.backbone.body(images).values(), strict=True)
        )
    specs = {
        level: FeatureSpec(tensor.shape[1], 96 // tensor.shape[2]) for level, tensor in body.items()
    }
    head = MaskRCNN(specs, CLASSES)
    _, head_state = split_torchvision_state_dict(model.state_dict())
    head.load_state_dict(head_state)
    with torch.no_grad():
        outputs = head.outputs(head(body), torch.tensor([[96, 128]] * 2))
    first = 0
    for image, yours in enumerate(expected):
        valid = outputs["valid"][image]
        count = len(yours["boxes"])
        assert int(valid.sum()) == count > 5
        boxes, scores = outputs["boxes"][image][valid], outputs["scores"][image][valid]
        torch.testing.assert_close(boxes, yours["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(scores, yours["scores"], atol=1e-4, rtol=0)
        assert torch.equal(outputs["labels"][image][valid] + 1, yours["labels"])
        all_classes = mask_logits[0][first : first + count]
        own = all_classes[torch.arange(count), yours["labels"]]
        assert own.shape == (count, 28, 28)
        assert own.std() > 0.01
        torch.testing.assert_close(outputs["mask_logits"][image][valid], own, atol=1e-4, rtol=0)
        first += count


def test_parameters_have_torchvisions_names() -> None:
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    specs = {f"C{k}": FeatureSpec(64 * 2**k, 2**k) for k in (2, 3, 4, 5)}
    ours = MaskRCNN(specs, CLASSES).state_dict()
    _, state = split_torchvision_state_dict(theirs.state_dict())
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in state.items()
    }
    assert "roi_heads.mask_head.0.0.weight" in ours
    assert "roi_heads.mask_predictor.conv5_mask.weight" in ours
    assert "roi_heads.mask_predictor.mask_fcn_logits.weight" in ours


def test_mask_loss_equals_torchvisions_on_aligned_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    # torchvision's targets are shifted by half a pixel, see `layers.mask_targets`.
    monkeypatch.setattr(torchvision_roi_heads, "roi_align", partial(roi_align, aligned=True))
    head = make_head(roi_batch_size=100_000, roi_positive_fraction=1.0)
    given, batch = features(), view(*OBJECTS)
    levels = head._compute_pyramid(given)
    rois, _ = head._compute_first_stage(levels, batch)
    seen: dict[str, Tensor] = {}
    head.roi_heads.mask_head.register_forward_hook(lambda *a: seen.update(hidden=a[2]))
    term = head.roi_heads.compute_all_losses(levels[:-1], rois, batch)["mask"]
    predictor = head.roi_heads.mask_predictor
    all_logits = predictor.mask_fcn_logits(F.relu(predictor.conv5_mask(seen["hidden"])))
    images = rois.images[rois.positives]
    boxes = rois.boxes[rois.positives]
    stacks = [to_stack(target.masks, SIZE) for target in OBJECTS if target.masks is not None]
    expected = maskrcnn_loss(
        all_logits,
        [boxes[images == image] for image in (0, 1)],
        stacks,
        [target.labels + 1 for target in OBJECTS if target.labels is not None],
        [rois.objects[images == image] for image in (0, 1)],
    )
    assert term.count == len(boxes) > 5
    torch.testing.assert_close(term.mean(), expected, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(term.mean(), given["C2"], retain_graph=True)[0]
    theirs = torch.autograd.grad(expected, given["C2"])[0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


def test_a_predictor_without_opinion_costs_ln_2() -> None:
    head = make_head()
    for parameter in head.roi_heads.mask_predictor.mask_fcn_logits.parameters():
        nn.init.zeros_(parameter)
    terms = compute_losses(head, *OBJECTS)
    assert set(terms) == TERMS
    assert terms["mask"].count > 0
    assert terms["mask"].mean().item() == pytest.approx(0.6931472, rel=1e-5)


def test_one_mask_per_class_is_computed_and_it_is_the_right_one() -> None:
    torch.manual_seed(0)
    predictor, hidden = MaskPredictor(4, 6, 3), torch.randn(5, 4, 7, 7)
    nn.init.normal_(predictor.mask_fcn_logits.bias)
    classes = torch.tensor([1, 3, 2, 1, 0])
    everything = predictor.mask_fcn_logits(F.relu(predictor.conv5_mask(hidden)))
    got = predictor(hidden, classes)
    assert got.shape == (5, 14, 14)
    torch.testing.assert_close(got, everything[torch.arange(5), classes], atol=1e-5, rtol=1e-4)


def test_objects_without_a_mask_train_the_boxes_alone() -> None:
    head = make_head()
    full = compute_losses(head, *OBJECTS)
    partial = compute_losses(head, without_masks(OBJECTS[0], 0), OBJECTS[1])
    bare = compute_losses(head, replace(OBJECTS[0], masks=None), OBJECTS[1])
    for terms in (partial, bare):
        for name in TERMS - {"mask"}:
            assert torch.equal(terms[name].sum, full[name].sum), name
    assert full["mask"].count > partial["mask"].count > bare["mask"].count > 0
    only_second = compute_losses(head, without_masks(OBJECTS[0], 0, 1), OBJECTS[1])
    assert torch.equal(bare["mask"].sum, only_second["mask"].sum)


@pytest.mark.parametrize(
    "targets",
    [
        (objects((10, 12, 60, 70, 0), has_masks=False), without_masks(OBJECTS[1], 0, 1, 2)),
        (objects(), objects()),
        (objects(), objects(has_masks=False)),
    ],
)
def test_without_any_mask_the_term_is_zero_and_keeps_its_graph(targets: Any) -> None:
    head = make_head()
    given = features()
    terms = head.loss(given, view(*targets))
    assert terms["mask"].sum == 0
    assert terms["mask"].count == 0
    sum(term.mean() for term in terms.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_crowds_have_no_mask_target() -> None:
    head = make_head()
    ignore = torch.tensor([True, False])
    with_crowd = compute_losses(head, replace(OBJECTS[0], ignore=ignore))
    # The mask of a crowd is not read: the same with another one.
    assert OBJECTS[0].masks is not None
    masks = InstanceMasks(
        OBJECTS[0].masks.windows, ~OBJECTS[0].masks.pixels, OBJECTS[0].masks.annotated
    )
    first = masks.select(torch.tensor([0]))
    second = OBJECTS[0].masks.select(torch.tensor([1]))
    changed = replace(OBJECTS[0], ignore=ignore, masks=InstanceMasks.cat((first, second)))
    again = compute_losses(head, changed)
    assert with_crowd["mask"].count > 0
    assert torch.equal(again["mask"].sum, with_crowd["mask"].sum)
    everything = replace(OBJECTS[0], ignore=torch.tensor([True, True]))
    assert compute_losses(head, everything)["mask"].count == 0


def test_bfloat16_losses_are_finite_and_of_full_precision() -> None:
    head = make_head()
    with torch.autocast("cpu", torch.bfloat16):
        terms = compute_losses(head, *OBJECTS)
        raw = head(features())
    assert terms["mask"].sum.dtype == raw["mask_logits"].dtype == torch.float32
    assert terms["mask"].sum.isfinite()


def test_raw_output_has_a_fixed_structure_and_the_branch_reads_detections_only() -> None:
    head = make_head(detections_per_image=20, score_threshold=0.3, rpn_post_nms=(40, 12)).eval()
    seen: list[int] = []
    head.roi_heads.mask_head.register_forward_hook(lambda *a: seen.append(len(a[1][0])))
    with torch.no_grad():
        raw = head(features(3))
    assert raw["mask_logits"].shape == (3, 20, 28, 28)
    assert 0 < int(raw["valid"].sum()) < 60
    assert seen == [int(raw["valid"].sum())]
    assert not raw["mask_logits"][~raw["valid"]].any()
    assert raw["mask_logits"][raw["valid"]].std() > 0


def test_outputs_sort_masks_with_their_boxes() -> None:
    head = make_head()
    raw = {
        "boxes": torch.tensor([[[0.0, 0, 10, 10], [50, 0, 60, 10], [5, 5, 25, 25]]]),
        "scores": torch.tensor([[0.4, 0.9, 0.6]]),
        "labels": torch.tensor([[0, 1, 2]]),
        "valid": torch.tensor([[True, True, True]]),
        "mask_logits": torch.arange(3.0)[None, :, None, None].expand(1, 3, 4, 4),
    }
    outputs = head.outputs(raw, torch.tensor([[40, 45]]))
    assert outputs["valid"].tolist() == [[True, True, False]]  # the second lies in the padding
    assert outputs["labels"].tolist() == [[2, 0, 0]]
    assert outputs["mask_logits"].mean(dim=(2, 3)).tolist() == [[2, 0, 0]]


def test_masks_are_cropped_with_their_boxes() -> None:
    ramp = torch.arange(8.0).repeat(8, 1)  # grows from left to right
    logits = torch.stack((ramp, ramp.T))[None]
    boxes = torch.tensor([[[10.0, 20.0, 26.0, 36.0]] * 2])
    assert torch.equal(crop_masks(logits, boxes, boxes), logits)
    halves = torch.tensor([[[10.0, 20.0, 18.0, 36.0], [10.0, 20.0, 26.0, 28.0]]])
    cropped = crop_masks(logits, boxes, halves)[0]
    # Half the cells at double density: centers at -0.25 (border), 0.25, 0.75, ...
    expected = torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25])
    torch.testing.assert_close(cropped[0], expected.repeat(8, 1))
    torch.testing.assert_close(cropped[1], expected.repeat(8, 1).T)


def test_a_traced_graph_predicts_the_same() -> None:
    backbone = ResNet("resnet10t", weights="none")
    torch.manual_seed(0)
    options = {**SMALL, "rpn_post_nms": (40, 40), "detections_per_image": 15}
    head = MaskRCNN(backbone.specs, CLASSES, options)
    nn.init.normal_(head.roi_heads.box_predictor.cls_score.weight, std=0.3)
    graph = ExportGraph(TaskModel(backbone, {"a": head}), PixelRange(0, 255)).eval()
    names = ("boxes", "scores", "labels", "valid", "mask_logits")

    def inputs(number: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        images = 255 * torch.rand(number, 3, height, width, generator=generator)
        return images, torch.tensor([[height - 9, width - 5]] * number)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(graph, inputs(2, 96, 128), check_trace=False)  # type: ignore[no-untyped-call]
        for shape in ((1, 64, 160), (3, 128, 96)):
            got, expected = (
                dict(zip(names, net(*inputs(*shape)), strict=True)) for net in (traced, graph)
            )
            assert expected["valid"].sum() > 5
            _require_close(got, expected)
    assert graph.output_names == tuple(f"a.{name}" for name in names)


def _require_close(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, values in expected.items():
        torch.testing.assert_close(got[name], values, atol=1e-3, rtol=1e-4, msg=name)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(HeadError, match="options of head MaskRCNN: mask_head_channels"):
        MaskRCNN(SPECS, CLASSES, {"mask_head_channels": []})
    with pytest.raises(HeadError, match="did you mean 'mask_head_channels'"):
        MaskRCNN(SPECS, CLASSES, {"mask_head_chanels": [8]})


def test_is_registered() -> None:
    assert HEADS.get("mask_rcnn") is MaskRCNN


@pytest.mark.parametrize("num_classes", [1, 80])
def test_masks_start_at_a_probability_of_one_half(num_classes: int) -> None:
    torch.manual_seed(0)
    predictor = MaskPredictor(64, 64, num_classes)
    logits = predictor(torch.randn(20, 64, 14, 14).relu(), torch.ones(20, dtype=torch.int64))
    loss = F.binary_cross_entropy_with_logits(logits, torch.rand(20, 28, 28).round())
    assert loss.item() == pytest.approx(0.6931, abs=0.01)
