"""Settings of the training loop: optimizer, schedule, precision and checkpoints."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.schema.base import (
    BatchSize,
    Fraction,
    Number,
    Positive,
    PositiveNumber,
    RecipeModel,
)


class UnfreezeRecipe(RecipeModel):
    """Epoch after which fewer stages of the backbone are frozen.

    Attributes:
        epoch: Number of epochs before the change.
        frozen_stages: Value of `backbone.frozen_stages` after the change.
    """

    epoch: PositiveNumber
    frozen_stages: Annotated[int, Field(ge=0, le=4)]


class TrainingRecipe(RecipeModel):
    """Settings of the training loop; usable from Python without the other parts of a recipe.

    Attributes:
        epochs: Number of passes over the training images.
        batch_size: Number of images per batch, over all processes together.
        accumulation: Number of batches per optimizer step.
        optimizer: Optimizer: `adamw`, or `sgd` with momentum.
        learning_rate: Learning rate at the end of the warmup.
        backbone_lr_scale: Learning rate of the backbone, relative to `learning_rate`.
        layer_decay: Learning rate of each backbone stage, relative to that of the next stage.
        unfreeze: Stages of the backbone to unfreeze later, by epoch.
        weight_decay: Weight decay of convolutions and linear layers; norms and biases have none.
        momentum: Momentum of `optimizer: sgd`.
        schedule: Learning rate after the warmup: `cosine` falls to 0, `steps` drops at `steps`,
            `constant` stays.
        steps: Fractions of the run at which the learning rate drops, for `schedule: steps`.
        step_factor: Factor of the learning rate at each drop, for `schedule: steps`.
        warmup: Fraction of the run in which the learning rate rises linearly from 0.
        clip_norm: Maximum norm of the gradient; a larger gradient is scaled down to it. None: no
            limit.
        ema: Decay of the exponential moving average of the weights; 0: none.
        precision: Number format of the forward pass; `auto`: bf16 where the hardware supports it,
            else fp32.
        seed: Seed of weights, order of the images, augmentation and dropout.
        evaluate_every: Number of epochs between evaluations; 0: only at the end.
        patience: Number of evaluations without a better `evaluation.best` after which training
            stops early. None: never.
        checkpoint_minutes: Minutes between checkpoints within an epoch.
        device: Device to train on: cpu, cuda, cuda:1, mps; `auto`: CUDA, else MPS, else the CPU.
        deterministic: Whether to use deterministic algorithms, so that a repeated run on a CPU
            gives the same weights.
        trackers: Trackers for curves, besides log.jsonl; wandb and mlflow are extra packages.
        balancing: Weighting of the heads' losses, on top of `loss_weight`: `fixed`; `uncertainty`
            (Kendall et al. 2018, learned); `dwa` (Liu et al. 2019, by how fast each loss falls).
        log_gradient_conflict: Number of updates between measurements of the cosines between the
            heads' gradients on the last shared stage; 0: never.
        non_finite: Reaction to a non-finite loss or gradient: `stop`, or `skip` the step, in at
            most 1 % of the steps. Either way the step is saved for `resnet-tasks replay`.
    """

    epochs: PositiveNumber = 30
    batch_size: BatchSize = 8
    accumulation: PositiveNumber = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    backbone_lr_scale: Annotated[float, Field(ge=0)] = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    unfreeze: tuple[UnfreezeRecipe, ...] = ()
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Fraction = 0.9
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    steps: tuple[Fraction, ...] = (0.67, 0.92)
    step_factor: Positive = 0.1
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    clip_norm: Positive | None = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    evaluate_every: Number = 1
    patience: PositiveNumber | None = None
    checkpoint_minutes: Positive = 10.0
    device: str = "auto"
    deterministic: bool = True
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    balancing: str = "fixed"
    log_gradient_conflict: Number = 0
    non_finite: Literal["stop", "skip"] = "stop"

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
                f"{Count(self.epochs):epoch}; train longer, or remove it"
            )
        return self


def format_unfreeze_step(entry: UnfreezeRecipe) -> str:
    """Format one unfreezing step as a recipe writes it."""
    return f"{{epoch: {entry.epoch}, frozen_stages: {entry.frozen_stages}}}"
