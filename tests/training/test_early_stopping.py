"""Runs that end because nothing gets better any more, with and without a kill on the way."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from safetensors.torch import load_file

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import RunError
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.evaluation import EvaluationRecipe
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder.checkpoint import load_checkpoint
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.training.checkpointing import CheckpointManager
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.state.progress import TrainingProgress
from resnet_tasks.training.validation import Validation
from tests.support.interrupting import KilledError
from tests.support.shapes import CLASSES, Shapes

NAME = "scene/mIoU"
OPTIONS = TrainingRecipe(
    epochs=8, batch_size=2, precision="fp32", device="cpu", patience=2, learning_rate=1e-3
)


def model() -> TaskModel:
    torch.manual_seed(3)
    backbone = ResNet("test_resnet")
    options = {"decoder_channels": (16, 8, 8, 8, 8)}
    return TaskModel(backbone, {"scene": UNet(backbone.specs, ("none", *CLASSES), options)})


def script(
    monkeypatch: pytest.MonkeyPatch, values: list[float | None], *, lower: bool = False
) -> None:
    """Makes evaluations give values, one after the other."""
    given = iter(values)

    def measure(_: Validation) -> dict[str, Metric]:
        return {NAME: Metric(next(given), lower_is_better=lower)}

    monkeypatch.setattr(Validation, "measure", measure)


def train(out: Path, options: TrainingRecipe = OPTIONS, *, resume: bool = False) -> str:
    """Trains; what was said."""
    said = io.StringIO()
    data = Shapes(2, (32, 64))
    console = Console(file=said, width=300)
    finetune(model(), data, data, options, out=out, resume=resume, console=console)
    return said.getvalue()


def position(out: Path) -> dict[str, Any]:
    values: dict[str, Any] = load_checkpoint(out / "checkpoints/last")[2]["position"]
    return values


def judged(out: Path) -> list[int]:
    """The epochs after which a run was evaluated."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["epoch"] for line in lines if line["event"] == "evaluation"]


def ends(out: Path) -> list[str]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["reason"] for line in lines if line["event"] == "end"]


def rates(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["learning_rate"] for line in lines if line["event"] == "step"]


def test_two_evaluations_without_a_better_one_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Equal is not better; the best is that of epoch 3.
    script(monkeypatch, [0.1, 0.1, 0.3, 0.2, 0.3, 0.9, 0.9, 0.9])
    said = train(tmp_path / "early")
    reason = (
        "scene/mIoU has not improved on 0.3000 in 2 evaluations (training.patience), after epoch 5 "
        "of 8"
    )
    assert judged(tmp_path / "early") == [1, 2, 3, 4, 5]
    assert ends(tmp_path / "early") == [reason]
    assert f"stopped early: {reason}" in said
    found = position(tmp_path / "early")
    assert (found["epoch"], found["best"], found["stale"], found["judged"]) == (5, 0.3, 2, 5)
    # The schedule is that of all eight epochs: ending early stretches nothing.
    script(monkeypatch, [0.1] * 8)
    train(tmp_path / "whole", OPTIONS.model_copy(update={"patience": None}))
    assert ends(tmp_path / "whole") == ["all epochs are done"]
    assert rates(tmp_path / "early") == rates(tmp_path / "whole")[:5]

    # Asked to go on, an ended run stays ended.
    train(tmp_path / "early", resume=True)
    assert position(tmp_path / "early") == found


def test_lower_can_be_better_and_no_value_is_not_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, [0.5, 0.4, None, 0.3, 0.4, None, 0.1, 0.1], lower=True)
    train(tmp_path)
    assert judged(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert position(tmp_path)["best"] == 0.3


def test_a_run_without_any_value_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [None] * 8)
    assert "has not improved on no value in 2 evaluations" in train(tmp_path)


@pytest.mark.parametrize("moment", ["before the evaluation", "after it"])
def test_a_killed_run_stops_where_the_uninterrupted_one_does(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [0.1, 0.3, 0.2, 0.25, 0.9, 0.9, 0.9, 0.9]
    script(monkeypatch, values)
    train(tmp_path / "whole")

    save = CheckpointManager.save_last
    at = (3, 2) if moment == "before the evaluation" else (3, 3)

    def dies(self: CheckpointManager, position: TrainingProgress) -> None:
        save(self, position)
        if (position.epoch, position.judged) == at:
            raise KilledError

    script(monkeypatch, values)
    monkeypatch.setattr(CheckpointManager, "save_last", dies)
    with pytest.raises(KilledError):
        train(tmp_path / "parts")
    monkeypatch.setattr(CheckpointManager, "save_last", save)
    train(tmp_path / "parts", resume=True)
    assert judged(tmp_path / "parts") == [1, 2, 3, 4]
    one, other = (position(tmp_path / name) | {"seconds": 0} for name in ("whole", "parts"))
    assert one == other
    for name in ("last", "best"):
        weights = [
            load_model(tmp_path / each / "checkpoints" / name) for each in ("whole", "parts")
        ]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_each_head_keeps_the_weights_of_its_own_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of epochs 1 to 3, Dice is best in the first and the main metric in the second."""
    values = iter([(0.9, 0.1), (0.5, 0.4), (0.7, 0.3)])

    def measure(_: Validation) -> dict[str, Metric]:
        dice, iou = next(values)
        return {"scene/Dice": Metric(dice), NAME: Metric(iou)}

    saved: list[str | None] = []
    save_best = CheckpointManager.save_best

    def record(self: CheckpointManager, head: str | None = None) -> None:
        saved.append(head)
        save_best(self, head)

    monkeypatch.setattr(Validation, "measure", measure)
    monkeypatch.setattr(CheckpointManager, "save_best", record)
    data, console = Shapes(2, (32, 64)), Console(file=io.StringIO())
    finetune(
        model(),
        data,
        data,
        OPTIONS.model_copy(update={"epochs": 3, "patience": None}),
        out=tmp_path,
        evaluation=EvaluationRecipe(best="scene/Dice", best_per_head=True),
        console=console,
    )
    assert saved == [None, "scene", "scene"]
    names = ("best", "best-scene", "last")
    best, head_best, last = (load_model(tmp_path / "checkpoints" / name) for name in names)
    assert any(not torch.equal(best[key], head_best[key]) for key in best)
    assert any(not torch.equal(last[key], head_best[key]) for key in best)
    assert position(tmp_path)["best_by_head"] == {"scene": 0.4}
    assert position(tmp_path)["best"] == 0.9


def load_model(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_what_patience_needs() -> None:
    with pytest.raises(ValidationError, match=r"patience is 3, but evaluate_every is 0"):
        TrainingRecipe(patience=3, evaluate_every=0)


def test_patience_needs_something_to_evaluate_on(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"training\.patience is 2, but there is no validation"):
        finetune(model(), Shapes(2, (32, 64)), None, OPTIONS, out=tmp_path)
