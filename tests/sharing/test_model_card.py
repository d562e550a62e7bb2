"""Model card of a run: complete for a few classes, a summary that expands for many."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from resnet_tasks.report.run_view import read_run
from resnet_tasks.sharing.model_card import CardOptions, build_model_card
from tests.report.conftest import write_run
from tests.support.many_classes import class_names


def card(folder: Path, number: int) -> str:
    run = write_run(folder, tuple(class_names(number)))
    return build_model_card(read_run(run.folder), "me/many", CardOptions())


@pytest.mark.parametrize("number", [80, 1200])
def test_many_classes_are_folded(tmp_path: Path, number: int) -> None:
    text = card(tmp_path, number)
    heads = next(line for line in text.splitlines() if "Heads: " in line)
    first = r"traffic light \[red\], &lt;b>bold&lt;/b> & co, two, with comma, "
    assert f"(faster_rcnn: {number} classes, all in `classes.json`: {first}" in heads
    assert f"and {number - 5} more)" in heads
    assert len(heads) < 600
    assert f"<details><summary>objects, AP of all {number} classes</summary>\n\n| objects" in text
    rows = [line for line in text.splitlines() if line.startswith("| class ")]
    assert len(rows) == 2 * (number - 5), "every class, for two heads"


def test_a_few_classes_are_listed(tmp_path: Path) -> None:
    text = card(tmp_path, 3)
    names = r"traffic light \[red\], &lt;b>bold&lt;/b> & co, two, with comma"
    assert f"`objects` (faster_rcnn: {names})" in text
    assert "classes.json" not in text
    assert "objects, AP of all" not in text


def test_foreign_names_become_neither_html_nor_links_nor_code(tmp_path: Path) -> None:
    hostile = "</b><script>x</script> [a](http://evil) ![b](http://evil/c) | `c` **d** \u202e"
    names = (hostile, "\u202egnp", "granular [/b]", "# b", "snake_case", "x < y & z")
    names += tuple(f"class {i}" for i in range(20))
    run = write_run(tmp_path, names)
    metrics = json.loads((run.evaluation / "metrics.json").read_text())
    for key in ("checkpoint", "date"):
        metrics[key] = f"{hostile}\n\x1b[31m"
    metrics["protocol"] = {hostile: hostile}
    metrics["versions"] = {"torch": hostile}
    metrics["hardware"] = {"cpu": hostile, "threads": 2}
    (run.evaluation / "metrics.json").write_text(json.dumps(metrics))
    recipe = run.folder / "recipe.yaml"
    text = recipe.read_text().replace("name: tiny", 'name: "```` </details><script>x</script>"')
    recipe.write_text(text)
    options = CardOptions(hostile, hostile, hostile)
    card = build_model_card(read_run(run.folder), "me/many", options)
    assert not [letter for letter in card if not letter.isprintable() and letter != "\n"]
    _, _, body = card.split("---\n", 2)
    page = MarkdownIt("commonmark").enable("table").render(body)
    tags = set(re.findall(r"</?(\w+)[^>]*>", page))
    blocks = {"h1", "h2", "p", "ul", "li", "pre", "table", "thead", "tbody", "tr", "th", "td"}
    assert tags <= blocks | {"strong", "code", "details", "summary"}
    assert page.count("<details>") == page.count("</details>") == 3
    assert "http://evil" not in re.sub(r"(`+) .*? \1(?!`)", "", body), "not even outside tags"
    shown = html.unescape(page)
    assert "<td>granular [/b]</td>" in shown
    assert "<td>x < y & z</td>" in shown
    assert "<td>" + hostile.replace("\u202e", "\\u202e") + "</td>" in shown
