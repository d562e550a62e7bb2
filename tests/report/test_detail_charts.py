"""Details of an evaluation as charts, and what is said of those that are damaged."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_tasks.report.charts import draw_bar_chart
from resnet_tasks.report.detail_charts import (
    ERROR_TYPES,
    MAX_MATRIX,
    build_confusion_matrix,
    draw_detail_charts,
)


def test_a_confusion_matrix_tells_shares_of_rows_and_frequent_mistakes() -> None:
    made = build_confusion_matrix({"labels": ["a", "b"], "matrix": [[30, 10], [0, 0]]})
    assert made.labels == ("a", "b")
    assert made.rows == (
        ("a", (("30", 0.75, True), ("10", 0.25, False))),
        ("b", (("0", 0.0, False), ("0", 0.0, True))),
    )
    assert made.frequent == (("a", "b", "10"),)
    large = build_confusion_matrix({"labels": ["a", "b"], "matrix": [[12_345, 2e6], [3e9, 1]]})
    assert [[text for text, *_ in cells] for _, cells in large.rows] == [
        ["12.3k", "2M"],
        ["3G", "1"],
    ]


def test_of_many_classes_only_mistakes_are_listed() -> None:
    number = MAX_MATRIX + 1
    counts = [[float(j == i + 1) for j in range(number)] for i in range(number)]
    made = build_confusion_matrix({"labels": [str(i) for i in range(number)], "matrix": counts})
    assert made.rows == ()
    assert len(made.frequent) == 10
    assert f"With {number} classes" in made.note


@pytest.mark.parametrize("matrix", [[[1.0]], [[1.0, 2.0], [3.0]]])
def test_labels_that_do_not_fit_are_refused(matrix: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="a column for each of 2 labels"):
        build_confusion_matrix({"labels": ["a", "b"], "matrix": matrix})


def test_a_damaged_part_is_a_sentence_and_the_others_are_drawn() -> None:
    details: dict[str, Any] = {
        "pr_curves": {"a": {"recall": [0.0, 1.0], "precision": [1.0, 0.5]}},
        "froc": {"sensitivity": [0.5]},
        "error_types": {"Cls": 0.1, "Miss": None},
        "reliability": {},
    }
    charts, notes = draw_detail_charts(details, {"a": (1, 2, 255)})
    assert 'style="--line:#0102ff"' in charts[0].svg  # the curve has the color of its class
    assert [each.title for each in charts] == [
        "Precision and recall",
        "Causes of lost average precision",
    ]
    assert notes == ["The FROC curve could not be drawn: KeyError: 'false_positives'."]


def test_the_best_threshold_is_named_for_each_class() -> None:
    curves = {
        "confidence": [0.0, 0.5, 1.0],
        "precision": [0.5, 0.75, None],
        "recall": [1.0, 0.75, 0.0],
        "f1": [0.6667, 0.75, 0.0],
        "classes": {"car": {"confidence": 0.5, "precision": 0.75, "recall": 0.75, "f1": 0.75}},
    }
    (chart,), notes = draw_detail_charts({"confidence_curves": curves}, {})
    assert notes == []
    assert "F1 is highest (0.750) at 0.500;" in chart.note
    assert [name for name, *_ in chart.legend] == ["precision", "recall", "F1"]
    assert chart.table.columns[:2] == ("class", "confidence with the highest F1")
    assert chart.table.rows == (("car", "0.500", "0.750", "0.750", "0.750"),)


def test_names_of_error_types_are_complete_in_the_chart() -> None:
    names = ERROR_TYPES.values()
    svg = draw_bar_chart("errors", dict.fromkeys(names, 0.1), label="lost AP").svg
    assert "…" not in svg
    assert all(f"</title>{name}<" in svg for name in names)
