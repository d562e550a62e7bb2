"""Faster R-CNN: parity with torchvision, losses by hand, sampling, ignore regions, decoding."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from resnet_tasks.errors import HeadError
from resnet_tasks.heads.base import HEADS
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.rcnn.foreign_weights import split_torchvision_state_dict
from resnet_tasks.heads.rcnn.roi import BoxHead
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.targets import Target
from tests.support.decoding import decode

CLASSES = ("cat", "dog", "cow")
SPECS = {f"C{k}": FeatureSpec(4 * k, 2**k) for k in (2, 3, 4, 5)}
SIZE = (128, 160)
SMALL = {"pyramid_channels": 16, "box_head_channels": 32}
TERMS = {"rpn_objectness", "rpn_box", "roi_classification", "roi_box"}


def features(images: int = 2, size: tuple[int, int] = SIZE, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        level: torch.randn(
            images,
            spec.channels,
            size[0] // spec.stride,
            size[1] // spec.stride,
            generator=generator,
        )
        .to(memory_format=torch.channels_last)
        .requires_grad_()
        for level, spec in SPECS.items()
    }


def objects(*rows: tuple[float, float, float, float, int], ignore: tuple[bool, ...] = ()) -> Target:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    flags = torch.tensor(ignore, dtype=torch.bool) if ignore else None
    return Target(boxes=table[:, :4], labels=table[:, 4].long(), ignore=flags)


def view(*targets: Target, size: tuple[int, int] = SIZE, seeds: tuple[int, ...] = ()) -> BatchView:
    count = len(targets)
    seeds = seeds or tuple(range(count))
    return BatchView(targets, (size,) * count, size, tuple(range(count)), seeds)


OBJECTS = (
    objects((10, 12, 60, 70, 0), (80, 20, 150, 120, 2)),
    objects((5, 5, 45, 30, 1), (40, 60, 100, 110, 1), (0, 0, 155, 125, 0)),
)


def lively(module: nn.Module, spread: float = 0.3) -> nn.Module:
    """Weights that give varied scores and boxes, for features around 1; less spread for larger."""
    for name, parameter in module.named_parameters():
        if "bbox_pred.weight" in name:
            nn.init.normal_(parameter, std=spread / 3)
        elif "cls_" in name and name.endswith("weight"):
            nn.init.normal_(parameter, std=spread)
    return module


def small_torchvision(**options: Any) -> TorchvisionFasterRCNN:
    """torchvision's detector whose body hands through the features it is given."""

    class Pyramid(nn.Module):
        out_channels = 16

        def __init__(self) -> None:
            super().__init__()
            channels = [spec.channels for spec in SPECS.values()]
            self.fpn = FeaturePyramidNetwork(channels, 16, LastLevelMaxPool())

    sizes = ((16,), (32,), (64,), (128,), (256,))
    model = TorchvisionFasterRCNN(
        Pyramid(),
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
        box_head=TwoMLPHead(16 * 49, 32),
        box_predictor=FastRCNNPredictor(32, len(CLASSES) + 1),
        **options,
    )
    lively(model)
    return model


def head_like(model: TorchvisionFasterRCNN, **options: Any) -> FasterRCNN:
    sizes = (16, 32, 64, 128, 256)
    head = FasterRCNN(SPECS, CLASSES, {**SMALL, "anchor_sizes": sizes, **options})
    head.load_state_dict(split_torchvision_state_dict(model.state_dict())[1])
    return head


