"""One optimizer step over a group of batches, in all processes together.

Every process computes the sums and counts of its loss terms; all of them tell each other, so that
each goes backward from its share of the mean over all of them. The sampling inside heads is a
function of (seed, epoch, image), dropout one of (seed, update).
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
    """Takes optimizer steps.

    Args:
        train_state: What learns.
        options: The loop's numbers.
        length: Of the run.
        run_log: Is told what happens.
        unreadable: Images that cannot be read.
        stop: What the processes tell each other of it travels with the losses.
        folder: Run folder, which keeps steps that are not finite; None: nothing is kept.

    Attributes:
        train_state: What learns.
        stop: Whether the run shall stop.
        image_size: (H, W) of the last step's first batch; None before the first step.
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
        """One optimizer step; the mean of each loss term, nothing where it was left out.

        Args:
            group: Batches that are accumulated, of this process.
            factor: What all rates are multiplied with.
            progress: Of the run; its counts of skipped steps are kept.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite.
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
            buffers.restore()  # norms have seen the step
            self._non_finite.skip_step(train_step, progress, trouble)
            return {}
        progress.skipped_in_row = 0
        self._log_step(train_step, losses, factor)
        return losses

    def advise_on_memory(self) -> str:
        """What to change where memory does not suffice."""
        options = self._options
        return advise_on_training_memory(options.batch_size, options.accumulation, self.image_size)

    def _add_seeds(self, batch: Batch, epoch: int) -> Batch:
        """Seeds for sampling inside heads, from (seed, epoch, image) for every data set."""
        run = self._options.seed
        return replace(
            batch,
            seeds=tuple(derive_sample_seed(run, epoch, image_id) for image_id in batch.image_ids),
        )

    # --- gradients

    def _accumulate_and_step(self, train_step: TrainStep) -> dict[str, float]:
        """Gradients of the batches, and the optimizer's step; the mean of each loss term.

        Raises:
            NonFiniteLossError: In all processes, if a loss or the gradient is not finite.
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
        if mean_losses:  # else nothing in it is annotated for any head: it teaches nothing
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
        """Adds the gradients of the last batch that was exchanged.

        Args:
            losses: Of this process.
            anchor: A zero with a graph (`Anchored`).
            variables: Of the balancing.
            train_step: The step.
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
        # What teaches nothing takes part too: other processes wait for its gradients.
        unused_terms = [] if trained_losses else [variable * 0.0 for variable in variables.values()]
        self.train_state.backward(
            torch.stack([*weighed, *unused_terms, *loss_shares.values(), anchor]).sum()
        )

    def _find_trained_heads(self, counts: Mapping[str, float]) -> list[str]:
        """The heads that learn something from what these counts are of, in the model's order."""
        annotated_heads = {name.split("/")[0] for name, count in counts.items() if count > 0}
        return [head for head in self.train_state.balancer.heads if head in annotated_heads]

    def _compute_loss_shares(
        self, losses: Losses, counts: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Head -> this process's share of its loss; 0 where the labels are in other processes."""
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
        """What every loss term counts over all of an optimizer step's batches and processes.

        Accumulated batches must be divided by the step's counts, which sampling inside heads
        decides during the forward. A first forward without graph finds them: a third more time for
        sums that equal those of one large batch.
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
        """Clips the gradient, and takes the optimizer's step.

        Args:
            losses: Of the last batch, to be told where the gradient is not finite.
            train_step: The step.
        """
        train_state = self.train_state
        norm = train_state.clip_gradients()
        # fp16's scaler finds its scale by overflowing, and skips the step.
        if train_state.precision != "fp16" and not torch.isfinite(norm):
            # The gradient is the same in all processes: all of them come here.
            train_step.is_source = True
            train_step.raise_if_non_finite(
                train_state.processes.all_gather(describe_losses(losses, train_step.batches))
            )
        train_state.step(train_step.update)

    # --- what processes tell each other

    def _exchange_reports(
        self, losses: Losses, batch: Batch, total_counts: dict[str, float], train_step: TrainStep
    ) -> dict[str, float]:
        """The sums of all processes on their parts of a batch.

        Args:
            losses: Of this process.
            batch: Of this process.
            total_counts: Counts of the whole step, where they are known; else those of the batch
                hold.
            train_step: The step; is told the counts.

        Raises:
            NonFiniteLossError: In all of them, if a term of one is not finite.
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
        """Lists the images of the step that cannot be read.

        Raises:
            DataError: In all processes, if there are too many.
        """
        for image in self._unreadable.add(errors, update=train_step.update, epoch=train_step.epoch):
            self._run_log.log("unreadable_image", **asdict(image))
            self._run_log.print_line(f"left out: {image.reason}")

    # --- what the journal is told

    def _log_gradient_conflict(
        self, loss_shares: Mapping[str, Tensor], train_step: TrainStep
    ) -> None:
        """Logs the cosines between the heads' gradients, where that is asked for and due."""
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
        """Losses every ten steps, or in every one of short epochs; leaps of them always."""
        update, epoch = train_step.update, train_step.epoch + 1
        if update % 10 == 0 or self._length.updates_per_epoch < 10:
            rate = self._options.learning_rate * factor
            balancer = self.train_state.balancer
            weights = None if isinstance(balancer, FixedBalancer) else balancer.compute_weights()
            self._run_log.log_step(update, epoch, losses, rate, weights)
        for spike in self._spikes.detect(losses):
            self._run_log.log_spike(update, epoch, spike, train_step.image_ids)


def _sum_head_losses(losses: Mapping[str, float], head: str) -> float:
    """The sum of the means of a head's terms."""
    return math.fsum(value for name, value in losses.items() if name.split("/")[0] == head)
