"""Two heads on one backbone against two single-task models: time, parameters and memory.

    python -m benchmarks multitask                      # ResNet-18, 50 and 101 at 480 x 640
    python -m benchmarks multitask --quick              # a tiny net on a tiny image: does it run?

The models are objects (`faster_rcnn` for boxes, `mask_rcnn` for boxes and masks) and pixels
(`unet`, or `--pixels fpn`), each alone, both on one backbone (with `--pyramid` also on one
pyramid), and the backbone alone. They alternate in one process, for a forward pass and for a
training step (loss, backward pass, SGD). There are three goals. Both heads together take at most
the time of the two single-task models minus 90 % of the time of one backbone. They have exactly one
backbone fewer in parameters. The peak memory of a training step is at most 0.85 of the sum of the
two models. Weights are random, which only affects the number of proposals. Options set the
proposals of RPN and RoI to the same number in all models.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.harness import side_by_side
from benchmarks.harness.measurement import BenchmarkRow, finish_report
from benchmarks.harness.model_pairs import (
    make_inference,
    make_model_parser,
    make_training_step,
    parse_options,
)
from benchmarks.harness.side_by_side import (
    SURFACES,
    THINGS,
    Work,
    generate_street_batch,
    measure_medians,
    measure_peaks,
    require_close,
)
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import DataError
from resnet_tasks.heads.base import HEADS, Head
from resnet_tasks.layers.feature_pyramid import FeaturePyramid
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.devices import resolve_device
from resnet_tasks.structures.evaluation import ABSENT
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.samples import Batch

SPARED = 0.9
"""Minimum saving by sharing the backbone, as a fraction of the time of one backbone."""
MEMORY_GOAL = 0.85
OBJECTS = {"faster_rcnn": "boxes", "mask_rcnn": "boxes + masks"}
"""Type of a head -> kinds of its predictions."""


@dataclass(frozen=True)
class MultitaskMeasurement:
    """Measurement of one kind of work of one net at one precision.

    Attributes:
        backbone: Name of the ResNet.
        objects: Type of the head that detects objects.
        precision: `fp32`, `bf16` or `fp16`.
        work: Kind of work: `forward` or `training step`.
        seconds: Model -> median seconds; `backbone` is the backbone alone.
        memory: Model -> peak bytes in addition to parameters and earlier tensors.
        runs: Model -> seconds of every run.
    """

    backbone: str
    objects: str
    precision: str
    work: str
    seconds: dict[str, float]
    memory: dict[str, int]
    runs: dict[str, list[float]]

    @property
    def ratio(self) -> float:
        """Time of both heads on one backbone over the time of the two single-task models."""
        return self.seconds["both"] / (self.seconds["boxes"] + self.seconds["pixels"])

    @property
    def spared(self) -> float:
        """Saved time over the time of the backbone alone; the goal is 0.9."""
        alone = self.seconds["boxes"] + self.seconds["pixels"]
        return (alone - self.seconds["both"]) / self.seconds["backbone"]

    @property
    def memory_ratio(self) -> float:
        """Peak memory of both heads on one backbone over the sum of the two single-task models."""
        return self.memory["both"] / (self.memory["boxes"] + self.memory["pixels"])


def build_model(
    name: str, pixels: str, heads: Sequence[str], *, pyramid: bool, objects: str = "faster_rcnn"
) -> TaskModel:
    """Build a model with the heads `boxes`, `pixels`, or both.

    Args:
        name: Name of the ResNet.
        pixels: Type of the head `pixels`.
        heads: Names of the heads.
        pyramid: Whether the heads share one pyramid.
        objects: Type of the head `boxes`.
    """
    torch.manual_seed(0)
    backbone = ResNet(name)
    levels = {level: spec for level, spec in backbone.specs.items() if level != "C1"}
    shared = FeaturePyramid(levels, 256) if pyramid else None
    specs = {**backbone.specs, **(shared.specs if shared else {})}
    makers: dict[str, Callable[[], Head]] = {
        "boxes": lambda: HEADS.get(objects)(specs, THINGS),
        "pixels": lambda: HEADS.get(pixels)(specs, SURFACES),
    }
    # The dataset's categories are the surfaces; the first of them are also the things in boxes.
    absent_labels = (ABSENT,) * (len(SURFACES) - len(THINGS))
    tables = {"boxes": LabelTable(THINGS, (*range(len(THINGS)), *absent_labels))}
    built_heads = {head_name: makers[head_name]() for head_name in heads}
    return TaskModel(backbone, built_heads, label_tables=tables, pyramid=shared)


def make_workloads(
    models: Mapping[str, TaskModel], backbone: ResNet, batch: Batch, precision: str, kind: str
) -> dict[str, Work]:
    """Make model -> callable for one forward or training step; `backbone` is the backbone alone."""
    device = batch.images.device
    images = next(iter(models.values())).normalize(
        batch.images, [geometry.input_size for geometry in batch.geometries]
    )

    def make_loss(model: TaskModel) -> Callable[[], Tensor]:
        return lambda: model.compute_total_loss(model(batch, mode="loss"))

    def make_raw_forward(model: TaskModel) -> Work:
        return lambda: model(batch, mode="raw")

    if kind == "forward":
        forwards = {
            name: make_inference(make_raw_forward(model), device, precision)
            for name, model in models.items()
        }
        return {**forwards, "backbone": make_inference(lambda: backbone(images), device, precision)}
    steps = {
        name: make_training_step(model, make_loss(model), device, precision)
        for name, model in models.items()
    }
    return {
        **steps,
        "backbone": make_training_step(
            backbone, _BackboneLoss(backbone, images), device, precision
        ),
    }


class _BackboneLoss:
    """Loss of the backbone alone, which costs no time: it injects constant gradients."""

    def __init__(self, backbone: ResNet, images: Tensor) -> None:
        self._backbone = backbone
        self._images = images
        self._gradients: list[Tensor] = []

    def __call__(self) -> Tensor:
        levels = list(self._backbone(self._images).values())
        if [level.dtype for level in levels] != [gradient.dtype for gradient in self._gradients]:
            self._gradients = [torch.full_like(level, 1 / level.numel()) for level in levels]
        total: Tensor = _InjectGradients.apply(*levels, *self._gradients)
        return total


class _InjectGradients(torch.autograd.Function):
    """Function that returns 0 and sets the gradient of each level to a given tensor.

    The arguments are all levels, then a gradient for each of them.
    """

    @staticmethod
    def forward(ctx: Any, *levels_and_gradients: Tensor) -> Tensor:
        ctx.gradients = levels_and_gradients[len(levels_and_gradients) // 2 :]
        return torch.zeros((), device=ctx.gradients[0].device)

    @staticmethod
    def backward(ctx: Any, *_of_total: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.gradients, *(None for _ in ctx.gradients))


def require_same_outputs(models: Mapping[str, TaskModel], batch: Batch) -> str:
    """Require that a head gives the same outputs alone and next to another head.

    The weights of the model with both heads are copied to the single-task models.

    Raises:
        DataError: If the outputs differ.
    """
    both_model = models["both"]
    expected = both_model.compute_outputs(batch)
    max_difference = 0.0
    for name in ("boxes", "pixels"):
        state = {
            key: value
            for key, value in both_model.state_dict().items()
            if key in models[name].state_dict()
        }
        models[name].load_state_dict(state)
        for field, value in models[name].compute_outputs(batch)[name].items():
            output = expected[name][field]
            max_difference = max(
                max_difference, require_close(f"{name}/{field} of both", output, value, 1e-4)
            )
    return f"outputs {max_difference:.1g} apart"


def measure_backbone(
    name: str, objects: str, settings: argparse.Namespace, device: torch.device
) -> tuple[list[MultitaskMeasurement], dict[str, int], str]:
    """Measure one backbone with one type of head for objects.

    Returns:
        Measurements, parameters per model and agreement of outputs.
    """
    heads_by_model = {"boxes": ("boxes",), "pixels": ("pixels",), "both": ("boxes", "pixels")}
    models = {
        key: build_model(name, settings.pixels, heads, pyramid=settings.pyramid, objects=objects)
        for key, heads in heads_by_model.items()
    }
    parameters = {key: _count_parameters(model) for key, model in models.items()}
    backbone = ResNet(name)
    parameters["backbone"] = _count_parameters(backbone)
    for module in (*models.values(), backbone):
        module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    has_masks = objects == "mask_rcnn"
    size = tuple(settings.size)
    batch = generate_street_batch(size, settings.batch, has_masks=has_masks).to(device)
    agreement = require_same_outputs(models, batch)
    _require_one_backbone_fewer(models["both"], parameters)
    measurements = []
    for precision in settings.precisions:
        for kind in ("forward", "training step"):
            for model in (*models.values(), backbone):
                model.train(kind != "forward")
            workloads = make_workloads(models, backbone, batch, precision, kind)
            seconds, runs = measure_medians(workloads, device, settings.repeats, settings.clock)
            measurements.append(
                MultitaskMeasurement(
                    name, objects, precision, kind, seconds, measure_peaks(workloads, device), runs
                )
            )
    return measurements, parameters, agreement


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _require_one_backbone_fewer(both_model: TaskModel, parameters: Mapping[str, int]) -> None:
    """Require that both heads together save exactly the parameters of the shared parts.

    Raises:
        DataError: If the number of saved parameters differs.
    """
    shared = parameters["backbone"] + (
        _count_parameters(both_model.pyramid) if both_model.pyramid else 0
    )
    num_saved = parameters["boxes"] + parameters["pixels"] - parameters["both"]
    if num_saved != shared:
        raise DataError(
            f"two heads on one backbone have {num_saved:,} parameters fewer than two models, but "
            f"the shared parts have {shared:,}"
        )


def build_table(measurements: Sequence[MultitaskMeasurement], title: str) -> Table:
    """Build a table of times in ms, savings by sharing, and share of memory, with the goals."""
    table = Table(title=title)
    columns = ("net", "precision", "work", "boxes", "pixels", "both", "backbone", "both / sum")
    for column in (*columns, f"backbones saved (>= {SPARED})", f"memory (<= {MEMORY_GOAL})"):
        table.add_column(column, justify="right")
    for measurement in measurements:
        times = (f"{1000 * measurement.seconds[key]:.1f}" for key in columns[3:7])
        table.add_row(
            measurement.backbone,
            measurement.precision,
            measurement.work,
            *times,
            f"{measurement.ratio:.2f}",
            f"{measurement.spared:.2f}",
            f"{measurement.memory_ratio:.2f}",
        )
    return table


def _parse_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_model_parser("multitask", __doc__, size=(480, 640), batch=2)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50", "resnet101"])
    parser.add_argument("--objects", nargs="+", choices=tuple(OBJECTS), default=tuple(OBJECTS))
    parser.add_argument("--pixels", choices=["unet", "fpn"], default="unet")
    parser.add_argument(
        "--pyramid", action="store_true", help="share one pyramid; for --pixels fpn"
    )
    return parse_options(parser, argv, backbones=["resnet10t"], batch=1, precisions=["fp32"])


def build_rows(
    measurements: Sequence[MultitaskMeasurement], agreement: str, settings: argparse.Namespace
) -> list[BenchmarkRow]:
    """Build rows that compare both heads on one backbone with the limits that the goals set."""
    height, width = settings.size
    rows = []
    for measurement in measurements:
        separate_seconds = measurement.seconds["boxes"] + measurement.seconds["pixels"]
        allowed_seconds = separate_seconds - SPARED * measurement.seconds["backbone"]
        work = (
            f"{OBJECTS[measurement.objects]} + pixels on one {measurement.backbone}, "
            f"{measurement.work}, {settings.batch} x {height}x{width}, {measurement.precision}"
        )
        peer = f"ours: two models less {SPARED} of a backbone"
        both_seconds = measurement.seconds["both"]
        rows.append(
            BenchmarkRow(
                work, "same precision", peer, both_seconds, allowed_seconds, "s", 1.0, agreement
            )
        )
        if measurement.work == "training step":
            memory = measurement.memory["boxes"] + measurement.memory["pixels"]
            both_memory, goal, name = measurement.memory["both"], MEMORY_GOAL, f"{work}: memory"
            rows.append(
                BenchmarkRow(
                    name, "same precision", "ours: two models", both_memory, memory, "bytes", goal
                )
            )
    return rows


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmark, print the numbers and return the report."""
    settings = _parse_options(argv)
    device = resolve_device(settings.device)
    console = Console(width=max(Console().width, 140))  # the table has ten columns
    content: dict[str, Any] = {
        **side_by_side.collect_environment(device),
        "size": list(settings.size),
        "batch": settings.batch,
        "clock": settings.clock,
        "pixels": settings.pixels,
        "shared pyramid": settings.pyramid,
        "repeats": settings.repeats,
        "parameters": {objects: {} for objects in settings.objects},
        "measured": [],
    }
    rows: list[BenchmarkRow] = []
    for objects, name in product(settings.objects, settings.backbones):
        measurements, parameters, agreement = measure_backbone(name, objects, settings, device)
        rows += build_rows(measurements, agreement, settings)
        height, width = settings.size
        console.print(
            build_table(
                measurements,
                f"{OBJECTS[objects]} + pixels, {settings.batch} x {height} x {width}, {device}, "
                "milliseconds",
            )
        )
        num_saved = parameters["boxes"] + parameters["pixels"] - parameters["both"]
        console.print(
            f"{name}: {parameters['both'] / 1e6:.2f} M parameters together, {num_saved / 1e6:.2f} "
            f"M fewer than two models; the backbone has {parameters['backbone'] / 1e6:.2f} M"
        )
        content["parameters"][objects][name] = parameters
        content["measured"] += [
            {**asdict(measurement), "ratio": measurement.ratio, "spared": measurement.spared}
            for measurement in measurements
        ]
    return finish_report(content, rows, settings)