def torchvision_stages(
    model: TorchvisionFasterRCNN,
    given: dict[str, Tensor],
    targets: list[dict[str, Tensor]] | None = None,
    size: tuple[int, int] = SIZE,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    count = len(given["C2"])
    images = ImageList(torch.zeros(count, 3, *size), [size] * count)
    named = ("0", "1", "2", "3")
    levels = OrderedDict(zip(named, given.values(), strict=True))
    pyramid = model.backbone.fpn(levels)
    proposals, first = model.rpn(images, pyramid, targets)
    detections, second = model.roi_heads(pyramid, proposals, images.image_sizes, targets)
    return detections, {**first, **second}


def assert_same_detections(ours: list[Detections], theirs: list[dict[str, Tensor]]) -> None:
    assert len(ours) == len(theirs)
    for mine, yours in zip(ours, theirs, strict=True):
        assert len(mine) == len(yours["boxes"]) > 5
        torch.testing.assert_close(mine.boxes, yours["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(mine.scores, yours["scores"], atol=1e-4, rtol=0)
        assert torch.equal(mine.labels + 1, yours["labels"])


def detect(head: FasterRCNN, given: dict[str, Tensor], size: tuple[int, int]) -> list[Detections]:
    with torch.no_grad():
        raw = head(given)
    return decode(head, raw, [Geometry.from_resize(size, size)] * len(raw["valid"]))


def test_equals_torchvisions_resnet50_detector() -> None:
    model = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=4,
        min_size=96,
        max_size=128,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    ).eval()
    lively(model, spread=0.01)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        expected = model(list(images))
        body = dict(
            zip(("C2", "C3", "C4", "C5"), model.backbone.body(images).values(), strict=True)
        )
    specs = {
        level: FeatureSpec(tensor.shape[1], 96 // tensor.shape[2]) for level, tensor in body.items()
    }
    head = FasterRCNN(specs, CLASSES)
    body_state, head_state = split_torchvision_state_dict(model.state_dict())
    head.load_state_dict(head_state)
    model.backbone.body.load_state_dict(body_state)
    assert_same_detections(detect(head, body, (96, 128)), expected)


@pytest.mark.parametrize("size", [(128, 160), (96, 224)])  # 96: three rows on P5, halved to two
def test_equals_torchvisions_stages_with_other_options(size: tuple[int, int]) -> None:
    model = small_torchvision(
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=120,
        rpn_nms_thresh=0.6,
        box_score_thresh=0.2,
        box_nms_thresh=0.3,
        box_detections_per_img=17,
    ).eval()
    head = head_like(
        model,
        rpn_pre_nms=(200, 200),
        rpn_post_nms=(120, 120),
        rpn_nms_iou=0.6,
        score_threshold=0.2,
        nms_iou=0.3,
        detections_per_image=17,
    )
    given = features(size=size)
    with torch.no_grad():
        expected, _ = torchvision_stages(model, given, size=size)
    assert_same_detections(detect(head, given, size), expected)


def test_losses_equal_torchvisions_when_everything_is_sampled() -> None:
    many = 100_000
    model = small_torchvision(
        rpn_batch_size_per_image=many,
        box_batch_size_per_image=many,
        rpn_positive_fraction=1.0,
        box_positive_fraction=1.0,
    ).train()
    head = head_like(
        model,
        rpn_batch_size=many,
        roi_batch_size=many,
        rpn_positive_fraction=1.0,
        roi_positive_fraction=1.0,
    )
    given = features()
    targets = [{"boxes": each.boxes, "labels": each.labels + 1} for each in OBJECTS]
    _, expected = torchvision_stages(model, given, targets)
    sum(expected.values()).backward()
    wanted = {level: tensor.grad.clone() for level, tensor in given.items()}
    for tensor in given.values():
        tensor.grad = None

    terms = head.loss(given, view(*OBJECTS))
    sum(term.mean() for term in terms.values()).backward()
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "roi_classification": "loss_classifier",
        "roi_box": "loss_box_reg",
    }
    for ours, theirs in names.items():
        torch.testing.assert_close(terms[ours].mean(), expected[theirs], atol=1e-5, rtol=1e-4)
        assert terms[ours].mean() > 0
    for level, tensor in given.items():
        torch.testing.assert_close(tensor.grad, wanted[level], atol=1e-5, rtol=1e-3)
    parameters = dict(head.named_parameters())
    for name, parameter in model.rpn.named_parameters(prefix="rpn"):
        torch.testing.assert_close(parameters[name].grad, parameter.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("size", [(128, 160), (96, 224)])  # 96: three rows on P5, halved to two
def test_first_stage_says_the_same_at_single_cells(size: tuple[int, int]) -> None:
    head = lively(FasterRCNN(SPECS, CLASSES, SMALL))
    assert isinstance(head, FasterRCNN)
    pyramid = head._compute_pyramid(features(size=size))
    whole = head.rpn(pyramid, size)
    per_image = len(torch.cat(whole.anchors)) // 3
    everywhere = torch.arange(2 * per_image).flip(0)
    logits, deltas = head.rpn.head.predict_cells(
        pyramid, everywhere // per_image, everywhere % per_image
    )
    wanted = torch.cat(whole.objectness_logits, 1).reshape(-1, 3)[everywhere]
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-4)
    wanted = torch.cat(whole.box_deltas, 1).reshape(-1, 3, 4)[everywhere]
    torch.testing.assert_close(deltas, wanted, atol=1e-5, rtol=1e-4)


def test_gradients_in_bfloat16_reach_all_that_is_learned() -> None:
    """Weights that autocast rounds without a graph must not be those of the loss."""
    head = lively(FasterRCNN(SPECS, CLASSES, {**SMALL, "rpn_batch_size": 64}))
    gradients = []
    for is_rounded in (False, True):
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_rounded):
            terms = head.loss(features(), view(*OBJECTS))
        sum(terms[name].mean() for name in ("rpn_objectness", "rpn_box")).backward()
        gradients.append({name: each.grad for name, each in head.named_parameters()})
    exact, rounded = gradients
    reached = [name for name, gradient in exact.items() if gradient is not None]
    assert sum(name.startswith("rpn.head") for name in reached) == 6
    for name in reached:
        assert rounded[name] is not None, name
        assert (rounded[name] - exact[name]).norm() <= 0.05 * exact[name].norm() + 1e-6, name


def test_normalization_of_an_indifferent_head_by_hand() -> None:
    head = FasterRCNN(SPECS, CLASSES, {**SMALL, "rpn_batch_size": 40, "roi_batch_size": 24})
    for name, parameter in head.named_parameters():
        if name.startswith(("rpn.head", "roi_heads.box_predictor")):
            nn.init.zeros_(parameter)
    terms = head.loss(features(), view(*OBJECTS))
    # Logits of zero: every anchor costs ln 2, every proposal ln (3 classes + background).
    assert terms["rpn_objectness"].count == 2 * 40
    assert terms["roi_classification"].count == 2 * 24
    assert terms["rpn_objectness"].mean().item() == pytest.approx(math.log(2), rel=1e-5)
    assert terms["roi_classification"].mean().item() == pytest.approx(math.log(4), rel=1e-5)
    assert terms["rpn_box"].count == terms["rpn_objectness"].count
    assert terms["roi_box"].count == terms["roi_classification"].count


def test_draws_depend_on_the_seeds_alone() -> None:
    head = lively(FasterRCNN(SPECS, CLASSES, {**SMALL, "rpn_batch_size": 16, "roi_batch_size": 16}))
    assert isinstance(head, FasterRCNN)
    given = features()

    def sums(seeds: tuple[int, int]) -> list[float]:
        torch.manual_seed(sums.calls)
        sums.calls += 1
        state = torch.random.get_rng_state()
        terms = head.loss(given, view(*OBJECTS, seeds=seeds))
        assert torch.equal(torch.random.get_rng_state(), state)
        return [term.sum.item() for term in terms.values()]

    sums.calls = 0
    head.train()
    first = sums((7, 8))
    head.eval()
    assert sums((7, 8)) == first
    assert sums((7, 9)) != first


def test_a_image_draws_the_same_wherever_it_lies_in_the_batch() -> None:
    head = FasterRCNN(SPECS, CLASSES, {**SMALL, "rpn_batch_size": 16, "roi_batch_size": 16})
    given = features()
    both = head.loss(given, view(*OBJECTS, seeds=(7, 8)))
    swapped = head.loss(
        {level: tensor.flip(0) for level, tensor in given.items()},
        view(*OBJECTS[::-1], seeds=(8, 7)),
    )
    for name in TERMS:
        torch.testing.assert_close(both[name].sum, swapped[name].sum, atol=1e-4, rtol=1e-5)


DROPPING = {**SMALL, "roi_batch_size": 16, "box_head_dropout": 0.5}


def sums_of(head: FasterRCNN, seeds: tuple[int, int]) -> dict[str, float]:
    terms = head.loss(features(), view(*OBJECTS, seeds=seeds))
    return {name: term.sum.item() for name, term in terms.items()}


def test_dropout_of_the_box_head_is_in_training_only() -> None:
    torch.manual_seed(0)
    plain = lively(FasterRCNN(SPECS, CLASSES, {**SMALL, "roi_batch_size": 16}))
    dropping = FasterRCNN(SPECS, CLASSES, DROPPING)
    assert isinstance(plain, FasterRCNN)
    dropping.load_state_dict(plain.state_dict())  # the same parameters, by the same names
    plain.train()
    dropping.eval()
    assert sums_of(dropping, (7, 8)) == sums_of(plain, (7, 8))
    dropping.train()
    without, with_it = sums_of(plain, (7, 8)), sums_of(dropping, (7, 8))
    # The first stage and the choice of proposals stay; what the second stage says of them changes.
    for name in ("rpn_objectness", "rpn_box"):
        assert with_it[name] == without[name]
    assert with_it["roi_classification"] != without["roi_classification"]
    with torch.no_grad():
        for name, value in dropping(features()).items():
            assert torch.equal(value, plain(features())[name])


def test_dropout_of_the_box_head_follows_the_seeds_of_the_images() -> None:
    head = lively(FasterRCNN(SPECS, CLASSES, DROPPING)).train()
    assert isinstance(head, FasterRCNN)
    torch.manual_seed(1)
    first = sums_of(head, (7, 8))
    torch.manual_seed(2)
    assert sums_of(head, (7, 8)) == first
    assert sums_of(head, (7, 9))["roi_classification"] != first["roi_classification"]
    swapped = head.loss(
        {level: tensor.flip(0) for level, tensor in features().items()},
        view(*OBJECTS[::-1], seeds=(8, 7)),
    )
    for name in TERMS:
        assert swapped[name].sum.item() == pytest.approx(first[name], rel=1e-4, abs=1e-4)


def test_dropout_of_the_box_head_by_hand() -> None:
    head = BoxHead(2, 3, dropout=0.25)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    factors = head.sample_dropout_masks((400, 100), generators, torch.zeros(1))
    assert factors is not None
    for each in factors:
        assert each.shape == (500, 3)
        assert each.unique().tolist() == pytest.approx([0, 1 / 0.75])
        assert (each == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert not torch.equal(*factors)
    again = head.sample_dropout_masks((400,), [torch.Generator().manual_seed(1)], torch.zeros(1))
    assert again is not None
    assert torch.equal(again[0], factors[0][:400])
    pooled = torch.randn(500, 2)
    hidden = head.fc6(pooled).relu() * factors[0]
    assert torch.equal(head(pooled, factors), head.fc7(hidden).relu() * factors[1])


def test_ignored_objects_are_not_learned_and_not_proposed() -> None:
    head = FasterRCNN(SPECS, CLASSES, SMALL)
    ignored = replace(OBJECTS[0], ignore=torch.tensor([True, True]))
    terms = head.loss(features(1), view(ignored))
    assert terms["rpn_box"].sum == 0
    assert terms["roi_box"].sum == 0
    assert terms["rpn_objectness"].count > 0
    # A region over everything leaves nothing to learn in the second stage.
    over_all = objects((0, 0, 160, 128, 0), ignore=(True,))
    terms = head.loss(features(1), view(over_all))
    assert terms["roi_classification"].count == 0
    total = sum(term.mean() for term in terms.values())
    total.backward()
    assert torch.isfinite(total)


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [OBJECTS, (objects(), objects()), (objects(), OBJECTS[1])])
def test_losses_are_finite_and_reach_every_weight(
    targets: tuple[Target, ...], precision: torch.dtype, box_loss: str
) -> None:
    head = FasterRCNN(SPECS, CLASSES, {**SMALL, "box_loss": box_loss})
    given = features()
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        terms = head.loss(given, view(*targets))
    assert set(terms) == TERMS
    assert all(term.sum.dtype == term.count.dtype == torch.float32 for term in terms.values())
    sum(term.mean() for term in terms.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert all(tensor.grad.abs().sum() > 0 for tensor in given.values())


def test_giou_of_exact_boxes_is_zero() -> None:
    head = FasterRCNN(SPECS, CLASSES, {**SMALL, "box_loss": "giou", "anchor_sizes": [32] * 5})
    for name, parameter in head.named_parameters():
        if name.startswith("rpn.head.bbox_pred"):
            nn.init.zeros_(parameter)
    # Anchors around the cell at (64, 64) of every level; only this one overlaps by 0.7 or more
    # with equal sides, so offsets of zero are right except for its neighbors on P2.
    terms = head.loss(features(1), view(objects((48, 48, 80, 80, 0))))
    assert 0 <= terms["rpn_box"].sum < 0.35 * 30
    strict = FasterRCNN(
        SPECS,
        CLASSES,
        {**SMALL, "box_loss": "giou", "anchor_sizes": [32] * 5, "rpn_fg_iou": 0.99},
    )
    nn.init.zeros_(strict.rpn.head.bbox_pred.weight)
    terms = strict.loss(features(1), view(objects((48, 48, 80, 80, 0))))
    assert terms["rpn_box"].sum.item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_raw_output_has_a_fixed_structure(threshold: float, precision: torch.dtype) -> None:
    head = FasterRCNN(SPECS, CLASSES, {**SMALL, "score_threshold": threshold})
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        raw = head(features(3))
    assert {name: (tuple(value.shape), value.dtype) for name, value in raw.items()} == {
        "boxes": ((3, 100, 4), torch.float32),
        "scores": ((3, 100), torch.float32),
        "labels": ((3, 100), torch.int64),
        "valid": ((3, 100), torch.bool),
    }
    assert bool(raw["valid"].all()) == (threshold == 0.0)
    assert (raw["scores"].diff(dim=1) <= 0).all()
    assert raw["boxes"][..., 0::2].max() <= SIZE[1]
    assert raw["boxes"][..., 1::2].max() <= SIZE[0]


def test_one_image_gives_the_same_as_a_batch() -> None:
    head = lively(FasterRCNN(SPECS, CLASSES, {**SMALL, "score_threshold": 0.2}))
    given = features()
    with torch.no_grad():
        both = head(given)
        second = head({level: tensor[1:] for level, tensor in given.items()})
    assert int(second["valid"].sum()) > 0
    for name in raw_names(both):
        torch.testing.assert_close(both[name][1:], second[name], atol=1e-3, rtol=1e-4)


def raw_names(raw: dict[str, Tensor]) -> tuple[str, ...]:
    return tuple(raw)


def test_decode_returns_to_the_original_image() -> None:
    head = FasterRCNN(SPECS, CLASSES, SMALL)
    geometry = Geometry(
        original_size=(200, 100), input_size=(100, 50), scale=(0.5, -0.5), offset=(0.0, 50.0)
    )
    original = torch.tensor([[20.0, 40.0, 60.0, 80.0], [0.0, 0.0, 100.0, 200.0]])
    boxes = torch.zeros(1, 5, 4)
    boxes[0, :2] = geometry.boxes_to_input(original)
    boxes[0, 2] = torch.tensor([60.0, 10.0, 90.0, 40.0])  # right of the image: padding alone
    boxes[0, 3] = torch.tensor([30.0, 90.0, 80.0, 120.0])  # reaches into the padding
    raw = {
        "boxes": boxes,
        "scores": torch.tensor([[0.5, 0.9, 0.8, 0.3, 0.0]]),
        "labels": torch.tensor([[1, 2, 0, 0, 0]]),
        "valid": torch.tensor([[True, True, True, True, False]]),
    }
    (found,) = decode(head, raw, [geometry])
    clipped = torch.tensor([[0.0, 180.0, 40.0, 200.0]])
    torch.testing.assert_close(found.boxes, torch.cat((original.flip(0), clipped)))
    assert found.labels.tolist() == [2, 1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.5, 0.3]))


