"""Learning curves of a run: losses and validation metrics per head, and learning rate."""

from __future__ import annotations

from collections.abc import Iterable

from resnet_tasks.report.charts import Axes, Chart, Line, draw_line_chart
from resnet_tasks.report.history import History, smooth

CURVES = ("AP", "mIoU", "top1", "AUROC", "AP50", "AP75", "Dice", "mAP", "pixel_accuracy")
"""Metrics that are drawn over the epochs; the table contains all metrics."""


def draw_learning_charts(history: History) -> list[Chart]:
    """Draw the losses and validation metrics of each head, and the learning rate."""
    charts = []
    losses, validation = _group_by_head(history.losses), _group_by_head(history.validation)
    for head in dict.fromkeys((*losses, *validation)):
        if head in losses:
            lines, size = [], 1
            for name in losses[head]:
                points, size = smooth(history.losses[f"{head}/{name}"])
                lines.append(Line(name, points))
            note = "As logged." if size == 1 else f"Each point is the mean of {size} logged steps."
            axes = Axes("optimizer step", "loss", integer_x=True)
            charts.append(draw_line_chart(f"{head}: training loss", lines, axes, note=note))
        if head in validation:
            names = validation[head]
            shown_names = [name for name in names if name in CURVES] or names[:4]
            curves = {name: history.validation[f"{head}/{name}"] for name in shown_names}
            lines = [
                Line(name, points)
                for name, points in curves.items()
                if any(y is not None for _, y in points)
            ]
            if lines:
                axes = Axes("epoch", "value", integer_x=True)
                charts.append(draw_line_chart(f"{head}: validation", lines, axes))
    if history.rates:
        points, _ = smooth(history.rates)
        axes = Axes("optimizer step", "learning rate", integer_x=True)
        charts.append(draw_line_chart("Learning rate", [Line("learning rate", points)], axes))
    return charts


def _group_by_head(curves: Iterable[str]) -> dict[str, list[str]]:
    heads: dict[str, list[str]] = {}
    for key in curves:
        head, _, name = key.partition("/")
        heads.setdefault(head, []).append(name)
    return heads
