"""One optimizer step over a group of batches, in all processes together.

Every process computes the sums and counts of its loss terms. The processes exchange them, so that
each one backpropagates its share of the mean over all processes. The sampling inside heads is a
function of (seed, epoch, image), dropout a function of (seed, update).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from resnet_tasks.data.sampling.sample_keys import derive_sample_seed
from resnet_tasks.errors import ImageError, NonFiniteLossError
from resnet_tasks.model import Losses
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.guards.non_finite import NonFiniteStepPolicy, TrainStep
from resnet_tasks.training.guards.out_of_memory import advise_on_training_memory
from resnet_tasks.training.guards.signals import StopRequest
from resnet_tasks.training.guards.unreadable_images import UnreadableImages
from resnet_tasks.training.logging.gradient_conflict import measure_conflict
from resnet_tasks.training.logging.loss_spikes import LossSpikeDetector
from resnet_tasks.training.logging.run_log import RunLog
from resnet_tasks.training.state.balancing import FixedBalancer
from resnet_tasks.training.state.loss_reduction import (
    BatchReport,
    compute_means,
    describe_losses,
    scale_loss_terms,
    sum_by_name,
)
from resnet_tasks.training.state.precision import BufferSnapshot, freeze_norm_statistics
from resnet_tasks.training.state.progress import RunLength, TrainingProgress
from resnet_tasks.training.state.train_state import TrainState


class TrainStepRunner:
    """Runner of optimizer steps.

    Args:
        train_state: Model, optimizer and precision.
        options: Options of the training loop.
        length: Length of the run.
        run_log: Log of losses, spikes, gradient conflicts and unreadable images.
        unreadable: List of the images that could not be read.
        stop: Stop request, which the processes exchange together with their losses.
        folder: Path of the run folder, where steps that are not finite are saved for replay; None:
            nothing is saved.

    Attributes:
        train_state: Model, optimizer and precision.
        stop: Stop request, as exchanged in the last step.
        image_size: (H, W) of the last step's first batch, in pixels, padding included; None before
            the first step.
    """

    def __init__(
        self,
        train_state: TrainState,
        options: TrainingRecipe,
        length: RunLength,
        *,
        run_log: RunLog,
        unreadable: UnreadableImages,
        stop: StopRequest,
        folder: Path | None,
    ) -> None:
        self.train_state = train_state
        self.stop = stop
        self.image_size: tuple[int, int] | None = None
        self._options = options
        self._length = length
        self._run_log = run_log
        self._unreadable = unreadable
        self._non_finite = NonFiniteStepPolicy(
            train_state, options, length, run_log=run_log, folder=folder
        )
        self._spikes = LossSpikeDetector()

    def run_step(
        self, group: Sequence[Batch], factor: float, progress: TrainingProgress
    ) -> dict[str, float]:
        """Take one optimizer step.

        Args:
            group: This process's part of the batches to accumulate.
            factor: Multiplier of all learning rates.
            progress: Position in the run; its counts of skipped steps are updated.

        Returns:
            `head/term` -> mean of the loss term; empty if the step was skipped.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite and the step may not be skipped.
            DataError: If too many images cannot be read.
        """
        train_state, epoch = self.train_state, progress.epoch
        seed = derive_sample_seed(self._options.seed, epoch, f"update {progress.updates}")
        torch.manual_seed(seed)
        train_state.prepare_step(factor)
        self.image_size = group[0].padded_size
        device = train_state.device
        batches = [self._add_seeds(batch, epoch).to(device, non_blocking=True) for batch in group]
        train_step = TrainStep(progress.updates, epoch, seed, batches)
        buffers = BufferSnapshot(train_state.plain_model)
        try:
            losses = self._accumulate_and_step(train_step)
        except NonFiniteLossError as trouble:
            buffers.restore()  # the forward has updated the batch-norm statistics
            self._non_finite.skip_step(train_step, progress, trouble)
            return {}
        progress.skipped_in_row = 0
        self._log_step(train_step, losses, factor)
        return losses

    def advise_on_memory(self) -> str:
        """Return advice on settings to change when memory has run out."""
        options = self._options
        return advise_on_training_memory(options.batch_size, options.accumulation, self.image_size)

    def _add_seeds(self, batch: Batch, epoch: int) -> Batch:
        """Set the seeds for sampling inside heads, from (seed, epoch, image), for any dataset."""
        run = self._options.seed
        return replace(
            batch,
            seeds=tuple(derive_sample_seed(run, epoch, image_id) for image_id in batch.image_ids),
        )

    # --- gradients

    def _accumulate_and_step(self, train_step: TrainStep) -> dict[str, float]:
        """Accumulate the gradients of all batches and take the optimizer's step.

        Returns:
            `head/term` -> mean of the loss term over all batches and processes.

        Raises:
            NonFiniteLossError: If a loss or the gradient is not finite; in all processes.
        """
        train_state, mean_losses = self.train_state, dict[str, float]()
        total_counts = self._count_terms(train_step) if len(train_step.batches) > 1 else {}
        for batch in train_step.batches:
            torch.manual_seed(train_step.seed + train_state.processes.index)
            losses, anchor, variables = train_state.compute_losses(batch)
            sums = self._exchange_reports(losses, batch, total_counts, train_step)
            self._backward(losses, anchor, variables, train_step)
            for name, value in sums.items():
                mean_losses[name] = mean_losses.get(name, 0.0) + value / max(
                    train_step.counts[-1][name], 1e-12
                )
        if mean_losses:  # empty if no image of the step is annotated for any head
            balancer, trained_heads = (
                train_state.balancer,
                self._find_trained_heads(train_step.counts[-1]),
            )
            balancer.drop_gradients(
                [
                    skipped_head
                    for skipped_head in balancer.heads
                    if skipped_head not in trained_heads
                ]
            )
            self._clip_and_step(losses, train_step)
            weights = train_state.plain_model.loss_weights
            balancer.record_losses(
                {
                    head: weights[head] * _sum_head_losses(mean_losses, head)
                    for head in trained_heads
                }
            )
        return mean_losses

    def _backward(
        self,
        losses: Losses,
        anchor: Tensor,
        variables: Mapping[str, Tensor],
        train_step: TrainStep,
    ) -> None:
        """Accumulate the gradients of the batch whose reports were exchanged last.

        Args:
            losses: Loss terms of this process.
            anchor: Zero with a graph, see `LossModule`.
            variables: Head -> learned variable of the loss balancer.
            train_step: Current step.
        """
        counts, batch_fraction = train_step.counts[-1], 1 / len(train_step.batches)
        loss_shares = self._compute_loss_shares(losses, counts)
        trained_losses = {head: loss_shares.pop(head) for head in self._find_trained_heads(counts)}
        if len(train_step.counts) == 1:
            self._log_gradient_conflict(trained_losses, train_step)
        weighed = (
            [self.train_state.balancer.combine_losses(trained_losses, variables, batch_fraction)]
            if trained_losses
            else []
        )
        # Every parameter takes part in the backward pass, even with a loss of 0: the other
        # processes wait for its gradient.
        unused_terms = [] if trained_losses else [variable * 0.0 for variable in variables.values()]
        self.train_state.backward(
            torch.stack([*weighed, *unused_terms, *loss_shares.values(), anchor]).sum()
        )

    def _find_trained_heads(self, counts: Mapping[str, float]) -> list[str]:
        """Return the heads with a loss term that counts something, in the model's order."""
        annotated_heads = {name.split("/")[0] for name, count in counts.items() if count > 0}
        return [head for head in self.train_state.balancer.heads if head in annotated_heads]

    def _compute_loss_shares(
        self, losses: Losses, counts: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return this process's share of every head's loss.

        Args:
            losses: Loss terms of this process.
            counts: Loss term -> divisor, over all processes.

        Returns:
            Head -> loss; 0 for a head whose labels are all in other processes.
        """
        train_state = self.train_state
        absent = {
            head: torch.zeros((), device=train_state.device)
            for head in self._find_trained_heads(counts)
        }
        terms = scale_loss_terms(losses, counts, train_state.processes.count)
        present: dict[str, Tensor] = train_state.plain_model.compute_head_losses(terms)
        return absent | present

    @torch.no_grad()
    def _count_terms(self, train_step: TrainStep) -> dict[str, float]:
        """Count every loss term over all batches and processes of an optimizer step.

        The losses of accumulated batches must be divided by the counts of the entire step, which
        are known only after the sampling inside the heads. A first forward pass without graph
        computes them. It makes the step a third slower, but the result equals that of one large
        batch.

        Returns:
            Loss term -> count.
        """
        train_state, counts = self.train_state, list[dict[str, float]]()
        with freeze_norm_statistics(train_state.plain_model):
            for batch in train_step.batches:
                torch.manual_seed(train_step.seed + train_state.processes.index)
                losses, _, _ = train_state.model(batch)
                counts.append({name: float(term.count.item()) for name, term in losses.items()})
        return sum_by_name(
            [
                batch_counts
                for part in train_state.processes.all_gather(counts)
                for batch_counts in part
            ]
        )

    def _clip_and_step(self, losses: Losses, train_step: TrainStep) -> None:
        """Clip the gradient and take the optimizer's step.

        Args:
            losses: Loss terms of the last batch, for the error message.
            train_step: Current step.

        Raises:
            NonFiniteLossError: If the gradient is not finite; in all processes.
        """
        train_state = self.train_state
        norm = train_state.clip_gradients()
        # The fp16 loss scaler finds its scale by overflowing; it skips such steps itself.
        if train_state.precision != "fp16" and not torch.isfinite(norm):
            # The gradient is the same in all processes, so all of them enter this branch and none
            # waits in `all_gather`.
            train_step.is_source = True
            train_step.raise_if_non_finite(
                train_state.processes.all_gather(describe_losses(losses, train_step.batches))
            )
        train_state.step(train_step.update)

    # --- communication between processes

    def _exchange_reports(
        self, losses: Losses, batch: Batch, total_counts: dict[str, float], train_step: TrainStep
    ) -> dict[str, float]:
        """Exchange the reports of all processes on their parts of a batch.

        Args:
            losses: Loss terms of this process.
            batch: This process's part of the batch.
            total_counts: Loss term -> count of the entire step, if batches are accumulated; empty:
                the counts of this batch are used.
            train_step: Current step; its `counts`, `means` and `is_source` are updated.

        Returns:
            Loss term -> sum over all processes.

        Raises:
            DataError: If too many images cannot be read; in all processes.
            NonFiniteLossError: If a loss term of any process is not finite; in all processes.
        """
        sums = {name: term.sum.item() for name, term in losses.items()}
        counts = {name: float(term.count.item()) for name, term in losses.items()}
        train_step.means = compute_means(sums, counts)
        trouble = "" if all(map(math.isfinite, sums.values())) else describe_losses(losses, [batch])
        mine = BatchReport(sums, counts, trouble, self.stop.is_requested, batch.left_out)
        reports = self.train_state.processes.all_gather(mine)
        self._log_unreadable([error for report in reports for error in report.left_out], train_step)
        self.stop.agree(report.stop for report in reports)
        train_step.counts.append(total_counts or sum_by_name([report.counts for report in reports]))
        train_step.is_source = bool(trouble)
        train_step.raise_if_non_finite([report.trouble for report in reports if report.trouble])
        return sum_by_name([report.sums for report in reports])

    def _log_unreadable(self, errors: Sequence[ImageError], train_step: TrainStep) -> None:
        """Record and log the images of the step that cannot be read.

        Raises:
            DataError: If too many images cannot be read; in all processes.
        """
        for image in self._unreadable.add(errors, update=train_step.update, epoch=train_step.epoch):
            self._run_log.log("unreadable_image", **asdict(image))
            self._run_log.print_line(f"skipped: {image.reason}")

    # --- logging

    def _log_gradient_conflict(
        self, loss_shares: Mapping[str, Tensor], train_step: TrainStep
    ) -> None:
        """Log the cosines between the heads' gradients, every `log_gradient_conflict` steps."""
        every = self._options.log_gradient_conflict
        if not every or train_step.update % every:
            return
        train_state = self.train_state
        scaled = {name: train_state.scale_loss(loss) for name, loss in loss_shares.items()}
        conflict = measure_conflict(
            train_state.plain_model, scaled, train_state.processes.all_reduce
        )
        if conflict is not None:
            self._run_log.log_conflict(train_step.update, train_step.epoch + 1, conflict)

    def _log_step(self, train_step: TrainStep, losses: Mapping[str, float], factor: float) -> None:
        """Log the losses every ten steps, or every step of short epochs; log every loss spike."""
        update, epoch = train_step.update, train_step.epoch + 1
        if update % 10 == 0 or self._length.updates_per_epoch < 10:
            rate = self._options.learning_rate * factor
            balancer = self.train_state.balancer
            weights = None if isinstance(balancer, FixedBalancer) else balancer.compute_weights()
            self._run_log.log_step(update, epoch, losses, rate, weights)
        for spike in self._spikes.detect(losses):
            self._run_log.log_spike(update, epoch, spike, train_step.image_ids)


def _sum_head_losses(losses: Mapping[str, float], head: str) -> float:
    """Return the sum of the means of a head's loss terms."""
    return math.fsum(value for name, value in losses.items() if name.split("/")[0] == head)
