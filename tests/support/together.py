"""One of several processes that train one tiny model: `python together.py OUT ACCUMULATION`.

With `die`, process 1 dies in the middle of training, without a word. With `unfreeze`, the backbone
is frozen at first and joins in two steps. With `patience`, the run ends early for want of anything
better. With the name of a balancing, that weighs the heads' losses.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import ResnetTasksError
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.layers.norms import batch_to_group_norm
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe, UnfreezeRecipe
from resnet_tasks.structures.samples import Batch, Sample
from resnet_tasks.structures.targets import Target
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.state.balancing import LOSS_BALANCERS
from resnet_tasks.training.state.progress import TrainingProgress
from resnet_tasks.training.train_step import TrainStep
from tests.support.shapes import CLASSES, LIGHT_DETECTOR, Shapes

UNFREEZING = {
    "unfreeze": (
        UnfreezeRecipe(epoch=1, frozen_stages=3),
        UnfreezeRecipe(epoch=2, frozen_stages=0),
    ),
}
IMPATIENT = {"evaluate_every": 1, "patience": 1}


class PartlyAnnotated(Shapes):
    """Boxes on some images, pixels on others, nothing at all on one."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        known = sample.target
        kinds = (
            known,
            replace(known, semantic=None),
            Target(semantic=known.semantic),
            Target(),
        )
        return replace(sample, target=kinds[index % 4])


def model(frozen_stages: int = 0) -> TaskModel:
    torch.manual_seed(3)
    backbone = ResNet("resnet10t", weights="unloaded", frozen_stages=frozen_stages)
    heads = {
        "objects": FasterRCNN(backbone.specs, CLASSES, LIGHT_DETECTOR),
        "scene": UNet(
            backbone.specs,
            ("background", *CLASSES),
            {"decoder_channels": (32, 16, 16, 16, 16), "loss": "cross_entropy+dice"},
        ),
    }
    made = TaskModel(backbone, heads)
    batch_to_group_norm(made, lambda channels: math.gcd(8, channels))
    return made


def main() -> None:
    torch.set_num_threads(1)
    # Where fp32 is rounded otherwise, sooner or later a proposal is chosen in the place of another.
    torch.set_default_dtype(torch.float64)
    out, accumulation = Path(sys.argv[1]), int(sys.argv[2])
    options = TrainingRecipe(
        epochs=7,
        batch_size=3,  # 7 images: the last batch holds one, so that a process has none
        accumulation=accumulation,
        optimizer="sgd",
        learning_rate=0.005,
        precision="fp32",
        device="cpu",
        ema=0.9,
        evaluate_every=0,
    )
    mode = sys.argv[3] if len(sys.argv) > 3 else ""
    if mode == "unfreeze":
        options = options.model_copy(update=UNFREEZING)
    if mode == "patience":
        options = options.model_copy(update=IMPATIENT)
    if mode in LOSS_BALANCERS:
        options = options.model_copy(update={"balancing": mode})
    if mode == "die":
        learn = TrainStep.run

        def dies(
            self: TrainStep, group: list[Batch], position: TrainingProgress
        ) -> dict[str, float]:
            if position.updates == 2 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            return learn(self, group, position)

        TrainStep.run = dies
    try:
        metrics = finetune(
            model(5 if mode == "unfreeze" else 0).double(),
            PartlyAnnotated(7),
            PartlyAnnotated(5),
            options,
            out=out,
            console=Console(stderr=True),
            workers=0,
        )
    except ResnetTasksError as error:
        raise SystemExit(f"told: {error}") from None
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({name: each.value for name, each in metrics.items()}))


if __name__ == "__main__":
    main()
