"""Two trained runs of every plugin: the head in the README, and the examples."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from resnet_tasks.cli import app
from tests.support.paths import ROOT

TRUST = "--trust-plugins"


@dataclass(frozen=True)
class Plugin:
    """A plugin with the part of a recipe that uses it.

    Attributes:
        name: Name of the plugin and of its file.
        code: Text of the file.
        head: Entry of the head in the recipe.
        metric: Main metric of the head.
        pyramid: Shared pyramid of the recipe.
        epochs: Number of epochs of the first run; the second one has 1.
    """

    name: str
    code: str
    head: dict[str, object]
    metric: str
    pyramid: dict[str, object] | None = None
    epochs: int = 1


def read_readme_head() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        if '@register_head("tiny_fcn")' in block
    )
    return block


def read_example(name: str) -> str:
    return (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")


PLUGINS = {
    "tiny_fcn": Plugin(
        "tiny_fcn", read_readme_head(), {"type": "tiny_fcn", "background": True}, "mIoU"
    ),
    "centernet_head": Plugin(
        "centernet_head",
        read_example("centernet_head"),
        {"type": "centernet", "options": {"detections_per_image": 30, "score_threshold": 0.001}},
        "AP",
        pyramid={"channels": 64},
        epochs=60,
    ),
    "count_task": Plugin("count_task", read_example("count_task"), {"type": "counter"}, "MAE"),
}


@dataclass(frozen=True)
class TrainedPlugin:
    """Two runs of a plugin on the same data.

    Attributes:
        plugin: The plugin.
        root: Folder with the plugin, its data and its runs.
        run: Run with the plugin's number of epochs.
        other: Run with one epoch.
    """

    plugin: Plugin
    root: Path
    run: Path
    other: Path

    @property
    def images(self) -> Path:
        return self.root / "cells" / "images" / "train"


def call(*arguments: object) -> str:
    """Output of a command that must succeed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{arguments}: {result.output}{result.exception}"
    return result.output


@pytest.fixture(scope="session", params=PLUGINS)
def trained(request: pytest.FixtureRequest, draw_cells: Callable[..., Path]) -> TrainedPlugin:
    """The first run learns its four images, which are evaluated too."""
    plugin = PLUGINS[request.param]
    root = draw_cells(train=4, val=1, size=(96, 128))
    (root / f"{plugin.name}.py").write_text(plugin.code, encoding="utf-8")
    runs = []
    for seed, epochs in enumerate((plugin.epochs, 1)):
        recipe = {
            "plugins": [f"{plugin.name}.py"],
            "data": {
                "root": "cells",
                "train": [{"annotations": "train.json"}],
                "val": [{"annotations": "train.json"}],
                "allow_leaks": True,
            },
            "backbone": {"name": "resnet10t", "weights": "none"},
            "heads": {"mine": plugin.head},
            "training": {
                "epochs": epochs,
                "batch_size": 4,
                "learning_rate": 2e-3,
                "precision": "fp32",
                "device": "cpu",
                "evaluate_every": 0,
                "seed": seed,
            },
        }
        if plugin.pyramid is not None:
            recipe["pyramid"] = plugin.pyramid
        path = root / f"recipe{seed}.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        runs.append(root / f"run{seed}")
        printed = call("finetune", path, TRUST, "--data-root", root, "--out", runs[-1])
        assert f"mine/{plugin.metric}" in printed
    return TrainedPlugin(plugin, root, *runs)
