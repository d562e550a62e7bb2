"""Two heads on one backbone against the two single-task models: time, parameters and memory.

    python -m benchmarks multitask                      # ResNet-18, 50 and 101 at 480 x 640
    python -m benchmarks multitask --quick              # a tiny net on a tiny picture: does it run?

Boxes (`faster_rcnn`) and pixels (`unet`, or `--pixels fpn`), each alone, both on one backbone, with
`--pyramid` on one pyramid too, and the backbone by itself. In one process all of them take turns,
forward and training step (loss, backward, SGD). The goal: both together take no more than the two
single-task models one after the other minus 90 % of one backbone's own time; exactly one backbone
fewer in parameters; peak memory of a training step at most 0.85 of the sum of the two. Weights are
random, which changes neither work nor memory but for the number of proposals: that of RPN and RoI
is fixed by options and the same in all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import side_by_side
from benchmarks.measuring import Row, finish
from benchmarks.model_pairs import inference, model_parser, parsed, training_step
from benchmarks.side_by_side import SURFACES, THINGS, Work, medians, peaks, require_close, street
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import DataError
from resnet_tasks.heads.base import HEADS, Head
from resnet_tasks.heads.faster_rcnn import FasterRCNN
from resnet_tasks.layers.feature_pyramid import FeaturePyramid
from resnet_tasks.model import TaskModel, default_device
from resnet_tasks.structures import ABSENT, Batch, LabelTable

SPARED = 0.9
"""Share of one backbone's own time that sharing it should spare."""
MEMORY_GOAL = 0.85


@dataclass(frozen=True)
class Measured:
    """One kind of work of one net at one precision.

    Attributes:
        seconds: Model -> median seconds; `backbone` by itself.
        memory: Model -> peak bytes beyond parameters and what was there before.
        runs: Model -> seconds of every run.
    """

    backbone: str
    precision: str
    work: str
    seconds: dict[str, float]
    memory: dict[str, int]
    runs: dict[str, list[float]]

    @property
    def ratio(self) -> float:
        """Both heads on one backbone over the two single-task models."""
        return self.seconds["both"] / (self.seconds["boxes"] + self.seconds["pixels"])

    @property
    def spared(self) -> float:
        """What sharing saved, in backbones' own times; the goal is 0.9."""
        alone = self.seconds["boxes"] + self.seconds["pixels"]
        return (alone - self.seconds["both"]) / self.seconds["backbone"]

    @property
    def memory_ratio(self) -> float:
        """Peak memory of both over the sum of the two."""
        return self.memory["both"] / (self.memory["boxes"] + self.memory["pixels"])


def build(name: str, pixels: str, heads: Sequence[str], *, pyramid: bool) -> TaskModel:
    """A model with some of the heads `boxes` and `pixels`."""
    torch.manual_seed(0)
    backbone = ResNet(name)
    levels = {level: spec for level, spec in backbone.specs.items() if level != "C1"}
    shared = FeaturePyramid(levels, 256) if pyramid else None
    specs = {**backbone.specs, **(shared.specs if shared else {})}
    makers: dict[str, Callable[[], Head]] = {
        "boxes": lambda: FasterRCNN(specs, THINGS),
        "pixels": lambda: HEADS.get(pixels)(specs, SURFACES),
    }
    # Categories of the scenes: the surfaces, of which the first are the things in boxes.
    beyond = (ABSENT,) * (len(SURFACES) - len(THINGS))
    tables = {"boxes": LabelTable(THINGS, (*range(len(THINGS)), *beyond))}
    made = {each: makers[each]() for each in heads}
    return TaskModel(backbone, made, label_tables=tables, pyramid=shared)


