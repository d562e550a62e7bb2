"""One optimizer step over a group of batches, in all processes together.

Every process computes the sums and counts of its loss terms; all of them tell each other, so that
each goes backward from its share of the mean over all of them. The sampling inside heads is a
function of (seed, epoch, picture), dropout one of (seed, update).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from resnet_tasks.data.sample_keys import sample_seed
from resnet_tasks.errors import NonFiniteLossError, PictureError
from resnet_tasks.model import Losses
from resnet_tasks.recipe.schema import TrainingRecipe
from resnet_tasks.structures import Batch
from resnet_tasks.training.bad_pictures import BadPictures
from resnet_tasks.training.balancing import Fixed
from resnet_tasks.training.conditions import KeptBuffers, still_statistics
from resnet_tasks.training.gradient_conflict import measure_conflict
from resnet_tasks.training.journal import Journal
from resnet_tasks.training.limits import training_advice
from resnet_tasks.training.non_finite import Attempt, NonFiniteSteps
from resnet_tasks.training.position import Position, RunLength
from resnet_tasks.training.shares import Report, described, means, shared_terms, summed
from resnet_tasks.training.signals import StopRequest
from resnet_tasks.training.spikes import SpikeWatch
from resnet_tasks.training.trainee import Trainee


class Learner:
    """Takes optimizer steps.

    Args:
        trainee: What learns.
        options: The loop's numbers.
        length: Of the run.
        journal: Is told what happens.
        bad: Pictures that cannot be read.
        stop: What the processes tell each other of it travels with the losses.
        folder: Run folder, which keeps steps that are not finite; None: nothing is kept.

    Attributes:
        trainee: What learns.
        stop: Whether the run shall stop.
        picture_size: (H, W) of the last step's first batch; None before the first step.
    """

    def __init__(
        self,
        trainee: Trainee,
        options: TrainingRecipe,
        length: RunLength,
        *,
        journal: Journal,
        bad: BadPictures,
        stop: StopRequest,
        folder: Path | None,
    ) -> None:
        self.trainee = trainee
        self.stop = stop
        self.picture_size: tuple[int, int] | None = None
        self._options = options
        self._length = length
        self._journal = journal
        self._bad = bad
        self._non_finite = NonFiniteSteps(trainee, options, length, journal=journal, folder=folder)
        self._spikes = SpikeWatch()

    def learn(self, group: Sequence[Batch], factor: float, position: Position) -> dict[str, float]:
        """One optimizer step; the mean of each loss term, nothing where it was left out.

        Args:
            group: Batches that are accumulated, of this process.
            factor: What all rates are multiplied with.
            position: Of the run; its counts of skipped steps are kept.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite.
            DataError: If too many pictures cannot be read.
        """
        trainee, epoch = self.trainee, position.epoch
        seed = sample_seed(self._options.seed, epoch, f"update {position.updates}")
        torch.manual_seed(seed)
        trainee.begin(factor)
        self.picture_size = group[0].padded_size
        device = trainee.device
        batches = [self._seeded(each, epoch).to(device, non_blocking=True) for each in group]
        attempt = Attempt(position.updates, epoch, seed, batches)
        buffers = KeptBuffers(trainee.plain_model)
        try:
            losses = self._take(attempt)
        except NonFiniteLossError as trouble:
            buffers.restore()  # norms have seen the step
            self._non_finite.leave_out(attempt, position, trouble)
            return {}
        position.skipped_in_row = 0
        self._tell(attempt, losses, factor)
        return losses

    def memory_advice(self) -> str:
        """What to change where memory does not suffice."""
        options = self._options
        return training_advice(options.batch_size, options.accumulation, self.picture_size)

    def _seeded(self, batch: Batch, epoch: int) -> Batch:
        """Seeds for sampling inside heads, from (seed, epoch, picture) for every data set."""
        run = self._options.seed
        return replace(
            batch, seeds=tuple(sample_seed(run, epoch, each) for each in batch.image_ids)
        )

    # --- gradients

    def _take(self, attempt: Attempt) -> dict[str, float]:
        """Gradients of the batches, and the optimizer's step; the mean of each loss term.

        Raises:
            NonFiniteLossError: In all processes, if a loss or the gradient is not finite.
        """
        trainee, shown = self.trainee, dict[str, float]()
        known = self._counts(attempt) if len(attempt.batches) > 1 else {}
        for batch in attempt.batches:
            torch.manual_seed(attempt.seed + trainee.processes.index)
            losses, anchor, variables = trainee.losses(batch)
            sums = self._exchange(losses, batch, known, attempt)
            self._backward(losses, anchor, variables, attempt)
            for name, value in sums.items():
                shown[name] = shown.get(name, 0.0) + value / max(attempt.counts[-1][name], 1e-12)
        if shown:  # else nothing in it is annotated for any head: it teaches nothing
            balancing, taught = trainee.balancing, self._taught(attempt.counts[-1])
            balancing.forget([each for each in balancing.heads if each not in taught])
            self._step(losses, attempt)
            weights = trainee.plain_model.loss_weights
            balancing.note({head: weights[head] * _head_mean(shown, head) for head in taught})
        return shown

    def _backward(
        self,
        losses: Losses,
        anchor: Tensor,
        variables: Mapping[str, Tensor],
        attempt: Attempt,
    ) -> None:
        """Adds the gradients of the last batch that was exchanged.

        Args:
            losses: Of this process.
            anchor: A zero with a graph (`Anchored`).
            variables: Of the balancing.
            attempt: The step.
        """
        counts, share = attempt.counts[-1], 1 / len(attempt.batches)
        shares = self._shares(losses, counts)
        taught = {each: shares.pop(each) for each in self._taught(counts)}
        if len(attempt.counts) == 1:
            self._look_at_conflict(taught, attempt)
        weighed = [self.trainee.balancing.total(taught, variables, share)] if taught else []
        # What teaches nothing takes part too: other processes wait for its gradients.
        rest = [] if taught else [each * 0.0 for each in variables.values()]
        self.trainee.backward(torch.stack([*weighed, *rest, *shares.values(), anchor]).sum())

    def _taught(self, counts: Mapping[str, float]) -> list[str]:
        """The heads that learn something from what these counts are of, in the model's order."""
        known = {name.split("/")[0] for name, count in counts.items() if count > 0}
        return [each for each in self.trainee.balancing.heads if each in known]

    def _shares(self, losses: Losses, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """Head -> this process's share of its loss; 0 where the labels are in other processes."""
        trainee = self.trainee
        absent = {each: torch.zeros((), device=trainee.device) for each in self._taught(counts)}
        terms = shared_terms(losses, counts, trainee.processes.count)
        present: dict[str, Tensor] = trainee.plain_model.head_losses(terms)
        return absent | present

    @torch.no_grad()
    def _counts(self, attempt: Attempt) -> dict[str, float]:
        """What every loss term counts over all of an optimizer step's batches and processes.

        Accumulated batches must be divided by the step's counts, which sampling inside heads
        decides during the forward. A first forward without graph finds them: a third more time for
        sums that equal those of one large batch.
        """
        trainee, counts = self.trainee, list[dict[str, float]]()
        with still_statistics(trainee.plain_model):
            for batch in attempt.batches:
                torch.manual_seed(attempt.seed + trainee.processes.index)
                losses, _, _ = trainee.model(batch)
                counts.append({name: float(term.count.item()) for name, term in losses.items()})
        return summed([each for part in trainee.processes.gather(counts) for each in part])

    def _step(self, losses: Losses, attempt: Attempt) -> None:
        """Clips the gradient, and takes the optimizer's step.

        Args:
            losses: Of the last batch, to be told where the gradient is not finite.
            attempt: The step.
        """
        trainee = self.trainee
        norm = trainee.clip()
        # fp16's scaler finds its scale by overflowing, and skips the step.
        if trainee.precision != "fp16" and not torch.isfinite(norm):
            # The gradient is the same in all processes: all of them come here.
            attempt.is_source = True
            attempt.refuse(trainee.processes.gather(described(losses, attempt.batches)))
        trainee.step(attempt.update)

    # --- what processes tell each other

    def _exchange(
        self, losses: Losses, batch: Batch, known: dict[str, float], attempt: Attempt
    ) -> dict[str, float]:
        """The sums of all processes on their parts of a batch.

        Args:
            losses: Of this process.
            batch: Of this process.
            known: Counts of the whole step, where they are known; else those of the batch hold.
            attempt: The step; is told the counts.

        Raises:
            NonFiniteLossError: In all of them, if a term of one is not finite.
        """
        sums = {name: term.sum.item() for name, term in losses.items()}
        counts = {name: float(term.count.item()) for name, term in losses.items()}
        attempt.means = means(sums, counts)
        trouble = "" if all(map(math.isfinite, sums.values())) else described(losses, [batch])
        mine = Report(sums, counts, trouble, self.stop.is_asked, batch.left_out)
        reports = self.trainee.processes.gather(mine)
        self._leave_out([error for each in reports for error in each.left_out], attempt)
        self.stop.agree(each.stop for each in reports)
        attempt.counts.append(known or summed([each.counts for each in reports]))
        attempt.is_source = bool(trouble)
        attempt.refuse([each.trouble for each in reports if each.trouble])
        return summed([each.sums for each in reports])

    def _leave_out(self, errors: Sequence[PictureError], attempt: Attempt) -> None:
        """Lists the pictures of the step that cannot be read.

        Raises:
            DataError: In all processes, if there are too many.
        """
        for each in self._bad.add(errors, update=attempt.update, epoch=attempt.epoch):
            self._journal.log("bad_picture", **asdict(each))
            self._journal.say(f"left out: {each.reason}")

    # --- what the journal is told

    def _look_at_conflict(self, shares: Mapping[str, Tensor], attempt: Attempt) -> None:
        """Logs the cosines between the heads' gradients, where that is asked for and due."""
        every = self._options.log_gradient_conflict
        if not every or attempt.update % every:
            return
        trainee = self.trainee
        scaled = {name: trainee.scaled(each) for name, each in shares.items()}
        found = measure_conflict(trainee.plain_model, scaled, trainee.processes.add_up)
        if found is not None:
            self._journal.conflict(attempt.update, attempt.epoch + 1, found)

    def _tell(self, attempt: Attempt, losses: Mapping[str, float], factor: float) -> None:
        """Losses every ten steps, or in every one of short epochs; leaps of them always."""
        update, epoch = attempt.update, attempt.epoch + 1
        if update % 10 == 0 or self._length.updates_per_epoch < 10:
            rate = self._options.learning_rate * factor
            balancing = self.trainee.balancing
            weights = None if isinstance(balancing, Fixed) else balancing.weights()
            self._journal.step(update, epoch, losses, rate, weights)
        for spike in self._spikes.spikes(losses):
            self._journal.spike(update, epoch, spike, attempt.image_ids)


def _head_mean(losses: Mapping[str, float], head: str) -> float:
    """The sum of the means of a head's terms."""
    return math.fsum(value for name, value in losses.items() if name.split("/")[0] == head)
