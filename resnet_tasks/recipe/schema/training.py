"""Numbers of the training loop: optimizer, schedule, precision and checkpoints."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from resnet_tasks.recipe.schema.base import Fraction, Positive, RecipeModel


class UnfreezeRecipe(RecipeModel):
    """Epoch after which fewer stages of the backbone are frozen."""

    epoch: Annotated[int, Field(ge=1)] = Field(description="Number of epochs before it")
    frozen_stages: Annotated[int, Field(ge=0, le=4)] = Field(
        description="backbone.frozen_stages from then on"
    )


class TrainingRecipe(RecipeModel):
    """Numbers of the training loop; usable from Python without the other parts of a recipe."""

    epochs: Annotated[int, Field(ge=1)] = 30
    batch_size: Annotated[int, Field(ge=1)] = 8
    accumulation: Annotated[int, Field(ge=1)] = Field(1, description="Batches per optimizer step")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    backbone_lr_scale: Annotated[float, Field(ge=0)] = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Learning rate of each backbone stage, relative to that of the next stage",
    )
    unfreeze: tuple[UnfreezeRecipe, ...] = Field(
        (), description="Stages of the backbone to unfreeze later, by epoch"
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Fraction = 0.9
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    steps: tuple[Fraction, ...] = Field(
        (0.67, 0.92),
        description="schedule=steps: fractions of the run at which the learning rate drops",
    )
    step_factor: Positive = 0.1
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Fraction of the run")
    clip_norm: Positive | None = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Decay of the exponential moving average of the weights; 0: none"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    evaluate_every: Annotated[int, Field(ge=0)] = Field(
        1, description="Epochs between evaluations; 0: only at the end"
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Stop early after this many evaluations without a better evaluation.best"
    )
    checkpoint_minutes: Positive = 10.0
    device: str = "auto"
    deterministic: bool = True
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        ("tensorboard",),
        description="Trackers for curves, besides log.jsonl; wandb and mlflow are extra packages",
    )
    balancing: str = Field(
        "fixed",
        description=(
            "How the heads' losses are weighted, on top of loss_weight: fixed; uncertainty "
            "(Kendall et al. 2018, learned); dwa (Liu et al. 2019, by how fast each falls)"
        ),
    )
    log_gradient_conflict: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "Updates between measurements of the cosines between the heads' gradients on the last "
            "shared stage; 0: never"
        ),
    )
    non_finite: Literal["stop", "skip"] = Field(
        "stop",
        description=(
            "On a non-finite loss or gradient: stop, or skip the step (at most 1 % of the steps); "
            "either way the step is saved for `resnet-tasks replay`"
        ),
    )

    @model_validator(mode="after")
    def _check_patience(self) -> TrainingRecipe:
        if self.patience is not None and self.evaluate_every == 0:
            raise ValueError(
                f"patience is {self.patience}, but evaluate_every is 0, so there is a single "
                "evaluation at the end; set evaluate_every to 1 or more, or remove patience"
            )
        return self

    @model_validator(mode="after")
    def _check_unfreeze_order(self) -> TrainingRecipe:
        for before, after in pairwise(self.unfreeze):
            if after.epoch <= before.epoch or after.frozen_stages >= before.frozen_stages:
                raise ValueError(
                    f"unfreeze: {format_unfreeze_step(after)} follows "
                    f"{format_unfreeze_step(before)}; epochs must rise and "
                    "frozen_stages fall from entry to entry"
                )
        if self.unfreeze and self.unfreeze[-1].epoch >= self.epochs:
            raise ValueError(
                f"unfreeze: {format_unfreeze_step(self.unfreeze[-1])} is never reached in "
                f"{self.epochs} epochs; train longer, or remove it"
            )
        return self


def format_unfreeze_step(entry: UnfreezeRecipe) -> str:
    """Format one unfreezing step as a recipe writes it."""
    return f"{{epoch: {entry.epoch}, frozen_stages: {entry.frozen_stages}}}"
