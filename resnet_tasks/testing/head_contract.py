"""Contract test for heads, built-in or plug-in.

`check_head(MyHead)` builds the head on random features, prints one line per rule and raises an
`AssertionError` that names the first broken rule. It needs neither a backbone nor data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from resnet_tasks.heads.base import HEADS, Head, HeadOptions
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.tasks.built_in import BUILT_IN_TASKS
from resnet_tasks.testing.annotation_rules import (
    check_ignore_regions,
    check_unknown_image_labels,
    check_void_pixels,
)
from resnet_tasks.testing.forward_rules import (
    check_declarations,
    check_forward_determinism,
    check_forward_structure,
    check_missing_levels,
    check_saving_and_loading,
)
from resnet_tasks.testing.head_under_test import HeadUnderTest
from resnet_tasks.testing.loss_rules import (
    check_bfloat16,
    check_gradients,
    check_images_without_objects,
    check_loss_additivity,
    check_loss_seeds,
    check_loss_terms,
    check_unannotated_images,
)
from resnet_tasks.testing.padding_rules import check_padding
from resnet_tasks.testing.prediction_rules import check_outputs, check_predictions
from resnet_tasks.testing.random_batches import TargetMaker, random_target, resnet_specs
from resnet_tasks.testing.tracing_rules import check_onnx_operators, check_traced_outputs

Rule = Callable[[HeadUnderTest], str | None]
"""Function that raises an `AssertionError` if a head breaks a rule of the contract.

It returns None, or the reason why the rule does not apply to the head.
"""

RULES: tuple[Rule, ...] = (
    check_declarations,
    check_missing_levels,
    check_forward_structure,
    check_forward_determinism,
    check_loss_terms,
    check_gradients,
    check_images_without_objects,
    check_unannotated_images,
    check_loss_additivity,
    check_loss_seeds,
    check_outputs,
    check_predictions,
    check_padding,
    check_void_pixels,
    check_unknown_image_labels,
    check_ignore_regions,
    check_traced_outputs,
    check_onnx_operators,
    check_bfloat16,
    check_saving_and_loading,
)
"""Rules of the contract, in the order in which `check_head` applies them."""


@dataclass(frozen=True)
class CheckedRule:
    """Rule of the contract that a head satisfies, or that does not apply to it.

    Attributes:
        name: Short name of the rule.
        description: Requirement of the rule.
        skipped: Reason why the rule does not apply to the head; None if it was checked.
    """

    name: str
    description: str
    skipped: str | None = None

    def __str__(self) -> str:
        if self.skipped is None:
            return f"ok       {self.name}: {self.description}"
        return f"skipped  {self.name}: {self.skipped}"


def check_head(
    head: type[Head] | str,
    *,
    options: HeadOptions | Mapping[str, Any] | None = None,
    classes: Sequence[str] = ("a", "b", "c"),
    specs: Mapping[str, FeatureSpec] | None = None,
    targets: TargetMaker | None = None,
    quiet: bool = False,
) -> tuple[CheckedRule, ...]:
    """Apply every rule of the contract to a head, on random features of two small images.

    Args:
        head: Head class, or its registered name.
        options: Options of the head.
        classes: Class names of the head.
        specs: Channels and stride of the offered levels; default: those of a narrow ResNet.
        targets: Function that makes the target of an image; default: `random_target`. A custom
            function is needed if the task reads its fields from `Target.extra`. The rule on images
            without objects is then skipped.
        quiet: Whether to print nothing.

    Returns:
        The rules, in the order in which they were checked.

    Raises:
        AssertionError: If a rule is broken; the message states the rule and the actual result.
    """
    assert BUILT_IN_TASKS  # the import registers the built-in tasks
    head_class = HEADS.get(head) if isinstance(head, str) else head
    subject = HeadUnderTest(
        head_class,
        resnet_specs(16) if specs is None else specs,
        tuple(classes),
        options,
        random_target if targets is None else targets,
        uses_default_targets=targets is None,
    )
    checked = []
    with torch.random.fork_rng(devices=[]):
        for rule in RULES:
            torch.manual_seed(0)
            name = rule.__name__.removeprefix("check_").replace("_", " ")
            description = (rule.__doc__ or "").partition("\n")[0].removesuffix(".")
            description = description.removeprefix("Require ").removeprefix("that ")
            checked.append(CheckedRule(name, description, rule(subject)))
            if not quiet:
                print(checked[-1])
    return tuple(checked)
