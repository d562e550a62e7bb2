"""A run at several scales that was killed ends with the weights of one that was not."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.sampling.epoch_sampler import EpochSampler
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.state.progress import TrainingProgress
from resnet_tasks.training.train_step import TrainStep
from tests.support.half_bright import RIGHT_HALF, write_split
from tests.support.interrupting import killed_at

OPTIONS = TrainingRecipe(
    epochs=3,
    batch_size=1,
    precision="fp32",
    device="cpu",
    evaluate_every=0,
    warmup=0.0,
    checkpoint_minutes=1e-9,
)


def images(folder: Path) -> CocoDataset:
    write_split(folder / "a.json", dict.fromkeys("123", RIGHT_HALF), size=(64, 64))
    file = read_coco(folder / "a.json")
    sampler = EpochSampler(scales=(1.0, 1.5, 2.0))
    return CocoDataset([file], categories=file.categories, epoch_sampler=sampler)


def test_a_resumed_run_draws_the_same_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = images(tmp_path)
    learn = TrainStep.run
    sizes: list[tuple[int, int]] = []

    def watched(
        self: TrainStep, group: list[Batch], position: TrainingProgress
    ) -> dict[str, float]:
        sizes.extend(batch.padded_size for batch in group)
        return learn(self, group, position)

    monkeypatch.setattr(TrainStep, "run", watched)

    def train(name: str, *, resume: bool = False) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        backbone = ResNet("test_resnet")
        head = UNet(backbone.specs, ("half",), {"decoder_channels": (16, 8, 8, 8, 8)})
        model = TaskModel(backbone, {"scene": head})
        console = Console(file=io.StringIO())
        out = tmp_path / name
        finetune(model, data, None, OPTIONS, out=out, resume=resume, console=console)
        return model.state_dict()

    whole = train("whole")
    drawn = list(sizes)
    assert len(drawn) == 9
    assert len(set(drawn)) > 1
    assert set(drawn) <= {(64, 64), (96, 96), (128, 128)}
    sizes.clear()
    with killed_at(4):
        train("parts")
    parts = train("parts", resume=True)
    assert sizes == drawn
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
