"""Model card of a shared run, generated from the contents of the run folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from resnet_tasks.assemble.heads import get_head_task
from resnet_tasks.backbone.catalog import forbids_commercial_use
from resnet_tasks.backbone.weights_folders import read_license
from resnet_tasks.errors import MAX_ALLOWED, HubError, format_list
from resnet_tasks.foreign_text import (
    escape_controls,
    escape_html,
    escape_markdown,
    format_markdown_block,
    format_markdown_code,
)
from resnet_tasks.heads.base import HEADS
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.load import recipe_to_yaml
from resnet_tasks.report.run_view import EvaluationView, MetricView, RunView, Score
from resnet_tasks.sharing.contents import build_shared_recipe, strip_paths
from resnet_tasks.structures.evaluation import get_class_metric_name, select_headline

LICENSES = (
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "bsd-2-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
)
"""Frequent license identifiers of the hub; any other license is given as `other` with its name."""


@dataclass(frozen=True)
class CardOptions:
    """Facts for the model card that are not stored in a run folder.

    Attributes:
        license: License of the shared weights; None: not stated, unless the license of the initial
            weights forbids commercial use.
        data_license: License of the dataset; None: not stated.
        dataset: Name of the dataset on the hub, `OWNER/NAME`; None: the dataset is not on the hub.
    """

    license: str | None = None
    data_license: str | None = None
    dataset: str | None = None


def build_model_card(view: RunView, repo: str, options: CardOptions) -> str:
    """Return the model card as Markdown with the hub's metadata as front matter.

    Args:
        view: Contents of the run folder.
        repo: Name of the repository, `OWNER/NAME`.
        options: Facts that are not stored in the run folder.

    Raises:
        HubError: If `options.license` allows commercial use although the license of the initial
            weights forbids it.
    """
    view = replace(view, recipe=build_shared_recipe(view))
    initial_license = str(strip_paths(read_license(view.folder)))
    model_license = _choose_license(initial_license, options.license)
    parts = [
        f"---\n{_build_metadata(view, repo, model_license, options)}\n---",
        f"# {repo.rpartition('/')[2]}",
        _describe_model(view),
        _format_license_warning(initial_license),
        "## Results",
        *_iter_results(view),
        "## Use",
        _describe_usage(repo),
        "## Data",
        _describe_data(view, options),
        "## Weights and license",
        _describe_weights(model_license, initial_license),
        "## Training",
        _describe_training(view),
        "## Limits",
        _describe_limits(view),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _choose_license(initial_license: str, requested: str | None) -> str | None:
    if not forbids_commercial_use(initial_license):
        return requested
    if requested is not None and not forbids_commercial_use(requested):
        raise HubError(
            f"--license is {requested}, but the run started from weights under {initial_license}, "
            "which forbid commercial use; omit --license, or give one that also forbids it"
        )
    return requested or initial_license


def _build_metadata(
    view: RunView, repo: str, model_license: str | None, options: CardOptions
) -> str:
    # Heads of plugins are not registered here, because no code of the run is executed.
    types = [head.type for head in view.recipe.heads.values()]
    tasks = [
        get_head_task(name, head).pipeline_tag
        for name, head in view.recipe.heads.items()
        if head.type in HEADS.list_names()
    ]
    task_names = [task for task in dict.fromkeys(tasks) if task is not None]
    stated: dict[str, Any] = {}
    if model_license is not None and model_license.lower() in LICENSES:
        stated = {"license": model_license.lower()}
    elif model_license is not None:
        stated = {"license": "other", "license_name": _slugify(model_license)}
    results = list(_iter_eval_results(view, task_names[0] if task_names else "other"))
    data = ModelCardData(
        **stated,
        library_name="resnet-tasks",
        pipeline_tag=task_names[0] if task_names else None,
        tags=list(dict.fromkeys(["resnet", view.recipe.backbone.name, *types])),
        datasets=[options.dataset] if options.dataset else None,
        model_name=repo.rpartition("/")[2],
        eval_results=results or None,
    )
    return escape_controls(data.to_yaml().strip())


def _iter_eval_results(view: RunView, task: str) -> Iterator[EvalResult]:
    root = view.recipe.data.root.replace("\\", "/").rpartition("/")[2] or "data"
    for evaluation in _list_split_evaluations(view):
        for name, metric in _iter_headline_metrics(evaluation):
            if metric.value is not None:
                is_plain = evaluation.name == evaluation.split
                yield EvalResult(
                    task_type=task,
                    dataset_type=_slugify(root),
                    dataset_name=root,
                    dataset_split=evaluation.split,
                    metric_type=_slugify(name.rpartition("/")[2]),
                    metric_name=name if is_plain else f"{name} ({evaluation.name})",
                    metric_value=round(metric.value, 6),
                )


def _describe_model(view: RunView) -> str:
    heads = "; ".join(
        f"{format_markdown_code(name)} ({escape_markdown(head.type)}: "
        f"{_list_classes(view.labels.heads[name].classes)})"
        for name, head in view.recipe.heads.items()
    )
    size = sum(view.parameters.values())
    millions = f", {size / 1e6:.1f} M parameters" if size else ""
    backbone = format_markdown_code(view.recipe.backbone.name)
    return f"A {backbone} fine-tuned with resnet-tasks{millions}. Heads: {heads}."


def _list_classes(names: Sequence[str]) -> str:
    escaped_names = list(map(escape_markdown, names))
    if len(names) <= MAX_ALLOWED:
        return ", ".join(escaped_names)
    return f"{len(names)} classes, all in `classes.json`: {format_list(escaped_names)}"


def _format_license_warning(initial_license: str) -> str:
    if not forbids_commercial_use(initial_license):
        return ""
    return (
        "> **Not for commercial use.** The run started from weights under the license "
        f"{escape_markdown(initial_license)}, which also applies to weights derived from them."
    )


def _iter_results(view: RunView) -> Iterator[str]:
    if not view.evaluations:
        yield "Not evaluated."
    for evaluation in view.evaluations:
        metadata = evaluation.metadata
        yield (
            f"**{escape_markdown(evaluation.name)}**: "
            f"{escape_markdown(str(metadata.get('images', '?')))} images, checkpoint "
            f"{format_markdown_code(str(metadata.get('checkpoint', '?')))}, "
            f"{escape_markdown(str(metadata.get('date', 'date not stated')))}."
        )
        rows = [
            (name, _format_number(metric, metric.unit), _format_interval(metric))
            for name, metric in _iter_headline_metrics(evaluation)
        ]
        yield _format_table(("metric", "value", "95 % interval"), rows)
        yield from _iter_class_tables(evaluation)
        protocols = metadata.get("protocol") or {}
        yield "\n".join(
            f"- {escape_markdown(head)}: {escape_markdown(str(text))}"
            for head, text in protocols.items()
        )


def _iter_class_tables(evaluation: EvaluationView) -> Iterator[str]:
    for head, metrics in evaluation.heads.items():
        main = next(iter(select_headline(metrics)), None)
        if main is not None and len(metrics[main].per_class) > 1:
            shown_name = get_class_metric_name(main)
            rows = [
                (label, _format_number(score), _format_interval(score))
                for label, score in metrics[main].per_class.items()
            ]
            table = _format_table((f"{head}, by class", shown_name, "95 % interval"), rows)
            if len(rows) > MAX_ALLOWED:
                summary = f"{head}, {shown_name} of all {len(rows)} classes"
                table = (
                    f"<details><summary>{escape_html(summary)}</summary>\n\n{table}\n\n</details>"
                )
            yield table


def _describe_usage(repo: str) -> str:
    name = repo.rpartition("/")[2]
    return (
        f"```\nresnet-tasks pull {repo} --out {name}\n"
        f"resnet-tasks predict {name} IMAGES --out predictions\n```\n\n"
        f'In Python: `resnet_tasks.load("{name}").predict("image.png")`. Only tensors and text '
        "are read from these files; none of their code is run."
    )


def _describe_data(view: RunView, options: CardOptions) -> str:
    data = view.recipe.data
    lines = [
        f"- Name: {escape_markdown(data.root)}",
        f"- License: {escape_markdown(options.data_license or 'not stated')}",
    ]
    if options.dataset:
        lines.append(f"- On the hub: {escape_markdown(options.dataset)}")
    for split in ("train", "val", "test"):
        files = ", ".join(source.annotations for source in getattr(data, split))
        if files and not (split == "val" and data.folds is not None):
            lines.append(f"- {split}: {escape_markdown(files)}")
    if data.folds is not None:
        lines.append(f"- val: fold {data.folds.held_out} of {data.folds.count} of train, held out")
    size = f"{data.resize.width} x {data.resize.height} pixels" if data.resize else "as stored"
    lines.append(f"- Images: {Count(data.channels):channel}, {size}; resized by the package")
    return "\n".join(lines)


def _describe_weights(model_license: str | None, initial_license: str) -> str:
    return (
        f"- License of these weights: {escape_markdown(model_license or 'not stated')}\n"
        f"- Started from weights under: {escape_markdown(initial_license)}"
    )


def _describe_training(view: RunView) -> str:
    metadata = view.evaluations[0].metadata if view.evaluations else {}
    versions = ", ".join(
        f"{name} {text}" for name, text in (metadata.get("versions") or {}).items()
    )
    hardware = metadata.get("hardware") or {}
    device = hardware.get("gpu") or f"{hardware.get('cpu', '?')}, {hardware.get('threads')} threads"
    conditions = escape_markdown(f"Evaluated on {device}, with {versions}.")
    evaluation_note = f"{conditions}\n\n" if versions else ""
    text = format_markdown_block(recipe_to_yaml(view.recipe).strip(), "yaml")
    return (
        f"{evaluation_note}<details><summary>The recipe, with all defaults "
        f"written out</summary>\n\n{text}\n\n</details>"
    )


def _describe_limits(view: RunView) -> str:
    lines = [
        "Generated from a run and not reviewed. The metrics hold for the data above.",
        "On other cameras, sites or populations they may differ a lot: evaluate there.",
        "Not a medical device; do not rely on it where people may be harmed.",
    ]
    if not any(evaluation.has_intervals for evaluation in view.evaluations):
        lines.append("No confidence intervals: how much the metrics vary by chance is unknown.")
    if {evaluation.split for evaluation in view.evaluations} == {"val"}:
        lines.append("Evaluated only on val, which may have been used to choose the recipe.")
    return "\n".join(f"- {line}" for line in lines)


def _list_split_evaluations(view: RunView) -> Sequence[EvaluationView]:
    return [evaluation for evaluation in view.evaluations if evaluation.split is not None]


def _iter_headline_metrics(evaluation: EvaluationView) -> Iterator[tuple[str, MetricView]]:
    """Yield `head/metric` and value of each head's headline metrics; all metrics if it has none."""
    for head, metrics in evaluation.heads.items():
        for name in select_headline(metrics):
            yield f"{head}/{name}", metrics[name]


def _format_number(score: Score, unit: str = "") -> str:
    return "-" if score.value is None else f"{score.value:.4f}{f' {unit}' if unit else ''}"


def _format_interval(score: Score) -> str:
    return "-" if score.interval is None else f"{score.interval[0]:.3f} to {score.interval[1]:.3f}"


def _format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(escape_markdown, line))} |" for line in lines)


def _slugify(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "unnamed"
