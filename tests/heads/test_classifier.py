"""The classifier: pooling without padding, losses by hand, labels that do not fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import resnet_tasks.evaluation.classification.multi_label
import resnet_tasks.evaluation.classification.single_label  # noqa: F401  (registers the evaluators)
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import DataError, HeadError
from resnet_tasks.heads.classifier import Classifier
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.evaluation import IGNORED
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.samples import BatchView, Sample, collate
from resnet_tasks.structures.targets import Target
from resnet_tasks.testing.head_contract import check_head
from tests.support.decoding import decode

CLASSES = ("cat", "dog", "owl")
SPECS = {"C5": FeatureSpec(4, 32)}


def head(**options: Any) -> Classifier:
    torch.manual_seed(1)
    made = Classifier(SPECS, CLASSES, options)
    torch.nn.init.normal_(made.classifier.weight)
    return made.eval()


def view(*labels: list[int], sizes: tuple[tuple[int, int], ...] = ()) -> BatchView:
    count = len(labels)
    return BatchView(
        targets=tuple(
            Target(image_labels=torch.tensor(each, dtype=torch.int64)) for each in labels
        ),
        image_sizes=sizes or ((64, 64),) * count,
        padded_size=(64, 64),
        image_ids=tuple(f"image-{i}" for i in range(count)),
        seeds=tuple(range(count)),
    )


def plain_logits(made: Classifier, level: torch.Tensor) -> torch.Tensor:
    """The usual order: pool, then a linear layer."""
    return F.linear(
        level.mean(dim=(2, 3)), made.classifier.weight[:, :, 0, 0], made.classifier.bias
    )


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "max"},
        {"dropout": 0.5, "label_smoothing": 0.1, "class_weights": {"a": 2.0}},
        {"multi_label": True, "dropout": 0.5, "label_smoothing": 0.1, "class_weights": (1, 2, 3)},
    ],
)
def test_every_option_keeps_the_contract(options: dict[str, Any]) -> None:
    check_head(Classifier, options=options)


def test_pooling_after_the_linear_layer_is_the_usual_head() -> None:
    made, level = head(), torch.randn(2, 4, 2, 2)
    geometry = Geometry((64, 64), (64, 64))
    found = decode(made, made({"C5": level}), [geometry, geometry])
    expected = plain_logits(made, level).softmax(dim=1)
    assert torch.allclose(torch.stack([each.probs for each in found]), expected, atol=1e-6)
    assert [each.labels.tolist() for each in found] == expected.argmax(1)[:, None].tolist()


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_cells_of_the_padding_are_not_read(pooling: str) -> None:
    """33 pixels reach into a second cell, so two of three rows count, and one of two columns."""
    made, level = head(pooling=pooling), torch.randn(1, 4, 2, 1)
    padded = torch.full((1, 4, 3, 2), 1e6)
    padded[:, :, :2, :1] = level
    geometry = Geometry((33, 32), (33, 32))
    alone = decode(made, made({"C5": level}), [geometry])[0].probs
    assert torch.equal(decode(made, made({"C5": padded}), [geometry])[0].probs, alone)
    one = view([1], sizes=((33, 32),))
    losses = [made.loss({"C5": each}, one)["cross_entropy"].sum for each in (level, padded)]
    assert torch.equal(*losses)
    assert losses[0].item() == pytest.approx(-math.log(alone[1].item()), rel=1e-5)


def test_a_image_is_the_same_alone_and_in_a_padded_batch_but_for_its_border() -> None:
    """Pooling reads no padding, but convolutions at the border of the image do."""
    backbone = ResNet("resnet10t", weights="none")
    model = TaskModel(backbone, {"kind": Classifier(backbone.specs, CLASSES)}).eval()
    small = Sample(torch.rand(3, 64, 64), Geometry((64, 64), (64, 64)), 1)
    large = Sample(torch.rand(3, 128, 160), Geometry((128, 160), (128, 160)), 2)
    alone = model.predict(collate([small]))["kind"][0].probs
    together = model.predict(collate([small, large]))["kind"][0].probs
    assert not torch.equal(alone, together)  # the border
    assert torch.allclose(alone, together, atol=0.02)


def test_cross_entropy_by_hand() -> None:
    made, level = head(class_weights={"dog": 3.0}), torch.randn(2, 4, 2, 2)
    term = made.loss({"C5": level}, view([1], [2]))["cross_entropy"]
    probs = plain_logits(made, level).softmax(1)
    expected = -3 * math.log(probs[0, 1].item()) - math.log(probs[1, 2].item())
    assert term.sum.item() == pytest.approx(expected, rel=1e-5)
    assert term.count.item() == 4.0
    smooth = head(label_smoothing=0.3).loss({"C5": level}, view([1], [2]))["cross_entropy"]
    log_probs = plain_logits(made, level).log_softmax(1)
    spread = -0.7 * (log_probs[0, 1] + log_probs[1, 2]) - 0.1 * log_probs.sum()
    assert smooth.mean().item() == pytest.approx(spread.item() / 2, rel=1e-5)


def test_binary_cross_entropy_by_hand() -> None:
    made, level = head(multi_label=True, class_weights=(1, 2, 0)), torch.randn(2, 4, 2, 2)
    term = made.loss({"C5": level}, view([0, 1], []))["binary_cross_entropy"]
    probs = plain_logits(made, level).sigmoid()
    wanted = torch.tensor([[1.0, 1, 0], [0, 0, 0]])
    terms = -(wanted * probs.log() + (1 - wanted) * (1 - probs).log())
    assert term.sum.item() == pytest.approx(
        (terms * torch.tensor([1, 2, 0])).sum().item(), rel=1e-5
    )
    assert term.count.item() == 6.0
    found = decode(made, made({"C5": level}), [Geometry((64, 64), (64, 64))] * 2)
    assert torch.allclose(torch.stack([each.probs for each in found]), probs, atol=1e-6)
    assert all(each.is_multi_label for each in found)
    assert found[0].labels.tolist() == sorted(
        (i for i in range(3) if probs[0, i] >= 0.5), key=lambda i: -probs[0, i]
    )


@pytest.mark.parametrize(("labels", "count"), [([], "no"), ([0, 2], "2")])
def test_another_number_of_labels_names_the_image(labels: list[int], count: str) -> None:
    level = {"C5": torch.randn(2, 4, 2, 2)}
    with pytest.raises(DataError, match=f"'image-1' has {count} image-level labels.*multi_label"):
        head().loss(level, view([1], labels))
    head(multi_label=True).loss(level, view([1], labels))


def test_labels_that_the_head_does_not_know_teach_nothing() -> None:
    level = torch.randn(2, 4, 2, 2)
    both = head().loss({"C5": level}, view([1, IGNORED], [IGNORED]))["cross_entropy"]
    one = head().loss({"C5": level[:1]}, view([1]))["cross_entropy"]
    assert both.sum.item() == pytest.approx(one.sum.item(), rel=1e-6)
    assert both.count == 1
    nothing = head().loss({"C5": level}, view([IGNORED], [IGNORED]))["cross_entropy"]
    assert nothing.mean().item() == 0.0


def test_dropout_is_in_training_only_and_drawn_from_seeds() -> None:
    made, level = head(dropout=0.5), {"C5": torch.randn(2, 4, 2, 2)}
    quiet = made.loss(level, view([1], [2]))["cross_entropy"].sum
    made.train()
    first, second = (made.loss(level, view([1], [2]))["cross_entropy"].sum for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, quiet)
    assert torch.equal(made(level)["logits"], head()(level)["logits"])


def test_wrong_options_are_refused() -> None:
    with pytest.raises(HeadError, match=r"class_weights names 'cta', .*; did you mean 'cat'\?"):
        head(class_weights={"cta": 1.0})
    with pytest.raises(HeadError, match=r"poolng is not an option.*'pooling'"):
        head(poolng="avg")
    with pytest.raises(HeadError, match="only the class 'cat', so there is nothing"):
        Classifier(SPECS, ("cat",))
    assert Classifier(SPECS, ("cat",), {"multi_label": True}).classes == ("cat",)


def test_two_heads_share_partially_labeled_images() -> None:
    """A detector and a classifier on one backbone; each image is annotated for one of them."""
    backbone = ResNet("resnet10t", weights="none")
    light = {"pyramid_channels": 16, "box_head_channels": 16, "anchor_sizes": (16, 32, 64, 96, 128)}
    heads = {
        "objects": FasterRCNN(backbone.specs, ("thing",), light),
        "kind": Classifier(backbone.specs, CLASSES),
    }
    tables = {
        "objects": LabelTable(("thing",), (0, IGNORED, IGNORED, IGNORED)),
        "kind": LabelTable(CLASSES, (IGNORED, 0, 1, 2)),
    }
    model = TaskModel(backbone, heads, label_tables=tables)
    boxed = Target(
        boxes=torch.tensor([[8.0, 8, 40, 40]]),
        labels=torch.tensor([0]),
        ignore=torch.tensor([False]),
    )
    named = Target(image_labels=torch.tensor([3]))
    samples = [
        Sample(torch.rand(3, 64, 64), Geometry((64, 64), (64, 64)), i, target=target, seed=i)
        for i, target in enumerate((boxed, named))
    ]
    batch = collate(samples)
    assert batch.find_annotated(("image_labels",)) == (1,)
    losses = model(batch, mode="loss")
    assert losses["kind/cross_entropy"].count == 1
    assert any(key.startswith("objects/") for key in losses)
    model.compute_total_loss(losses).backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_contract_catches_a_head_that_forgets_the_softmax() -> None:
    class Raw(Classifier):
        def outputs(self, raw: Any, sizes: Any) -> Any:
            return raw

    with pytest.raises(AssertionError, match=r"logits"):
        check_head(Raw)


def test_evaluators_of_its_tasks() -> None:
    def metrics(made: Classifier) -> Any:
        return made.task_spec.build_evaluator(made.classes).compute()

    assert "top1" in metrics(head())
    assert "subset_accuracy" in metrics(head(multi_label=True))
