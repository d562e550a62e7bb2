"""Markdown tables of the experiments, and the part of a docs page that they fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.harness.experiments.plan import EXPERIMENTS, GROUPS, ExperimentGroup
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.metric_tables import format_number
from resnet_tasks.number_formats import Count, format_bytes

BEGIN = "<!-- begin: python -m benchmarks experiments --table -->"
END = "<!-- end -->"
UNMEASURED = "not yet measured"


def format_tables(content: Mapping[str, Any]) -> str:
    """Format all results as Markdown: one section per group, then the machines.

    Args:
        content: Content of the results file.
    """
    parts = [_format_group(group, content) for group in GROUPS]
    return "\n\n".join([*parts, *_describe_machines(content)]) + "\n"


def fill_page(page: str, content: Mapping[str, Any]) -> str:
    """Return the text of a docs page with the tables of the results between its two marks.

    Raises:
        DataError: If the page does not have both marks.
    """
    before, begin, remaining = page.partition(BEGIN)
    _, end, after = remaining.partition(END)
    if not begin or not end:
        raise DataError(f"the page has no lines {BEGIN!r} and {END!r} to fill between")
    return f"{before}{BEGIN}\n\n{format_tables(content)}\n{END}{after}"


def _format_group(group: ExperimentGroup, content: Mapping[str, Any]) -> str:
    runs_by_head = {
        experiment.head_type: _find_runs(experiment.name, content)
        for experiment in EXPERIMENTS
        if experiment.group == group
    }
    main_metric = group.metrics[0]
    headings = (
        "head",
        *group.metrics,
        f"{main_metric} of every seed [95 % interval]",
        "training step",
        "one image",
        "memory, step",
        "memory, image",
        "parameters",
    )
    rows = [
        _format_row(group, head_type, runs, content["costs"].get(f"{group.name}/{head_type}"))
        for head_type, runs in runs_by_head.items()
    ]
    parts = [f"### {group.title}", _describe_runs(group, runs_by_head), _format(headings, rows)]
    classes = list(
        dict.fromkeys(
            name
            for runs in runs_by_head.values()
            for run in runs
            for name in run["metrics"][main_metric]["per_class"]
        )
    )
    if classes:
        class_rows = [
            (f"`{head_type}`", *_format_classes(classes, runs, main_metric))
            for head_type, runs in runs_by_head.items()
        ]
        class_metric = "IoU" if main_metric == "mIoU" else main_metric
        parts += [f"{class_metric} by class:", _format(("head", *classes), class_rows)]
    return "\n\n".join(parts)


def _find_runs(name: str, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the runs of an experiment, one per seed."""
    runs: Mapping[str, Mapping[str, Any]] = content["runs"]
    return [run for key, run in runs.items() if key.startswith(f"{name}/seed-")]


def _format_row(
    group: ExperimentGroup,
    head_type: str,
    runs: Sequence[Mapping[str, Any]],
    cost: Mapping[str, Any] | None,
) -> tuple[str, ...]:
    if runs:
        means = [_format_mean([run["metrics"][name] for run in runs]) for name in group.metrics]
        seeds = ", ".join(_format_metric(run["metrics"][group.metrics[0]]) for run in runs)
    else:
        means, seeds = [UNMEASURED] * len(group.metrics), "-"
    if cost is None:
        parameters = f"{runs[0]['parameters'] / 1e6:.1f} M" if runs else "-"
        return (f"`{head_type}`", *means, seeds, *[UNMEASURED] * 2, "-", "-", parameters)
    return (
        f"`{head_type}`",
        *means,
        seeds,
        f"{1000 * cost['step_seconds']:.0f} ms",
        f"{1000 * cost['prediction_seconds']:.0f} ms",
        format_bytes(cost["step_bytes"]),
        format_bytes(cost["prediction_bytes"]),
        f"{cost['parameters'] / 1e6:.1f} M",
    )


def _format_metric(metric: Mapping[str, Any]) -> str:
    interval = metric["interval"]
    return format_number(metric["value"], None if interval is None else tuple(interval))


def _format_mean(metrics: Sequence[Mapping[str, Any]]) -> str:
    values = [metric["value"] for metric in metrics if metric["value"] is not None]
    return f"{fmean(values):.3f}" if values else "-"


def _format_classes(
    classes: Sequence[str], runs: Sequence[Mapping[str, Any]], metric: str
) -> list[str]:
    """Format the mean over the seeds of every class."""
    values_by_class = [
        [run["metrics"][metric]["per_class"].get(name) for run in runs] for name in classes
    ]
    return [
        _format_mean([{"value": value} for value in values]) if values else "-"
        for values in values_by_class
    ]


def _describe_runs(
    group: ExperimentGroup, runs_by_head: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """Describe the common settings of a group, and name differences that forbid a comparison."""
    runs = [run for head_runs in runs_by_head.values() for run in head_runs]
    text = f"Recipe `{group.recipe}` with another head"
    if not runs:
        return f"{text}; {UNMEASURED}."
    seen = sorted({run["images_seen"] for run in runs})
    counts = sorted({len(head_runs) for head_runs in runs_by_head.values() if head_runs})
    seeds = f"{Count(counts[0]):seed}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    text += (
        f"; {runs[0]['train_images']:,} training images, {seen[0]:,} images seen "
        f"({Count(runs[0]['epochs']):epoch}), {runs[0]['val_images']:,} validation images, {seeds}."
    )
    if len(seen) > 1:
        all_counts = ", ".join(f"{count:,}" for count in seen)
        text += f" The numbers of images seen differ ({all_counts}): do not compare these rows."
    return text


def _describe_machines(content: Mapping[str, Any]) -> list[str]:
    """Describe the machines of the trainings and of the cost."""
    descriptions = []
    for label, section in (("Trained", "runs"), ("Time and memory measured", "costs")):
        entries = content[section].values()
        machines = {_describe_machine(entry) for entry in entries}
        dates = sorted(entry["environment"]["date"].split()[0] for entry in entries)
        if machines:
            period = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
            descriptions.append(f"{label} on {'; '.join(sorted(machines))}; {period}.")
    return descriptions


def _describe_machine(entry: Mapping[str, Any]) -> str:
    environment = entry["environment"]
    threads = entry.get("threads", environment["threads"])
    return (
        f"{environment['hardware']['cpu']}, {Count(threads):thread}, {entry['precision']}, torch "
        f"{environment['versions']['torch']}"
    )


def _format(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
