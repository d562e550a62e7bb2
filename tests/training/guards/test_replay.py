"""Steps that were not finite: stopped at or left out, kept, and done again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from typer.testing import CliRunner

from data_tools.converters.synthetic import make_cells
from resnet_tasks.cli import app
from resnet_tasks.errors import NonFiniteLossError, RunError
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder.checkpoint import load_checkpoint
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.samples import Sample, collate
from resnet_tasks.structures.targets import Target
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.finetune_recipe import finetune_recipe
from resnet_tasks.training.guards.recorded_step import RecordedStep, read_replay, write_replay
from resnet_tasks.training.guards.replay import compute_gradient_norms, replay
from resnet_tasks.training.train_step import TrainStep
from tests.support.consoles import heard, quiet

Build = Callable[..., TaskModel]
OPTIONS = TrainingRecipe(epochs=1, batch_size=2, precision="fp32", device="cpu", ema=0.5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_stopped_step_is_kept_and_comes_again(
    tiny_model: Build, broken: Dataset[Sample], tmp_path: Path, accumulation: int
) -> None:
    options = OPTIONS.model_copy(update={"accumulation": accumulation})
    with pytest.raises(NonFiniteLossError) as caught:
        finetune(tiny_model(), broken, None, options, out=tmp_path, console=quiet())
    found = re.search(r"resnet-tasks replay (\S+)`;", str(caught.value))
    assert found is not None
    folder = Path(found.group(1))
    assert folder.parent == tmp_path / "replays"
    assert sorted(each.name for each in folder.iterdir()) == [
        "batch.safetensors",
        "model.safetensors",
        "replay.json",
    ]

    step, batches = read_replay(folder)
    assert 2 in [image_id for batch in batches for image_id in batch.image_ids]
    made = replay(folder, model=tiny_model())
    assert made.is_non_finite
    assert "2 (2.png)" in made.images
    assert {n for n, v in made.losses.items() if not math.isfinite(v)} == {
        n for n, v in step.losses.items() if not math.isfinite(v)
    }
    before = load_file(folder / "model.safetensors")  # holds no trace of the step
    assert all(each.isfinite().all() for each in before.values())


def test_losses_of_a_replay_equal_those_of_the_run_to_the_bit(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient that is said to be wrong, so that all losses are numbers."""
    norms = iter([torch.tensor(1.0), torch.tensor(math.inf)])
    monkeypatch.setattr(TrainStep, "clip_gradients", lambda _: next(norms))
    with pytest.raises(NonFiniteLossError, match="not finite at update 1"):
        finetune(tiny_model(), shapes, None, OPTIONS, out=tmp_path, console=quiet())
    made = replay(tmp_path / "replays" / "update-1", model=tiny_model())
    assert not made.is_non_finite
    assert made.losses == made.step.losses
    assert {"backbone.body", "heads.objects"} & made.norms.keys()
    assert all(value > 0 for name, value in made.norms.items() if name.startswith("heads"))


