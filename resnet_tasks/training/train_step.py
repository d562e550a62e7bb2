"""One optimizer step over a group of batches, in all processes together.

Every process computes the sums and counts of its loss terms. The processes exchange them, so that
each one backpropagates its share of the mean over all processes. The sampling inside heads is a
function of the samples' seeds, dropout a function of (seed, update).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from resnet_tasks.data.sampling.sample_keys import derive_sample_seed
from resnet_tasks.errors import NonFiniteLossError
from resnet_tasks.model import Losses, TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.devices import resolve_precision
from resnet_tasks.runtime.processes import (
    SINGLE_PROCESS,
    DistributedContext,
    resolve_process_device,
)
from resnet_tasks.runtime.signals import StopRequest
from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.guards.non_finite import NonFiniteStepPolicy
from resnet_tasks.training.guards.out_of_memory import advise_on_training_memory
from resnet_tasks.training.guards.recorded_step import RecordedStep
from resnet_tasks.training.guards.unreadable_images import UnreadableImages
from resnet_tasks.training.logging.gradient_conflict import measure_conflict
from resnet_tasks.training.logging.loss_spikes import LossIncreaseDetector, LossSpikeDetector
from resnet_tasks.training.logging.run_log import RunLog
from resnet_tasks.training.state.balancing import LOSS_BALANCERS, FixedBalancer, LossBalancer
from resnet_tasks.training.state.loss_reduction import (
    BatchReport,
    StepLosses,
    compute_loss_shares,
    compute_means,
    describe_losses,
    find_counted_heads,
    read_counts,
    sum_by_name,
    sum_counts,
    sum_head_losses,
)
from resnet_tasks.training.state.optimizer import (
    compute_lr_factor,
    make_optimizer,
    set_learning_rates,
)
from resnet_tasks.training.state.precision import (
    BufferSnapshot,
    create_accelerator,
    explain_single_values,
    freeze_norm_statistics,
    use_deterministic_algorithms,
)
from resnet_tasks.training.state.progress import RunLength, TrainingProgress
from resnet_tasks.training.state.unfreezing import UnfreezeSchedule

LossOutputs = tuple[Losses, Tensor, dict[str, Tensor]]
"""Loss terms, the anchor's zero and the balancer's variables of one batch in this process."""


class LossModule(nn.Module):
    """Module that computes a model's losses, the balancer's variables, and a zero with a graph.

    Processes exchange gradients during the backward pass, so every process must run one. In a
    process whose images have no annotations, the zero is the only output with a graph. It comes
    from a separate parameter, the anchor.

    Args:
        model: Model in training.
        balancer: Balancer of the heads' losses.
    """

    def __init__(self, model: TaskModel, balancer: LossBalancer) -> None:
        super().__init__()
        self.model = model
        self.balancer = balancer
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> LossOutputs:
        """Return the loss terms of a batch, the zero, and `LossBalancer.get_variables`."""
        variables = self.balancer.get_variables()
        return self.model(batch, mode="loss"), self.anchor * 0.0, variables


class TrainStep:
    """Optimizer step of a model in training, with the state that steps change.

    Args:
        model: Model, trained in place.
        options: Options of the training loop.
        length: Length of the run.
        processes: Process group of the training.
        run_log: Log of losses, spikes, gradient conflicts and unreadable images; None: no log.
        unreadable: List of the images that could not be read; None: none may be unreadable.
        folder: Path of the run folder, where steps that are not finite are saved for replay; None:
            nothing is saved.

    Attributes:
        model: Model without wrappers.
        loss_module: `LossModule` wrapped for mixed precision and exchange of gradients.
        optimizer: Optimizer over all parameters that are trained in any epoch.
        accelerator: Accelerator for the backward pass and gradient clipping.
        balancer: Balancer of the heads' losses.
        ema: Exponential moving average of the weights; None without averaging.
        averaged_model: Model with the averaged weights; None without averaging.
        unfreezing: Schedule of the frozen backbone stages.
        device: Device of the model.
        precision: `fp32`, `bf16` or `fp16`.
        processes: Process group of the training.
        stop: Request to stop, as exchanged between processes in the last step.
        image_size: (H, W) of the last step's first batch, in pixels, padding included; None before
            the first step.
    """

    def __init__(
        self,
        model: TaskModel,
        options: TrainingRecipe,
        length: RunLength,
        *,
        processes: DistributedContext = SINGLE_PROCESS,
        run_log: RunLog | None = None,
        unreadable: UnreadableImages | None = None,
        folder: Path | None = None,
    ) -> None:
        self.model = model
        self.processes = processes
        self.device = resolve_process_device(options.device, processes)
        self.precision = resolve_precision(options.precision, self.device)
        self.stop = StopRequest()
        self.image_size: tuple[int, int] | None = None
        self._options = options
        self._length = length
        self._run_log = run_log or RunLog.create_silent()
        if unreadable is None:
            unreadable = UnreadableImages(None, limit=0, total=0, writes=False)
        self._unreadable = unreadable
        self._non_finite = NonFiniteStepPolicy(
            options, length, processes, run_log=self._run_log, folder=folder
        )
        self._spikes = LossSpikeDetector()
        self._increases = LossIncreaseDetector()
        self.unfreezing = UnfreezeSchedule(model.backbone, options.unfreeze)
        # The parameters of a head get no gradient in a process without labels for it.
        unused = len(model.named_heads) > 1 or bool(self.unfreezing) or model.has_unread_stages
        self.accelerator = create_accelerator(self.precision, self.device, find_unused=unused)
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = ModelEmaV3(model, decay=options.ema, use_warmup=True) if options.ema else None
        self.averaged_model: TaskModel | None = None if self.ema is None else self.ema.module
        balancer = LOSS_BALANCERS.get(options.balancing)(model.trained_heads)
        self.balancer = balancer.to(self.device)
        with self.unfreezing.unfreeze_all():
            self.loss_module, self.optimizer = self.accelerator.prepare(
                LossModule(model, self.balancer).to(self.device),
                make_optimizer(model, options, self.balancer),
            )

    def run(
        self, group: Sequence[Batch], progress: TrainingProgress, lr_factor: float | None = None
    ) -> StepLosses:
        """Take one optimizer step.

        Args:
            group: This process's part of the batches to accumulate.
            progress: Position in the run, which advances by this step.
            lr_factor: Multiplier of all learning rates; None: the factor of the schedule.

        Returns:
            Losses of the step; empty if it was skipped.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite and the step may not be skipped.
            DataError: If too many images cannot be read.
        """
        options, epoch, update = self._options, progress.epoch, progress.updates
        if lr_factor is None:
            lr_factor = compute_lr_factor(update, self._length.updates, options)
        set_learning_rates(self.optimizer.optimizer, lr_factor)
        self.optimizer.zero_grad()
        self.image_size = group[0].padded_size
        batches = [batch.to(self.device, non_blocking=True) for batch in group]
        seed = derive_sample_seed(options.seed, epoch, f"update {update}") + self.processes.index
        threads = torch.get_num_threads()
        record = RecordedStep(update, seed, self.precision, options.deterministic, threads)
        buffers = BufferSnapshot(self.model)
        try:
            losses = self._learn(batches, record, progress)
        except NonFiniteLossError as error:
            buffers.restore()  # the forward has updated the batch-norm statistics
            record.weights = self.balancer.compute_weights()
            self._non_finite.skip_step(error, progress, record, self.model, batches)
            losses = StepLosses()
        else:
            progress.skipped_in_row = 0
            self._log_losses(losses, batches, progress, options.learning_rate * lr_factor)
        progress.updates += 1
        progress.batch += len(group)
        return losses

    def _learn(
        self, batches: Sequence[Batch], record: RecordedStep, progress: TrainingProgress
    ) -> StepLosses:
        """Accumulate the gradients of all batches and update the weights.

        Returns:
            Losses over all batches and processes.

        Raises:
            NonFiniteLossError: If a loss or the gradient is not finite; in all processes.
        """
        means: dict[str, float] = {}
        total_counts = self._count_terms(batches, record.seed) if len(batches) > 1 else {}
        for batch in batches:
            outputs = self.compute_losses(batch, record.seed)
            sums = self._exchange(outputs[0], batch, total_counts, record, progress)
            counts = record.counts[-1]
            if len(record.counts) == 1:
                self._log_gradient_conflict(outputs[0], counts, progress)
            self.backward(outputs, counts, 1 / len(batches))
            for name, mean in compute_means(sums, counts).items():
                means[name] = means.get(name, 0.0) + mean
        if not means:  # no image of the step is annotated for any head
            return StepLosses()
        heads = find_counted_heads(self.balancer.heads, counts)
        self.balancer.drop_gradients([head for head in self.balancer.heads if head not in heads])
        norm = self.clip_gradients()
        # The fp16 loss scaler finds its scale by overflowing; it skips such steps itself.
        if self.precision != "fp16" and not torch.isfinite(norm):
            record.trouble = describe_losses(outputs[0], batches)
            # The gradient is the same in all processes, so all of them reach this `all_gather`.
            raise NonFiniteLossError("; ".join(self.processes.all_gather(record.trouble)))
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model, step=record.update)
        losses = StepLosses(means, sum_head_losses(means, heads, self.model.loss_weights))
        self.balancer.record_losses(losses.heads)
        return losses

    # --- one batch

    def compute_losses(self, batch: Batch, seed: int) -> LossOutputs:
        """Compute the outputs of `LossModule` for a batch.

        A stand-in batch for unreadable images does not change the batch-norm statistics.

        Args:
            batch: This process's part of the batch, on the device.
            seed: Seed of torch's global generator, which dropout uses.

        Raises:
            RunError: If a batch norm gets a single value per channel.
        """
        torch.manual_seed(seed)
        buffers = BufferSnapshot(self.model) if batch.is_stand_in else None
        with explain_single_values(batch):
            outputs: LossOutputs = self.loss_module(batch)
        if buffers is not None:
            buffers.restore()  # a black image must not change the statistics
        return outputs

    @torch.no_grad()
    def _count_terms(self, batches: Sequence[Batch], seed: int) -> dict[str, float]:
        """Count every loss term over all batches and processes of an optimizer step.

        The losses of accumulated batches must be divided by the counts of the entire step, which
        are known only after the sampling inside the heads. A first forward pass without graph
        computes them. It makes the step a third slower, but the result equals that of one large
        batch.
        """
        counts = []
        with freeze_norm_statistics(self.model):
            for batch in batches:
                torch.manual_seed(seed)
                losses, _, _ = self.loss_module(batch)
                counts.append(read_counts(losses))
        return sum_counts([part for parts in self.processes.all_gather(counts) for part in parts])

    def _exchange(
        self,
        losses: Losses,
        batch: Batch,
        total_counts: dict[str, float],
        record: RecordedStep,
        progress: TrainingProgress,
    ) -> dict[str, float]:
        """Exchange the losses of a batch between all processes, and check them.

        Returns:
            Loss term -> sum over all processes.

        Raises:
            DataError: If too many images cannot be read; in all processes.
            NonFiniteLossError: If a loss term of any process is not finite; in all processes.
        """
        local = BatchReport.from_losses(losses, batch, stop=self.stop.is_requested)
        record.losses, record.trouble = local.means, local.trouble
        reports = self.processes.all_gather(local)
        errors = [error for report in reports for error in report.left_out]
        for image in self._unreadable.add(errors, update=record.update, epoch=progress.epoch):
            self._run_log.log("unreadable_image", **asdict(image))
            self._run_log.print_line(f"skipped: {image.reason}")
        self.stop.agree(report.stop for report in reports)
        record.counts.append(total_counts or sum_counts([report.counts for report in reports]))
        if troubles := [report.trouble for report in reports if report.trouble]:
            raise NonFiniteLossError("; ".join(troubles))
        return sum_by_name([report.sums for report in reports])

    def backward(
        self, outputs: LossOutputs, counts: Mapping[str, float], batch_fraction: float
    ) -> None:
        """Accumulate the gradients of a batch, averaged over the processes.

        Args:
            outputs: Result of `compute_losses`.
            counts: Loss term -> divisor, over all processes.
            batch_fraction: Fraction of the step that the batch makes up: 1 / accumulated batches.
        """
        losses, anchor, variables = outputs
        shares, zeros = compute_loss_shares(self.model, losses, counts, self.processes.count)
        # Every parameter takes part in the backward pass, even with a loss of 0: the other
        # processes wait for its gradient.
        total = (
            [self.balancer.combine_losses(shares, variables, batch_fraction)]
            if shares
            else [variable * 0.0 for variable in variables.values()]
        )
        self.accelerator.backward(torch.stack([*total, *zeros, anchor]).sum())

    def clip_gradients(self) -> Tensor:
        """Clip the gradient to `training.clip_norm` and return its norm before clipping."""
        limit = float("inf") if self._options.clip_norm is None else self._options.clip_norm
        norm: Tensor = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        return norm

    # --- log

    def _log_gradient_conflict(
        self, losses: Losses, counts: Mapping[str, float], progress: TrainingProgress
    ) -> None:
        """Log the cosines between the heads' gradients, every `log_gradient_conflict` steps."""
        every, scaler = self._options.log_gradient_conflict, self.accelerator.scaler
        if not every or progress.updates % every:
            return
        shares, _ = compute_loss_shares(self.model, losses, counts, self.processes.count)
        if scaler is not None:
            shares = {head: scaler.scale(loss) for head, loss in shares.items()}
        conflict = measure_conflict(self.model, shares, self.processes.all_reduce)
        if conflict is not None:
            self._run_log.log_conflict(progress.updates, progress.epoch + 1, conflict)

    def _log_losses(
        self,
        losses: StepLosses,
        batches: Sequence[Batch],
        progress: TrainingProgress,
        rate: float,
    ) -> None:
        """Log losses every ten steps (in short epochs every step), loss spikes and increases."""
        update, epoch = progress.updates, progress.epoch + 1
        if update % 10 == 0 or self._length.updates_per_epoch < 10:
            is_fixed = isinstance(self.balancer, FixedBalancer)
            weights = None if is_fixed else self.balancer.compute_weights()
            self._run_log.log_step(update, epoch, losses, rate, weights)
        image_ids = [image_id for batch in batches for image_id in batch.image_ids]
        for spike in self._spikes.detect(losses.terms):
            self._run_log.log_spike(update, epoch, spike, image_ids)
        for increase in self._increases.detect(update, losses.heads, image_ids):
            self._run_log.log_increase(epoch, increase)

    def advise_on_memory(self) -> str:
        """Return advice on settings to change when memory has run out."""
        options = self._options
        return advise_on_training_memory(options.batch_size, options.accumulation, self.image_size)

    # --- conditions and results of the training

    @property
    def evaluation_model(self) -> TaskModel:
        """Model to predict with: the averaged one if there is one."""
        return self.averaged_model or self.model

    def make_deterministic(self) -> AbstractContextManager[None]:
        """Return the context of `training.deterministic`, which has an effect on a CPU only."""
        return use_deterministic_algorithms(
            self._options.deterministic and self.device.type == "cpu"
        )

    def finish(self) -> None:
        """End the training: copy the averaged weights, if there are any, into the model."""
        if self.averaged_model is not None:
            self.model.load_state_dict(self.averaged_model.state_dict())
