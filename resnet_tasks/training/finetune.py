"""The training loop, readable top to bottom: set-up, epochs of steps, the last checkpoint.

The order of samples is a function of (seed, epoch), augmentation and the sampling inside heads of
(seed, epoch, picture), dropout of (seed, update), first weights of the seed. Nothing else is
random, so a run that was stopped and resumed ends with the same weights.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from rich.console import Console
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.utils.data import Dataset

from resnet_tasks.backbone.pretrained import LoadReport
from resnet_tasks.data.data_set_protocols import HasEpochs, LeavesOut
from resnet_tasks.data.loaders import (
    auto_workers,
    earlier_visits,
    make_loader,
    part_of,
    training_batches,
)
from resnet_tasks.data.sample_keys import Key, sample_seed
from resnet_tasks.data.tiled import TiledDataset
from resnet_tasks.errors import NonFiniteLossError, PictureError, RunError
from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.evaluation.evaluators import MAIN_METRIC, best_metric, evaluators_of, extra_for
from resnet_tasks.in_use import hold
from resnet_tasks.model import Losses, TaskModel, default_device, resolve_precision
from resnet_tasks.recipe.schema import (
    EvaluationRecipe,
    TrainingRecipe,
)
from resnet_tasks.structures import Batch, LossTerm, Metric, Sample
from resnet_tasks.training.bad_pictures import BadPictures
from resnet_tasks.training.balancing import BALANCINGS, Fixed
from resnet_tasks.training.checkpoint import fill, load_checkpoint, save_checkpoint
from resnet_tasks.training.conditions import (
    KeptBuffers,
    deterministic_algorithms,
    mixed_precision,
    still_statistics,
)
from resnet_tasks.training.gradient_conflict import measure_conflict
from resnet_tasks.training.inference import windowed
from resnet_tasks.training.journal import Journal
from resnet_tasks.training.limits import evaluation_advice, training_advice, within_memory
from resnet_tasks.training.optimizer import make_optimizer, rate_factor, set_rates
from resnet_tasks.training.processes import ALONE, Processes, own_device
from resnet_tasks.training.replay import Step, write_replay
from resnet_tasks.training.shares import Anchored, Report, described, means, summed, unannotated
from resnet_tasks.training.spikes import SpikeWatch
from resnet_tasks.training.trackers import require_trackers
from resnet_tasks.training.unfreezing import Unfreezing

Item = TypeVar("Item")

MOST_SKIPPED = 3
"""Steps that `training.non_finite=skip` may leave out, or 1 % of them where that is more."""
MOST_IN_ROW = 10
"""Steps left out in a row that end a run."""
STATE = ("position", "optimizer", "batches_per_epoch", "threads", "settings", "scaler")
"""What `state.pt` must hold to go on from it."""


@dataclass
class Position:
    """How far a run has come.

    Attributes:
        epoch: The current epoch, from 0.
        batch: Batches of it that are done.
        updates: Optimizer steps since the start.
        skipped: Steps that were left out because a value was not finite.
        skipped_in_row: Of those, the ones since the last good step.
        judged: Epochs up to the last evaluation; one that a kill cut off is made again.
        best: Value of the metric that chooses the best checkpoint.
        seconds: Spent training, over all sittings.
        stale: Evaluations since the best one.
    """

    epoch: int = 0
    batch: int = 0
    updates: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    judged: int = 0
    best: float | None = None
    seconds: float = 0.0
    stale: int = 0


class Stopped(Exception):  # noqa: N818  # not an error: the user asked for it
    """The run was asked to stop; its checkpoint is written."""


class Finetuning:
    """One fine-tuning: the model, its optimizer, and where it stands.

    Args:
        model: Is trained in place.
        train: Samples to learn from; indexed by (epoch, position) when it has epochs, as
            `CocoDataset` has.
        val: Samples to judge on; None: none.
        options: The loop's numbers.
        out: Run folder; gets `log.jsonl`, `tensorboard/` and `checkpoints/`.
        evaluation: Which metric is best, and how it is computed.
        console: For progress.
        workers: Loader processes; None: what suits the machine.
        processes: Those that train this model together; every one builds the same `Finetuning`.
    """

    def __init__(
        self,
        model: TaskModel,
        train: Dataset[Sample],
        val: Dataset[Sample] | None,
        options: TrainingRecipe,
        *,
        out: Path,
        evaluation: EvaluationRecipe,
        console: Console,
        workers: int | None = None,
        processes: Processes = ALONE,
    ) -> None:
        require_trackers(options.trackers)
        self.options = options
        self.out = out
        self.processes = processes
        self.journal = Journal(out, console, silent=not processes.is_main)
        self.evaluation = evaluation
        self.val = val
        self.train_set = train
        device = own_device(options.device, processes)
        self.precision = resolve_precision(options.precision, device)
        self.unfreezing = Unfreezing(model.backbone, options.unfreeze)
        # A head without labels in a process leaves its parameters without gradient there.
        unused = len(model.named_heads) > 1 or bool(self.unfreezing)
        self.accelerator = mixed_precision(self.precision, device, find_unused=unused)
        self.device = device
        self.workers = auto_workers(self.device) if workers is None else workers
        layout = torch.channels_last
        self.plain_model = model.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.ema = ModelEmaV3(model, decay=options.ema, use_warmup=True) if options.ema else None
        self.balancing = BALANCINGS.get(options.balancing)(model.trained_heads).to(device)
        with self.unfreezing.all_free():
            self.model, self.optimizer = self.accelerator.prepare(
                Anchored(model, self.balancing).to(device),
                make_optimizer(model, options, self.balancing),
            )
        self.position = Position()
        self.batches_per_epoch = len(self._batches(0))
        self.updates_per_epoch = -(-self.batches_per_epoch // options.accumulation)
        self.total_updates = self.updates_per_epoch * options.epochs
        self.metrics: dict[str, Metric] = {}
        if options.patience is not None and val is None:
            raise RunError(
                f"training.patience is {options.patience}, but there is nothing to evaluate on; "
                "give val, or leave patience out"
            )
        self.best_metric = best_metric(model.named_heads, evaluation.best, evaluation.extra)
        self.picture_size: tuple[int, int] | None = None  # (H, W) of the last batch
        self._counted: list[dict[str, float]] = []  # what the step's loss terms are divided by
        self._means: dict[str, float] = {}  # this process's, of the last batch
        self._is_source = False  # whether a value that is not finite arose in this process
        self._spikes = SpikeWatch()
        self.bad = self._no_bad_pictures(writes=processes.is_main)
        self._stop = False  # asked for in this process
        self._all_stop = False  # known to all of them

    def _no_bad_pictures(self, *, writes: bool) -> BadPictures:
        data = self.train_set
        most = data.most_bad_pictures if isinstance(data, LeavesOut) else 0
        pictures = data.pictures if isinstance(data, TiledDataset) else data
        total = len(pictures)  # type: ignore[arg-type]
        return BadPictures(self.out, most=most, total=total, writes=writes)

    # --- the loop

    def run(self) -> dict[str, Metric]:
        """Trains to the end.

        Returns:
            The last evaluation's metrics; empty where there was no `val` or nothing left to do.
        """
        if self.options.deterministic and self.device.type != "cpu":
            self.journal.say(
                f"note: training.deterministic holds on a CPU only, not on {self.device}"
            )
        if self.position.updates == 0:
            self.save()  # from here on a kill can be resumed from
        self.journal.log(
            "start",
            position=asdict(self.position),
            precision=self.precision,
            device=str(self.device),
            threads=torch.get_num_threads(),
            weights=None
            if (report := weights_report(self.plain_model)) is None
            else report.to_json(),
            processes=self.processes.count,
        )
        with (
            self.processes.watched(),
            self.journal.tracked(self.options, self.position.updates),
            deterministic_algorithms(self.options.deterministic and self.device.type == "cpu"),
            self._signals(),
        ):
            self._judge_epoch()  # where the last sitting ended in it
            while not (reason := self._reason_to_end()):
                with within_memory(self._training_advice):
                    self._train_epoch()
                self._after_epoch()
                if self._agreed_stop() and not self._reason_to_end():
                    raise self._stopped()
        self.journal.log("end", seconds=round(self.position.seconds, 1), reason=reason)
        if self.position.epoch < self.options.epochs:
            self.journal.say(f"stopped early: {reason}")
        if self.ema is not None:
            self.plain_model.load_state_dict(self.ema.module.state_dict())
        return self.metrics

    def _reason_to_end(self) -> str:
        """Why the run is over; empty while it is not."""
        position, patience = self.position, self.options.patience
        if position.epoch >= self.options.epochs:
            return "all epochs are done"
        if patience is None or position.stale < patience:
            return ""
        best = "no value" if position.best is None else f"{position.best:.4f}"
        return (
            f"{self.best_metric} has not improved on {best} in {position.stale} evaluations "
            f"(training.patience), up to epoch {position.epoch} of {self.options.epochs}"
        )

    def _train_epoch(self) -> None:
        position, accumulation = self.position, self.options.accumulation
        frozen = self.unfreezing.enter(position.epoch)
        if frozen is not None:
            self.journal.log("unfreeze", epoch=position.epoch, frozen_stages=frozen)
            self.journal.say(f"epoch {position.epoch + 1}: frozen_stages is {frozen} from now on")
        batches = self._batches(position.epoch)[position.batch :]
        started, written = time.monotonic(), time.monotonic()
        self.model.train()
        with self.journal.progress(
            f"epoch {position.epoch + 1}/{self.options.epochs}",
            position.updates,
            self.total_updates,
        ) as show:
            sizes = _groups(map(len, batches), accumulation)
            for group, pictures in zip(
                _groups(self._loaded(batches), accumulation), map(sum, sizes), strict=True
            ):
                losses = self._update(group)
                position.batch += len(group)
                position.updates += 1
                now = time.monotonic()
                position.seconds += now - started
                show(losses, pictures / max(now - started, 1e-9))
                started = now
                if self._all_stop:
                    self.save()
                    raise self._stopped()
                if now - written > self.options.checkpoint_minutes * 60:
                    self.save()
                    written = time.monotonic()

    def _update(self, group: Sequence[Batch]) -> dict[str, float]:
        """One optimizer step at the rate of the schedule; the mean of each loss term."""
        factor = rate_factor(self.position.updates, self.total_updates, self.options)
        return self.learn(group, factor)

    def learn(self, group: Sequence[Batch], factor: float) -> dict[str, float]:
        """One optimizer step over the batches of `group`; the mean of each loss term.

        Args:
            group: Batches that are accumulated.
            factor: What all rates are multiplied with.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite.
        """
        position = self.position
        seed = sample_seed(self.options.seed, position.epoch, f"update {position.updates}")
        torch.manual_seed(seed)
        set_rates(self.optimizer.optimizer, factor)
        self.optimizer.zero_grad()
        self.picture_size = group[0].padded_size
        batches = [self._seeded(batch).to(self.device, non_blocking=True) for batch in group]
        buffers = KeptBuffers(self.plain_model)
        self._counted.clear()
        try:
            shown = self._learn(batches, seed)
        except NonFiniteLossError as trouble:
            buffers.restore()  # norms have seen the step
            self._skip(trouble, batches, seed)
            return {}
        position.skipped_in_row = 0
        if position.updates % 10 == 0 or self.updates_per_epoch < 10:
            rate = self.options.learning_rate * factor
            weights = None if isinstance(self.balancing, Fixed) else self.balancing.weights()
            self.journal.step(position.updates, position.epoch + 1, shown, rate, weights)
        images = [image_id for batch in batches for image_id in batch.image_ids]
        for spike in self._spikes.spikes(shown):
            self.journal.spike(position.updates, position.epoch + 1, spike, images)
        return shown

    def _learn(self, batches: Sequence[Batch], seed: int) -> dict[str, float]:
        """Gradients of an optimizer step, and the step; the mean of each loss term.

        Raises:
            NonFiniteLossError: In all processes, if a loss or the gradient is not finite.
        """
        counts = self._counts(batches, seed) if len(batches) > 1 else {}
        shown: dict[str, float] = {}
        for batch in batches:
            torch.manual_seed(seed + self.processes.index)
            own, anchor, variables = self._losses(batch)
            report = self._exchange(own, batch, counts)
            here = self._counted[-1]
            shares = self._shares(own, here)
            taught = {each: shares.pop(each) for each in self._taught(here)}
            if batch is batches[0]:
                self._look_at_conflict(taught)
            weighed = [self.balancing.total(taught, variables, 1 / len(batches))] if taught else []
            # What teaches nothing takes part too: other processes wait for its gradients.
            rest = [] if taught else [each * 0.0 for each in variables.values()]
            total = torch.stack([*weighed, *rest, *shares.values(), anchor]).sum()
            self.accelerator.backward(total)
            for name, value in report.sums.items():
                shown[name] = shown.get(name, 0.0) + value / max(here[name], 1e-12)
        if shown:  # else nothing in it is annotated for any head: it teaches nothing
            known = self._taught(self._counted[-1])
            self.balancing.forget([each for each in self.balancing.heads if each not in known])
            self._step(own, batches)
            weights = self.plain_model.loss_weights
            self.balancing.note({head: weights[head] * _head_mean(shown, head) for head in known})
        return shown

    def _taught(self, counts: Mapping[str, float]) -> list[str]:
        """The heads that learn something from what these counts are of, in the model's order."""
        known = {name.split("/")[0] for name, count in counts.items() if count > 0}
        return [each for each in self.balancing.heads if each in known]

    def _look_at_conflict(self, shares: Mapping[str, Tensor]) -> None:
        """Logs the cosines between the heads' gradients, where that is asked for and due."""
        every, position = self.options.log_gradient_conflict, self.position
        if not every or position.updates % every:
            return
        scaler = self.accelerator.scaler
        scaled = {
            name: each if scaler is None else scaler.scale(each) for name, each in shares.items()
        }
        found = measure_conflict(self.plain_model, scaled, self.processes.add_up)
        if found is not None:
            self.journal.conflict(position.updates, position.epoch + 1, found)

    def _shares(self, losses: Losses, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """Head -> this process's share of its loss in all of them; 0 where it has no labels here.

        Gradients are averaged over processes, hence the factor.
        """
        shares = {
            name: LossTerm(
                term.sum * self.processes.count, torch.full_like(term.count, counts[name])
            )
            for name, term in losses.items()
        }
        absent = {each: torch.zeros((), device=self.device) for each in self._taught(counts)}
        present: dict[str, Tensor] = self.plain_model.head_losses(shares)
        return absent | present

    def _exchange(self, losses: Losses, batch: Batch, known: dict[str, float]) -> Report:
        """What all processes computed on their parts of a batch.

        Args:
            losses: Of this process.
            batch: Of this process.
            known: Counts of the whole step, where they are known; else those of the batch hold.

        Raises:
            NonFiniteLossError: In all of them, if a term of one is not finite.
        """
        sums = {name: term.sum.item() for name, term in losses.items()}
        counts = {name: float(term.count.item()) for name, term in losses.items()}
        self._means = means(sums, counts)
        trouble = "" if all(map(math.isfinite, sums.values())) else described(losses, [batch])
        mine = Report(sums, counts, trouble, self._stop, batch.left_out)
        reports = self.processes.gather(mine)
        self._leave_out([error for each in reports for error in each.left_out])
        self._all_stop = any(each.stop for each in reports)
        report = Report(
            summed([each.sums for each in reports]), summed([each.counts for each in reports])
        )
        self._counted.append(known or report.counts)
        self._is_source = bool(trouble)
        self._refuse([each.trouble for each in reports if each.trouble])
        return report

    def _leave_out(self, errors: Sequence[PictureError]) -> None:
        """Lists the pictures of the step that cannot be read.

        Raises:
            DataError: In all processes, if there are too many.
        """
        position = self.position
        for each in self.bad.add(errors, update=position.updates, epoch=position.epoch):
            self.journal.log("bad_picture", **asdict(each))
            self.journal.say(f"left out: {each.reason}")

    def _agreed_stop(self) -> bool:
        """Whether any process was asked to stop."""
        self._all_stop = any(self.processes.gather(self._stop))
        return self._all_stop

    def _losses(self, batch: Batch) -> tuple[Losses, Tensor, dict[str, Tensor]]:
        buffers = KeptBuffers(self.plain_model) if batch.is_stand_in else None
        try:
            losses: tuple[Losses, Tensor, dict[str, Tensor]] = self.model(batch)
            if buffers is not None:
                buffers.restore()  # norms learn nothing of a black picture
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise RunError(
                f"a batch of {len(batch)} picture(s) of {batch.padded_size} pixels leaves a batch "
                "norm a single value per channel, from which no statistics can be learnt; use "
                "larger pictures (data.resize), a training.batch_size that divides the data "
                "without a rest of 1, or backbone.norm=group"
            ) from None
        return losses

    def _step(self, losses: Losses, batches: Sequence[Batch]) -> None:
        limit = float("inf") if self.options.clip_norm is None else self.options.clip_norm
        norm = self.accelerator.clip_grad_norm_(self.plain_model.parameters(), limit)
        # fp16's scaler finds its scale by overflowing, and skips the step.
        if self.precision != "fp16" and not torch.isfinite(norm):
            # The gradient is the same in all processes: all of them come here.
            self._is_source = True
            self._refuse(self.processes.gather(described(losses, batches)))
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.plain_model, step=self.position.updates)

    @torch.no_grad()
    def _counts(self, batches: Sequence[Batch], seed: int) -> dict[str, float]:
        """What every loss term counts over all of an optimizer step's batches and processes.

        Accumulated batches must be divided by the step's counts, which sampling inside heads
        decides during the forward. A first forward without graph finds them: a third more time for
        sums that equal those of one large batch.
        """
        counts: list[dict[str, float]] = []
        with still_statistics(self.plain_model):
            for batch in batches:
                torch.manual_seed(seed + self.processes.index)
                losses, _, _ = self.model(batch)
                counts.append({name: float(term.count.item()) for name, term in losses.items()})
        return summed([each for part in self.processes.gather(counts) for each in part])

    def _after_epoch(self) -> None:
        self.position.epoch, self.position.batch = self.position.epoch + 1, 0
        self.balancing.end_epoch()
        self.save()
        self._judge_epoch()

    def _judge_epoch(self) -> None:
        """Evaluates after a whole epoch, where that is due and not done."""
        position, every = self.position, self.options.evaluate_every
        is_last = position.epoch == self.options.epochs
        is_due = is_last or bool(every and position.epoch and position.epoch % every == 0)
        if self.val is None or position.batch or position.judged == position.epoch or not is_due:
            return
        with within_memory(self._evaluation_advice):
            self._evaluate()
        position.judged = position.epoch
        self.save()  # again, with what is best so far

    def _evaluate(self) -> None:
        assert self.val is not None
        model = self.ema.module if self.ema is not None else self.plain_model
        # Statistics of norms are each process's own; the main one's are kept, and judged.
        self.processes.share_buffers(model)
        batch_size = self.evaluation.batch_size or self.options.batch_size
        evaluation = evaluate(
            windowed(model, self.evaluation.sliding, batch_size=batch_size),
            self.val,
            batch_size=batch_size,
            precision=self.precision,
            evaluators=evaluators_of(
                model.named_heads,
                backend=self.evaluation.backend,
                extra=extra_for(model.named_heads, self.best_metric, self.evaluation.extra),
            ),
            bootstrap=None,  # the loop needs values only
            team=self.processes,
        )
        self.metrics = self.processes.decide(lambda: evaluation.metrics)
        values = {name: each.value for name, each in self.metrics.items()}
        position = self.position
        heading = f"epoch {position.epoch}/{self.options.epochs}"
        self.journal.evaluation(
            heading, position.epoch, position.updates, values, shown=self._main_metrics()
        )
        self._keep_best(values)

    def _keep_best(self, values: dict[str, float | None]) -> None:
        name = self.best_metric or self._main_metrics()[0]
        value, best = values.get(name), self.position.best
        self.position.stale += 1
        if value is None:
            return
        is_lower = best is not None and value < best
        if best is None or (value != best and is_lower == self.metrics[name].lower_is_better):
            self.position.best, self.position.stale = value, 0
            self._save_to("best", with_state=False)

    def _main_metrics(self) -> list[str]:
        heads = self.plain_model.named_heads.items()
        names = [f"{name}/{MAIN_METRIC.get(head.evaluator_name, '')}" for name, head in heads]
        known = [name for name in names if name in self.metrics]
        return known or list(self.metrics)[:1]

    # --- keeping and going on

    def save(self) -> None:
        """Writes `checkpoints/last`."""
        self._save_to("last", with_state=True)

    def resume(self) -> None:
        """Goes on from `checkpoints/last`.

        Raises:
            RunError: If there is none, or it belongs to other settings.
        """
        weights, averaged, state = load_checkpoint(self.out / "checkpoints" / "last")
        lacking = [key for key in STATE if key not in state]
        if lacking:
            raise RunError(
                f"the training state of {self.out} is not of this version: it lacks "
                f"{', '.join(lacking)}; start again"
            )
        now = self._settings()
        changed = [key for key, value in state["settings"].items() if now.get(key) != value]
        if changed:
            texts = (
                f"training.{key} was {state['settings'][key]!r}, is {now[key]!r}" for key in changed
            )
            raise RunError(
                f"{self.out} was started with other settings: {'; '.join(texts)}; resume with the "
                "same, or start a new run"
            )
        fill(self.plain_model, weights, self.out / "checkpoints" / "last")
        if averaged is not None and self.ema is not None:
            self.ema.module.load_state_dict(averaged)
        if state["batches_per_epoch"] != self.batches_per_epoch:
            raise RunError(
                f"{self.out} was trained with {state['batches_per_epoch']} batches an epoch, now "
                "there are "
                f"{self.batches_per_epoch}; resume with the same data and batch size"
            )
        if state["threads"] != torch.get_num_threads() and self.options.deterministic:
            self.journal.say(
                f"note: started with {state['threads']} threads, resumed with "
                f"{torch.get_num_threads()}; "
                "the result will differ in the last digits from an uninterrupted run"
            )
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.balancing.load_state_dict(state.get("balancing", {}))
        self.position = Position(**state["position"])
        self.bad.recall()

    def _save_to(self, name: str, *, with_state: bool) -> None:
        if not self.processes.is_main:
            return
        if not self.out.is_dir():
            raise RunError(
                f"the run folder {self.out} has gone while the run was in it; put it back (a moved "
                "folder, a disk that is not mounted) and go on with --resume, or start again"
            )
        state: dict[str, Any] = {
            "position": asdict(self.position),
            "optimizer": self.optimizer.optimizer.state_dict(),
            "batches_per_epoch": self.batches_per_epoch,
            "threads": torch.get_num_threads(),
            "settings": self._settings(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "balancing": self.balancing.state_dict(),
        }
        save_checkpoint(
            self.out / "checkpoints" / name,
            model=self.plain_model.state_dict(),
            ema=self.ema.module.state_dict() if self.ema is not None else None,
            state=state if with_state else None,
        )

    def _settings(self) -> dict[str, Any]:
        """Options that decide the final weights, as plain values."""
        free = {"checkpoint_minutes", "device", "deterministic", "trackers"}
        free.add("log_gradient_conflict")
        if self.options.patience is None:
            free.add("evaluate_every")
        values: dict[str, Any] = json.loads(self.options.model_dump_json(exclude=free))
        return values

    def _training_advice(self) -> str:
        options = self.options
        return training_advice(options.batch_size, options.accumulation, self.picture_size)

    def _evaluation_advice(self) -> str:
        return evaluation_advice(
            self.evaluation.batch_size or self.options.batch_size, self.picture_size
        )

    def rehearse(self, steps: int = 2) -> list[float]:
        """Takes the first steps of a run without writing anything.

        Args:
            steps: How many; fewer where an epoch has fewer.

        Returns:
            Seconds of each, the loading of its pictures included.

        Raises:
            MemoryLimitError: If memory does not suffice.
        """
        self.journal = Journal(self.out, Console(quiet=True), silent=True)
        self.bad = self._no_bad_pictures(writes=False)
        taken: list[float] = []
        self.unfreezing.enter(0)
        self.model.train()
        with (
            within_memory(self._training_advice),
            deterministic_algorithms(self.options.deterministic and self.device.type == "cpu"),
        ):
            batches = self._batches(0)[: steps * self.options.accumulation]
            started = time.monotonic()
            for group in _groups(self._loaded(batches), self.options.accumulation):
                self._update(group)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                self.position.updates += 1
                taken.append(time.monotonic() - started)
                started = time.monotonic()
        return taken

    def _stopped(self) -> Stopped:
        done = f"{self.position.updates} of {self.total_updates} steps"
        return Stopped(f"{done} are done and written to {self.out}; go on with --resume {self.out}")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM finish the step and write a checkpoint before they end the run."""

        def ask(_number: int, _frame: FrameType | None) -> None:
            if self._stop:  # asked twice: now, without waiting for the end of a step or evaluation
                raise KeyboardInterrupt
            self._stop = True

        previous = {}
        try:
            for each in (signal.SIGINT, signal.SIGTERM):
                previous[each] = signal.signal(each, ask)
        except ValueError:
            pass  # Not the main thread: the caller owns the signals.
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def _skip(self, trouble: NonFiniteLossError, batches: Sequence[Batch], seed: int) -> None:
        """Leaves a step out that was not finite, where that is wanted; keeps it for `replay`.

        Raises:
            NonFiniteLossError: If the run is to stop there, or too many steps were left out.
        """
        position = self.position
        kept = self._keep_replay(str(trouble), batches, seed)
        how = "" if kept is None else f"; do the step again with `resnet-tasks replay {kept}`"
        if self.options.non_finite == "stop":
            raise NonFiniteLossError(
                f"{trouble}{how}; training.non_finite=skip leaves such steps out"
            )
        position.skipped += 1
        position.skipped_in_row += 1
        most = max(MOST_SKIPPED, self.total_updates // 100)
        if position.skipped > most or position.skipped_in_row >= MOST_IN_ROW:
            raise NonFiniteLossError(
                f"{trouble}{how}; {position.skipped} of {position.updates + 1} steps were left "
                f"out, {position.skipped_in_row} in a row; allowed are {most}, and fewer than "
                f"{MOST_IN_ROW} in a row"
            )
        self.journal.log(
            "skipped", update=position.updates, epoch=position.epoch + 1, reason=str(trouble)
        )
        self.journal.say(f"step {position.updates} was left out: {trouble}{how}")

    def _keep_replay(self, trouble: str, batches: Sequence[Batch], seed: int) -> Path | None:
        """Writes the step for `replay`, in the processes where it went wrong."""
        if not self._is_source:
            return None
        others = f"-process-{self.processes.index}" if self.processes.count > 1 else ""
        step = Step(
            update=self.position.updates,
            seed=seed + self.processes.index,
            precision=self.precision,
            deterministic=self.options.deterministic,
            threads=torch.get_num_threads(),
            counts=list(self._counted),
            losses=self._means,
            trouble=trouble,
            frozen=[n for n, p in self.plain_model.named_parameters() if not p.requires_grad],
            weights=self.balancing.weights(),
        )
        name = f"update-{self.position.updates}{others}"
        return write_replay(self.out, name, self.plain_model, batches, step)

    def _refuse(self, troubles: Sequence[str]) -> None:
        if troubles:
            raise NonFiniteLossError(
                "the loss or its gradient is not finite at update "
                f"{self.position.updates} (epoch {self.position.epoch + 1}); "
                f"{'; '.join(troubles)}; lower training.learning_rate, keep training.clip_norm, or "
                "look at these pictures' annotations"
            )

    def _seeded(self, batch: Batch) -> Batch:
        """Seeds for sampling inside heads, from (seed, epoch, picture) for every data set."""
        run, epoch = self.options.seed, self.position.epoch
        return replace(
            batch, seeds=tuple(sample_seed(run, epoch, each) for each in batch.image_ids)
        )

    def _batches(self, epoch: int) -> list[list[Key]]:
        """The batches of an epoch, of all processes together."""
        data = self.train_set
        batches = training_batches(
            len(data),  # type: ignore[arg-type]
            self.options.batch_size,
            seed=self.options.seed,
            epoch=epoch,
            repeats=data.repeats if isinstance(data, HasEpochs) else None,
        )
        if not isinstance(data, HasEpochs):
            return [list(batch) for batch in batches]
        return [
            data.batch_keys(epoch, i, batch, visits)
            for i, (batch, visits) in enumerate(zip(batches, earlier_visits(batches), strict=True))
        ]

    def batches_of(self, epoch: int) -> Iterator[Batch]:
        """This process's part of every batch of an epoch, read, in the order of training."""
        return self._loaded(self._batches(epoch))

    def _loaded(self, batches: Sequence[Sequence[Key]]) -> Iterator[Batch]:
        """This process's part of every batch, read.

        A part without pictures still takes part in the step, with one that teaches nothing.
        """
        parts = [part_of(each, self.processes.index, self.processes.count) for each in batches]
        loader = make_loader(
            self.train_set,
            [part or whole[:1] for part, whole in zip(parts, batches, strict=True)],
            workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )
        for part, batch in zip(parts, loader, strict=True):
            yield batch if part else unannotated(batch)


def finetune(
    model: TaskModel,
    train: Dataset[Sample],
    val: Dataset[Sample] | None = None,
    options: TrainingRecipe | None = None,
    *,
    out: Path | str,
    resume: bool = False,
    evaluation: EvaluationRecipe | None = None,
    console: Console | None = None,
    workers: int | None = None,
) -> dict[str, Metric]:
    """Fine-tunes a model on any data set of samples; no recipe needed.

    Started by `torchrun` or `accelerate launch`, all processes train the one model together, each
    on its part of every batch; the first one writes.

    Args:
        model: Trained in place; at the end it holds the weights to predict with (the averaged ones
            with `ema`).
        train: Samples to learn from, in the label indices that the model's label tables translate.
        val: Samples to judge on, without augmentation.
        options: The loop's numbers; default: those of `TrainingRecipe()`.
        out: Folder for `log.jsonl`, `tensorboard/` and `checkpoints/`.
        resume: Go on from `out/checkpoints/last`.
        evaluation: Which metric chooses the best checkpoint.
        console: For progress; default: standard error.
        workers: Loader processes; None: what suits the machine.

    Returns:
        `{"head/metric": Metric}` of the last evaluation; empty without `val`.

    Raises:
        NonFiniteLossError: If a loss or gradient is not finite; the last checkpoint stays.
        RunError: If there is nothing to resume from, `out` already holds checkpoints and `resume`
            is False, another process trains in it, or it cannot be written to.
        Stopped: After Ctrl-C or SIGTERM, when the checkpoint is written.
    """
    folder = Path(out)
    options = options or TrainingRecipe()
    together = Processes.start(default_device(options.device))

    def require_fresh() -> None:
        if not resume and (folder / "checkpoints").exists():
            raise RunError(
                f"{folder} already holds checkpoints; resume from them or choose another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)

    with ExitStack() as held:
        held.callback(together.leave)
        together.decide(lambda: hold(held, folder))
        together.decide(require_fresh)
        work = Finetuning(
            model,
            train,
            val,
            options,
            out=folder,
            evaluation=evaluation or EvaluationRecipe(),
            console=heard(console or Console(stderr=True), together),
            workers=workers,
            processes=together,
        )
        if resume:
            work.resume()
        return work.run()


def _head_mean(losses: Mapping[str, float], head: str) -> float:
    """The sum of the means of a head's terms."""
    return math.fsum(value for name, value in losses.items() if name.split("/")[0] == head)


def _groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive items, `size` at a time; the last group may be smaller."""
    stream = iter(items)
    while group := list(islice(stream, size)):
        yield group


def heard(console: Console, processes: Processes) -> Console:
    """`console` in the main process; one that says nothing in the others."""
    return console if processes.is_main else Console(quiet=True)


def weights_report(model: TaskModel) -> LoadReport | None:
    """What was loaded into a model; None where it began with random weights, or with a run's."""
    report: LoadReport | None = getattr(model.backbone, "report", None)
    return report
