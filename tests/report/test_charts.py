from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from resnet_tasks.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axes,
    Line,
    choose_style,
    draw_bar_chart,
    draw_line_chart,
    format_number,
    format_score,
    format_ticks,
    truncate,
)

UNIT = Axes("x", "y", (0.0, 1.0), (0.0, 1.0))


def paths(svg: str, class_: str) -> list[str]:
    tree = ElementTree.fromstring(svg)
    return [each.attrib["d"] for each in tree.iter("path") if class_ in each.attrib["class"]]


def test_a_line_runs_from_corner_to_corner() -> None:
    chart = draw_line_chart("t", [Line("a", [(0.0, 0.0), (1.0, 1.0)])], UNIT)
    (drawn,) = paths(chart.svg, "line c0 d0")
    assert drawn == f"M{LEFT}.0 {HEIGHT - BOTTOM}.0L{WIDTH - RIGHT}.0 {TOP}.0"
    assert chart.table.columns == ("x", "a")
    assert chart.table.rows == (("0", "0"), ("1", "1"))
    assert chart.legend == ()


def test_gaps_interrupt_a_line_and_lonely_points_become_dots() -> None:
    points = [(0.0, 0.1), (0.2, 0.2), (0.4, None), (0.6, 0.5), (0.8, None), (1.0, float("nan"))]
    chart = draw_line_chart("t", [Line("a", points)], UNIT)
    (drawn,) = paths(chart.svg, "line")
    assert drawn.count("M") == 1
    assert drawn.count("L") == 1
    assert chart.svg.count("<circle") == 3


def test_a_logarithmic_axis_has_even_steps_and_no_zero() -> None:
    axes = Axes("fp", "s", (0.125, 8.0), (0.0, 1.0), log_x=True)
    chart = draw_line_chart(
        "t", [Line("a", [(0.0, 0.1), (0.125, 0.2), (1.0, 0.5), (8.0, 1.0)])], axes
    )
    (drawn,) = paths(chart.svg, "line")
    xs = [float(each) for each in re.findall(r"[ML]([\d.]+)", drawn)]
    assert xs == pytest.approx([LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT])
    assert [
        t for t in ("0.125", "0.25", "0.5", "1", "2", "4", "8") if f">{t}<" not in chart.svg
    ] == []


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)], [(0.0, None)]])
def test_little_data_still_makes_a_chart(points: list[tuple[float, float | None]]) -> None:
    svg = draw_line_chart("t", [Line("a", points)], Axes("x", "y", integer_x=True)).svg
    ElementTree.fromstring(svg)
    assert "nan" not in svg


def test_names_stay_text() -> None:
    name = "</title><script>alert(1)</script>\"'&"
    for chart in (
        draw_line_chart(name, [Line(name, [(0.0, 1.0)]), Line("b", [])], Axes(name, name)),
        draw_bar_chart(name, {name: 1.0}, label=name),
    ):
        tree = ElementTree.fromstring(chart.svg)
        assert "script" not in {each.tag for each in tree.iter()}
        assert name in "".join(tree.itertext())


def test_bars_start_at_zero_and_are_in_proportion() -> None:
    tree = ElementTree.fromstring(
        draw_bar_chart("t", {"a": 0.1, "b": 0.2, "c": 0.0}, label="AP").svg
    )
    widths = [float(each.attrib["width"]) for each in tree.iter("rect")]
    assert widths[1] == pytest.approx(2 * widths[0], rel=1e-3)
    assert len({each.attrib["x"] for each in tree.iter("rect")}) == 1


def test_styles_differ_and_numbers_are_short() -> None:
    assert len({choose_style(i) for i in range(32)}) == 32
    shown = [
        format_number(v) for v in (None, float("nan"), 0.0, 1.0, 0.12345, 12.345, 1234.0, 1e-5)
    ]
    assert shown == ["–", "–", "0", "1", "0.123", "12.35", "1234", "1.00e-05"]
    assert [format_score(v) for v in (None, 1.0, 0.5, 3.25)] == ["–", "1.000", "0.500", "3.250"]
    assert format_ticks((0.0, 0.5, 1.0)) == ["0.0", "0.5", "1.0"]
    assert format_ticks((0.0, 0.0005, 0.0015)) == ["0", "0.5e-3", "1.5e-3"]


def test_names_are_cut_by_their_width() -> None:
    assert truncate("localization", 12) == "localization"
    assert truncate("localizations", 12) == "localizatio…"
    assert truncate("白血球と赤血球", 12) == "白血球と赤…"


def test_a_constant_is_drawn_between_zero_and_twice_itself() -> None:
    svg = draw_line_chart("t", [Line("a", [(0.0, 0.001), (1.0, 0.001)])], Axes("x", "y")).svg
    assert [text for text in (">0<", ">1e-3<", ">2e-3<") if text not in svg] == []
    assert ">-" not in svg
