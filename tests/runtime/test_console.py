"""Console: foreign text is printed as it is, without markup and control characters."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.table import Table

from resnet_tasks.runtime.console import Console, Text
from resnet_tasks.runtime.progress import track_progress

NAMES = ["granular [/b]", "[red]cell", "[link=evil]x[/link]", ":cat:", "[bold", r"a\[b]"]
CONTROLS = {
    "\x1b[31mred": r"\x1b[31mred",
    "\x1b]8;;evil\x1b\\x": r"\x1b]8;;evil\x1b\x",
    "\x9b2J": r"\x9b2J",
    "a\rb": r"a\rb",
    "bell\x07": r"bell\x07",
    "a\x08b": r"a\x08b",
    "\u202egnp.exe": r"\u202egnp.exe",
    "zero\u200bwidth": r"zero\u200bwidth",
    "raw\udcff": r"raw\xff",
}


def make_console() -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, width=200, force_terminal=True, color_system=None), output


@pytest.mark.parametrize("name", NAMES)
def test_markup_and_emoji_codes_are_printed_as_they_are(name: str) -> None:
    console, output = make_console()
    console.print(f"class {name}")
    console.print(f"class {name}", markup=True, emoji=True)
    console.print(Path(name))
    table = Table(name, title=f"title {name}", caption=Text(f"caption {name}"))
    table.add_row(f"cell {name}")
    table.add_row(Text(f"text {name}"))
    console.print(table)
    printed = output.getvalue()
    for start in ("class", "title", "caption", "cell", "text"):
        assert f"{start} {name}" in printed
    assert printed.count(name) == 8


@pytest.mark.parametrize(("name", "shown"), CONTROLS.items())
def test_control_characters_are_escaped(name: str, shown: str) -> None:
    console, output = make_console()
    console.print(f"class {name}")
    console.print(Path(name))
    console.print(Text.assemble((f"error {name}", "bold"), " ", Text(name)).append(name))
    table = Table(f"column {name}", title=f"title {name}", caption=Text(f"caption {name}"))
    table.add_row(f"cell {name}")
    table.add_row(Text(f"text {name}"))
    console.print(table)
    printed = output.getvalue()
    assert printed.count(shown) == 10
    rest = printed.replace(shown, "")
    assert not any(sign in rest for sign in "\x1b\x9b\r\x07\x08\u202e\u200b\udcff")


@pytest.mark.parametrize("name", [*NAMES, *(name for name in CONTROLS if "\r" not in name)])
def test_progress_bars_escape_their_texts(name: str) -> None:
    texts = {}
    for label in (name, CONTROLS.get(name, name)):
        console, output = make_console()
        with track_progress(console, label, 3, time_label="left") as advance:
            advance(1, detail=label, extras=(label,), seconds_left=3)
        lines = output.getvalue().splitlines()
        texts[label] = {line[line.index("33%") :] for line in lines if "33%" in line}
    assert len({frozenset(lines) for lines in texts.values()}) == 1


def test_columns_of_escaped_names_are_aligned() -> None:
    console, output = make_console()
    table = Table("class", "number")
    for name in ("\x1b[31mred", "\u202eb", "[red]c"):
        table.add_row(Text(name), "1")
    console.print(table)
    rows = [line for line in output.getvalue().splitlines() if "│ 1" in line]
    assert len(rows) == 3
    assert len({(len(row), row.index("│ 1")) for row in rows}) == 1
