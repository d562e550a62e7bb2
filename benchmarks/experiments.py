"""Heads compared at equal images seen: metrics, time and memory, with the real samples.

    python -m benchmarks experiments --work DIR             # hours: train all heads, one by one
    python -m benchmarks experiments --work DIR --measure   # minutes, on an idle machine: the cost
    python -m benchmarks experiments --list                 # experiments and their state
    python -m benchmarks experiments --table                # the Markdown tables of the results
    python -m benchmarks experiments --fill                 # put the tables into the docs page

An experiment is a shipped recipe with another head; data, augmentation, optimizer, schedule and
number of images are those of the recipe for all heads, with the epochs times `--epochs-share`.

The script resumes: experiments with a result are skipped, and an interrupted one continues from its
last checkpoint. A change of any setting changes the digest of the settings; the experiment is then
run again. Every result is added to `--results` at once, and the tables of the docs page are filled
from it. Several processes may share `--work`, for example one per seed, each with one thread
(`OMP_NUM_THREADS=1`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.experiments.costs import measure_runs
from benchmarks.harness.experiments.plan import PlannedRun, plan_run, select_experiments
from benchmarks.harness.experiments.results import (
    PAGE,
    RESULTS,
    ROOT,
    ResultsFile,
    describe_state,
    fill_tracked_page,
    read_results,
)
from benchmarks.harness.experiments.tables import format_tables
from benchmarks.harness.experiments.trainings import Workplace, train_runs
from benchmarks.harness.measurement import REPEATS
from resnet_tasks.errors import DataError
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.number_formats import Count
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.signals import TrainingStopped

SHARED = ROOT.parent / "shared"
WEIGHTS = SHARED / "weights" / "resnet18_tinyimagenet.safetensors"
EPOCHS_SHARE = 0.5
"""With this share, the trainings of one seed take about 2.3 hours of one core of an EPYC."""


def main(argv: Sequence[str] = ()) -> None:
    """Run the requested phase, and print where the results are.

    Raises:
        DataError: If an option is invalid, data or weights are missing, or an experiment failed.
        KeyboardInterrupt: After Ctrl-C or SIGTERM; the same command resumes.
    """
    options = _parse_options(argv)
    console = Console()
    if options.table:
        print(format_tables(read_results(options.results)), end="")
        return
    if options.fill:
        fill_tracked_page(PAGE, read_results(options.results))
        print(f"{PAGE}: filled from {options.results}")
        return
    planned_runs = plan_runs(options)
    if options.list:
        content = read_results(options.results)
        for planned in planned_runs:
            print(f"{planned.key:40}{describe_state(planned, content)}")
        return
    if options.work is None:
        raise DataError("--work is missing; pass --work DIR, a folder for data and runs")
    workplace = Workplace(options.work.resolve(), options.data)
    page = PAGE if options.results == RESULTS else None
    results = ResultsFile(options.results, page, workplace.work / "results.lock")
    results.read()  # a damaged file is reported before the work begins
    workplace.prepare_data(planned_runs, console)
    try:
        if options.measure:
            first_seed = options.seeds[0]
            firsts = [run for run in planned_runs if run.recipe.training.seed == first_seed]
            measure_runs(firsts, workplace, results, console, repeats=options.repeats)
        else:
            train_runs(planned_runs, workplace, results, console)
    except TrainingStopped as stop:
        console.print(f"{stop}; or run the same command again", highlight=False, markup=False)
        raise KeyboardInterrupt from None
    finally:
        _print_results(planned_runs, results, console)


def plan_runs(options: argparse.Namespace) -> list[PlannedRun]:
    """Plan the requested experiments: all with the first seed, then all with the next one.

    Raises:
        DataError: If the weights file does not exist.
    """
    weights = options.weights
    digest = weights
    if weights != "none":
        path = Path(weights).resolve()
        if not path.is_file():
            raise DataError(
                f"the weights {path} do not exist; pass --weights FILE, a ResNet-18 in "
                "torchvision's layout, or --weights none to train from scratch"
            )
        weights, digest = str(path), f"sha256:{compute_sha256(path)}"
    return [
        plan_run(
            experiment,
            weights=weights,
            weights_digest=digest,
            epochs_share=options.epochs_share,
            seed=seed,
        )
        for seed in options.seeds
        for experiment in select_experiments(options.only)
    ]


def _parse_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks experiments", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--work", type=Path, help="folder for prepared data and run folders")
    parser.add_argument(
        "--data", type=Path, default=SHARED / "data", help="folder with the unpacked datasets"
    )
    parser.add_argument("--weights", default=str(WEIGHTS), help="weights of the backbone, or none")
    parser.add_argument(
        "--epochs-share", type=float, default=EPOCHS_SHARE, help="share of the recipes' epochs"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds, in order")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="experiments, groups or heads"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file of the results")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="timed runs for --measure")
    phase = parser.add_mutually_exclusive_group()
    phase.add_argument("--measure", action="store_true", help="measure time and memory")
    phase.add_argument("--list", action="store_true", help="list the experiments and their state")
    phase.add_argument("--fill", action="store_true", help="fill the docs page from the results")
    phase.add_argument("--table", action="store_true", help="print the tables of the results")
    options = parser.parse_args(argv)
    if not 0 < options.epochs_share <= 1:
        raise DataError(f"--epochs-share is {options.epochs_share}; it must be above 0, at most 1")
    if not all(0 <= seed < 2**32 for seed in options.seeds):
        raise DataError(f"--seeds: {min(options.seeds)} is not allowed; allowed: 0 to 2^32 - 1")
    if options.repeats < 1:
        raise DataError(f"--repeats is {options.repeats}; it must be at least 1")
    return options


def _print_results(
    planned_runs: Sequence[PlannedRun], results: ResultsFile, console: Console
) -> None:
    """Print the main metric and the time of the planned runs, and the path of the results."""
    content = results.read()
    finished = [run for run in planned_runs if results.has("runs", run.key, run.digest)]
    for planned in finished:
        entry = content["runs"][planned.key]
        metric = planned.experiment.group.metrics[0]
        value = entry["metrics"][metric]["value"]
        line = f"{planned.key:37}{metric:4} " + ("-" if value is None else f"{value:.3f}")
        cost = content["costs"].get(planned.experiment.name)
        if cost is None or cost["digest"] != planned.digest:
            print(f"{line}  {entry['training_seconds'] / 60:.0f} min")
        else:
            step, prediction = 1000 * cost["step_seconds"], 1000 * cost["prediction_seconds"]
            print(f"{line}  step {step:.0f} ms  image {prediction:.0f} ms")
    console.print(
        f"{len(finished)} of {Count(len(planned_runs)):run is} measured; results: {results.path}",
        highlight=False,
        soft_wrap=True,
    )
