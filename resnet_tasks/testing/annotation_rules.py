"""Rules on annotations that must not be learned: void pixels, unknown labels, ignore regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from resnet_tasks.structures.evaluation import IGNORED, VOID
from resnet_tasks.structures.label_table import REGION_MARGIN
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.targets import Target
from resnet_tasks.testing.head_under_test import HeadUnderTest

TargetChange = Callable[[Target], Target]


def check_void_pixels(subject: HeadUnderTest) -> str | None:
    """Require that images whose pixels are all void contribute nothing to the loss."""
    if "semantic" not in subject.task.required_fields:
        return f"the task {subject.task.name} does not read semantic maps"

    def erase(target: Target) -> Target:
        assert target.semantic is not None
        return replace(target, semantic=torch.full_like(target.semantic, VOID))

    _require_no_loss(
        subject,
        erase,
        "void pixels must be neither a class nor background: exclude pixels whose label is VOID "
        "from sum and count; on images that are entirely void",
    )
    return None


def check_unknown_image_labels(subject: HeadUnderTest) -> str | None:
    """Require that image-level labels unknown to the head do not change the loss."""
    if "image_labels" not in subject.task.required_fields:
        return f"the task {subject.task.name} does not read image-level labels"

    _require_same_loss(
        subject,
        lambda target: replace(target, image_labels=torch.tensor([IGNORED, 0])),
        "image-level labels that the head does not know (IGNORED) must not change the loss",
        base=lambda target: replace(target, image_labels=torch.tensor([0])),
    )
    return None


def check_ignore_regions(subject: HeadUnderTest) -> str | None:
    """Require that ignore regions are learned neither as objects nor as background."""
    if "boxes" not in subject.task.required_fields:
        return f"the task {subject.task.name} does not read boxes"

    def cover(target: Target) -> Target:
        """Replace the objects by one ignore region, as `LabelTable` covers whole images."""
        assert target.boxes is not None
        low, high = -REGION_MARGIN, 2 * REGION_MARGIN
        return replace(
            target,
            boxes=target.boxes.new_tensor([[low, low, high, high]]),
            labels=torch.zeros(1, dtype=torch.int64),
            ignore=torch.ones(1, dtype=torch.bool),
            masks=None,
        )

    _require_no_loss(
        subject,
        cover,
        "ignore regions must be neither objects nor background: see "
        "`layers.matchers.extract_objects`; on images that are entirely an ignore region",
    )

    def ignore_first(target: Target) -> Target:
        assert target.labels is not None
        return replace(target, ignore=torch.arange(len(target.labels)) == 0)

    def change_label(target: Target) -> Target:
        ignored = ignore_first(target)
        assert ignored.labels is not None
        labels = ignored.labels.clone()
        labels[0] = (labels[0] + 1) % len(subject.classes)
        return replace(ignored, labels=labels)

    if len(subject.classes) > 1:
        _require_same_loss(
            subject,
            change_label,
            "ignore regions must not be trained as objects: their label must not change the loss",
            base=ignore_first,
        )
    return None


def _make_view(subject: HeadUnderTest, change: TargetChange | None) -> BatchView:
    # The view is changed and not the batch, because ignore regions that cover whole images are
    # added after collation, by `LabelTable`.
    view = subject.make_view(subject.make_batch())
    if change is None:
        return view
    return replace(view, targets=tuple(change(target) for target in view.targets))


def _require_no_loss(subject: HeadUnderTest, change: TargetChange, rule: str) -> None:
    """Require sums of 0 and no gradient at the features."""
    head = subject.build(training=True)
    features = subject.make_features(subject.make_batch())
    with subject.report_failures("loss on images without anything to learn"):
        terms = head.loss(features, _make_view(subject, change))
        total = torch.stack([term.sum for term in terms.values()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
    for name, term in terms.items():
        subject.require(
            abs(float(term.sum.detach())) < 1e-6,
            f"{rule}, the sum of {name!r} is {float(term.sum.detach()):.6g} instead of 0",
        )
    for level in head.in_levels:
        gradient = features[level].grad
        subject.require(
            gradient is None or not bool(gradient.abs().max() > 1e-6),
            f"{rule}, the loss has a gradient at level {level}",
        )


def _require_same_loss(
    subject: HeadUnderTest, change: TargetChange, rule: str, base: TargetChange | None = None
) -> None:
    """Require the same sums and counts with and without a change of the targets."""
    results: list[dict[str, LossTerm]] = []
    for target_change in (base, change):
        head = subject.build(training=True)
        features = subject.make_features(subject.make_batch())
        with subject.report_failures("loss"):
            results.append(head.loss(features, _make_view(subject, target_change)))
    expected, got = results
    subject.require(
        set(got) == set(expected),
        f"{rule}: the terms are {sorted(got)} instead of {sorted(expected)}",
    )
    for name, term in got.items():
        for part in ("sum", "count"):
            one, other = (
                float(getattr(loss_term, part).detach()) for loss_term in (term, expected[name])
            )
            subject.require(
                abs(one - other) <= 1e-5 * max(1.0, abs(other)),
                f"{rule}: the {part} of {name!r} is {one:.6g} instead of {other:.6g}",
            )
