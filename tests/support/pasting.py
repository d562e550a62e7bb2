"""One of some processes that train on pasted objects: `python pasting.py DATA OUT WORKERS`.

Leaves the weights in `OUT/run`, and in `OUT/RANK.json` what the process was given in each step:
the sum of its pixels, its boxes and its seed, by image.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.finetune_recipe import finetune_recipe
from resnet_tasks.training.state.progress import TrainingProgress
from resnet_tasks.training.train_step import TrainStep
from tests.support.light_run import LIGHT

SETTINGS = (
    *LIGHT,
    "training.epochs=2",
    "training.batch_size=2",
    "training.checkpoint_minutes=0.000001",
    "training.evaluate_every=0",
    "evaluation.resamples=0",
    "data.copy_paste={p: 1.0, fraction: 1.0}",
    "augment=[{HorizontalFlip: {p: 0.5}}]",
)
Drawn = dict[str, list[object]]


def drawn(group: Sequence[Batch], update: int) -> Drawn:
    """What a step was given, by number of the step and image."""
    found: Drawn = {}
    for batch in group:
        for image, target, image_id, seed in zip(
            batch.images, batch.targets, batch.image_ids, batch.seeds, strict=True
        ):
            boxes = None if target.boxes is None else target.boxes.tolist()
            found[f"{update} {image_id}"] = [float(image.double().sum()), boxes, seed]
    return found


def main() -> None:
    torch.set_num_threads(1)
    data, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    seen: Drawn = {}
    learn = TrainStep.run

    def noted(
        self: TrainStep, group: Sequence[Batch], position: TrainingProgress
    ) -> dict[str, float]:
        if not all(batch.is_stand_in for batch in group):
            seen.update(drawn(group, position.updates))
        return learn(self, group, position)

    TrainStep.run = noted  # type: ignore[method-assign]
    recipe = load_recipe("quickstart", (*SETTINGS, f"data.workers={workers}"))
    finetune_recipe(
        recipe, out=out / "run", data_root=data, console=Console(file=io.StringIO(), width=200)
    )
    (out / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
