"""Model card of a run: complete for a few classes, a summary that expands for many."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    first = "traffic light [red], <b>bold</b> & co, two, with comma, "
    assert f"(faster_rcnn: {number} classes, all in `classes.json`: {first}" in heads
    assert f"and {number - 5} more)" in heads
    assert len(heads) < 600
    assert f"<details><summary>objects, AP of all {number} classes</summary>\n\n| objects" in text
    rows = [line for line in text.splitlines() if line.startswith("| class ")]
    assert len(rows) == 2 * (number - 5), "every class, for two heads"


def test_a_few_classes_are_listed(tmp_path: Path) -> None:
    text = card(tmp_path, 3)
    names = "traffic light [red], <b>bold</b> & co, two, with comma"
    assert f"`objects` (faster_rcnn: {names})" in text
    assert "classes.json" not in text
    assert "objects, AP of all" not in text
