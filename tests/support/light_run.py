"""Settings under which the quickstart trains in seconds, and a run with them on a few cells."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from data_tools.converters.synthetic import make_cells
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.runs.run import Run
from resnet_tasks.training.finetune_recipe import finetune_recipe

LIGHT = (
    "backbone.name=resnet10t",
    "training.precision=fp32",
    "training.device=cpu",
    "heads.objects.options.pyramid_channels=16",
    "heads.objects.options.box_head_channels=32",
)
ONE_EPOCH = (
    *LIGHT,
    "training.epochs=1",
    "training.batch_size=4",
    "heads.objects.options.score_threshold=0.0",
)


def trained_on_cells(
    root: Path, *overrides: str, train: int, val: int, size: tuple[int, int]
) -> Run:
    """Draws cells into `root/cells` and trains the quickstart on them for an epoch: `root/run`."""
    make_cells(root / "cells", train=train, val=val, seed=5, size=size)
    recipe = load_recipe("quickstart", (*ONE_EPOCH, *overrides))
    made = finetune_recipe(
        recipe, out=root / "run", data_root=root, console=Console(file=io.StringIO(), width=120)
    )
    assert made is not None
    return made
