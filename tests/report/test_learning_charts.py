"""Curves of a run's learning."""

from __future__ import annotations

from resnet_tasks.report.history import History
from resnet_tasks.report.learning_charts import draw_learning_charts


def test_heads_get_their_losses_and_their_known_metrics() -> None:
    history = History(
        losses={"objects/box": [(1, 0.5), (2, 0.4)], "scene/dice": [(1, 0.9), (2, 0.7)]},
        validation={
            "objects/AP": [(1, 0.1), (2, 0.2)],
            "objects/AR_100": [(1, 0.3), (2, 0.4)],
            "scene/mIoU": [(1, None)],
        },
        rates=[(1, 0.01), (2, 0.005)],
    )
    charts = draw_learning_charts(history)
    # Never defined: no validation chart of the scene.
    assert [each.title for each in charts] == [
        "objects: training loss",
        "objects: validation",
        "scene: training loss",
        "Learning rate",
    ]
    assert charts[0].note == "As logged."
    assert "AR_100" not in charts[1].svg  # the table of metrics holds it
    assert draw_learning_charts(History()) == []
