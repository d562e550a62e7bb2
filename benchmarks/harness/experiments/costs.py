"""Cost of the trained heads: training step, prediction of one image, memory and parameters.

The heads of a group alternate, so that a change of the machine's speed affects all of them. Every
head trains on the same batch of real images and predicts the same image, with its trained weights:
the number of proposals and detections depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.experiments.plan import PlannedRun
from benchmarks.harness.experiments.results import ResultsFile
from benchmarks.harness.experiments.trainings import Workplace
from benchmarks.harness.side_by_side import (
    Work,
    collect_environment,
    measure_medians,
    measure_peaks,
)
from resnet_tasks.assemble.training_setup import TrainingSetup
from resnet_tasks.data.images.decoding import read_image
from resnet_tasks.errors import DataError
from resnet_tasks.inference.image_inputs import predict_inputs
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.run_folder.checkpoint import load_model_weights, load_weights_into
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.devices import resolve_device

DIGITS = 5
"""Decimals of seconds."""


@dataclass(frozen=True)
class MeasuredHead:
    """Trained head whose cost is measured.

    Attributes:
        planned: The run.
        step: Callable that takes one training step; all steps are the same.
        prediction: Callable that predicts one image, from stored pixels to the result.
        parameters: Number of parameters of the model.
        batch_size: Images of the training step.
        step_size: (height, width) of the training images, padding included.
        precision: Precision of both works.
    """

    planned: PlannedRun
    step: Work
    prediction: Work
    parameters: int
    batch_size: int
    step_size: tuple[int, int]
    precision: str


def measure_runs(
    planned_runs: Sequence[PlannedRun],
    workplace: Workplace,
    results: ResultsFile,
    console: Console,
    *,
    repeats: int,
) -> None:
    """Measure the cost of trained heads, group by group; measured groups are skipped.

    Args:
        planned_runs: Runs to measure, one per experiment.
        workplace: Folders of the experiments.
        results: Results to add to.
        console: Console for progress.
        repeats: Timed runs of each work.

    Raises:
        DataError: If a run is not trained yet; the groups before it are measured.
    """
    for group in dict.fromkeys(planned.experiment.group.name for planned in planned_runs):
        members = [run for run in planned_runs if run.experiment.group.name == group]
        if all(results.has("costs", run.experiment.name, run.digest) for run in members):
            console.print(f"{group}: already measured", highlight=False)
            continue
        entries = _measure_group(members, workplace, repeats)
        results.add("costs", entries)
        console.print(f"{group}: measured", highlight=False)


def _measure_group(
    planned_runs: Sequence[PlannedRun], workplace: Workplace, repeats: int
) -> dict[str, dict[str, Any]]:
    heads = {run.experiment.name: build_measured_head(run, workplace) for run in planned_runs}
    device = resolve_device(planned_runs[0].recipe.training.device)
    steps = {name: head.step for name, head in heads.items()}
    predictions = {name: head.prediction for name, head in heads.items()}
    step_seconds, _ = measure_medians(steps, device, repeats)
    latencies, _ = measure_medians(predictions, device, repeats)
    step_bytes = measure_peaks(steps, device)
    prediction_bytes = measure_peaks(predictions, device)
    environment = collect_environment(device)
    return {
        name: {
            "digest": head.planned.digest,
            "step_seconds": round(step_seconds[name], DIGITS),
            "step_images": head.batch_size,
            "step_size": list(head.step_size),
            "step_bytes": step_bytes[name],
            "prediction_seconds": round(latencies[name], DIGITS),
            "prediction_bytes": prediction_bytes[name],
            "parameters": head.parameters,
            "precision": head.precision,
            "repeats": repeats,
            "environment": environment,
        }
        for name, head in heads.items()
    }


def build_measured_head(planned: PlannedRun, workplace: Workplace) -> MeasuredHead:
    """Build the training step and the prediction of a trained head.

    Raises:
        DataError: If the run is not trained yet.
    """
    folder = workplace.runs / planned.folder_name
    if not (folder / "evaluations" / "val" / "metrics.json").is_file():
        raise DataError(
            f"{planned.key} is not trained yet in {workplace.runs}; train it first, without "
            "--measure"
        )
    run = Run.read(folder)
    # A trial measures nothing on the data: the run's recipe has the measured class weights.
    setup = TrainingSetup.from_recipe(run.recipe, purpose="trial", data_root=workplace.data)
    checkpoint = run.find_checkpoint("last")
    load_weights_into(setup.model, load_model_weights(checkpoint), checkpoint)
    trial = TrialTraining(setup.model, setup.samples, run.recipe.training, workers=0)
    batches = next(trial.iter_batches())
    step = _make_step(trial, batches)
    step()
    predictor, preparation = run.build_predictor(), run.preparation
    file, record = run.load_dataset("val", data_root=workplace.data).image_index.record(0)
    image = read_image(file.image_path(record))
    return MeasuredHead(
        planned,
        step,
        lambda: predict_inputs(predictor, image, preparation, batch_size=1),
        sum(parameter.numel() for parameter in setup.model.parameters()),
        run.recipe.training.batch_size,
        trial.image_size,
        trial.train_step.precision,
    )


def _make_step(trial: TrialTraining, batches: Any) -> Callable[[], object]:
    def run_step() -> object:
        with trial.enter_training_mode():
            return trial.run_step(batches, 0.0)  # a learning rate of 0: every step is the same

    return run_step
