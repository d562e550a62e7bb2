"""What one run learned, the next begins with; both say so on the console and in their logs."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file

from data_tools.converters.synthetic import make_cells
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.training.finetune_recipe import finetune_recipe
from tests.support.consoles import heard, quiet

LIGHT = (
    "backbone.name=resnet10t",
    "backbone.weights=none",
    "backbone.frozen_stages=0",
    "training.epochs=1",
    "training.precision=fp32",
    "training.device=cpu",
    "heads={scene: {type: fpn}}",
    "evaluation.best=scene/mIoU",
)


def _begun_with(run: Path) -> object:
    first = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()[0]
    return json.loads(first)["weights"]


def test_the_backbone_of_a_run_begins_the_next_one(tmp_path: Path) -> None:
    make_cells(tmp_path / "data" / "cells", train=4, val=2, seed=5, size=(96, 96))
    first, second = tmp_path / "first", tmp_path / "second"
    first_console = quiet()
    recipe = load_recipe("quickstart", (*LIGHT, "training.ema=0.5"))
    finetune_recipe(recipe, out=first, data_root=tmp_path / "data", console=first_console)
    assert _begun_with(first) is None
    assert "weights:" not in heard(first_console)

    # Nothing of the backbone moves: it must end as the averaged weights of the first run.
    still = (f"backbone.weights={first}", "backbone.frozen_stages=5", "heads={scene: {type: unet}}")
    recipe = load_recipe("quickstart", (*LIGHT, *still, "training.ema=0"))
    console = quiet()
    finetune_recipe(recipe, out=second, data_root=tmp_path / "data", console=console)
    began = load_file(first / "checkpoints" / "last" / "ema.safetensors")
    ended = load_file(second / "checkpoints" / "last" / "model.safetensors")
    parts = [key for key in ended if key.startswith("backbone.")]
    assert all(began[key].equal(ended[key]) for key in parts)
    assert began["mean"].equal(ended["mean"])

    logged = _begun_with(second)
    assert isinstance(logged, dict)
    assert logged["source"] == f"run {first} (last, averaged weights)"
    assert logged["license"] == "your own (trained from random weights)"
    assert (logged["matched"], logged["missing"]) == (len(parts), [])
    assert all(name.startswith("heads.scene.") for name in logged["unexpected"])
    text = heard(console)
    assert f"weights: {len(parts)} tensors matched, 0 missing, " in text
    assert "weights: not used: heads.scene." in text