def test_proposals_of_the_loss_stay_inside_the_image() -> None:
    head = FasterRCNN(SPECS, CLASSES, SMALL)
    given = features(1)
    levels = head._compute_pyramid(given)
    output = head.rpn(levels, SIZE)
    limits = torch.tensor([[90.0, 70.0]])
    boxes, valid = head.rpn.select_proposals(output, limits, before_nms=500, after_nms=300)
    assert valid.any()
    assert boxes[valid][:, 2].max() <= 90
    assert boxes[valid][:, 3].max() <= 70


def test_a_shared_pyramid_is_used_as_it_is() -> None:
    pyramid = {f"P{k}": FeatureSpec(16, 2**k) for k in (2, 3, 4, 5, 6)}
    head = FasterRCNN({**SPECS, **pyramid}, CLASSES, SMALL)
    assert head.in_levels == ("P2", "P3", "P4", "P5", "P6")
    assert FasterRCNN.in_levels == ("C2", "C3", "C4", "C5")
    assert not any(name.startswith("fpn") for name in head.state_dict())
    own = FasterRCNN(SPECS, CLASSES, SMALL)
    missing, unexpected = head.load_state_dict(own.state_dict(), strict=False)
    assert not missing
    assert all(name.startswith("fpn.") for name in unexpected)
    given = features()
    with torch.no_grad():
        assert own.fpn is not None
        torch.testing.assert_close(head(own.fpn(given)), own(given))


