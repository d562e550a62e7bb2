"""The loop: it learns, it resumes to the bit, it says what went wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.data import Dataset

from resnet_tasks.errors import NonFiniteLossError, RunError
from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema import TrainingRecipe
from resnet_tasks.structures import Geometry, Sample, Target
from resnet_tasks.training import finetune as module
from resnet_tasks.training.checkpoint import load_checkpoint
from resnet_tasks.training.finetune import Finetuning, Stopped, finetune

Build = Callable[..., TaskModel]
QUIET: dict[str, Any] = {"console": Console(file=io.StringIO())}
OPTIONS = TrainingRecipe(
    epochs=2, batch_size=2, learning_rate=1e-3, precision="fp32", device="cpu", warmup=0.1, ema=0.9
)


def test_four_pictures_are_overfitted(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    model = tiny_model("resnet18")
    options = TrainingRecipe(
        epochs=90,
        batch_size=4,
        learning_rate=2e-3,
        weight_decay=0.0,
        evaluate_every=0,
        device="cpu",
    )
    finetune(model, shapes, None, options, out=tmp_path, **QUIET)
    evaluation = evaluate(model, shapes, precision="fp32")
    metrics, protocols = evaluation.metrics, evaluation.protocols
    # Rounding to bf16 decides about overlaps of 0.9 and 0.95, a tenth of AP each and class.
    assert metrics["objects/AP"].value == pytest.approx(1.0, abs=0.1)
    assert metrics["objects/AP75"].value == pytest.approx(1.0, abs=0.01)
    assert metrics["scene/mIoU"].value == pytest.approx(1.0, abs=0.05)
    assert set(metrics["objects/AP"].per_class) == {"square", "disc"}
    assert set(protocols) == {"objects", "scene"}


def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(tiny_model(), shapes, shapes, OPTIONS, out=tmp_path / "whole", **QUIET)

    class KilledError(Exception):
        pass

    update = Finetuning._update

    def dies(self: Finetuning, group: Any) -> dict[str, float]:
        if self.position.updates == 3:
            raise KilledError
        return update(self, group)

    # A checkpoint after every step, then death in the middle of the second epoch.
    eager = OPTIONS.model_copy(update={"checkpoint_minutes": 1e-9})
    monkeypatch.setattr(Finetuning, "_update", dies)
    with pytest.raises(KilledError):
        finetune(tiny_model(), shapes, shapes, eager, out=tmp_path / "parts", **QUIET)
    monkeypatch.setattr(Finetuning, "_update", update)
    position = load_checkpoint(tmp_path / "parts/checkpoints/last")[2]["position"]
    assert (position["epoch"], position["batch"], position["updates"]) == (1, 1, 3)
    finetune(tiny_model(), shapes, shapes, OPTIONS, out=tmp_path / "parts", resume=True, **QUIET)

    whole, whole_ema, _ = load_checkpoint(tmp_path / "whole/checkpoints/last")
    parts, parts_ema, _ = load_checkpoint(tmp_path / "parts/checkpoints/last")
    assert whole_ema is not None
    assert parts_ema is not None
    for one, other in ((whole, parts), (whole_ema, parts_ema)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(whole[name], whole_ema[name]) for name in whole)


def test_an_evaluation_that_was_cut_off_is_made_again(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any, **__: Any) -> Any:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", dies)
        with pytest.raises(InterruptedError):
            finetune(tiny_model(), shapes, shapes, OPTIONS, out=tmp_path, **QUIET)
    assert not (tmp_path / "checkpoints/best").exists()
    finetune(tiny_model(), shapes, shapes, OPTIONS, out=tmp_path, resume=True, **QUIET)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["event"] == "evaluation"] == [1, 2]
    assert (tmp_path / "checkpoints/best").is_dir()
    # What is done is not done again.
    finetune(tiny_model(), shapes, shapes, OPTIONS, out=tmp_path, resume=True, **QUIET)
    assert (tmp_path / "log.jsonl").read_text().count('"evaluation"') == 2


def test_another_number_of_threads_is_told(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    once = OPTIONS.model_copy(update={"epochs": 1})
    finetune(tiny_model(), shapes, None, once, out=tmp_path, **QUIET)
    file = tmp_path / "checkpoints/last/state.pt"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "threads": 77}, file)
    console = Console(file=io.StringIO(), width=300)
    finetune(tiny_model(), shapes, None, once, out=tmp_path, resume=True, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "note: started with 77 threads" in said


def test_a_stop_request_finishes_the_step_and_writes(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Finetuning._update

    def asked(self: Finetuning, group: Any) -> dict[str, float]:
        self._stop = True
        return update(self, group)

    monkeypatch.setattr(Finetuning, "_update", asked)
    with pytest.raises(Stopped):
        finetune(tiny_model(), shapes, None, OPTIONS, out=tmp_path, **QUIET)
    assert load_checkpoint(tmp_path / "checkpoints/last")[2]["position"]["updates"] == 1


def test_accumulated_batches_equal_one_large_batch(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    """Batch norms in evaluation mode, so that pictures do not meet in the statistics."""
    gradients = []
    for batch_size, accumulation in ((4, 1), (1, 4)):
        model = tiny_model()
        options = OPTIONS.model_copy(
            update={
                "batch_size": batch_size,
                "accumulation": accumulation,
                "epochs": 1,
                "ema": 0.0,
                "clip_norm": None,
            }
        )
        work = Finetuning(
            model,
            shapes,
            None,
            options,
            out=tmp_path,
            evaluation=module.EvaluationRecipe(),
            **QUIET,
        )
        model.eval()
        work.journal.step = lambda *_: None  # type: ignore[method-assign]
        batches = list(module.make_loader(shapes, work._batches(0)))
        work._update(batches)
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    one, many = gradients
    assert one.keys() == many.keys()
    for name, gradient in one.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        assert ((gradient - many[name]).abs().max() / scale) < 1e-3, name


def test_non_finite_loss_names_pictures_and_losses(
    tiny_model: Build, broken: Dataset[Sample], tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteLossError) as caught:
        finetune(tiny_model(), broken, None, OPTIONS, out=tmp_path, **QUIET)
    message = str(caught.value)
    assert "2 (2.png)" in message
    assert "scene/cross_entropy" in message
    assert "learning_rate" in message


def test_second_run_into_the_same_folder_is_refused(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    once = OPTIONS.model_copy(update={"epochs": 1})
    finetune(tiny_model(), shapes, None, once, out=tmp_path, **QUIET)
    with pytest.raises(RunError, match="already holds checkpoints"):
        finetune(tiny_model(), shapes, None, once, out=tmp_path, **QUIET)


def test_log_and_console_tell_the_story(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    stream = io.StringIO()
    metrics = finetune(
        tiny_model(), shapes, shapes, OPTIONS, out=tmp_path, console=Console(file=stream, width=120)
    )
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "step"] == [
        "start",
        "evaluation",
        "evaluation",
        "end",
    ]
    steps = [line for line in lines if line["event"] == "step"]
    assert [step["update"] for step in steps] == [0, 1, 2, 3]
    assert set(steps[0]["losses"]) >= {"objects/rpn_box", "scene/cross_entropy"}
    assert lines[-2]["metrics"]["scene/mIoU"] == metrics["scene/mIoU"].value
    assert "epoch 2/2" in stream.getvalue()
    assert list((tmp_path / "tensorboard").iterdir())
    assert (tmp_path / "checkpoints/best/model.safetensors").is_file()


def test_resume_with_other_settings_names_them(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    once = OPTIONS.model_copy(update={"epochs": 1})
    finetune(tiny_model(), shapes, None, once, out=tmp_path, **QUIET)
    other = once.model_copy(update={"learning_rate": 0.5})
    with pytest.raises(RunError, match=r"training\.learning_rate was 0\.001, is 0\.5"):
        finetune(tiny_model(), shapes, None, other, out=tmp_path, resume=True, **QUIET)


def test_pictures_that_nobody_annotated_teach_nothing(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    """Not even weight decay moves the weights; boxes alone leave the other head as it was."""

    class Unlabelled(Dataset[Sample]):
        def __init__(self, *, boxes: bool) -> None:
            self.boxes = boxes

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Sample:
            sample = shapes[index]
            kept = replace(sample.target, semantic=None) if self.boxes else Target()
            return replace(sample, target=kept)

    for boxes in (False, True):
        model = tiny_model()
        before = {name: value.clone() for name, value in model.named_parameters()}
        folder = tmp_path / str(boxes)
        finetune(model, Unlabelled(boxes=boxes), None, OPTIONS, out=folder, **QUIET)
        moved = {
            name for name, value in model.named_parameters() if not torch.equal(value, before[name])
        }
        assert not any(name.startswith("heads.scene") for name in moved)
        assert any(name.startswith("heads.objects") for name in moved) == boxes


def test_a_single_value_per_channel_is_explained(tiny_model: Build, tmp_path: Path) -> None:
    class Small(Dataset[Sample]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Sample:
            target = Target(
                boxes=torch.tensor([[4.0, 4.0, 20.0, 20.0]]),
                labels=torch.tensor([0]),
                semantic=torch.zeros(32, 32, dtype=torch.int64),
            )
            return Sample(torch.rand(3, 32, 32), Geometry((32, 32), (32, 32)), index, "", target)

    options = OPTIONS.model_copy(update={"batch_size": 1})
    with pytest.raises(RunError, match=r"backbone\.norm=group"):
        finetune(tiny_model(), Small(), None, options, out=tmp_path, **QUIET)
