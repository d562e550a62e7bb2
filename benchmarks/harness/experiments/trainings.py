"""Training of the planned runs, one after the other; every finished run is added to the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.experiments.plan import PlannedRun
from benchmarks.harness.experiments.results import ResultsFile
from benchmarks.harness.side_by_side import collect_environment
from data_tools.catalog import prepare
from resnet_tasks.errors import DataError, ResnetTasksError
from resnet_tasks.number_formats import Count, format_duration
from resnet_tasks.run_folder.files import LOG, METRICS
from resnet_tasks.run_folder.log import read_events
from resnet_tasks.run_folder.read import read_object
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.devices import resolve_device
from resnet_tasks.training.experiments.seeds import RepeatedRun, complete_run

FURTHER_METRICS = ("AP75", "AP_small", "AP_medium", "AP_large", "pixel_accuracy")
"""Metrics that are recorded in addition to those of the table."""
DECIMALS = 4


@dataclass(frozen=True)
class Workplace:
    """Folders of the experiments on this machine.

    Attributes:
        work: Folder of the prepared data and the run folders.
        source: Folder with the datasets as their authors distribute them.
    """

    work: Path
    source: Path

    @property
    def data(self) -> Path:
        """Folder of the prepared datasets."""
        return self.work / "data"

    @property
    def runs(self) -> Path:
        """Folder of the run folders."""
        return self.work / "runs"

    def prepare_data(self, planned_runs: Sequence[PlannedRun], console: Console) -> None:
        """Prepare the datasets of the runs that are not prepared yet.

        Raises:
            DataError: If a source is missing or invalid.
        """
        for name in dict.fromkeys(planned.experiment.group.dataset for planned in planned_runs):
            if (self.data / name).is_dir():
                continue
            if not (self.source / name).is_dir():
                raise DataError(
                    f"{self.source / name} does not exist; pass --data DIR, a folder with the "
                    f"unpacked dataset in DIR/{name}"
                )
            prepare(name, self.source / name, self.data / name)
            console.print(f"{name}: prepared in {self.data / name}", highlight=False)


def train_runs(
    planned_runs: Sequence[PlannedRun],
    workplace: Workplace,
    results: ResultsFile,
    console: Console,
) -> None:
    """Train the runs that have no result with their settings, and resume unfinished ones.

    A failed run does not prevent those after it.

    Raises:
        DataError: After all runs, if some failed.
        TrainingStopped: After Ctrl-C or SIGTERM; the same call resumes.
    """
    failures = []
    for number, planned in enumerate(planned_runs, 1):
        label = f"{number}/{len(planned_runs)} {planned.key}"
        if results.has("runs", planned.key, planned.digest):
            console.print(f"{label}: already measured", highlight=False)
            continue
        console.rule(f"{label}, {Count(planned.recipe.training.epochs):epoch}")
        repeat = RepeatedRun(planned.key, planned.recipe, workplace.runs / planned.folder_name)
        try:
            # The folder's name has the digest of the settings, so that the recipe is the same.
            complete_run(repeat, data_root=workplace.data, console=console)
            entry = make_run_entry(planned, workplace)
        except ResnetTasksError as error:
            console.print(f"{planned.key} failed: {error}", highlight=False, markup=False)
            failures.append(planned.key)
            continue
        results.add("runs", {planned.key: entry})
        console.print(
            f"{label}: finished, {format_duration(entry['training_seconds'])} of training",
            highlight=False,
        )
    if failures:
        raise DataError(f"these experiments failed: {', '.join(failures)}; see above")


def make_run_entry(planned: PlannedRun, workplace: Workplace) -> dict[str, Any]:
    """Make the entry of a finished run in the results, from the files of its run folder."""
    folder = workplace.runs / planned.folder_name
    run = Run.read(folder)
    events, _ = read_events(folder / LOG.name)
    starts = [event for event in events if event["event"] == "start"]
    end = next(event for event in reversed(events) if event["event"] == "end")
    images = len(run.load_dataset("train", data_root=workplace.data))
    evaluation = read_object(folder / "evaluations" / "val" / "metrics.json", METRICS)
    head = planned.experiment.group.head
    names = (*planned.experiment.group.metrics, *FURTHER_METRICS)
    epochs = planned.recipe.training.epochs
    environment = collect_environment(resolve_device(planned.recipe.training.device))
    return {
        "digest": planned.digest,
        "metrics": {
            name: round_numbers(evaluation["metrics"][f"{head}/{name}"])
            for name in names
            if f"{head}/{name}" in evaluation["metrics"]
        },
        "train_images": images,
        "val_images": evaluation["images"],
        "epochs": epochs,
        "images_seen": images * epochs,
        "training_seconds": end["seconds"],
        "precision": starts[-1]["precision"],
        "threads": starts[-1]["threads"],
        "parameters": sum(parameter.numel() for parameter in run.load_model().parameters()),
        "environment": environment,
        "settings": planned.settings,
    }


def round_numbers(value: Any) -> Any:
    """Round all numbers in JSON-compatible values to four decimals."""
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, dict):
        return {key: round_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [round_numbers(entry) for entry in value]
    return value