@pytest.mark.parametrize("balancing", ["fixed", "uncertainty"])
def test_the_gradient_of_a_replay_is_that_of_the_step(
    tiny_model: Build,
    shapes: Dataset[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    balancing: str,
) -> None:
    norms: list[dict[str, float]] = []

    def call_it_infinite(train_step: TrainStep) -> torch.Tensor:
        norms.append(compute_gradient_norms(train_step.model))
        return torch.tensor(math.inf)

    monkeypatch.setattr(TrainStep, "clip_gradients", call_it_infinite)
    options = OPTIONS.model_copy(update={"accumulation": 2, "balancing": balancing})
    with pytest.raises(NonFiniteLossError, match="not finite at update 0"):
        finetune(tiny_model(), shapes, None, options, out=tmp_path, console=quiet())
    made = replay(tmp_path / "replays" / "update-0", model=tiny_model())
    assert made.norms == pytest.approx(norms[0], rel=1e-6)


def test_a_skipped_step_leaves_no_trace_in_weights_and_norms(
    tiny_model: Build, broken: Dataset[Sample], tmp_path: Path
) -> None:
    console = quiet()
    options = OPTIONS.model_copy(update={"non_finite": "skip"})
    model = tiny_model()
    finetune(model, broken, None, options, out=tmp_path, console=console)
    assert all(each.isfinite().all() for each in model.state_dict().values())
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (skipped,) = [event for event in events if event["event"] == "skipped"]
    assert "2 (2.png)" in skipped["reason"]
    assert "was skipped" in heard(console)
    state = load_checkpoint(tmp_path / "checkpoints/last")[2]
    assert (state["position"]["skipped"], state["position"]["updates"]) == (1, 2)


def test_too_many_skipped_steps_end_the_run(
    tiny_model: Build, broken: Dataset[Sample], tmp_path: Path
) -> None:
    options = OPTIONS.model_copy(update={"non_finite": "skip", "epochs": 5})
    with pytest.raises(NonFiniteLossError, match=r"4 of \d+ steps were skipped.*at most 3 may"):
        finetune(tiny_model(), broken, None, options, out=tmp_path, console=quiet())
    assert len(list((tmp_path / "replays").iterdir())) == 3


def test_what_is_no_replay_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"replay\.json does not exist; pass a folder below"):
        read_replay(tmp_path)
    (tmp_path / "replay.json").write_text('{"format": 9, "batches": []}')
    with pytest.raises(RunError, match="newer version of resnet_tasks"):
        read_replay(tmp_path)


def test_replay_on_the_command_line_needs_nothing_but_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cells(tmp_path / "data" / "cells", train=2, val=1, size=(96, 96))
    settings = (
        *("backbone.name=resnet10t", "training.batch_size=2", "training.device=cpu"),
        *("heads.objects.options.pyramid_channels=16", "data.workers=0"),
    )

    monkeypatch.setattr(TrainStep, "clip_gradients", lambda _: torch.tensor(math.inf))
    with pytest.raises(NonFiniteLossError, match="not finite at update 0"):
        finetune_recipe(
            load_recipe("quickstart", settings),
            out=tmp_path / "run",
            data_root=tmp_path / "data",
            console=quiet(),
        )
    folder = (tmp_path / "run" / "replays" / "update-0").rename(tmp_path / "sent")

    result = CliRunner().invoke(app, ["replay", str(folder)])
    assert result.exit_code == 1, result.output  # the gradient was fine, and is
    assert "all values are finite this time" in result.output
    assert "heads.objects" in result.output

    batch = load_file(folder / "batch.safetensors")
    save_file({**batch, "0.images": batch["0.images"] * math.nan}, folder / "batch.safetensors")
    result = CliRunner().invoke(app, ["replay", str(folder / "replay.json")])
    assert result.exit_code == 0, result.output
    assert "a value is not finite again" in result.output


def test_masks_are_kept(tiny_model: Build, tmp_path: Path) -> None:
    bitmap = torch.tensor([[True, False, True]])
    masks = InstanceMasks.from_bitmaps([bitmap, None], [(2, 3), (0, 0)])
    geometry, image = Geometry((8, 8), (8, 8)), torch.zeros(3, 8, 8)
    samples = [Sample(image, geometry, i, "", Target(masks=m)) for i, m in enumerate((masks, None))]
    step = RecordedStep(0, 0, "fp32", False, 1, [], {}, "", [])
    folder = write_replay(tmp_path, "update-0", tiny_model(), [collate(samples)], step)
    assert folder is not None
    first, second = read_replay(folder)[1][0].targets
    assert first.masks is not None
    assert first.masks.windows.tolist() == [[2, 3, 5, 4], [0, 0, 0, 0]]
    assert first.masks.pixels.tolist() == [True, False, True]
    assert first.masks.annotated.tolist() == [True, False]
    assert second.masks is None