def works(
    models: Mapping[str, TaskModel], backbone: ResNet, batch: Batch, precision: str, kind: str
) -> dict[str, Work]:
    """Model -> one forward or one training step; `backbone`: that part by itself."""
    device = batch.images.device
    images = next(iter(models.values())).normalise(
        batch.images, [each.input_size for each in batch.geometries]
    )

    def loss_of(model: TaskModel) -> Callable[[], Tensor]:
        return lambda: model.total_loss(model(batch, mode="loss"))

    def raw_of(model: TaskModel) -> Work:
        return lambda: model(batch, mode="raw")

    if kind == "forward":
        made = {name: inference(raw_of(each), device, precision) for name, each in models.items()}
        return {**made, "backbone": inference(lambda: backbone(images), device, precision)}
    steps = {
        name: training_step(each, loss_of(each), device, precision) for name, each in models.items()
    }
    return {
        **steps,
        "backbone": training_step(backbone, _Levels(backbone, images), device, precision),
    }


class _Levels:
    """A loss of the backbone alone that takes no time of its own: its gradients are given ones."""

    def __init__(self, backbone: ResNet, images: Tensor) -> None:
        self._backbone = backbone
        self._images = images
        self._gradients: list[Tensor] = []

    def __call__(self) -> Tensor:
        levels = list(self._backbone(self._images).values())
        if [each.dtype for each in levels] != [each.dtype for each in self._gradients]:
            self._gradients = [torch.full_like(each, 1 / each.numel()) for each in levels]
        total: Tensor = _WithGradients.apply(*levels, *self._gradients)
        return total


