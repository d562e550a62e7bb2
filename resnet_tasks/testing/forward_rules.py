"""Rules on a head's declarations and raw outputs: names, ranks, determinism and state."""

from __future__ import annotations

from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from resnet_tasks.errors import HeadError
from resnet_tasks.testing.head_under_test import HeadUnderTest
from resnet_tasks.testing.random_batches import random_features


def check_declarations(subject: HeadUnderTest) -> None:
    """Require the name of a task, input levels and strict options on the class."""
    task = getattr(subject.head_class, "task", None)
    levels = getattr(subject.head_class, "in_levels", None)
    subject.require(isinstance(task, str), f"`task` must be the name of a task, got {task!r}")
    with subject.report_failures("find_task"):
        fields = subject.task.required_fields
    subject.require(
        len(fields) > 0,
        f"the task {subject.task.name} has no `required_fields`, so the head would learn from "
        "images without annotations",
    )
    subject.require(
        isinstance(levels, tuple) and len(levels) > 0,
        f"`in_levels` must be a tuple that names at least one level, got {levels!r}",
    )
    subject.require(
        subject.head_class.Options.model_config.get("extra") == "forbid",
        "`Options` must derive from HeadOptions, so that misspelled options are rejected",
    )


def check_missing_levels(subject: HeadUnderTest) -> None:
    """Require a `HeadError` from the constructor when any input level is missing."""
    with subject.report_failures("construction"):
        levels = subject.build(training=False).in_levels
    for level in levels:
        offered = {name: spec for name, spec in subject.specs.items() if name != level}
        try:
            subject.head_class(offered, subject.classes, subject.options)
        except HeadError:
            continue
        except Exception as error:
            raise AssertionError(
                f"head {subject.name}: without level {level} its constructor must raise HeadError, "
                f"but it raised {type(error).__name__}: {error}"
            ) from error
        raise AssertionError(
            f"head {subject.name}: it reads level {level} but can be built without it; its "
            "constructor must raise HeadError"
        )


def check_forward_structure(subject: HeadUnderTest) -> None:
    """Require the same output names, ranks and types for all batch and image sizes."""
    first_structure: dict[str, tuple[int, torch.dtype]] | None = None
    for training in (False, True):
        head = subject.build(training=training)
        for batch_size, size in ((1, (64, 96)), (2, (96, 64)), (3, (64, 64))):
            features = random_features(subject.specs, batch_size=batch_size, padded_size=size)
            with subject.report_failures(
                f"forward on {batch_size} images of {size[0]} x {size[1]}"
            ):
                raw = head(features)
            _require_tensors(subject, raw)
            for name, value in raw.items():
                subject.require(
                    value.ndim > 0 and len(value) == batch_size,
                    f"the first dimension of raw output {name!r} must be the batch ({batch_size}), "
                    f"got shape {tuple(value.shape)}",
                )
            structure = {name: (value.ndim, value.dtype) for name, value in raw.items()}
            first_structure = structure if first_structure is None else first_structure
            subject.require(
                structure == first_structure,
                "forward must return the same names, ranks and types for every input and in both "
                f"modes, got {first_structure} and {structure}",
            )


def check_forward_determinism(subject: HeadUnderTest) -> None:
    """Require equal outputs from two calls on the same features in eval mode."""
    head, features = subject.build(training=False), subject.make_features(subject.make_batch())
    first = head(features)
    torch.manual_seed(1)
    second = head(features)
    for name, value in first.items():
        subject.require(
            torch.equal(value, second[name]),
            f"raw output {name!r} differs between two calls on the same features in eval mode",
        )


def check_saving_and_loading(subject: HeadUnderTest) -> None:
    """Require equal outputs after a round trip of the state dict through safetensors."""
    batch = subject.make_batch()
    features = subject.make_features(batch)
    head = subject.build(training=True)
    # A training pass changes the statistics of norms, which must be saved too.
    head.loss(features, subject.make_view(batch))
    head.eval()
    tensors = {name: value.contiguous() for name, value in head.state_dict().items()}
    with subject.report_failures(
        "saving its state_dict as safetensors and loading it into a fresh head"
    ):
        loaded_tensors = safetensors.torch.load(safetensors.torch.save(tensors))
        fresh = subject.build(training=False, seed=99)
        fresh.load_state_dict(loaded_tensors)
    expected, got = head(features), fresh(features)
    for name, value in expected.items():
        subject.require(
            torch.equal(value, got[name]),
            f"raw output {name!r} changes when the state_dict is loaded into a fresh head; "
            "something that it depends on is neither a parameter nor a persistent buffer",
        )


def _require_tensors(subject: HeadUnderTest, raw: Any) -> None:
    subject.require(
        isinstance(raw, dict)
        and len(raw) > 0
        and all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in raw.items()
        ),
        f"forward must return a dict of name -> tensor, got {type(raw).__name__}: {raw!r:.80}",
    )
