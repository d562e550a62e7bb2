"""Charts as inline SVG: lines and bars in colors that follow the page's color scheme.

Everything is drawn in a frame of `WIDTH x HEIGHT` units, which the page scales to its column. A
chart includes its numbers as a table, so that they are also available as text.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from markupsafe import Markup, escape

from resnet_tasks.report.history import Points

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 28, 40
COLORS = 8
"""Number of colors in the page's palette; further lines repeat the colors with dashes."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: Name in the legend.
        points: (x, y) pairs with ascending x; y is None at a gap of the curve.
        is_highlighted: Whether to draw the curve thick, for example a mean over the other curves.
        color: Color of the class that the curve describes, `#rrggbb`; empty: next color of the
            page.
    """

    name: str
    points: Points
    is_highlighted: bool = False
    color: str = ""


@dataclass(frozen=True)
class ChartTable:
    """Numbers of a chart, formatted as text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Attributes:
        title: Title as plain text.
        svg: Drawing as SVG markup.
        legend: Name, style (`c0 d1`: color 0, dash 1) and class color (`#rrggbb`, or empty) of
            every curve; empty for a single curve.
        table: Numbers of the chart.
        note: Remark on how the numbers were smoothed or selected.
    """

    title: str
    svg: Markup
    table: ChartTable
    legend: tuple[tuple[str, str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Axes:
    """Ranges and tick marks of a chart with two axes.

    Attributes:
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        x_range: Range of the x axis; None: range of the values.
        y_range: Range of the y axis; None: range of the values, extended to 0 if 0 is near.
        integer_x: Whether to draw tick marks of the x axis at integers only.
        log_x: Whether the x axis is logarithmic, with tick marks at powers of 2.
        log_y: Whether the y axis is logarithmic, with tick marks at powers of 10.
        diagonal: Whether to draw a reference line from corner to corner.
    """

    x_label: str
    y_label: str
    x_range: Range | None = None
    y_range: Range | None = None
    integer_x: bool = False
    log_x: bool = False
    log_y: bool = False
    diagonal: bool = False


@dataclass(frozen=True)
class _Scale:
    """Map from data values to drawing units along one axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (
            (math.log(bound) for bound in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        fraction = (value - low) / (high - low) if high > low else 0.5
        return self.start + fraction * (self.end - self.start)


@dataclass
class _Drawing:
    parts: list[Markup] = field(default_factory=list)

    def add(self, name: str, text: str | None = None, **attributes: object) -> None:
        self.parts.append(make_element(name, None if text is None else escape(text), **attributes))

    def to_svg(self, title: str, description: str, height: float = HEIGHT) -> Markup:
        head = make_element("title", escape(title)) + make_element("desc", escape(description))
        return make_element(
            "svg",
            head + Markup("").join(self.parts),
            viewBox=f"0 0 {WIDTH} {height:g}",
            role="img",
            class_="chart",
        )


def make_element(name: str, inner: Markup | None = None, **attributes: object) -> Markup:
    """Return a markup element with escaped attribute values.

    The attribute `class_` becomes `class`, and underscores in other names become hyphens.
    """
    texts = [
        Markup(' {}="{}"').format(
            "class" if key == "class_" else key if key == "viewBox" else key.replace("_", "-"),
            f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value,
        )
        for key, value in attributes.items()
        if value is not None
    ]
    opening = Markup("<{}{}").format(Markup(name), Markup("").join(texts))
    return opening + (Markup("/>") if inner is None else Markup(">{}</{}>").format(inner, name))


def choose_style(index: int) -> str:
    """Return the CSS classes for color and dash of a curve; the first 32 styles are distinct."""
    return f"c{index % COLORS} d{index // COLORS % 4}"


def _choose_line_style(index: int, line: Line) -> str:
    return f"{choose_style(index)} mean" if line.is_highlighted else choose_style(index)


def draw_line_chart(title: str, lines: Sequence[Line], axes: Axes, *, note: str = "") -> Chart:
    """Draw curves over a common x axis.

    Args:
        title: Title above the chart.
        lines: Curves, at least one; values that a logarithmic axis cannot show are skipped.
        axes: Ranges and tick marks.
        note: Remark on how the numbers were smoothed or selected.
    """
    visible_lines = [replace(line, points=_filter_points(line.points, axes)) for line in lines]
    xs = [x for line in visible_lines for x, _ in line.points]
    ys = [y for line in visible_lines for _, y in line.points if y is not None]
    x_range = axes.x_range or _pad_range(xs, log=axes.log_x)
    y_range = axes.y_range or _choose_y_range(ys, log=axes.log_y)
    across = _Scale(*x_range, LEFT, WIDTH - RIGHT, axes.log_x)
    up = _Scale(*y_range, HEIGHT - BOTTOM, TOP, axes.log_y)
    drawing = _Drawing()
    _draw_axes(drawing, axes, across, up)
    if axes.diagonal:
        drawing.add("path", class_="diagonal", d=f"M{LEFT} {HEIGHT - BOTTOM}L{WIDTH - RIGHT} {TOP}")
    for i, line in enumerate(visible_lines):
        path, isolated = _build_path(line.points, across, up)
        color = f"--line:{line.color}" if line.color else None
        if path and color:
            # Class colors are the same on light and dark pages, on which some lack contrast.
            drawing.add("path", class_=f"line casing {_choose_line_style(i, line)}", d=path)
        if path:
            drawing.add("path", class_=f"line {_choose_line_style(i, line)}", style=color, d=path)
        for x, y in isolated if len(line.points) > 12 else line.points:
            if y is not None:
                dot = make_element(
                    "title", escape(f"{line.name}: {format_number(x)}, {format_number(y)}")
                )
                drawing.parts.append(
                    make_element(
                        "circle",
                        dot,
                        class_=f"dot {_choose_line_style(i, line)}",
                        style=color,
                        cx=across(x),
                        cy=up(y),
                        r=3,
                    )
                )
    description = f"{axes.y_label} over {axes.x_label}: {', '.join(line.name for line in lines)}"
    legend = tuple(
        (line.name, _choose_line_style(i, line), line.color) for i, line in enumerate(lines)
    )
    return Chart(
        title,
        drawing.to_svg(title, description),
        _build_points_table(lines, axes.x_label),
        legend if len(lines) > 1 else (),
        note,
    )


def draw_bar_chart(title: str, values: Mapping[str, float], *, label: str, note: str = "") -> Chart:
    """Draw horizontal bars from 0; long names are truncated and shown in full as a tooltip."""
    step, left = 24, 200
    top = 6
    height = top + step * len(values) + BOTTOM
    low, high = min(0.0, *values.values()), max(0.0, *values.values())
    across = _Scale(low, high if high > low else 1.0, left, WIDTH - 60)
    drawing = _Drawing()
    for i, (name, value) in enumerate(values.items()):
        y = top + i * step
        start, end = sorted((across(0.0), across(value)))
        tip = make_element("title", escape(f"{name}: {format_score(value)}"))
        drawing.parts.append(
            make_element(
                "text", tip + escape(truncate(name, 20)), x=left - 8, y=y + 16, class_="end"
            )
        )
        drawing.add("rect", x=start, y=y + 4, width=max(end - start, 1.0), height=16, class_="bar")
        drawing.add("text", format_score(value), x=end + 6, y=y + 16)
    drawing.add("path", class_="axis", d=f"M{across(0.0):.1f} {top}V{height - BOTTOM + 4}")
    drawing.add("text", label, x=(left + WIDTH - 60) / 2, y=height - 14, class_="middle axis-label")
    rows = tuple((name, format_score(value)) for name, value in values.items())
    return Chart(
        title, drawing.to_svg(title, label, height), ChartTable(("", label), rows), note=note
    )


def format_number(value: float | None) -> str:
    """Format a number with up to four significant digits; a dash for None, inf and nan."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or (abs(value) >= 1000 and float(value).is_integer()):
        return f"{value:.0f}"
    if abs(value) < 0.001 or abs(value) >= 1e5:
        return f"{value:.2e}"
    digits = max(0, 3 - max(0, math.floor(math.log10(abs(value)))))
    return f"{value:.{digits}f}" if not float(value).is_integer() else f"{value:.0f}"


def format_score(value: float | None) -> str:
    """Format a metric: three decimals within -1..1, otherwise like `format_number`."""
    return f"{value:.3f}" if value is not None and -1 <= value <= 1 else format_number(value)


def format_ticks(ticks: Sequence[float]) -> list[str]:
    """Format the tick labels of an axis, all with as many decimals as they need to be exact."""
    size = max((abs(tick) for tick in ticks), default=0.0)
    if size and (size < 0.01 or size >= 1e5):
        power = math.floor(math.log10(size))
        return [f"{tick / 10.0**power:.3g}e{power}" if tick else "0" for tick in ticks]
    for digits in range(5):
        if all(math.isclose(tick, round(tick, digits), abs_tol=1e-9) for tick in ticks):
            return [f"{tick:.{digits}f}" for tick in ticks]
    return [format_number(tick) for tick in ticks]


def truncate(text: str, limit: int) -> str:
    """Return the text, cut with an ellipsis if it is wider than `limit` Latin letters."""
    widths = [2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text]
    if sum(widths) <= limit:
        return text
    ends = accumulate(widths)
    return text[: sum(end < limit for end in ends)] + "…"


def _filter_points(points: Points, axes: Axes) -> Points:
    """Return the points that the axes can show: finite, and above 0 on a logarithmic axis."""
    visible: Points = []
    for x, y in points:
        if axes.log_x and x <= 0:
            continue
        is_visible = y is not None and math.isfinite(y) and not (axes.log_y and y <= 0)
        visible.append((x, y if is_visible else None))
    return visible


def _draw_axes(drawing: _Drawing, axes: Axes, across: _Scale, up: _Scale) -> None:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    marks = _choose_ticks(up.low, up.high, 5, log=axes.log_y, base=10)
    for tick, text in zip(marks, format_ticks(marks), strict=True):
        y = up(tick)
        drawing.add("path", class_="grid", d=f"M{LEFT} {y:.1f}H{right}")
        drawing.add("text", text, x=LEFT - 6, y=y + 4, class_="end")
    marks = _choose_ticks(across.low, across.high, 6, log=axes.log_x, base=2)
    if axes.integer_x:
        marks = tuple(tick for tick in marks if float(tick).is_integer())
    texts = [f"{tick:g}" for tick in marks] if axes.log_x else format_ticks(marks)
    for tick, text in zip(marks, texts, strict=True):
        if across.low <= tick <= across.high:
            x = across(tick)
            drawing.add("path", class_="axis", d=f"M{x:.1f} {bottom}v4")
            drawing.add("text", text, x=x, y=bottom + 17, class_="middle")
    drawing.add("path", class_="axis", d=f"M{LEFT} {TOP}V{bottom}H{right}")
    drawing.add(
        "text", axes.x_label, x=(LEFT + right) / 2, y=HEIGHT - 5, class_="middle axis-label"
    )
    drawing.add("text", axes.y_label, x=0, y=13, class_="axis-label")


def _build_path(points: Points, across: _Scale, up: _Scale) -> tuple[str, Points]:
    """Return the SVG path through the points, and the isolated points between gaps."""
    segments: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            segments.append([])
        else:
            segments[-1].append((x, y))
    texts = [
        "M" + "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in segment)
        for segment in segments
        if len(segment) > 1
    ]
    return "".join(texts), [(x, y) for segment in segments if len(segment) == 1 for x, y in segment]


def _choose_ticks(
    low: float, high: float, count: int, *, log: bool, base: int
) -> tuple[float, ...]:
    if log:
        first, last = (math.log(bound, base) for bound in (low, high))
        powers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
        every = max(1, -(-len(powers) // 8))
        return tuple(float(base) ** power for power in powers[::every])
    if high <= low:
        return (low,)
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first_tick = math.ceil(low / step - 1e-9)
    last_tick = math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) for i in range(first_tick, last_tick + 1))


def _pad_range(values: Sequence[float], *, log: bool = False) -> Range:
    if not values:
        return (1.0, 2.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if high > low:
        return (low, high)
    return (low / 2, high * 2) if log else (low - 1, high + 1)


def _choose_y_range(values: Sequence[float], *, log: bool) -> Range:
    if log or not values:
        return _pad_range(values, log=log)
    low, high = min(values), max(values)
    if 0 <= low <= high and low < 0.5 * high:
        low = 0.0
    if high == low:
        return (0.0, 1.0) if not low else (min(0.0, 2 * low), max(0.0, 2 * low))
    ticks = _choose_ticks(low, high, 5, log=False, base=10)
    if len(ticks) < 2:
        return (low, high)
    step = ticks[1] - ticks[0]
    return (math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


def _build_points_table(lines: Sequence[Line], x_label: str) -> ChartTable:
    """Return the table of points with one row per x, thinned to about a hundred rows."""
    xs = sorted({x for line in lines for x, _ in line.points})
    step = max(1, -(-len(xs) // 101))
    shown_xs = [*xs[::step], *([xs[-1]] if xs and (len(xs) - 1) % step else [])]
    columns = [dict(line.points) for line in lines]
    rows = tuple(
        (format_number(x), *(format_number(column.get(x)) for column in columns)) for x in shown_xs
    )
    return ChartTable((x_label, *(line.name for line in lines)), rows)
