"""A model and what trains it: device and precision, optimizer, balancing, averaged weights."""

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
    """A model in training.

    Args:
        plain_model: Is trained in place.
        options: Device, precision, optimizer, balancing and averaging.
        processes: Those that train it together.

    Attributes:
        plain_model: The model itself.
        model: The same as it is called in training: with mixed precision, and with the exchange of
            gradients (`Anchored`).
        optimizer: Over all that is ever trained.
        accelerator: Backward and clipping in the precision.
        balancer: Weighs the heads' losses.
        ema: Averages the weights; None: nothing does.
        unfreezing: Which stages are frozen in which epoch.
        device: Where the model lies.
        precision: `fp32`, `bf16` or `fp16`.
        processes: Those that train it together.
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
        # A head without labels in a process leaves its parameters without gradient there.
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
        """The model with averaged weights; None: nothing averages them."""
        model: TaskModel | None = None if self.ema is None else self.ema.module
        return model

    @property
    def evaluation_model(self) -> TaskModel:
        """The model to predict with: the averaged one where there is one."""
        return self.plain_model if self.averaged_model is None else self.averaged_model

    def make_deterministic(self) -> AbstractContextManager[None]:
        """Deterministic algorithms for the duration, where they are wanted: on a CPU only."""
        return use_deterministic_algorithms(
            self._options.deterministic and self.device.type == "cpu"
        )

    # --- the parts of a step

    def prepare_step(self, factor: float) -> None:
        """No gradients, and all rates at their base times `factor`."""
        set_learning_rates(self.optimizer.optimizer, factor)
        self.optimizer.zero_grad()

    def compute_losses(self, batch: Batch) -> tuple[Losses, Tensor, dict[str, Tensor]]:
        """As `Anchored` gives them; a stand-in for images leaves the norms' statistics alone.

        Raises:
            RunError: If a batch norm sees a single value per channel.
        """
        buffers = BufferSnapshot(self.plain_model) if batch.is_stand_in else None
        try:
            losses: tuple[Losses, Tensor, dict[str, Tensor]] = self.model(batch)
            if buffers is not None:
                buffers.restore()  # norms learn nothing of a black image
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise RunError(
                f"a batch of {len(batch)} image(s) of {batch.padded_size} pixels leaves a batch "
                "norm a single value per channel, from which no statistics can be learned; use "
                "larger images (data.resize), a training.batch_size that divides the data "
                "without a rest of 1, or backbone.norm=group"
            ) from None
        return losses

    def scale_loss(self, loss: Tensor) -> Tensor:
        """A loss as its backward takes it: fp16 scales it up."""
        scaler = self.accelerator.scaler
        return loss if scaler is None else scaler.scale(loss)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss, exchanged between the processes."""
        self.accelerator.backward(loss)

    def clip_gradients(self) -> Tensor:
        """Clips the gradient to `training.clip_norm`; its norm before that."""
        clip_norm = self._options.clip_norm
        limit = float("inf") if clip_norm is None else clip_norm
        norm: Tensor = self.accelerator.clip_grad_norm_(self.plain_model.parameters(), limit)
        return norm

    def step(self, update: int) -> None:
        """The optimizer's step number `update`, and its share in the averaged weights."""
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.plain_model, step=update)

    # --- keeping and going on

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it beside weights."""
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "balancing": self.balancer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave."""
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.balancer.load_state_dict(state.get("balancing", {}))

    def finish(self) -> None:
        """Training is over: the model takes the weights to predict with."""
        if self.averaged_model is not None:
            self.plain_model.load_state_dict(self.averaged_model.state_dict())
