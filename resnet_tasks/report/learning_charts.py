"""How a run learned, drawn: losses and validation metrics by head, learning rate."""

from __future__ import annotations

from collections.abc import Iterable

from resnet_tasks.report.charts import Axes, Chart, Line, line_chart
from resnet_tasks.report.history import History, smoothed

CURVES = ("AP", "mIoU", "top1", "AUROC", "AP50", "AP75", "Dice", "mAP", "pixel_accuracy")
"""Metrics drawn over the epochs; the table holds all."""


def learning_charts(history: History) -> list[Chart]:
    """Losses by head, validation metrics by head, learning rate."""
    charts = []
    losses, validation = _by_head(history.losses), _by_head(history.validation)
    for head in dict.fromkeys((*losses, *validation)):
        if head in losses:
            lines, size = [], 1
            for name in losses[head]:
                points, size = smoothed(history.losses[f"{head}/{name}"])
                lines.append(Line(name, points))
            note = "As logged." if size == 1 else f"Each point is the mean of {size} logged steps."
            axes = Axes("optimizer step", "loss", whole_x=True)
            charts.append(line_chart(f"{head}: training loss", lines, axes, note=note))
        if head in validation:
            names = validation[head]
            drawn = [name for name in names if name in CURVES] or names[:4]
            curves = {name: history.validation[f"{head}/{name}"] for name in drawn}
            lines = [
                Line(name, points)
                for name, points in curves.items()
                if any(y is not None for _, y in points)
            ]
            if lines:
                axes = Axes("epoch", "value", whole_x=True)
                charts.append(line_chart(f"{head}: validation", lines, axes))
    if history.rates:
        points, _ = smoothed(history.rates)
        axes = Axes("optimizer step", "learning rate", whole_x=True)
        charts.append(line_chart("Learning rate", [Line("learning rate", points)], axes))
    return charts


def _by_head(curves: Iterable[str]) -> dict[str, list[str]]:
    heads: dict[str, list[str]] = {}
    for key in curves:
        head, _, name = key.partition("/")
        heads.setdefault(head, []).append(name)
    return heads
