"""Metrics as tables: nothing is cut on a narrow console, and classes do not bury the numbers."""

from __future__ import annotations

import pytest

from resnet_tasks.evaluation.metric_tables import build_metric_tables
from resnet_tasks.structures.evaluation import Metric
from tests.support.consoles import heard, quiet


def printed(metrics: dict[str, Metric], *, headline_only: bool = False) -> str:
    console = quiet(80)
    console.print(build_metric_tables(metrics, "run: val", headline_only=headline_only))
    return heard(console)


def test_a_metric_is_one_line_with_its_whole_name_value_and_interval() -> None:
    name = "objects/patient_sensitivity_at_0.125"
    made = {
        name: Metric(0.25, {"lesion": 0.25, "cyst": None}, (0.125, 0.5)),
        "objects/HD95": Metric(12.5, unit="mm"),
    }
    rows = [line for line in printed(made).splitlines() if "objects/" in line and "│" in line]
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows]
    assert cells == [[name, "0.2500", "[0.125, 0.500]"], ["objects/HD95", "12.5000 mm", "-"]]


def test_the_headline_metrics_stand_by_class_with_a_dash_for_undefined_values() -> None:
    made = {
        "a/AP": Metric(0.5, {"[bold]x": None, "y": 0.5}, None, {"y": (0.25, 0.75)}),
        "a/AP75": Metric(0.3, {"[bold]x": None, "y": 0.3}),
        "a/AP50": Metric(0.9, {"[bold]x": None, "y": 0.9}),
        "b/mIoU": Metric(0.9, {"only": 0.9}),
    }
    text = printed(made)
    assert "a, by class" in text
    assert "b, by class" not in text, "one class says nothing that the table above does not"
    rows = [line.split("│") for line in text.splitlines() if "[bold]x" in line or "│ y" in line]
    assert [[cell.strip() for cell in row[1:-1]] for row in rows] == [
        ["[bold]x", "-", "-"],
        ["y", "0.500 [0.250, 0.750]", "0.9000"],
    ]


def test_only_the_headline_metrics_where_that_is_asked_for() -> None:
    made = {
        "a/AP": Metric(0.5),
        "a/AR_100": Metric(0.4),
        "own/wonder": Metric(0.3),
    }
    text = printed(made, headline_only=True)
    assert "a/AP " in text
    assert "a/AR_100" not in text
    assert "own/wonder" in text, "a head without headline metrics shows all of its own"


def test_the_headline_metrics_come_first() -> None:
    names = ("mask_AP", "mask_AP75", "mask_AP50", "box_AP", "box_AP75", "box_AP50")
    text = printed({f"a/{name}": Metric(0.5) for name in names})
    rows = [line.split("│")[1].strip() for line in text.splitlines() if "a/" in line]
    expected = ("mask_AP", "mask_AP50", "box_AP", "box_AP50", "mask_AP75", "box_AP75")
    assert rows == [f"a/{name}" for name in expected]


def test_of_many_classes_the_lowest_and_the_highest_are_shown() -> None:
    values: dict[str, float | None] = {f"c{i:02}": i / 100 for i in range(80)}
    text = printed({"AP": Metric(0.395, {**values, "absent": None})})
    assert "by class: 8 lowest, 8 highest of 80; all 81 in report and metrics.json" in text
    shown = [name for name in (*values, "absent") if f" {name} " in text]
    assert shown == [f"c{i:02}" for i in (*range(8), *range(72, 80))]


def head_metrics(head: str, names: tuple[str, ...], num_classes: int) -> dict[str, Metric]:
    """Headline metrics of a head whose class names are too long for a cell."""
    labels = [f"class {i} " + "of many long names " * 3 + str(i) for i in range(num_classes)]
    values = {label: i / num_classes for i, label in enumerate(labels)}
    intervals = dict.fromkeys(labels, (0.25, 0.75))
    return {f"{head}/{name}": Metric(0.5, values, (0.4, 0.6), intervals) for name in names}


BOXES = ("AP", "AP50")
MASKS = ("mask_AP", "mask_AP50", "box_AP", "box_AP50")
PIXELS = ("mIoU", "Dice", "pixel_accuracy")


@pytest.mark.parametrize("number", [80, 1200])
@pytest.mark.parametrize(
    "heads",
    [
        {"objects": BOXES},
        {"objects": BOXES, "pixels": PIXELS},
        {"masks": MASKS, "pixels": PIXELS},
        {"a": BOXES, "b": MASKS, "c": PIXELS},
        {"a": BOXES, "b": MASKS, "c": PIXELS, "d": BOXES, "e": PIXELS},
    ],
)
def test_many_classes_of_many_heads_stay_below_30_lines(
    heads: dict[str, tuple[str, ...]], number: int
) -> None:
    made: dict[str, Metric] = {}
    for head, names in heads.items():
        made |= head_metrics(head, names, number)
    lines = printed(made, headline_only=True).splitlines()
    assert len(lines) < 30
    for head in heads:
        assert any(line.startswith(f"{head}: ") for line in lines)
    titles = [line for line in lines if " in report and" in line]
    assert len(titles) == len(heads)
    assert all(f"all {number} in report and metrics.json" in line for line in titles)
    has_table = any("0.000 [0.250, 0.750]" in line for line in lines)
    assert has_table or len(heads) == 5, "the lowest class of the first head"


def test_few_classes_are_complete_next_to_many() -> None:
    made = head_metrics("many", BOXES, 80) | {
        "few/mIoU": Metric(0.5, {"sky": 0.25, "road of the old town by the river": 0.75})
    }
    text = printed(made)
    assert "few, by class\n" in text
    assert "  IoU " in text, "of one class, there is no mean"
    assert "road of the old town by the river" in text
    assert "many: 7 lowest, 7 highest of 80; all 80 in" in text


def test_classes_without_a_value_are_left_to_the_file_that_holds_all() -> None:
    values: dict[str, float | None] = {f"c{i}": None for i in range(80)}
    text = printed({"AP": Metric(0.5, {**values, "c3": 0.25, "c7": 0.75})})
    assert "by class: 2 with a value; all 80 in report and metrics.json" in text
    assert "c9" not in text


def test_names_that_look_like_markup_or_hold_control_characters() -> None:
    names = ["[red]x[/red]", "two\nlines", *(f"c{i}" for i in range(40))]
    text = printed({"AP": Metric(0.5, {name: i / 50 for i, name in enumerate(names)})})
    assert "│ [red]x[/red] │" in text
    assert "│ two lines    │" in text


def test_a_long_name_is_folded_not_cut() -> None:
    name = "head/" + "long_" * 20
    text = printed({name: Metric(0.5)})
    folded = "".join(
        line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")
    )
    assert folded == name


def test_classes_without_any_value_get_no_table() -> None:
    assert "by class" not in printed({"AP": Metric(None, {"a": None, "b": None})})


def test_a_class_without_an_interval_has_the_digits_of_its_column() -> None:
    metric = Metric(0.5, {"sky": 0.25, "car": 0.75}, (0.4, 0.6), {"sky": (0.2, 0.3)})
    text = printed({"AP": metric})
    assert "│ sky   │ 0.250 [0.200, 0.300] │" in text
    assert "│ car   │ 0.750    no interval │" in text
