"""Classification numbers by hand, against scikit-learn's definitions, resampled and in detail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.classification.multi_label import MultiLabelEvaluator
from resnet_tasks.evaluation.classification.single_label import ClassificationEvaluator
from resnet_tasks.evaluation.numerics.ranking import auroc, average_precision
from resnet_tasks.structures.evaluation import (
    IGNORED,
    DetailedEvaluator,
    GroundTruth,
    ResamplableEvaluator,
)
from resnet_tasks.structures.predictions.classification import Classification

ABC = ("a", "b", "c")


def filled(
    evaluator: ClassificationEvaluator | MultiLabelEvaluator,
    rows: Sequence[Sequence[float]],
    labels: Sequence[Sequence[int]],
) -> ClassificationEvaluator | MultiLabelEvaluator:
    is_multi = isinstance(evaluator, MultiLabelEvaluator)
    for i, (row, each) in enumerate(zip(rows, labels, strict=True)):
        truth = GroundTruth(f"p{i}", (8, 8), image_labels=np.asarray(each, np.int64))
        evaluator.update(Classification(torch.tensor(row), is_multi), truth)
    return evaluator


def random_multi(seed: int = 0, images: int = 60) -> MultiLabelEvaluator:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 11, (images, 3)) / 10  # with many ties
    labels = [[k for k in range(3) if rng.random() < 0.2 + 0.6 * row[k]] for row in rows]
    made = filled(MultiLabelEvaluator(ABC), rows.astype(np.float32).tolist(), labels)
    assert isinstance(made, MultiLabelEvaluator)
    return made


def random_single(seed: int = 0, images: int = 60, classes: int = 7) -> ClassificationEvaluator:
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.ones(classes), images).astype(np.float32)
    labels = [[int(rng.choice(classes, p=row / row.sum()))] for row in rows.astype(np.float64)]
    names = [str(i) for i in range(classes)]
    made = filled(ClassificationEvaluator(names), rows.tolist(), labels)
    assert isinstance(made, ClassificationEvaluator)
    return made


def test_by_hand() -> None:
    rows = [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.25, 0.5, 0.25]]
    found = filled(ClassificationEvaluator(ABC), rows, [[0], [1], [1], [2]]).compute()
    assert list(found) == ["top1", "ECE", "AUROC"]  # of 3 classes the best 5 are all
    assert found["top1"].value == 0.5
    assert found["top1"].per_class == {"a": 1.0, "b": 0.5, "c": 0.0}
    # a: 0.7 above all. b: 0.3 and 0.8 against 0.2 and 0.5: 3 of 4 pairs. c: 0.25 above all 0.1.
    assert found["AUROC"].per_class == {"a": 1.0, "b": 0.75, "c": 1.0}
    assert found["AUROC"].value == pytest.approx(2.75 / 3)
    # Each image has a bin of its own: gaps 0.3, 0.6, 0.2 and 0.5.
    assert found["ECE"].value == pytest.approx(1.6 / 4)
    assert found["ECE"].lower_is_better
    assert not found["top1"].lower_is_better


def test_images_of_one_bin_balance_out() -> None:
    """Ten images at confidence 0.8, eight of them right: calibrated."""
    rows = [[0.8, 0.1, 0.1]] * 10
    labels = [[0]] * 8 + [[1]] * 2
    assert filled(ClassificationEvaluator(ABC), rows, labels).compute()["ECE"].value == (
        pytest.approx(0.0, abs=1e-7)
    )


def test_perfect_and_all_wrong() -> None:
    perfect = filled(ClassificationEvaluator(ABC), np.eye(3).tolist(), [[0], [1], [2]]).compute()
    assert [each.value for each in perfect.values()] == [1.0, 0.0, 1.0]
    wrong = filled(ClassificationEvaluator(ABC), np.eye(3).tolist(), [[1], [2], [0]]).compute()
    assert wrong["top1"].value == 0.0
    assert wrong["AUROC"].value == 0.25  # one of two negatives ties, the other is above
    assert wrong["ECE"].value == 1.0


def test_equal_probabilities_go_to_the_first_class() -> None:
    rows = [[1 / 6] * 6] * 2
    found = filled(ClassificationEvaluator("abcdef"), rows, [[0], [5]]).compute()
    assert found["top1"].value == 0.5
    assert found["top5"].value == 0.5
    assert found["AUROC"].per_class["a"] == 0.5


def test_a_class_that_no_image_has_is_not_defined() -> None:
    found = filled(ClassificationEvaluator(ABC), [[1.0, 0, 0], [0.4, 0.6, 0]], [[0], [1]]).compute()
    assert found["AUROC"].per_class == {"a": 1.0, "b": 1.0, "c": None}
    assert found["AUROC"].value == 1.0
    assert found["top1"].per_class["c"] is None


@pytest.mark.parametrize("kind", [ClassificationEvaluator, MultiLabelEvaluator])
def test_nothing_seen(kind: type[ClassificationEvaluator]) -> None:
    assert all(each.value is None for each in kind(ABC).compute().values())
    details = kind(ABC).details()
    assert details["images"] == []
    assert details["reliability"] == {"confidence": [], "accuracy": [], "count": []}


def test_labels_that_do_not_fit_name_the_image() -> None:
    one = Classification(torch.tensor([1.0, 0, 0]))
    for labels, said in (([], "'p' has no image-level"), ([0, 1], "'p' has 2 image-level")):
        truth = GroundTruth("p", (8, 8), image_labels=np.asarray(labels, np.int64))
        with pytest.raises(DataError, match=said):
            ClassificationEvaluator(ABC).update(one, truth)
        MultiLabelEvaluator(ABC).update(one, truth)
    with pytest.raises(DataError, match="'p' has no annotated image-level labels"):
        ClassificationEvaluator(ABC).update(one, GroundTruth("p", (8, 8)))
    far = GroundTruth("p", (8, 8), image_labels=np.asarray([3]))
    with pytest.raises(DataError, match="label 3; allowed are 0 to 2"):
        ClassificationEvaluator(ABC).update(one, far)
    fine = GroundTruth("p", (8, 8), image_labels=np.asarray([1]))
    for bad in ([0.5, 0.5], [0.5, float("nan"), 0.5], [2.0, 0, 0]):
        with pytest.raises(DataError, match="must be 3 probabilities"):
            ClassificationEvaluator(ABC).update(Classification(torch.tensor(bad)), fine)


def test_images_with_unknown_labels_only_are_left_out_and_counted() -> None:
    rows, labels = [[1.0, 0, 0], [1.0, 0, 0]], [[0, IGNORED], [IGNORED]]
    made = filled(ClassificationEvaluator(ABC), rows, labels)
    assert made.compute()["top1"].value == 1.0
    assert made.image_ids == ("p0",)
    assert made.details()["notes"][0].startswith("1 image skipped because")


def test_multi_label_by_hand() -> None:
    rows = [[0.9, 0.2, 0.1], [0.6, 0.7, 0.1], [0.3, 0.6, 0.1]]
    found = filled(MultiLabelEvaluator(ABC), rows, [[0], [1], [0, 1]]).compute()
    # a: positives 0.9 and 0.3, negative 0.6. b: positives 0.7 and 0.6, negative 0.2. c: none.
    assert found["AUROC"].per_class == {"a": 0.5, "b": 1.0, "c": None}
    assert found["mAP"].per_class == {"a": pytest.approx((1 + 2 / 3) / 2), "b": 1.0, "c": None}
    assert found["F1"].per_class == {"a": 0.5, "b": 1.0, "c": None}
    assert found["F1"].value == 0.75
    assert found["subset_accuracy"].value == pytest.approx(1 / 3)


def test_reliability_by_hand() -> None:
    """Two images at 0.7, one right; one at 1.0, right."""
    rows = [[0.7, 0.3, 0.0], [0.7, 0.3, 0.0], [0.0, 1.0, 0.0]]
    made = filled(ClassificationEvaluator(ABC), rows, [[0], [1], [1]])
    assert isinstance(made, DetailedEvaluator)
    details = made.details()
    assert details["reliability"]["count"] == [2, 1]
    assert details["reliability"]["confidence"] == pytest.approx([0.7, 1.0])
    assert details["reliability"]["accuracy"] == [0.5, 1.0]
    assert details["confusion"] == {"labels": list(ABC), "matrix": [[1, 0, 0], [1, 1, 0], [0] * 3]}
    quality, surprise = (
        [each[key] for each in details["images"]] for key in ("quality", "surprise")
    )
    assert quality == pytest.approx([0.7, 0.3, 1.0])
    assert surprise == pytest.approx([0.0, 0.7, 0.0])


@pytest.mark.parametrize("made", [random_single(), random_multi()])
def test_resampling_is_repeating_images(
    made: ClassificationEvaluator | MultiLabelEvaluator,
) -> None:
    assert isinstance(made, ResamplableEvaluator)
    images = len(made.image_ids)
    rng = np.random.default_rng(3)
    counts = np.stack([np.ones(images, np.int64), rng.integers(0, 4, images)])
    found = made.resample(counts)
    assert [len(values) for values in found.values()] == [2] * len(found)
    again = type(made)(made.classes)
    for i, times in enumerate(counts[1]):
        for _ in range(times):
            truth = GroundTruth(i, (8, 8), image_labels=np.asarray(made._labels[i], np.int64))
            again.update(Classification(torch.from_numpy(made._probs[i])), truth)
    for row, evaluator in enumerate((made, again)):
        for name, metric in evaluator.compute().items():
            assert found[name][row] == pytest.approx(metric.value, abs=1e-12)
            for each, value in metric.per_class.items():
                got = found[f"{name}/{each}"][row]
                assert np.isnan(got) if value is None else got == pytest.approx(value, abs=1e-12)


def test_resampling_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = random_single()
    counts = np.random.default_rng(0).integers(0, 3, (7, 60))
    whole = made.resample(counts)
    monkeypatch.setattr("resnet_tasks.evaluation.classification.base.CHUNK", 120)
    for name, values in made.resample(counts).items():
        assert np.array_equal(values, whole[name], equal_nan=True)


def test_what_is_too_large_to_be_ranked_often_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = random_multi()
    monkeypatch.setattr("resnet_tasks.evaluation.classification.base.LARGEST_RANKED", 3 * 60 - 1)
    assert "AUROC" in made.compute()
    names = set(made.resample(np.ones((2, 60), np.int64)))
    assert {"F1", "F1/a", "ECE", "subset_accuracy"} <= names
    assert not any(each.startswith(("AUROC", "mAP")) for each in names)


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(5)
    scores, positive = rng.integers(0, 6, 40) / 5, rng.random(40) < 0.4
    ones, zeros = scores[positive][:, None], scores[~positive][None]
    expected = ((ones > zeros) + 0.5 * (ones == zeros)).mean()
    assert auroc(scores, positive, np.ones((1, 40)))[0] == pytest.approx(expected, abs=1e-12)


def test_equal_to_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(6)
    for _ in range(20):
        scores, positive = rng.integers(0, 9, 50) / 8, rng.random(50) < 0.3
        weights = rng.integers(0, 4, 50)
        rows = np.stack([np.ones(50), weights])
        for ours, theirs in (
            (auroc, metrics.roc_auc_score),
            (average_precision, metrics.average_precision_score),
        ):
            expected = [
                theirs(positive, scores),
                theirs(
                    positive[weights > 0], scores[weights > 0], sample_weight=weights[weights > 0]
                ),
            ]
            assert ours(scores, positive, rows) == pytest.approx(expected, abs=1e-12)
