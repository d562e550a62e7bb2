"""The contract over every registered head and real backbones; proof that it catches breaches."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.assemble.heads import BUILT_IN_HEADS
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import ResnetTasksError
from resnet_tasks.heads.base import HEADS, Head, HeadOptions
from resnet_tasks.layers.segmentation_losses import cross_entropy
from resnet_tasks.structures.evaluation import VOID, Evaluator
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.predictions.base import Prediction
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.targets import Target
from resnet_tasks.structures.tasks import Task, register_task
from resnet_tasks.testing.head_contract import RULES, check_head
from resnet_tasks.testing.head_under_test import HeadUnderTest
from resnet_tasks.testing.random_batches import random_batch, random_target, resnet_specs
from tests.support.decoder_heads import SMALL_DECODERS

FAMILIES = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "resnet50d",
    "wide_resnet50_2",
    "resnet50_gn",
)
# Narrow forms, so that the time goes into the contract and not into wide layers.
# Heads of plugins are registered too if their tests were imported first.
BUILT_IN = [
    name for name in HEADS.list_names() if HEADS.get(name).__module__.startswith("resnet_tasks.")
]
SMALL: dict[str, dict[str, Any]] = {
    "faster_rcnn": {
        "anchor_sizes": [16, 32, 64, 128, 256],
        "pyramid_channels": 32,
        "box_head_channels": 64,
        "rpn_pre_nms": [100, 50],
        "rpn_post_nms": [50, 25],
        "roi_batch_size": 32,
    },
    "mask_rcnn": {
        "anchor_sizes": [16, 32, 64, 128, 256],
        "pyramid_channels": 32,
        "box_head_channels": 64,
        "rpn_pre_nms": [100, 50],
        "rpn_post_nms": [50, 25],
        "roi_batch_size": 32,
        "mask_head_channels": [16, 16],
        "mask_predictor_channels": 16,
    },
    "fcos": {
        "pyramid_channels": 64,
        "num_convs": 1,
        "candidates_per_level": 40,
        "detections_per_image": 20,
    },
    "retinanet": {
        "anchor_sizes": [16, 32, 64, 128, 256],
        "pyramid_channels": 32,
        "num_convs": 1,
        "candidates_per_level": 40,
        "detections_per_image": 20,
    },
    "fpn": {"pyramid_channels": 32, "segmentation_channels": 64},
    "unet": {"decoder_channels": [64, 32, 16, 16, 8]},
    **SMALL_DECODERS,
}
CLASSES = ("a", "b", "c")
ONE_STAGE = ("fcos", "retinanet")
"""Heads with the same layers on the same levels."""
REPEATED = {*SMALL_DECODERS, *ONE_STAGE}
"""Heads that share most of their code; the default tests build some of them, on one backbone."""
QUICK = {"deeplabv3plus", *ONE_STAGE}
QUICK_FAMILIES = {("deeplabv3plus", "resnet18"), *((name, FAMILIES[0]) for name in ONE_STAGE)}


def mark_repeated(names: Sequence[str], quick: Collection[str] = ()) -> list[Any]:
    """Mark the tests of heads as slow whose difference to another test is small."""
    return [
        pytest.param(name, marks=pytest.mark.slow)
        if name in REPEATED and name not in quick
        else name
        for name in names
    ]


@cache
def backbone(family: str) -> ResNet:
    return ResNet(family).train().to(memory_format=torch.channels_last)


def test_all_heads_are_seen() -> None:
    heads = {"classifier", "faster_rcnn", "fcos", "fpn", "mask_rcnn", "retinanet", "unet"}
    assert heads <= set(BUILT_IN)
    assert set(SMALL_DECODERS) <= set(BUILT_IN)
    modules = {module.__name__ for module in BUILT_IN_HEADS}
    assert {HEADS.get(name).__module__ for name in BUILT_IN} == modules


@pytest.mark.parametrize("name", mark_repeated(BUILT_IN, QUICK))
def test_head_keeps_the_contract(name: str) -> None:
    check_head(name, options=SMALL.get(name))


@pytest.mark.parametrize("name", mark_repeated(BUILT_IN))
def test_head_keeps_the_contract_on_bottleneck_levels_with_two_classes(name: str) -> None:
    specs = resnet_specs(8, bottleneck=True)
    check_head(name, options=SMALL.get(name), classes=("cell", "background"), specs=specs)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        pytest.param(name, family, marks=pytest.mark.slow)
        if name in REPEATED and (name, family) not in QUICK_FAMILIES
        else (name, family)
        for name in BUILT_IN
        for family in FAMILIES
    ],
)
def test_gradients_reach_a_real_backbone(name: str, family: str) -> None:
    net = backbone(family)
    net.zero_grad(set_to_none=True)
    head = HEADS.get(name)(net.specs, CLASSES, SMALL.get(name)).train()
    batch = random_batch()
    features = net(batch.images)
    for level, spec in net.specs.items():
        assert features[level].shape == (2, spec.channels, 64 // spec.stride, 96 // spec.stride)
    terms = head.loss(features, batch.make_view(LabelTable.identity(CLASSES)))
    total = torch.stack([term.mean() for term in terms.values()]).sum()
    total.backward()
    assert total.isfinite()
    coarsest = max(int(level.removeprefix("C")) for level in head.in_levels)
    reached = set()
    for name_, parameter in net.named_parameters():
        stage = net.find_stage(name_)
        if stage > coarsest:
            assert parameter.grad is None, name_
            continue
        assert parameter.grad is not None, name_
        assert parameter.grad.isfinite().all(), name_
        if parameter.grad.ne(0).any():
            reached.add(stage)
    assert reached == set(range(1, coarsest + 1))
    with torch.no_grad():
        sizes = torch.tensor([geometry.input_size for geometry in batch.geometries])
        outputs = head.outputs(head(features), sizes)
    assert len(head.task_spec.decode(outputs, batch.geometries)) == 2


class Plain(Head):
    """A correct semantic head in a few lines; the broken ones below change one thing each."""

    task = "semantic_segmentation"
    in_levels = ("C3", "C5")

    def __init__(self, specs: Any, classes: Any, options: Any = None) -> None:
        super().__init__(specs, classes, options)
        channels = [self.specs[level].channels for level in self.in_levels]
        self.norm = nn.BatchNorm2d(channels[0])
        self.fine = nn.Conv2d(channels[0], len(self.classes), 1)
        self.coarse = nn.Conv2d(channels[1], len(self.classes), 1)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fine = self.fine(self.norm(features["C3"])).float()
        coarse = self.coarse(features["C5"]).float()
        logits = F.interpolate(fine, scale_factor=8.0, mode="bilinear")
        return {"logits": logits + F.interpolate(coarse, scale_factor=32.0, mode="bilinear")}

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        return {"cross_entropy": cross_entropy(self(features)["logits"], view.semantic)}


class ToyTask(Task):
    """A semantic task of the tests; subclasses change one thing each."""

    required_fields: ClassVar[tuple[str, ...]] = ("semantic",)
    outputs: ClassVar[Mapping[str, tuple[str | int, ...]]] = {"logits": ("B", "K", "H", "W")}
    prediction: ClassVar[type[Prediction]] = Prediction
    main_metric: ClassVar[str] = "error"

    def decode(self, outputs: Any, geometries: Any) -> list[Any]:
        raise NotImplementedError

    def build_evaluator(self, classes: Sequence[str]) -> Evaluator:
        raise NotImplementedError


def register_toy_task(name: str, **changes: Any) -> None:
    register_task(type(name, (ToyTask,), {"name": name, **changes}))


register_toy_task("needs_nothing", required_fields=())
register_toy_task("misspelled_field", required_fields=("semantik",))
register_toy_task("fails", decode=lambda self, outputs, geometries: 1 // 0)
register_toy_task("decodes_one", decode=lambda self, outputs, geometries: [outputs])
register_toy_task("decodes_tensors", decode=lambda self, outputs, geometries: [*outputs["logits"]])


def changed_loss(change: Callable[[Any, LossTerm, BatchView], Any]) -> dict[str, Any]:
    """A `loss` whose only term went through `change`."""

    def loss(self: Plain, features: Mapping[str, Tensor], view: BatchView) -> Any:
        term = Plain.loss(self, features, view)["cross_entropy"]
        return {"cross_entropy": change(self, term, view)}

    return {"loss": loss}


def changed_forward(change: Callable[[Any, Tensor], Any]) -> dict[str, Any]:
    """A `forward` whose output went through `change`; the loss keeps to the original."""

    def forward(self: Plain, features: Mapping[str, Tensor]) -> Any:
        return change(self, Plain.forward(self, features)["logits"])

    def loss(self: Plain, features: Mapping[str, Tensor], view: BatchView) -> Any:
        logits = Plain.forward(self, features)["logits"]
        return {"cross_entropy": cross_entropy(logits, view.semantic)}

    return {"forward": forward, "loss": loss}


def changed_outputs(change: Callable[[Tensor], Any]) -> dict[str, Any]:
    """Outputs whose logits went through `change`."""
    return {"outputs": lambda self, raw, sizes: {"logits": change(raw["logits"])}}


def boxes_of(
    *rows: Sequence[float], score: float = 0.9, label: int = 0, **changes: Any
) -> dict[str, Any]:
    """A detector that gives the same objects for every image; `changes` replace outputs."""

    def outputs(self: Plain, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        shape = (len(sizes), len(rows))
        detections = {
            "boxes": torch.tensor(rows).float().expand(*shape, 4),
            "scores": torch.full(shape, score),
            "labels": torch.full(shape, label),
            "valid": torch.ones(shape, dtype=torch.bool),
        }
        return detections | {name: change(detections[name]) for name, change in changes.items()}

    return {"task": "detection", "outputs": outputs, "loss": painted_loss()}


def painted_loss(*, ignored: bool = False, background: int = VOID) -> Callable[..., Any]:
    """A loss of the pixels inside boxes, of ignore regions too, or with a class for the others."""

    def loss(self: Plain, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        painted = torch.full((len(view), *view.padded_size), background)
        for label_map, target in zip(painted, view.targets, strict=True):
            corners = target.boxes.long().clamp(min=0)
            for (x1, y1, x2, y2), label, ignore in zip(
                corners.tolist(), target.labels, target.ignore, strict=True
            ):
                if ignored or not ignore:
                    label_map[y1:y2, x1:x2] = label
        logits = Plain.forward(self, features)["logits"]
        return {"cross_entropy": cross_entropy(logits, painted)}

    return loss


def lax_init(self: Plain, specs: Any, classes: Any, options: Any = None) -> None:
    full = {**resnet_specs(16), **specs}
    Plain.__init__(self, full, classes, options)


def key_error_init(self: Plain, specs: Any, classes: Any, options: Any = None) -> None:
    for level in self.in_levels:
        specs[level]
    Plain.__init__(self, specs, classes, options)


def with_spare_layer(self: Plain, specs: Any, classes: Any, options: Any = None) -> None:
    Plain.__init__(self, specs, classes, options)
    self.spare = nn.Linear(2, 2)


def with_hidden_state(self: Plain, specs: Any, classes: Any, options: Any = None) -> None:
    Plain.__init__(self, specs, classes, options)
    self.hidden = torch.rand(1)


def counting(self: Any, term: LossTerm, view: BatchView) -> LossTerm:
    self.calls = getattr(self, "calls", 0) + 1
    return LossTerm(term.sum * self.calls, term.count)


def nan_when_empty(self: Any, term: LossTerm, view: BatchView) -> LossTerm:
    return LossTerm(term.sum / term.count, torch.ones(()))


def cut_when_empty(self: Any, term: LossTerm, view: BatchView) -> LossTerm:
    return term if term.count > 0 else LossTerm(torch.zeros(()), term.count)


def raises_when_empty(self: Any, term: LossTerm, view: BatchView) -> LossTerm:
    if term.count == 0:
        raise RuntimeError("no pixels")
    return term


def mean_in_the_sum(self: Any, term: LossTerm, view: BatchView) -> LossTerm:
    return LossTerm(term.sum / term.count.clamp(min=1), torch.ones(()))


class LaxOptions(HeadOptions):
    model_config = ConfigDict(extra="ignore")


def only_fine(self: Plain, features: Mapping[str, Tensor], view: BatchView) -> Any:
    cut = {**features, "C5": features["C5"].detach()}
    return Plain.loss(self, cut, view)


def in_low_precision(self: Any, term: LossTerm, view: BatchView) -> LossTerm:
    return LossTerm(term.sum.bfloat16(), term.count)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "task of another type": ({"task": None}, "`task` must be the name of a task"),
    "unknown task": (
        {"task": "detections"},
        "unknown task 'detections'.* did you mean 'detection'",
    ),
    "task without fields": ({"task": "needs_nothing"}, "has no `required_fields`"),
    "levels in a list": ({"in_levels": ["C3"]}, "`in_levels` must be a tuple"),
    "lax options": ({"Options": LaxOptions}, "misspelled options"),
    "level made up": ({"__init__": lax_init}, "can be built without it"),
    "level as KeyError": (
        {"__init__": key_error_init},
        "must raise HeadError, but it raised KeyError",
    ),
    "forward returns a tensor": (
        changed_forward(lambda self, x: x),
        "forward must return a dict",
    ),
    "no batch dimension": (
        changed_forward(lambda self, x: {"logits": x[0]}),
        "first dimension of raw output 'logits' must be the batch",
    ),
    "structure by mode": (
        changed_forward(lambda self, x: {"a": x} if self.training else {"b": x}),
        "same names, ranks and types",
    ),
    "structure by batch size": (
        changed_forward(lambda self, x: {"logits": x if len(x) > 1 else x[:, 0]}),
        "same names, ranks and types",
    ),
    "noisy forward": (
        changed_forward(lambda self, x: {"logits": x + torch.rand(())}),
        "differs between two calls on the same features",
    ),
    "loss without a term": ({"loss": lambda self, f, v: {}}, "dict of name -> LossTerm"),
    "bare tensor": (changed_loss(lambda self, t, v: t.sum), "dict of name -> LossTerm"),
    "vector": (
        changed_loss(lambda self, t, v: LossTerm(t.sum[None], t.count)),
        "sum of loss term 'cross_entropy' must be a scalar",
    ),
    "infinite": (
        changed_loss(lambda self, t, v: LossTerm(t.sum * float("inf"), t.count)),
        "must be finite",
    ),
    "low precision": (changed_loss(in_low_precision), "of full precision"),
    "no gradient": (
        changed_loss(lambda self, t, v: LossTerm(t.sum.detach(), t.count)),
        "must carry a gradient",
    ),
    "count with gradient": (
        changed_loss(lambda self, t, v: LossTerm(t.sum, t.sum)),
        "carry no gradient",
    ),
    "negative count": (
        changed_loss(lambda self, t, v: LossTerm(t.sum, -t.count)),
        "must be at least 0",
    ),
    "nothing learned": (
        changed_loss(lambda self, t, v: LossTerm(t.sum, t.count * 0)),
        "so nothing is learned",
    ),
    "terms by mode": (
        {"loss": lambda self, f, v: {str(self.training): Plain.loss(self, f, v)["cross_entropy"]}},
        "in training mode, but",
    ),
    "level without gradient": ({"loss": only_fine}, "no gradient of the loss reaches level C5"),
    "idle parameter": ({"__init__": with_spare_layer}, "spare.weight does not affect the loss"),
    "NaN when empty": (changed_loss(nan_when_empty), "on images without objects"),
    "no graph when empty": (changed_loss(cut_when_empty), "on images without objects"),
    "raises when empty": (changed_loss(raises_when_empty), "raised RuntimeError: no pixels"),
    "fields nobody gives": (
        {"task": "misspelled_field"},
        "the second of three images is not annotated, so .* must be",
    ),
    "state between calls": (
        changed_loss(counting),
        "must equal the totals over its images|differs between",
    ),
    "mean as sum": (changed_loss(mean_in_the_sum), "the totals over its images|without objects"),
    "global randomness": (
        changed_loss(
            lambda self, t, v: LossTerm(t.sum * (1 + self.training * torch.rand(())), t.count)
        ),
        "draw randomness from `view.seeds`",
    ),
    "outputs raise": ({"outputs": lambda self, raw, s: 1 // 0}, "outputs raised ZeroDivisionError"),
    "outputs in a list": (
        {"outputs": lambda self, raw, s: list(raw.values())},
        r"declares \(logits\), got list",
    ),
    "output of another name": (
        {"outputs": lambda self, raw, s: {"masks": raw["logits"]}},
        r"declares \(logits\), got masks \(Tensor\)",
    ),
    "output that is not declared": (
        {"outputs": lambda self, raw, s: {**raw, "coarse": raw["logits"]}},
        r"got logits \(Tensor\), coarse \(Tensor\)",
    ),
    "output that is no tensor": (changed_outputs(lambda x: x.tolist()), r"got logits \(list\)"),
    "one output for all": (
        changed_outputs(lambda x: x[:1]),
        r"axes \(B, K, H, W\) .* B is 2, K is 3, H is 64, W is 96, got shape \(1, 3, 64, 96\)",
    ),
    "labels instead of logits": (changed_outputs(lambda x: x.argmax(1)), r"shape \(2, 64, 96\)"),
    "coarse logits": (changed_outputs(lambda x: x[..., ::4, ::4]), r"shape \(2, 3, 16, 24\)"),
    "output of another type": (
        changed_outputs(lambda x: x.double()),
        "output 'logits' must be float32, got torch.float64",
    ),
    "shape by values": (
        {
            "task": "detection",
            "outputs": lambda self, raw, s: boxes_of(
                *[(0, 0, 5, 5)] * int((raw["logits"] > 0).sum())
            )["outputs"](self, raw, s),
        },
        "must depend on the sizes of the inputs only",
    ),
    "decode raises": ({"task": "fails"}, "decode of the task fails raised ZeroDivisionError"),
    "too few predictions": ({"task": "decodes_one"}, "one prediction per image"),
    "prediction of another type": ({"task": "decodes_tensors"}, "into Prediction, got Tensor"),
    "infinite logits": (changed_outputs(lambda x: x / 0), "sum to 1 over classes"),
    "no bfloat16": (
        changed_forward(
            lambda self, x: {"logits": x / 0 if torch.is_autocast_enabled("cpu") else x}
        ),
        "not finite under bf16",
    ),
    "state outside the state dict": (
        {
            "__init__": with_hidden_state,
            **changed_forward(lambda self, x: {"logits": x * self.hidden}),
        },
        "changes when the state_dict is loaded",
    ),
    "logits of a detector": ({"task": "detection"}, r"declares \(boxes, scores, labels, valid\)"),
    "boxes in the padding": (boxes_of((0, 0, 90, 20)), "must lie inside the image of 61 x 83"),
    "boxes as xywh": (boxes_of((30, 30, 5, 5)), "must be xyxy"),
    "scores above 1": (boxes_of((0, 0, 5, 5), score=1.5), "'scores' must lie in 0..1"),
    "scores that do not fit": (
        boxes_of((0, 0, 5, 5), scores=lambda scores: scores.repeat(1, 2)),
        r"'scores' must have the axes \(B, D\) .* D is 1, got shape \(2, 2\)",
    ),
    "boxes of three numbers": (
        boxes_of((0, 0, 5, 5), boxes=lambda boxes: boxes[..., :3]),
        r"'boxes' must have the axes \(B, D, 4\)",
    ),
    "narrow labels": (
        boxes_of((0, 0, 5, 5), labels=lambda labels: labels.int()),
        "output 'labels' must be int64, got torch.int32",
    ),
    "scores as flags": (
        boxes_of((0, 0, 5, 5), valid=lambda valid: valid.float()),
        "output 'valid' must be bool, got torch.float32",
    ),
    "boxes as fractions": (boxes_of((0.1, 0.1, 0.5, 0.5)), "must be in pixels of the batch"),
    "background as a label": (boxes_of((0, 0, 5, 5), label=3), "indices into the 3 classes"),
}


def test_a_plain_head_of_ones_own_keeps_the_contract() -> None:
    check_head(Plain)
    check_head(type("Boxes", (Plain,), boxes_of((0, 0, 5, 5))))


@pytest.mark.parametrize("case", BROKEN)
def test_each_breach_is_caught_and_named(case: str) -> None:
    changes, message = BROKEN[case]
    with pytest.raises(AssertionError, match=message) as caught:
        check_head(type("Broken", (Plain,), changes))
    assert str(caught.value).startswith("head Broken: ")


def find_broken_rules(head: type[Head]) -> dict[str, str]:
    """Name of every rule that a head breaks -> the message."""
    subject = HeadUnderTest(
        head, resnet_specs(16), CLASSES, None, random_target, uses_default_targets=True
    )
    broken = {}
    for rule in RULES:
        try:
            rule(subject)
        except AssertionError as error:
            broken[rule.__name__.removeprefix("check_")] = str(error)
    return broken


class Tagger(Plain):
    """A correct head for several image-level labels, pooled over the cells of the image."""

    task = "multi_label_classification"

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fine = self.fine(self.norm(features["C3"])).float()
        coarse = F.interpolate(self.coarse(features["C5"]).float(), scale_factor=4.0)
        return {"logits": fine + coarse}

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        rows, columns = (torch.arange(raw["logits"].shape[axis]) * 8 for axis in (2, 3))
        inside = (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
        total = (raw["logits"] * inside[:, None]).sum(dim=(2, 3))
        return {"logits": total / inside.sum(dim=(1, 2))[:, None]}

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        return self.compare(features, view, lambda labels: labels[labels >= 0])

    def compare(self, features: Any, view: BatchView, choose: Callable[[Tensor], Tensor]) -> Any:
        logits = self.outputs(self(features), torch.tensor(view.image_sizes))["logits"]
        expected = torch.zeros_like(logits)
        for row, target in zip(expected, view.targets, strict=True):
            row[choose(target.image_labels)] = 1.0
        total = F.binary_cross_entropy_with_logits(logits, expected, reduction="sum")
        return {"cross_entropy": LossTerm(total, torch.tensor(float(logits.numel())))}


def decode_without_cropping(self: Task, outputs: Any, geometries: Any) -> list[SegmentationMap]:
    maps = []
    for logits, geometry in zip(outputs["logits"], geometries, strict=True):
        size = geometry.original_size
        probs = F.interpolate(logits[None], size=size, mode="bilinear")[0].softmax(dim=0)
        maps.append(SegmentationMap(labels=probs.argmax(0), probs=probs))
    return maps


register_toy_task("uncropped", prediction=SegmentationMap, decode=decode_without_cropping)


def pool_everything(self: Tagger, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
    return {"logits": raw["logits"].mean(dim=(2, 3))}


def pool_in_python(self: Tagger, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
    pooled = [
        logits[:, : -(-height // 8), : -(-width // 8)].mean(dim=(1, 2))
        for logits, (height, width) in zip(raw["logits"], sizes.tolist(), strict=True)
    ]
    return {"logits": torch.stack(pooled)}


def resize_to_a_constant(self: Plain, raw: Mapping[str, Tensor], sizes: Tensor) -> Any:
    size = [int(side) for side in raw["logits"].shape[2:]]
    return {"logits": F.interpolate(raw["logits"][..., ::2, ::2], size=size)}


def learn_void_as_a_class(self: Plain, features: Any, view: BatchView) -> dict[str, LossTerm]:
    logits = Plain.forward(self, features)["logits"]
    return {"cross_entropy": cross_entropy(logits, view.semantic.clamp(min=0))}


def learn_unknown_labels(self: Tagger, features: Any, view: BatchView) -> Any:
    return self.compare(features, view, lambda labels: labels)  # -1 is the last class


BOX = boxes_of((0, 0, 9, 9))
ONE_RULE: dict[str, tuple[type[Plain], dict[str, Any], str, str]] = {
    "void as a class": (
        Plain,
        {"loss": learn_void_as_a_class},
        "void_pixels",
        "void pixels must be neither a class nor background.* the sum of 'cross_entropy' is",
    ),
    "unknown labels as the last class": (
        Tagger,
        {"loss": learn_unknown_labels},
        "unknown_image_labels",
        r"\(IGNORED\) must not change the loss: the sum of 'cross_entropy'",
    ),
    "ignore regions as objects": (
        Plain,
        {**BOX, "loss": painted_loss(ignored=True)},
        "ignore_regions",
        "ignore regions must be neither objects nor background",
    ),
    "ignore regions as background": (
        Plain,
        {**BOX, "loss": painted_loss(background=0)},
        "ignore_regions",
        "ignore regions must be neither objects nor background",
    ),
    "boxes that are not clipped": (
        Plain,
        boxes_of((0, 0, 40, 40)),
        "padding",
        "must be cropped with `sizes`.* must lie inside the image of 17 x 23",
    ),
    "maps with padding": (
        Plain,
        {"task": "uncropped"},
        "padding",
        "predictions of the task uncropped must not depend on the padding of its maps",
    ),
    "pooled padding": (
        Tagger,
        {"outputs": pool_everything},
        "padding",
        "output 'logits' must not depend on features in the padding",
    ),
    "sizes as Python numbers": (
        Tagger,
        {"outputs": pool_in_python},
        "traced_outputs",
        "its values differ from those of the head",
    ),
    "shapes as Python numbers": (
        Plain,
        {"outputs": resize_to_a_constant},
        "traced_outputs",
        r"its shape is \(2, 3, 64, 96\) instead of \(2, 3, 128, 160\)",
    ),
    "operator that ONNX does not have": (
        Plain,
        changed_outputs(lambda x: x.mT.contiguous().mT),
        "onnx_operators",
        "export to ONNX raised .*aten::mT",
    ),
}


@pytest.mark.parametrize("case", ONE_RULE)
def test_a_wrong_head_breaks_exactly_one_rule(case: str) -> None:
    base, changes, rule, message = ONE_RULE[case]
    if rule == "onnx_operators":
        pytest.importorskip("onnx", reason="the extra `export` is not installed")
    assert find_broken_rules(base) == {}
    broken = find_broken_rules(type("Broken", (base,), changes))
    assert list(broken) == [rule], broken
    assert re.search(message, broken[rule]), broken[rule]


def test_the_rules_that_were_checked_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rules = check_head(Plain)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [str(rule) for rule in rules]
    assert len(lines) == len(RULES)
    reasons = {rule.name: rule.skipped for rule in rules}
    assert reasons["void pixels"] is None
    assert reasons["ignore regions"] == "the task semantic_segmentation does not read boxes"
    assert "ok       gradients: finite gradients at every input level" in "\n".join(lines)
    assert "skipped  ignore regions: the task semantic_segmentation does not" in "\n".join(lines)
    assert check_head(Plain, quiet=True) == rules
    assert capsys.readouterr().out == ""


class Count(Prediction):
    """Number of objects of an image."""

    def __init__(self, number: float) -> None:
        self.number = number

    def draw(self, canvas: Any, classes: Any, min_score: float, prefix: str = "") -> None:
        canvas.write_line(f"{prefix}{self.number:.1f}")

    def compare(self, other: Any, tolerance: Any, difference: Any) -> None:
        difference.add_score_gap(abs(self.number - other.number))


@register_task
class CountingTask(ToyTask):
    name = "counting"
    required_fields = ("number",)
    outputs: ClassVar[Mapping[str, tuple[str | int, ...]]] = {"number": ("B",)}
    prediction = Count

    def decode(self, outputs: Any, geometries: Any) -> list[Any]:
        return [Count(float(number)) for number in outputs["number"]]


class Counter(Head):
    """A task of the user's own, with a target field in `extra`: how many objects there are."""

    task = "counting"
    in_levels = ("C5",)

    def __init__(self, specs: Any, classes: Any, options: Any = None) -> None:
        super().__init__(specs, classes, options)
        self.linear = nn.Linear(self.specs["C5"].channels, 1)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"densities": self.linear(features["C5"].movedim(1, 3))[..., 0]}

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        rows, columns = (torch.arange(raw["densities"].shape[axis]) * 32 for axis in (1, 2))
        inside = (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
        return {"number": (raw["densities"] * inside).sum(dim=(1, 2))}

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        truth = torch.tensor([float(target.extra["number"]) for target in view.targets])
        outputs = self.outputs(self(features), torch.tensor(view.image_sizes))
        errors = (outputs["number"].float() - truth).square()
        return {"squared_error": LossTerm(errors.sum(), torch.tensor(float(len(view))))}


def test_a_task_of_ones_own_brings_its_targets() -> None:
    def targets(size: tuple[int, int], num_classes: int, generator: torch.Generator) -> Target:
        return Target(extra={"number": int(torch.randint(0, 9, (), generator=generator))})

    check_head(Counter, targets=targets)
    with pytest.raises(AssertionError, match="'number'"):
        check_head(Counter)


def test_a_check_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    state = random.getstate()
    check_head(Plain)
    assert torch.equal(torch.rand(4), expected)
    assert random.getstate() == state


def test_a_registered_name_will_do() -> None:
    with pytest.raises(ResnetTasksError, match=r"unknown head 'unett'.*'unet'"):
        check_head("unett")


def test_random_batch_does_not_depend_on_later_images() -> None:
    one, two = random_batch(image_sizes=[(61, 83)]), random_batch()
    assert two.padded_size == (64, 96)
    assert torch.equal(one.images[0], two.images[0])
    assert torch.equal(one.targets[0].boxes, two.targets[0].boxes)
    assert two.geometries[0].original_size == (122, 166)
    assert two.geometries[1].scale == (1.0, -1.0)


def test_resnet_specs_are_those_of_the_paper() -> None:
    assert [spec.channels for spec in resnet_specs().values()] == [64, 64, 128, 256, 512]
    wide = resnet_specs(bottleneck=True)
    assert [spec.channels for spec in wide.values()] == [64, 256, 512, 1024, 2048]
    assert [spec.stride for spec in wide.values()] == [2, 4, 8, 16, 32]
    assert wide == backbone("resnet50").specs
