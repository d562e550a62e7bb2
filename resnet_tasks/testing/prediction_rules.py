"""Rules on the outputs that a head's task declares, and on the predictions decoded from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resnet_tasks.structures.samples import Batch
from resnet_tasks.testing.head_under_test import HeadUnderTest


def check_outputs(subject: HeadUnderTest) -> None:
    """Require exactly the outputs that the task declares, with their axes and types."""
    task, batch = subject.task, subject.make_batch()
    outputs = _compute_outputs(subject, batch)
    declared = ", ".join(task.outputs)
    subject.require(
        isinstance(outputs, dict)
        and set(outputs) == set(task.outputs)
        and all(isinstance(output, Tensor) for output in outputs.values()),
        f"outputs must return a dict of exactly the tensors that the task {task.name} declares "
        f"({declared}), got {_describe_outputs(outputs)}",
    )
    height, width = batch.padded_size
    lengths = {"B": len(batch), "K": len(subject.classes), "H": height, "W": width}
    for name, axes in task.outputs.items():
        shape = tuple(outputs[name].shape)
        # The first axis with a new letter defines the letter's length.
        if len(shape) == len(axes):
            for axis, length in zip(axes, shape, strict=True):
                lengths.setdefault(str(axis), axis if isinstance(axis, int) else length)
        subject.require(
            len(shape) == len(axes)
            and all(lengths[str(axis)] == length for axis, length in zip(axes, shape, strict=True)),
            f"output {name!r} must have the axes ({', '.join(map(str, axes))}) that the task "
            f"declares, where {_describe_lengths(lengths)}, got shape {shape}",
        )
        dtype = task.output_types.get(name, "float32")
        subject.require(
            outputs[name].dtype == getattr(torch, dtype),
            f"output {name!r} must be {dtype}, got {outputs[name].dtype}",
        )
    sizes = [geometry.input_size for geometry in batch.geometries]
    problem = task.find_output_problem(outputs, sizes, len(subject.classes))
    subject.require(problem is None, f"{problem}")
    for name, output in _compute_outputs(subject, batch, seed=1).items():
        subject.require(
            output.shape == outputs[name].shape,
            f"the shape of output {name!r} must depend on the sizes of the inputs only, but other "
            f"features of the same size change {tuple(outputs[name].shape)} to "
            f"{tuple(output.shape)}",
        )


def check_predictions(subject: HeadUnderTest) -> None:
    """Require that the outputs decode into one valid prediction per image."""
    task, batch = subject.task, subject.make_batch()
    outputs = _compute_outputs(subject, batch)
    with subject.report_failures(f"decode of the task {task.name}"):
        predictions: Any = task.decode(outputs, batch.geometries)
    subject.require(
        isinstance(predictions, list) and len(predictions) == len(batch),
        f"decode must return a list of one prediction per image ({len(batch)}), got "
        f"{predictions!r:.80}",
    )
    for prediction, geometry in zip(predictions, batch.geometries, strict=True):
        subject.require(
            isinstance(prediction, task.prediction),
            f"the task {task.name} must decode into {task.prediction.__name__}, got "
            f"{type(prediction).__name__}",
        )
        problem = prediction.find_problem(geometry.original_size, len(subject.classes))
        subject.require(problem is None, f"{problem}")


def _compute_outputs(subject: HeadUnderTest, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    head = subject.build(training=False)
    sizes = torch.tensor([geometry.input_size for geometry in batch.geometries])
    with subject.report_failures("outputs"), torch.no_grad():
        return head.outputs(head(subject.make_features(batch, seed)), sizes)


def _describe_outputs(outputs: Any) -> str:
    if not isinstance(outputs, Mapping):
        return type(outputs).__name__
    return ", ".join(f"{name} ({type(output).__name__})" for name, output in outputs.items())


def _describe_lengths(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} is {length}" for axis, length in lengths.items() if axis.isalpha())
