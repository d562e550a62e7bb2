"""The training loop, readable top to bottom: set-up, epochs of steps, evaluation, checkpoints.

The order of samples is a function of (seed, epoch), augmentation and the sampling inside heads of
(seed, epoch, picture), dropout of (seed, update), first weights of the seed. Nothing else is
random, so a run that was stopped and resumed ends with the same weights.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.data import Dataset

from resnet_tasks.backbone.pretrained import LoadReport
from resnet_tasks.errors import RunError
from resnet_tasks.in_use import hold
from resnet_tasks.model import TaskModel, default_device
from resnet_tasks.recipe.schema import EvaluationRecipe, TrainingRecipe
from resnet_tasks.structures import Metric, Sample
from resnet_tasks.training.bad_pictures import BadPictures
from resnet_tasks.training.batches import EpochBatches
from resnet_tasks.training.journal import Journal
from resnet_tasks.training.learner import Learner
from resnet_tasks.training.limits import evaluation_advice, within_memory
from resnet_tasks.training.optimizer import rate_factor
from resnet_tasks.training.position import Position
from resnet_tasks.training.processes import ALONE, Processes
from resnet_tasks.training.resuming import Checkpoints
from resnet_tasks.training.signals import Stopped, StopRequest
from resnet_tasks.training.trackers import require_trackers
from resnet_tasks.training.trainee import Trainee
from resnet_tasks.training.validation import Validation


class Finetuning:
    """One fine-tuning: who learns what, and how far it has come.

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
        if options.patience is not None and val is None:
            raise RunError(
                f"training.patience is {options.patience}, but there is nothing to evaluate on; "
                "give val, or leave patience out"
            )
        self._options = options
        self._out = out
        self._processes = processes
        self._journal = Journal(out, console, silent=not processes.is_main)
        self._trainee = trainee = Trainee(model, options, processes)
        self._batches = EpochBatches(
            train, options, device=trainee.device, workers=workers, processes=processes
        )
        self._length = self._batches.length
        self._bad = BadPictures.of(train, out, writes=processes.is_main)
        self._stop = StopRequest()
        self._learner = Learner(
            trainee,
            options,
            self._length,
            journal=self._journal,
            bad=self._bad,
            stop=self._stop,
            folder=out,
        )
        self._validation = Validation(val, trainee, evaluation, batch_size=options.batch_size)
        self._checkpoints = Checkpoints(out, trainee, options, self._length)
        self._position = Position()
        self._metrics: dict[str, Metric] = {}

    def resume(self) -> None:
        """Goes on from `checkpoints/last`.

        Raises:
            RunError: If there is none, or it belongs to other settings.
        """
        self._position = self._checkpoints.resume(self._journal.say)
        self._bad.recall()

    def run(self) -> dict[str, Metric]:
        """Trains to the end.

        Returns:
            The last evaluation's metrics; empty where there was no `val` or nothing left to do.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite.
            MemoryLimitError: If memory does not suffice.
            Stopped: After Ctrl-C or SIGTERM, when the checkpoint is written.
        """
        self._begin()
        with (
            self._processes.watched(),
            self._journal.tracked(self._options, self._position.updates),
            self._trainee.deterministic(),
            self._stop.listening(),
        ):
            self._judge_epoch()  # where the last sitting ended in it
            while not (reason := self._reason_to_end()):
                with within_memory(self._learner.memory_advice):
                    self._train_epoch()
                self._end_epoch()
                asked = self._processes.gather(self._stop.is_asked)
                if self._stop.agree(asked) and not self._reason_to_end():
                    raise self._stopped()
        self._journal.log("end", seconds=round(self._position.seconds, 1), reason=reason)
        if self._position.epoch < self._options.epochs:
            self._journal.say(f"stopped early: {reason}")
        self._trainee.end()
        return self._metrics

    def _begin(self) -> None:
        """The first checkpoint, and the first line of the log."""
        trainee, position = self._trainee, self._position
        if self._options.deterministic and trainee.device.type != "cpu":
            self._journal.say(
                f"note: training.deterministic holds on a CPU only, not on {trainee.device}"
            )
        if position.updates == 0:
            self._checkpoints.save_last(position)  # from here on a kill can be resumed from
        report = weights_report(trainee.plain_model)
        self._journal.log(
            "start",
            position=asdict(position),
            precision=trainee.precision,
            device=str(trainee.device),
            threads=torch.get_num_threads(),
            weights=None if report is None else report.to_json(),
            processes=self._processes.count,
        )

    def _reason_to_end(self) -> str:
        """Why the run is over; empty while it is not."""
        position, patience = self._position, self._options.patience
        if position.epoch >= self._options.epochs:
            return "all epochs are done"
        if patience is None or position.stale < patience:
            return ""
        best = "no value" if position.best is None else f"{position.best:.4f}"
        return (
            f"{self._validation.best_metric} has not improved on {best} in {position.stale} "
            f"evaluations (training.patience), up to epoch {position.epoch} of "
            f"{self._options.epochs}"
        )

    def _stopped(self) -> Stopped:
        done = f"{self._position.updates} of {self._length.updates} steps"
        return Stopped(
            f"{done} are done and written to {self._out}; go on with --resume {self._out}"
        )

    # --- an epoch

    def _train_epoch(self) -> None:
        """The steps of an epoch that are not done, with a checkpoint every few minutes."""
        position, options = self._position, self._options
        self._unfreeze()
        started, written = time.monotonic(), time.monotonic()
        self._trainee.model.train()
        heading = f"epoch {position.epoch + 1}/{options.epochs}"
        with self._journal.progress(heading, position.updates, self._length.updates) as show:
            for group in self._batches.groups(position.epoch, start=position.batch):
                factor = rate_factor(position.updates, self._length.updates, options)
                losses = self._learner.learn(group.batches, factor, position)
                position.batch += len(group.batches)
                position.updates += 1
                now = time.monotonic()
                position.seconds += now - started
                show(losses, group.pictures / max(now - started, 1e-9))
                started = now
                if self._stop.is_agreed:
                    self._checkpoints.save_last(position)
                    raise self._stopped()
                if now - written > options.checkpoint_minutes * 60:
                    self._checkpoints.save_last(position)
                    written = time.monotonic()

    def _unfreeze(self) -> None:
        """Stages of the backbone join in their epoch."""
        epoch = self._position.epoch
        frozen = self._trainee.unfreezing.enter(epoch)
        if frozen is not None:
            self._journal.log("unfreeze", epoch=epoch, frozen_stages=frozen)
            self._journal.say(f"epoch {epoch + 1}: frozen_stages is {frozen} from now on")

    def _end_epoch(self) -> None:
        self._position.epoch, self._position.batch = self._position.epoch + 1, 0
        self._trainee.balancing.end_epoch()
        self._checkpoints.save_last(self._position)
        self._judge_epoch()

    # --- evaluation

    def _judge_epoch(self) -> None:
        """Evaluates after a whole epoch, where that is due and not done."""
        position, every = self._position, self._options.evaluate_every
        is_last = position.epoch == self._options.epochs
        is_due = is_last or bool(every and position.epoch and position.epoch % every == 0)
        is_done = bool(position.batch) or position.judged == position.epoch
        if not self._validation.has_data or is_done or not is_due:
            return
        with within_memory(self._evaluation_advice):
            self._evaluate()
        position.judged = position.epoch
        self._checkpoints.save_last(position)  # again, with what is best so far

    def _evaluate(self) -> None:
        """Measures, tells, and keeps the weights where they are the best so far."""
        position = self._position
        self._metrics = metrics = self._validation.measure()
        self._journal.evaluation(
            f"epoch {position.epoch}/{self._options.epochs}",
            position.epoch,
            position.updates,
            {name: each.value for name, each in metrics.items()},
            shown=self._validation.headline(metrics),
        )
        position.stale += 1
        better = self._validation.improved(metrics, position.best)
        if better is not None:
            position.best, position.stale = better, 0
            self._checkpoints.save_best()

    def _evaluation_advice(self) -> str:
        return evaluation_advice(self._validation.batch_size, self._learner.picture_size)


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
            console=together.heard(console or Console(stderr=True)),
            workers=workers,
            processes=together,
        )
        if resume:
            work.resume()
        return work.run()


def weights_report(model: TaskModel) -> LoadReport | None:
    """What was loaded into a model; None where it began with random weights, or with a run's."""
    report: LoadReport | None = getattr(model.backbone, "report", None)
    return report