class _WithGradients(torch.autograd.Function):
    """0, whose gradients of the first half of its arguments are the other half."""

    @staticmethod
    def forward(ctx: Any, *levels_and_gradients: Tensor) -> Tensor:
        ctx.gradients = levels_and_gradients[len(levels_and_gradients) // 2 :]
        return torch.zeros((), device=ctx.gradients[0].device)

    @staticmethod
    def backward(ctx: Any, *_of_total: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.gradients, *(None for _ in ctx.gradients))


def require_same_outputs(models: Mapping[str, TaskModel], batch: Batch) -> str:
    """Makes sure that a head gives the same beside another one as alone; the weights are shared.

    Raises:
        DataError: If not.
    """
    both = models["both"]
    wanted = both.predict_raw(batch)
    apart = 0.0
    for name in ("boxes", "pixels"):
        own = {
            key: value
            for key, value in both.state_dict().items()
            if key in models[name].state_dict()
        }
        models[name].load_state_dict(own)
        for field, value in models[name].predict_raw(batch)[name].items():
            found = wanted[name][field]
            apart = max(apart, require_close(f"{name}/{field} of both", found, value, 1e-4))
    return f"outputs {apart:.1g} apart"


def measure(
    name: str, settings: argparse.Namespace, device: torch.device
) -> tuple[list[Measured], dict[str, int], str]:
    """All numbers of one backbone, the parameters of its models, and how near their outputs are."""
    chosen = {"boxes": ("boxes",), "pixels": ("pixels",), "both": ("boxes", "pixels")}
    models = {
        key: build(name, settings.pixels, heads, pyramid=settings.pyramid)
        for key, heads in chosen.items()
    }
    parameters = {key: _parameters(each) for key, each in models.items()}
    backbone = ResNet(name)
    parameters["backbone"] = _parameters(backbone)
    for module in (*models.values(), backbone):
        module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = street(tuple(settings.size), settings.batch).to(device)
    agreement = require_same_outputs(models, batch)
    _require_one_backbone_fewer(models["both"], parameters)
    found = []
    for precision in settings.precisions:
        for kind in ("forward", "training step"):
            for model in (*models.values(), backbone):
                model.train(kind != "forward")
            made = works(models, backbone, batch, precision, kind)
            seconds, runs = medians(made, device, settings.repeats)
            found.append(Measured(name, precision, kind, seconds, peaks(made, device), runs))
    return found, parameters, agreement


def _parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def _require_one_backbone_fewer(both: TaskModel, parameters: Mapping[str, int]) -> None:
    """Makes sure that both have the parameters of the two less those that they share.

    Raises:
        DataError: If not.
    """
    shared = parameters["backbone"] + (_parameters(both.pyramid) if both.pyramid else 0)
    fewer = parameters["boxes"] + parameters["pixels"] - parameters["both"]
    if fewer != shared:
        raise DataError(f"both have {fewer:,} parameters fewer than apart; shared are {shared:,}")


def table_of(found: Sequence[Measured], title: str) -> Table:
    """Times in ms, what sharing spares, and the share of memory, with the goals."""
    table = Table(title=title)
    columns = ("net", "precision", "work", "boxes", "pixels", "both", "backbone", "both / sum")
    for column in (*columns, f"backbones spared (>= {SPARED})", f"memory (<= {MEMORY_GOAL})"):
        table.add_column(column, justify="right")
    for each in found:
        times = (f"{1000 * each.seconds[key]:.1f}" for key in columns[3:7])
        table.add_row(
            each.backbone,
            each.precision,
            each.work,
            *times,
            f"{each.ratio:.2f}",
            f"{each.spared:.2f}",
            f"{each.memory_ratio:.2f}",
        )
    return table


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = model_parser("multitask", __doc__, size=(480, 640), batch=2)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50", "resnet101"])
    parser.add_argument("--pixels", choices=["unet", "fpn"], default="unet")
    parser.add_argument("--pyramid", action="store_true", help="a shared one; for --pixels fpn")
    return parsed(parser, argv, backbones=["resnet10t"], batch=1, precisions=["fp32"])


def rows_from(found: Sequence[Measured], agreement: str, settings: argparse.Namespace) -> list[Row]:
    """Both heads on one backbone against what the goals allow them."""
    height, width = settings.size
    rows = []
    for each in found:
        alone = each.seconds["boxes"] + each.seconds["pixels"]
        allowed = alone - SPARED * each.seconds["backbone"]
        work = f"boxes + pixels on one {each.backbone}, {each.work}, {settings.batch} x "
        work += f"{height}x{width}, {each.precision}"
        peer = f"ours: two models less {SPARED} of a backbone"
        both = each.seconds["both"]
        rows.append(Row(work, "same precision", peer, both, allowed, "s", 1.0, agreement))
        if each.work == "training step":
            memory = each.memory["boxes"] + each.memory["pixels"]
            taken, goal, name = each.memory["both"], MEMORY_GOAL, f"{work}: memory"
            rows.append(
                Row(name, "same precision", "ours: two models", taken, memory, "bytes", goal)
            )
    return rows


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Measures, prints and returns the numbers."""
    settings = _options(argv)
    device = default_device(settings.device)
    console = Console(width=max(Console().width, 140))  # the table has ten columns
    content: dict[str, Any] = {
        **side_by_side.conditions(device),
        "size": list(settings.size),
        "batch": settings.batch,
        "pixels": settings.pixels,
        "shared pyramid": settings.pyramid,
        "repeats": settings.repeats,
        "parameters": {},
        "measured": [],
    }
    rows: list[Row] = []
    for name in settings.backbones:
        found, parameters, agreement = measure(name, settings, device)
        rows += rows_from(found, agreement, settings)
        height, width = settings.size
        console.print(
            table_of(found, f"{settings.batch} x {height} x {width}, {device}, milliseconds")
        )
        fewer = parameters["boxes"] + parameters["pixels"] - parameters["both"]
        console.print(
            f"{name}: {parameters['both'] / 1e6:.2f} M parameters together, "
            f"{fewer / 1e6:.2f} M fewer than apart; the backbone has "
            f"{parameters['backbone'] / 1e6:.2f} M"
        )
        content["parameters"][name] = parameters
        content["measured"] += [
            {**asdict(each), "ratio": each.ratio, "spared": each.spared} for each in found
        ]
    return finish(content, rows, settings)
