"""The loop: it learns, evaluates, stops when asked, and tells the story."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.data import Dataset

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.errors import RunError
from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.heads.rcnn.mask_rcnn import MaskRCNN
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder.checkpoint import load_checkpoint
from resnet_tasks.structures.samples import Sample
from resnet_tasks.training import validation
from resnet_tasks.training.finetune import finetune
from tests.support.interrupting import asked_to_stop_at
from tests.support.shapes import LIGHT_DETECTOR

Build = Callable[..., TaskModel]
QUIET: dict[str, Any] = {"console": Console(file=io.StringIO())}
OPTIONS = TrainingRecipe(
    epochs=2, batch_size=2, learning_rate=1e-3, precision="fp32", device="cpu", warmup=0.1, ema=0.9
)


def test_four_images_are_overfitted(
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


@pytest.mark.slow
def test_masks_of_four_images_are_overfitted(
    draw_cells: Callable[..., Path], tmp_path: Path
) -> None:
    root = draw_cells(train=4, val=1, size=(128, 128))
    cells = read_coco(root / "cells/train.json")
    images = CocoDataset([cells], categories=cells.categories)
    torch.manual_seed(3)
    backbone = ResNet("resnet18", weights="none")
    head_options = {
        **LIGHT_DETECTOR,
        "pyramid_channels": 64,
        "roi_positive_fraction": 0.5,
        "mask_head_channels": (64, 64, 64),
        "mask_predictor_channels": 64,
    }
    head = MaskRCNN(backbone.specs, cells.categories.names, head_options)
    model = TaskModel(backbone, {"cells": head})
    options = TrainingRecipe(
        epochs=240,
        batch_size=4,
        learning_rate=4e-3,
        weight_decay=0.0,
        evaluate_every=0,
        device="cpu",
    )
    finetune(model, images, None, options, out=tmp_path, **QUIET)
    metrics = evaluate(model, images, precision="fp32").metrics
    assert metrics["cells/mask_AP"].value >= 0.90
    assert metrics["cells/mask_AP75"].value == pytest.approx(1.0, abs=0.01)
    assert metrics["cells/box_AP"].value >= 0.90
    assert set(metrics["cells/mask_AP"].per_class) == {"granular", "striated", "lobed"}


def test_an_evaluation_that_was_cut_off_is_made_again(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any, **__: Any) -> Any:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(validation, "evaluate", dies)
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


def test_a_stop_request_finishes_the_step_and_writes(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    with asked_to_stop_at(0):
        finetune(tiny_model(), shapes, None, OPTIONS, out=tmp_path, **QUIET)
    assert load_checkpoint(tmp_path / "checkpoints/last")[2]["position"]["updates"] == 1


def test_second_run_into_the_same_folder_is_refused(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    once = OPTIONS.model_copy(update={"epochs": 1})
    finetune(tiny_model(), shapes, None, once, out=tmp_path, **QUIET)
    with pytest.raises(RunError, match="already has checkpoints"):
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
