"""Training loop, readable top to bottom: set-up, epochs of steps, evaluation, checkpoints.

The order of samples is a function of (seed, epoch); augmentation and the sampling inside heads are
functions of (seed, epoch, image, visit), dropout of (seed, update), initial weights of the seed.
The visit is the number of earlier occurrences of the image in the epoch. Nothing else is random, so
a run that was stopped and resumed ends with the same weights.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from torch.utils.data import Dataset

from resnet_tasks.assemble.model import get_weights_report
from resnet_tasks.assemble.run_directory import has_checkpoint
from resnet_tasks.errors import RunError
from resnet_tasks.files.folder_lock import enter_folder_lock
from resnet_tasks.model import TaskModel
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.schema.evaluation import EvaluationRecipe
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder.files import LOG
from resnet_tasks.run_folder.log import read_events
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.devices import resolve_device
from resnet_tasks.runtime.processes import (
    SINGLE_PROCESS,
    DistributedContext,
    resolve_process_device,
)
from resnet_tasks.runtime.signals import TrainingStopped
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.structures.samples import Sample
from resnet_tasks.training.batches import EpochBatches
from resnet_tasks.training.checkpointing import CheckpointManager
from resnet_tasks.training.guards.out_of_memory import (
    advise_on_evaluation_memory,
    translate_memory_errors,
)
from resnet_tasks.training.guards.unreadable_images import UnreadableImages
from resnet_tasks.training.logging.run_log import RunLog
from resnet_tasks.training.logging.time_left import TimeLeft
from resnet_tasks.training.logging.trackers import require_trackers
from resnet_tasks.training.state.progress import TrainingProgress
from resnet_tasks.training.train_step import TrainStep
from resnet_tasks.training.validation import EvaluationPlan, Validation


class FineTuner:
    """Fine-tuning of one model: training loop, evaluation, checkpoints and log.

    Args:
        model: Model, trained in place.
        train: Training samples, indexed by `SampleKey` if the dataset has an epoch sampler
            (`CocoDataset` does), else by position.
        val: Validation samples; None: no evaluation.
        options: Options of the training loop.
        out: Path of the run folder for `log.jsonl`, `tensorboard/` and `checkpoints/`.
        evaluation: Options of the evaluation, and the combiners.
        console: Console for progress.
        workers: Number of loader workers; None: chosen for the machine.
        processes: Process group that trains the model; every process builds the same `FineTuner`.

    Raises:
        RecipeError: If a tracker is not installed, or no head has the metric `evaluation.best`.
        RunError: If `options.patience` is set without `val`.
    """

    def __init__(
        self,
        model: TaskModel,
        train: Dataset[Sample],
        val: Dataset[Sample] | None,
        options: TrainingRecipe,
        *,
        out: Path,
        evaluation: EvaluationPlan,
        console: Console,
        workers: int | None = None,
        processes: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        require_trackers(options.trackers)
        if options.patience is not None and val is None:
            raise RunError(
                f"training.patience is {options.patience}, but there is no validation data; set "
                "data.val, or remove training.patience"
            )
        self._options = options
        self._out = out
        self._processes = processes
        self._run_log = RunLog(out, console, silent=not processes.is_main)
        device = resolve_process_device(options.device, processes)
        self._batches = EpochBatches(
            train, options, device=device, workers=workers, processes=processes
        )
        self._length = self._batches.length
        self._unreadable = UnreadableImages.for_dataset(train, out, writes=processes.is_main)
        self._train_step = train_step = TrainStep(
            model,
            options,
            self._length,
            processes=processes,
            run_log=self._run_log,
            unreadable=self._unreadable,
            folder=out,
        )
        self._stop = train_step.stop
        self._validation = Validation(val, train_step, evaluation, batch_size=options.batch_size)
        self._checkpoints = CheckpointManager(out, train_step, options, self._length)
        self._progress = TrainingProgress()
        self._time_left = TimeLeft()
        self._metrics: dict[str, Metric] = {}

    def resume(self) -> None:
        """Restore the state of `checkpoints/last`; `run` then continues from there.

        Raises:
            RunError: If there is no checkpoint, it belongs to other settings, or a file of the run
                is damaged.
        """
        read_events(self._out / LOG.name)  # raises if nothing should be appended to this file
        self._progress = self._checkpoints.resume(self._run_log.print_line)
        self._unreadable.load()

    def run(self) -> dict[str, Metric]:
        """Train to the end.

        Returns:
            Metrics of the last evaluation; empty without `val`, or if the run was already complete.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite.
            MemoryLimitError: If memory runs out.
            TrainingStopped: After Ctrl-C or SIGTERM, once the checkpoint is written.
        """
        self._begin()
        with (
            self._stop.listen(),
            self._processes.translate_communication_errors(),
            self._run_log.open_trackers(self._options, self._progress.updates),
            self._train_step.make_deterministic(),
        ):
            self._evaluate_if_due()  # if the run was interrupted in an evaluation
            while not (reason := self._find_stop_reason()):
                with translate_memory_errors(self._train_step.advise_on_memory):
                    self._train_epoch()
                self._end_epoch()
                stop_requests = self._processes.all_gather(self._stop.is_requested)
                if self._stop.agree(stop_requests) and not self._find_stop_reason():
                    raise self._make_stop_error()
        self._run_log.log("end", seconds=round(self._progress.seconds, 1), reason=reason)
        if self._progress.epoch < self._options.epochs:
            self._run_log.print_line(f"stopped early: {reason}")
        self._train_step.finish()
        return self._metrics

    def _begin(self) -> None:
        """Write the first checkpoint of a new run, and the `start` line of the log."""
        train_step, progress = self._train_step, self._progress
        if self._options.deterministic and train_step.device.type != "cpu":
            self._run_log.print_line(
                "note: training.deterministic has an effect on a CPU only, not on "
                f"{train_step.device}"
            )
        if progress.updates == 0:
            self._checkpoints.save_last(progress)  # from here on a killed run can be resumed
        report = get_weights_report(train_step.model)
        self._run_log.log(
            "start",
            format_version=LOG.version,
            position=asdict(progress),
            precision=train_step.precision,
            device=str(train_step.device),
            threads=torch.get_num_threads(),
            weights=None if report is None else report.to_json(),
            processes=self._processes.count,
        )

    def _find_stop_reason(self) -> str:
        """Return the reason why the run is over; empty while it is not."""
        progress, patience = self._progress, self._options.patience
        if progress.epoch >= self._options.epochs:
            return "all epochs are done"
        if patience is None or progress.stale < patience:
            return ""
        best = "no value" if progress.best is None else f"{progress.best:.4f}"
        return (
            f"{self._validation.best_metric} has not improved on {best} in {progress.stale} "
            f"evaluations (training.patience), after epoch {progress.epoch} of "
            f"{self._options.epochs}"
        )

    def _make_stop_error(self) -> TrainingStopped:
        progress_text = f"{self._progress.updates} of {Count(self._length.updates):step}"
        return TrainingStopped(
            f"training was stopped after {progress_text}, which are saved in {self._out}; continue "
            f"with --resume {self._out}"
        )

    # --- epoch

    def _train_epoch(self) -> None:
        """Take the remaining steps of the epoch, with a checkpoint every few minutes."""
        progress, options = self._progress, self._options
        self._unfreeze()
        started, written = time.monotonic(), time.monotonic()
        self._train_step.loss_module.train()
        heading = f"epoch {progress.epoch + 1}/{options.epochs}"
        num_evaluations = sum(map(self._is_due, range(progress.epoch + 1, options.epochs + 1)))
        steps = self._length.updates_per_epoch
        done = progress.updates - progress.epoch * steps
        with self._run_log.show_progress(heading, done, steps) as show:
            for group in self._batches.iter_steps(progress.epoch, start=progress.batch):
                losses = self._train_step.run(group.batches, progress)
                now = time.monotonic()
                progress.seconds += now - started
                self._time_left.add_step(now - started)
                seconds_left = self._time_left.estimate(
                    self._length.updates - progress.updates, num_evaluations
                )
                show(losses, group.images / max(now - started, 1e-9), seconds_left)
                started = now
                if self._stop.is_confirmed:
                    self._checkpoints.save_last(progress)
                    raise self._make_stop_error()
                if now - written > options.checkpoint_minutes * 60:
                    self._checkpoints.save_last(progress)
                    written = time.monotonic()

    def _unfreeze(self) -> None:
        """Unfreeze the backbone stages that join the training in this epoch."""
        epoch = self._progress.epoch
        frozen = self._train_step.unfreezing.enter_epoch(epoch)
        if frozen is not None:
            self._run_log.log("unfreeze", epoch=epoch, frozen_stages=frozen)
            self._run_log.print_line(f"epoch {epoch + 1}: from now on, frozen_stages is {frozen}")

    def _end_epoch(self) -> None:
        self._progress.epoch, self._progress.batch = self._progress.epoch + 1, 0
        self._train_step.balancer.end_epoch()
        self._checkpoints.save_last(self._progress)
        self._evaluate_if_due()

    # --- evaluation

    def _evaluate_if_due(self) -> None:
        """Evaluate after a complete epoch, if that is due and not done yet."""
        progress = self._progress
        is_done = bool(progress.batch) or progress.judged == progress.epoch
        if is_done or not self._is_due(progress.epoch):
            return
        started = time.monotonic()
        with translate_memory_errors(self._advise_on_evaluation_memory):
            self._evaluate()
        self._time_left.set_evaluation(time.monotonic() - started)
        progress.judged = progress.epoch
        self._checkpoints.save_last(progress)  # again, with the best value so far

    def _is_due(self, epoch: int) -> bool:
        """Return whether the model is evaluated after a number of epochs."""
        every = self._options.evaluate_every
        is_last = epoch == self._options.epochs
        return self._validation.has_data and (
            is_last or bool(every and epoch and epoch % every == 0)
        )

    def _evaluate(self) -> None:
        """Evaluate, log the metrics, and save the weights if they are the best so far."""
        progress = self._progress
        self._metrics = metrics = self._validation.measure()
        self._run_log.log_evaluation(
            f"epoch {progress.epoch}/{self._options.epochs}",
            progress.epoch,
            progress.updates,
            {name: metric.value for name, metric in metrics.items()},
            console_values=self._validation.select_console_values(metrics),
        )
        progress.stale += 1
        better = self._validation.find_improvement(metrics, progress.best)
        if better is not None:
            progress.best, progress.stale = better, 0
            self._checkpoints.save_best()
        for head, value in self._validation.find_head_improvements(
            metrics, progress.best_by_head
        ).items():
            progress.best_by_head[head] = value
            self._checkpoints.save_best(head)

    def _advise_on_evaluation_memory(self) -> str:
        return advise_on_evaluation_memory(self._validation.batch_size, self._train_step.image_size)


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
    """Fine-tune a model on any dataset of samples, without a recipe.

    Under `torchrun` or `accelerate launch` all processes train one model together, each on its
    part of every batch; the main process writes.

    Args:
        model: Model, trained in place; at the end it has the weights to predict with (with `ema`
            the averaged weights).
        train: Training samples, with the category indices that the model's label tables map. Their
            seeds are set from `options.seed`, the epoch, the image and the number of its earlier
            occurrences in the epoch.
        val: Validation samples, without augmentation; None: no evaluation.
        options: Options of the training loop; default: `TrainingRecipe()`.
        out: Path of the folder for `log.jsonl`, `tensorboard/` and `checkpoints/`.
        resume: Whether to resume from `out/checkpoints/last`.
        evaluation: Options of the evaluation, and the metric that selects the best checkpoint.
        console: Console for progress; default: standard error.
        workers: Number of loader workers; None: chosen for the machine.

    Returns:
        `{"head/metric": Metric}` of the last evaluation; empty without `val`.

    Raises:
        NonFiniteLossError: If a loss or gradient is not finite; the last checkpoint stays.
        MemoryLimitError: If memory runs out.
        RunError: If there is no checkpoint to resume from, `out` already has checkpoints and
            `resume` is False, another process uses `out`, or it cannot be written to.
        TrainingStopped: After Ctrl-C or SIGTERM, once the checkpoint is written.
    """
    folder = Path(out)
    options = options or TrainingRecipe()
    processes = DistributedContext.start(resolve_device(options.device))

    def require_fresh() -> None:
        if not resume and has_checkpoint(folder):
            raise RunError(
                f"{folder} already has checkpoints; resume from them or choose another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)

    with ExitStack() as stack:
        stack.callback(processes.leave)
        processes.run_on_main(lambda: enter_folder_lock(stack, folder))
        processes.run_on_main(require_fresh)
        fine_tuner = FineTuner(
            model,
            train,
            val,
            options,
            out=folder,
            evaluation=EvaluationPlan(evaluation or EvaluationRecipe()),
            console=processes.select_console(console or Console(stderr=True)),
            workers=workers,
            processes=processes,
        )
        if resume:
            fine_tuner.resume()
        return fine_tuner.run()
