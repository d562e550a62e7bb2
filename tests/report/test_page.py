from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from resnet_tasks.cli import app
from resnet_tasks.cli.report import write_run_report
from resnet_tasks.errors import RunError
from resnet_tasks.report import page as pages
from resnet_tasks.report.page import write_comparison, write_report

SECTIONS = ("metrics", "learning", "images", "data", "recipe", "made")


class Reader(HTMLParser):
    """Tags, addresses and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "srcset", "action", "data"):
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def read(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


def test_a_finished_run_shows_everything(made: Any) -> None:
    page = read(write_report(made.folder))
    assert set(SECTIONS) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    for wanted in (
        "0.400 to 0.600",
        "Precision and recall",
        "FROC",
        "Causes of lost average precision",
        "Reliability",
        "truth by row, prediction by column",
        "objects: training loss",
        "objects: validation",
        "objects: worst (quality 0.00)",
        "Nothing had to be repaired",
        "torch 9.9",
        "1 min 0 s",
        "30.0 s (2 epochs)",
        "0.1 images/s",
        "lower is better",
        "resnet-tasks finetune recipe.yaml",
        "learning_rate: 0.001",
    ):
        assert wanted in page.text, wanted
    assert "scene: validation" not in page.text  # never defined, so nothing to draw
    assert page.tags.count("article") == 3
    assert "has no intervals" not in page.text


def test_hostile_names_stay_text_and_nothing_is_fetched(made: Any, tmp_path: Path) -> None:
    other = shutil.copytree(made.folder, tmp_path / "<b>other<b>")
    for path in (
        write_report(made.folder),
        write_comparison([made.folder, other], tmp_path / "both.html"),
    ):
        page = read(path)
        assert page.tags.count("script") == 1  # the page's own
        assert not {"img", "iframe", "object", "embed", "b"} & set(page.tags)
        assert page.handlers == []
        assert all(each.startswith(("#", "data:")) for each in page.addresses)
        assert "url(" not in path.read_text()
        for name in made.names:
            assert name in page.text, name
    assert made.files[1] in read(made.folder / "report.html").text


def shown(html: str, section: str) -> str:
    """Text of a section while everything that expands is closed."""
    start = html.index(f'<section id="{section}">')
    part = html[start : html.index("</section>", start)]
    return Reader(re.sub(r"</summary>.*?</details>", "</summary>", part, flags=re.DOTALL)).text


def test_many_classes_are_summarized_and_expand(many_classes: Any) -> None:
    html = write_report(many_classes.folder).read_text(encoding="utf-8")
    number, page = len(many_classes.names), Reader(html)
    metrics = shown(html, "metrics")
    assert len(metrics) < 2500
    assert "Short." in metrics
    assert f"Classes without an interval ({number - 10}): class 10, class 11, " in metrics
    assert f", and {number - 15} more" in metrics
    assert "without an interval: objects/AP/" in metrics
    assert f"all {number}, in a table that scrolls" in page.text
    assert ".scroll::-webkit-scrollbar-thumb" in html  # else some systems hide the bar
    for section in ("images", "data"):
        assert len(shown(html, section)) < 3500, section
    assert f"Objects of all {number} classes" in shown(html, "data")
    assert f"6 in 2 of {number} classes" in shown(html, "data")
    for name in many_classes.names:
        assert page.text.count(name) >= 3, "scores of two heads, and objects"


def test_few_classes_are_not_folded(made: Any) -> None:
    html = write_report(made.folder).read_text(encoding="utf-8")
    for name in made.names:
        assert name in shown(html, "data")
        assert name in shown(html, "images")
    assert "Classes without an interval" not in html
    assert "in a table that scrolls" not in html
    assert 'class="scroll tall"' not in html


def test_the_page_is_small_and_whole(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_report(made.folder)
    assert page.stat().st_size < 300_000
    before = page.read_text()
    monkeypatch.setattr(pages, "make_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(made.folder)
    assert page.read_text() == before
    assert [each.name for each in made.folder.glob("report*")] == ["report.html"]


def _drop(*names: str) -> Callable[[Any], None]:
    def change(made: Any) -> None:
        for name in names:
            path = made.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _lose_intervals(made: Any) -> None:
    made.edit("metrics.json", lambda v: [each.pop("interval", 0) for each in v["metrics"].values()])


def _lose_data(made: Any) -> None:
    recipe = made.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(made.data), "/nowhere/at/all"))
    made.edit("metrics.json", lambda value: value.update(data={}))


def _damage_details(made: Any) -> None:
    made.edit(
        "details.json",
        lambda value: value["objects"].update(
            pr_curves={"a": {"recall": [0.1]}},
            froc={"false_positives": [1.0], "sensitivity": []},
            confusion={"labels": ["a"], "matrix": [[1, 2]]},
            error_types={"a": "x"},
            reliability=[1],
        ),
    )


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (_drop("evaluations"), "There is no evaluation yet"),
        (_drop("log.jsonl"), "This run is not complete: its log reaches epoch 0 of 2"),
        (
            _drop("evaluations/val/details.json"),
            "This evaluation has no curves or tables for this head",
        ),
        (_drop("evaluations/val/predictions"), "No images: "),
        (_drop("evaluations", "log.jsonl"), "log.jsonl contains no steps"),
        (_lose_intervals, "The metrics of this evaluation have no confidence intervals"),
        (_lose_data, "No images: recipe tiny: the data folder /nowhere/at/all does not exist"),
        (_damage_details, "The precision-recall curves could not be drawn: KeyError"),
    ],
)
def test_what_is_absent_is_said(made: Any, change: Callable[[Any], None], wanted: str) -> None:
    change(made)
    page = read(write_report(made.folder))
    assert wanted in page.text
    assert set(SECTIONS) <= set(page.ids)


def test_every_damaged_detail_gets_its_sentence(made: Any) -> None:
    _damage_details(made)
    text = read(write_report(made.folder)).text
    for what in (
        "FROC curve could not be drawn",
        "error types could not be drawn",
        "reliability diagram could not be drawn",
        "confusion matrix could not be drawn: ValueError: the matrix must have a row and a",
    ):
        assert what in text


def test_data_that_moved_is_found_by_the_evaluation(made: Any, tmp_path: Path) -> None:
    recipe = made.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(made.data), "data"))
    assert read(write_report(made.folder)).tags.count("article") == 3
    page = read(write_report(made.folder, data_root=tmp_path))
    assert "does not exist" in page.text
    assert page.tags.count("article") == 0


def test_many_classes_are_cut_down_and_it_is_said(made: Any) -> None:
    def change(value: dict[str, Any]) -> None:
        labels = [f"class{i}" for i in range(60)]
        matrix = [
            [float(i == j) * 5 + (i == 0 and j == 59) * 3 for j in range(60)] for i in range(60)
        ]
        curve = {"recall": [0.0, 1.0]}
        value["objects"].update(
            confusion={"labels": labels, "matrix": matrix},
            pr_curves={
                name: {**curve, "precision": [i / 60, i / 60]} for i, name in enumerate(labels)
            },
        )

    made.edit("details.json", change)
    text = read(write_report(made.folder)).text
    assert "only the 6 best and the 6 worst of 60 classes are drawn" in text
    assert "With 60 classes, the full matrix is only in details.json" in text
    assert re.search(r"class0\s*class59\s*3", text)


def test_commands_write_pages_and_refuse_with_a_sentence(made: Any, tmp_path: Path) -> None:
    result = run("report", made.folder)
    assert result.exit_code == 0, result.output
    assert (made.folder / "report.html").is_file()
    result = run("report", made.folder, "--split", "test")
    assert (result.exit_code, "no evaluation 'test' (it has: val)" in result.stderr) == (2, True)
    both = tmp_path / "both.html"
    result = run("compare", made.folder, made.folder, "--out", both)
    assert result.exit_code == 0, result.output
    assert "2 runs compared" in read(both).text
    assert run("compare", made.folder).exit_code == 2
    assert "not a run folder" in run("compare", made.folder, tmp_path).stderr


@pytest.mark.parametrize(
    ("ending", "note"),
    [
        (None, "log.jsonl is missing or empty, so there is no history."),
        ("", ""),
        ('{"event": "st\n[1]\n', "2 lines of log.jsonl could not be read."),
    ],
    ids=["empty", "complete", "cut"],
)
def test_commands_say_that_events_of_the_log_are_missing(
    ending: str | None, note: str, made: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "second"
    shutil.copytree(made.folder, folder)
    log = folder / "log.jsonl"
    log.write_text("" if ending is None else f"{log.read_text().rstrip()}\n{ending}")
    reported = run("report", folder)
    compared = run("compare", made.folder, folder, "--no-costs", "--out", tmp_path / "both.html")
    assert (reported.exit_code, compared.exit_code) == (0, 0)
    if note:
        assert f"note: {note}" in reported.stderr
        assert f"warning: second: {note}" in compared.stderr
        assert note in read(folder / "report.html").text
    else:
        assert "log.jsonl" not in reported.stderr + compared.stderr


def test_a_failing_report_costs_nothing(
    made: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pages, "write_report", lambda *_, **__: 1 / 0)
    write_run_report(made.folder, "val", None)
    said = capsys.readouterr().err
    assert "report.html could not be written (ZeroDivisionError" in said
    assert "the run itself is complete" in said
    last = json.loads((made.folder / "log.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "report_failed"
    assert "ZeroDivisionError" in last["error"]
    monkeypatch.undo()
    write_run_report(made.folder, "val", None)
    assert "could not be read" not in read(made.folder / "report.html").text


def test_finetune_ends_with_the_page(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done = SimpleNamespace(directory=made.folder)
    monkeypatch.setattr(
        "resnet_tasks.training.finetune_recipe.finetune_recipe", lambda *_, **__: done
    )
    result = run("finetune", made.folder / "recipe.yaml")
    assert (result.exit_code, "report.html" in result.output) == (0, True)
    page = made.folder / "report.html"
    assert page.is_file()
    page.unlink()
    (made.folder / "classes.json").write_text("{")
    result = run("finetune", made.folder / "recipe.yaml")
    assert (result.exit_code, page.exists()) == (0, False)
    assert "report.html could not be written" in result.stderr


def _add_subgroups(made: Any, *names: str) -> None:
    """Add two subgroups of one key, the first of which lies far below the other."""

    def comparison(difference: float, *, is_far_below: bool) -> dict[str, Any]:
        interval = [difference - 0.05, difference + 0.05]
        ends = {"rest": 0.9, "interval": interval, "is_far_below": is_far_below}
        return {"difference": difference, **ends}

    results = [
        {
            "key": "stain",
            "subgroup": name,
            "head": "objects",
            "images": 21 + i,
            "main_metric": "AP",
            "comparison": comparison(0.2 * (-1) ** (i + 1), is_far_below=i == 0),
            "metrics": {
                "AP": {"value": 0.7 + 0.2 * i, "interval": [0.6 + 0.2 * i, 0.75 + 0.2 * i]}
            },
        }
        for i, name in enumerate(names)
    ]
    results.append(
        {**results[0], "subgroup": "unknown", "comparison": None}
        | {"metrics": {"AP": {"value": None, "interval": None}}}
    )
    stored = {"results": results, "notes": ["3 images have no 'stain'"], "warnings": ["far below!"]}
    made.edit("metrics.json", lambda value: value.update(subgroups=stored))


def test_subgroups_are_shown_worst_first_with_their_warnings(made: Any) -> None:
    assert "subgroups" not in read(write_report(made.folder)).ids
    name = "<b>tissue</b> & more"
    _add_subgroups(made, name, "fluorescence")
    html = write_report(made.folder).read_text(encoding="utf-8")
    page, section = Reader(html), " ".join(shown(html, "subgroups").split())
    assert "b" not in page.tags
    assert '<a href="#subgroups">' in html
    assert "far below!" in page.text
    assert "3 images have no 'stain'" in section
    assert "objects/AP by stain" in section
    rows = re.findall(r"<tr.*?</tr>", html[html.index('id="subgroups"') :], re.DOTALL)[1:4]
    assert [" ".join(Reader(row.replace("<td>", " ")).text.split()) for row in rows] == [
        f"{name} 21 0.700 [0.600, 0.750] −0.200 [−0.250, −0.150]",
        "fluorescence 22 0.900 [0.800, 0.950] +0.200 [+0.150, +0.250]",
        "unknown 21 – –",
    ]
    assert [row.startswith('<tr class="main"') for row in rows] == [True, False, False]


def test_damaged_subgroups_are_named(made: Any) -> None:
    made.edit("metrics.json", lambda value: value.update(subgroups={"results": [{"head": "a"}]}))
    with pytest.raises(RunError, match=r"damaged \(missing key key at subgroups"):
        write_report(made.folder)


def test_damaged_intervals_are_named(made: Any) -> None:
    made.edit("metrics.json", lambda value: value.update(intervals={"notes": None}))
    with pytest.raises(RunError, match=r"damaged \(expected array, got null at intervals\.notes\)"):
        write_report(made.folder)
