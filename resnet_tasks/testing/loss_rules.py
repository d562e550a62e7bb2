"""Rules on a head's loss: terms, gradients, missing annotations, seeds and bf16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.targets import Target
from resnet_tasks.testing.head_under_test import HeadUnderTest
from resnet_tasks.testing.random_batches import IMAGE_SIZES, random_target


def check_loss_terms(subject: HeadUnderTest) -> None:
    """Require valid loss terms, the same ones in training and eval mode."""
    head, batch = subject.build(training=True), subject.make_batch()
    with subject.report_failures("loss"):
        terms = head.loss(subject.make_features(batch), subject.make_view(batch))
    _require_terms(subject, terms, "two annotated images")
    subject.require(
        any(float(term.count.detach()) > 0 for term in terms.values()),
        "the count of every loss term is 0 on two annotated images, so nothing is learned",
    )
    in_eval = subject.build(training=False).loss(
        subject.make_features(batch), subject.make_view(batch)
    )
    subject.require(
        set(in_eval) == set(terms),
        f"loss returns the terms {sorted(terms)} in training mode, but {sorted(in_eval)} in eval "
        "mode",
    )


def check_gradients(subject: HeadUnderTest) -> None:
    """Require finite gradients at every input level and a gradient for every parameter."""
    head, batch = subject.build(training=True), subject.make_batch()
    features = subject.make_features(batch)
    _sum_terms(head.loss(features, subject.make_view(batch))).backward()  # type: ignore[no-untyped-call]
    for level in head.in_levels:
        gradient = features[level].grad
        subject.require(
            gradient is not None and bool(gradient.ne(0).any()),
            f"no gradient of the loss reaches level {level}, so the backbone does not learn from "
            "it; drop the level from `in_levels` or use it",
        )
        assert gradient is not None
        subject.require(
            bool(gradient.isfinite().all()),
            f"the gradient at level {level} is not finite",
        )
    for name, parameter in head.named_parameters():
        subject.require(
            not parameter.requires_grad or parameter.grad is not None,
            f"parameter {name} does not affect the loss and would never be trained",
        )


def check_images_without_objects(subject: HeadUnderTest) -> str | None:
    """Require finite losses and gradients on images that contain no objects."""
    if not subject.uses_default_targets:
        return "the targets come from the argument `targets`"

    def make_empty_target(
        size: tuple[int, int], num_classes: int, generator: torch.Generator
    ) -> Target:
        return random_target(size, num_classes, generator, objects=0)

    head, batch = subject.build(training=True), subject.make_batch(targets=make_empty_target)
    features = subject.make_features(batch)
    with subject.report_failures("loss on images without objects"):
        terms = head.loss(features, subject.make_view(batch))
        _require_terms(subject, terms, "images without objects")
        _sum_terms(terms).backward()  # type: ignore[no-untyped-call]
    for level in head.in_levels:
        gradient = features[level].grad
        subject.require(
            gradient is None or bool(gradient.isfinite().all()),
            f"the gradient at level {level} is not finite on images without objects",
        )
    return None


def check_unannotated_images(subject: HeadUnderTest) -> None:
    """Require that unannotated images do not change the loss of the others."""
    sizes = (*IMAGE_SIZES, (50, 96))
    mixed = subject.make_batch(image_sizes=sizes, annotated=(True, False, True))
    fields = subject.task.required_fields
    positions = mixed.find_annotated(fields)
    subject.require(
        positions == (0, 2),
        f"the second of three images is not annotated, so the positions of images with the fields "
        f"{fields} must be (0, 2), got {positions}; check `required_fields` of the task",
    )
    full = subject.make_batch(image_sizes=sizes)
    features = subject.make_features(mixed)
    annotated_features = {level: values[[0, 2]] for level, values in features.items()}
    head = subject.build(training=True)
    with subject.report_failures("loss on a batch with an image that is not annotated"):
        got = head.loss(annotated_features, subject.make_view(mixed, positions))
    expected = subject.build(training=True).loss(
        annotated_features, subject.make_view(full, (0, 2))
    )
    _require_equal(
        subject,
        got,
        expected,
        "an image that is not annotated must not change the loss of the other images",
    )


def check_loss_additivity(subject: HeadUnderTest) -> None:
    """Require that the sums and counts of a batch equal those of its images added up."""
    head, batch = subject.build(training=False), subject.make_batch()
    features = subject.make_features(batch)
    batch_terms = head.loss(features, subject.make_view(batch))
    sums: dict[str, LossTerm] = {}
    for i in range(len(batch)):
        image_features = {level: values[i : i + 1] for level, values in features.items()}
        for name, term in head.loss(image_features, subject.make_view(batch, [i])).items():
            old = sums.get(name, LossTerm(torch.zeros(()), torch.zeros(())))
            sums[name] = LossTerm(old.sum + term.sum, old.count + term.count)
    _require_equal(
        subject,
        batch_terms,
        sums,
        "sums and counts of a batch must equal the totals over its images, in eval mode, so that "
        "accumulation and several processes give the same mean",
        tolerance=1e-3,
    )


def check_loss_seeds(subject: HeadUnderTest) -> None:
    """Require that the loss draws its randomness from `view.seeds` alone."""
    batch = subject.make_batch()
    features, view = subject.make_features(batch), subject.make_view(batch)
    head = subject.build(training=True)
    first = head.loss(features, view)
    torch.manual_seed(12345)
    second = subject.build(training=True).loss(features, view)
    torch.manual_seed(54321)
    again = head.loss(features, view)
    rule = "the loss differs between two calls on the same batch; draw randomness from `view.seeds`"
    _require_equal(subject, second, first, rule)
    _require_equal(subject, again, first, rule)


def check_bfloat16(subject: HeadUnderTest) -> None:
    """Require finite losses and outputs under bf16 autocast."""
    head, batch = subject.build(training=True), subject.make_batch()
    features = subject.make_features(batch)
    with subject.report_failures("bf16 autocast"), torch.autocast("cpu", torch.bfloat16):
        lower = {level: values.bfloat16() for level, values in features.items()}
        terms = head.loss(lower, subject.make_view(batch))
        raw = head(lower)
    _require_terms(subject, terms, "bf16 features")
    for name, value in raw.items():
        subject.require(
            not value.is_floating_point() or bool(value.isfinite().all()),
            f"raw output {name!r} is not finite under bf16 autocast",
        )
    with subject.report_failures("backward under bf16 autocast"):
        _sum_terms(terms).backward()  # type: ignore[no-untyped-call]


def _sum_terms(terms: Mapping[str, LossTerm]) -> Tensor:
    return torch.stack([term.mean() for term in terms.values()]).sum()


def _require_terms(subject: HeadUnderTest, terms: Any, input_description: str) -> None:
    subject.require(
        isinstance(terms, dict)
        and len(terms) > 0
        and all(isinstance(term, LossTerm) for term in terms.values()),
        f"loss must return a dict of name -> LossTerm, but on {input_description} it returned "
        f"{terms!r:.80}",
    )
    for name, term in terms.items():
        for part, value in (("sum", term.sum), ("count", term.count)):
            subject.require(
                isinstance(value, Tensor) and value.ndim == 0,
                f"the {part} of loss term {name!r} must be a scalar tensor, on "
                f"{input_description} it is {value!r:.80}",
            )
            subject.require(
                bool(value.isfinite()) and value.dtype not in (torch.float16, torch.bfloat16),
                f"the {part} of loss term {name!r} must be finite and of full precision, on "
                f"{input_description} it is {value.detach().item()} ({value.dtype})",
            )
        subject.require(
            term.sum.requires_grad,
            f"the sum of loss term {name!r} must carry a gradient, even if it is 0; on "
            f"{input_description} it is detached from the features",
        )
        subject.require(
            not term.count.requires_grad and float(term.count.detach()) >= 0,
            f"the count of loss term {name!r} must be at least 0 and carry no gradient, on "
            f"{input_description} it is {float(term.count.detach())}",
        )


def _require_equal(
    subject: HeadUnderTest,
    got: Mapping[str, LossTerm],
    expected: Mapping[str, LossTerm],
    rule: str,
    *,
    tolerance: float = 1e-5,
) -> None:
    subject.require(
        set(got) == set(expected),
        f"{rule}: the terms are {sorted(got)} instead of {sorted(expected)}",
    )
    for name, term in got.items():
        for part in ("sum", "count"):
            values = [getattr(loss_term, part).detach() for loss_term in (term, expected[name])]
            one, other = map(float, values)
            subject.require(
                abs(one - other) <= tolerance * max(1.0, abs(other)),
                f"{rule}: the {part} of {name!r} is {one:.6g} instead of {other:.6g}",
            )
