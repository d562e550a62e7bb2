"""State of a training: model, device, precision, optimizer, loss balancer, averaged weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from resnet_tasks.errors import RunError
from resnet_tasks.model import Losses, TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.devices import resolve_precision
from resnet_tasks.runtime.processes import (
    SINGLE_PROCESS,
    DistributedContext,
    resolve_process_device,
)
from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.state.balancing import LOSS_BALANCERS
from resnet_tasks.training.state.loss_reduction import LossModule
from resnet_tasks.training.state.optimizer import make_optimizer, set_learning_rates
from resnet_tasks.training.state.precision import (
    BufferSnapshot,
    create_accelerator,
    use_deterministic_algorithms,
)
from resnet_tasks.training.state.unfreezing import UnfreezeSchedule


class TrainState:
    """Model in training, with its optimizer, precision and averaged weights.

    Args:
        plain_model: Model, trained in place.
        options: Training options: device, precision, optimizer, balancing and averaging.
        processes: Process group of the training.

    Attributes:
        plain_model: Model without wrappers.
        model: Model wrapped for training: losses (`LossModule`), mixed precision and exchange of
            gradients.
        optimizer: Optimizer over all parameters that are trained in any epoch.
        accelerator: Accelerator for the backward pass and gradient clipping.
        balancer: Balancer of the heads' losses.
        ema: Exponential moving average of the weights; None without averaging.
        unfreezing: Schedule of the frozen backbone stages.
        device: Device of the model.
        precision: `fp32`, `bf16` or `fp16`.
        processes: Process group of the training.
    """

    def __init__(
        self,
        plain_model: TaskModel,
        options: TrainingRecipe,
        processes: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        self.processes = processes
        self.device = resolve_process_device(options.device, processes)
        self.precision = resolve_precision(options.precision, self.device)
        self._options = options
        self.unfreezing = UnfreezeSchedule(plain_model.backbone, options.unfreeze)
        # The parameters of a head get no gradient in a process without labels for it.
        unused = len(plain_model.named_heads) > 1 or bool(self.unfreezing)
        self.accelerator = create_accelerator(self.precision, self.device, find_unused=unused)
        layout = torch.channels_last
        plain_model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.plain_model = plain_model
        self.ema = (
            ModelEmaV3(plain_model, decay=options.ema, use_warmup=True) if options.ema else None
        )
        balancer = LOSS_BALANCERS.get(options.balancing)(plain_model.trained_heads)
        self.balancer = balancer.to(self.device)
        with self.unfreezing.unfreeze_all():
            self.model, self.optimizer = self.accelerator.prepare(
                LossModule(plain_model, self.balancer).to(self.device),
                make_optimizer(plain_model, options, self.balancer),
            )

    @property
    def averaged_model(self) -> TaskModel | None:
        """Model with averaged weights; None without averaging."""
        model: TaskModel | None = None if self.ema is None else self.ema.module
        return model

    @property
    def evaluation_model(self) -> TaskModel:
        """Model to predict with: the averaged one if there is one."""
        return self.plain_model if self.averaged_model is None else self.averaged_model

    def make_deterministic(self) -> AbstractContextManager[None]:
        """Return the context of `training.deterministic`, which has an effect on a CPU only."""
        return use_deterministic_algorithms(
            self._options.deterministic and self.device.type == "cpu"
        )

    # --- parts of a step

    def prepare_step(self, factor: float) -> None:
        """Clear the gradients and set all learning rates to their base rate times `factor`."""
        set_learning_rates(self.optimizer.optimizer, factor)
        self.optimizer.zero_grad()

    def compute_losses(self, batch: Batch) -> tuple[Losses, Tensor, dict[str, Tensor]]:
        """Compute the outputs of `LossModule` for a batch.

        A stand-in batch for unreadable images does not change the batch-norm statistics.

        Args:
            batch: This process's part of the batch, on the device.

        Returns:
            The loss terms, the anchor's zero, and the balancer's variables.

        Raises:
            RunError: If a batch norm gets a single value per channel.
        """
        buffers = BufferSnapshot(self.plain_model) if batch.is_stand_in else None
        try:
            losses: tuple[Losses, Tensor, dict[str, Tensor]] = self.model(batch)
            if buffers is not None:
                buffers.restore()  # a black image must not change the statistics
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise RunError(
                f"a batch of {len(batch)} image(s) of {batch.padded_size} pixels leaves a batch "
                "norm a single value per channel, from which it cannot compute statistics; use "
                "larger images (data.resize), a training.batch_size that divides the data "
                "without a remainder of 1, or backbone.norm=group"
            ) from None
        return losses

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return the loss as the backward pass takes it: multiplied by the loss scale for fp16."""
        scaler = self.accelerator.scaler
        return loss if scaler is None else scaler.scale(loss)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss, averaged over the processes."""
        self.accelerator.backward(loss)

    def clip_gradients(self) -> Tensor:
        """Clip the gradient to `training.clip_norm` and return its norm before clipping."""
        clip_norm = self._options.clip_norm
        limit = float("inf") if clip_norm is None else clip_norm
        norm: Tensor = self.accelerator.clip_grad_norm_(self.plain_model.parameters(), limit)
        return norm

    def step(self, update: int) -> None:
        """Take the optimizer's step and update the averaged weights.

        Args:
            update: Index of the step, from 0, which sets the warm-up of the averaging.
        """
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.plain_model, step=update)

    # --- checkpoint and end of the training

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores in addition to the weights."""
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "balancing": self.balancer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.balancer.load_state_dict(state.get("balancing", {}))

    def finish(self) -> None:
        """End the training: copy the averaged weights, if there are any, into the model."""
        if self.averaged_model is not None:
            self.plain_model.load_state_dict(self.averaged_model.state_dict())