def test_old_checkpoint_names_are_brought_up_to_date() -> None:
    head = FasterRCNN(SPECS, CLASSES, SMALL)
    old = {"backbone.body.conv1.weight": torch.zeros(1)}
    for name, value in head.state_dict().items():
        older = name.replace("fpn.", "backbone.fpn.").replace("conv.0.0.", "conv.")
        if "_blocks." in older:
            older = older.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[older] = value
    assert "backbone.fpn.inner_blocks.0.weight" in old
    body, state = split_torchvision_state_dict(old)
    assert list(body) == ["conv1.weight"]
    assert set(state) == set(head.state_dict())
    with pytest.raises(HeadError, match=r"'classifier\.weight'"):
        split_torchvision_state_dict({"classifier.weight": torch.zeros(1)})


def test_weights_survive_saving() -> None:
    head = lively(FasterRCNN(SPECS, CLASSES, SMALL))
    other = FasterRCNN(SPECS, CLASSES, SMALL)
    other.load_state_dict(head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(head(features()), other(features()))


def test_anchors_made_in_inference_mode_can_be_learned_from() -> None:
    head = FasterRCNN(SPECS, CLASSES, {**SMALL, "box_loss": "giou", "anchor_sizes": [24] * 5})
    with torch.inference_mode():
        head(features())
    terms = head.loss(features(), view(*OBJECTS))
    sum(term.mean() for term in terms.values()).backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_sizes": [32, 64, 128]}, r"one entry per level P2.*got 3"),
        ({"anchor_sizes": [32, 64, 128, 256, [400, 512]]}, "same number of anchor_sizes"),
        ({"anchor_sizes": [32, 64, 128, 256, -1]}, r"anchor_sizes\.4: got -1"),
        ({"anchor_size": [32]}, "anchor_size is not an option.*did you mean 'anchor_sizes'"),
        ({"rpn_bg_iou": 0.8}, r"rpn_bg_iou \(0\.8\) must not exceed rpn_fg_iou \(0\.7\)"),
        ({"box_loss": "l1"}, "box_loss.*got 'l1'"),
        ({"aspect_ratios": []}, "aspect_ratios"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        FasterRCNN(SPECS, CLASSES, options)


def test_wrong_levels_are_refused() -> None:
    with pytest.raises(HeadError, match="do not include C5"):
        FasterRCNN({level: SPECS[level] for level in ("C2", "C3", "C4")}, CLASSES)
    with pytest.raises(HeadError, match=r"must double.*C5 16"):
        FasterRCNN({**SPECS, "C5": FeatureSpec(20, 16)}, CLASSES)
    pyramid = {f"P{k}": FeatureSpec(16 if k < 6 else 8, 2**k) for k in (2, 3, 4, 5, 6)}
    with pytest.raises(HeadError, match=r"same channels.*P6 8"):
        FasterRCNN(pyramid, CLASSES)


def test_several_anchor_sizes_per_level() -> None:
    sizes = [[s, 1.5 * s] for s in (16, 32, 64, 128, 256)]
    head = FasterRCNN(SPECS, CLASSES, {**SMALL, "anchor_sizes": sizes, "aspect_ratios": [1.0]})
    assert head.rpn.head.cls_logits.out_channels == 2
    terms = head.loss(features(), view(*OBJECTS))
    assert all(torch.isfinite(term.sum) for term in terms.values())


def test_is_registered() -> None:
    assert HEADS.get("faster_rcnn") is FasterRCNN
