"""Rules on the padding of a batch, on which outputs and predictions must not depend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.comparison import OutputDifference, Tolerance
from resnet_tasks.testing.head_under_test import HeadUnderTest
from resnet_tasks.testing.random_batches import random_features

SMALL_SIZES = ((17, 23), (30, 11))
"""Sizes of images that fill a small part of a batch of 64 x 96."""
LARGE_PADDED_SIZE = (512, 512)
"""(H, W) of a batch in which a small image leaves most cells of every level in the padding."""
MARGIN = 256
"""Distance from the image, in pixels, beyond which the value of a cell must not matter. The
receptive field of a few convolutions on C5 is smaller."""
EQUAL = Tolerance(box=1e-3, score=1e-5, unmatched=0.0, pixels=0.0)


def check_padding(subject: HeadUnderTest) -> str | None:
    """Require that outputs lie in the image and that predictions do not depend on the padding."""
    head, batch = subject.build(training=False), subject.make_batch()
    sizes = torch.tensor(SMALL_SIZES)
    with subject.report_failures("outputs of small images"), torch.no_grad():
        outputs = head.outputs(head(subject.make_features(batch)), sizes)
    problem = subject.task.find_output_problem(outputs, SMALL_SIZES, len(subject.classes))
    subject.require(
        problem is None,
        f"the padding must be cropped with `sizes`: on images of 17 x 23 and 30 x 11 pixels in a "
        f"batch of 64 x 96, {problem}",
    )
    _require_cropped_maps(subject, outputs, batch.padded_size)
    if _is_whole_image(subject):
        _require_masked_cells(subject)
    return None


def _is_whole_image(subject: HeadUnderTest) -> bool:
    """Return whether all outputs are values of the whole image, without positions."""
    return all(set(axes) <= {"B", "K"} for axes in subject.task.outputs.values())


def _require_cropped_maps(
    subject: HeadUnderTest, outputs: Mapping[str, Tensor], padded_size: tuple[int, int]
) -> None:
    """Require the same predictions for any values of maps in the padding."""
    maps = [name for name, axes in subject.task.outputs.items() if axes[-2:] == ("H", "W")]
    if not maps:
        return
    changed = dict(outputs)
    for name in maps:
        values = outputs[name].clone()
        for image, (height, width) in enumerate(SMALL_SIZES):
            outside = torch.ones(padded_size, dtype=torch.bool)
            outside[:height, :width] = False
            noise = 100 * torch.randn(values[image][..., outside].shape)
            values[image][..., outside] = noise.to(values.dtype)
        changed[name] = values
    geometries = [Geometry(size, size) for size in SMALL_SIZES]
    with subject.report_failures(f"decode of the task {subject.task.name}"):
        pairs: Any = zip(
            subject.task.decode(outputs, geometries),
            subject.task.decode(changed, geometries),
            strict=True,
        )
        for expected, got in pairs:
            difference = OutputDifference()
            expected.compare(got, EQUAL, difference)
            subject.require(
                difference.is_within(EQUAL),
                f"predictions of the task {subject.task.name} must not depend on the padding of "
                "its maps; crop them with `Geometry.map_to_original`",
            )


def _require_masked_cells(subject: HeadUnderTest) -> None:
    """Require the same values of an image for any features far away in its padding."""
    head = subject.build(training=False)
    sizes = torch.tensor([(64, 96)])
    features = {
        level: values.detach()
        for level, values in random_features(
            subject.specs, batch_size=1, padded_size=LARGE_PADDED_SIZE
        ).items()
    }
    changed = {}
    for level, values in features.items():
        copy = values.clone()
        first_row, first_column = (
            -(-(int(side) + MARGIN) // subject.specs[level].stride) for side in sizes[0]
        )
        copy[:, :, first_row:] = 5.0
        copy[:, :, :, first_column:] = 5.0
        changed[level] = copy
    with subject.report_failures("outputs of a small image in a large batch"), torch.no_grad():
        expected = head.outputs(head(features), sizes)
        got = head.outputs(head(changed), sizes)
    for name, value in expected.items():
        gap = float((value.float() - got[name].float()).abs().max())
        subject.require(
            gap <= 1e-4,
            f"output {name!r} must not depend on features in the padding, {MARGIN} pixels or more "
            f"beyond the image, but changes by {gap:.3g} with them; pool only cells inside `sizes`",
        )
