"""The evaluators that stand side by side compute the same numbers, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness import coco_peers


@pytest.mark.parametrize("task", ["box", "mask"])
def test_cases_are_the_same_at_every_call_and_have_objects(task: str, tmp_path: Path) -> None:
    texts = [
        [path.read_text() for path in coco_peers.write_case(tmp_path, task, seed=3)]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    truth, results = map(json.loads, texts[0])
    assert truth["annotations"]
    assert all(("segmentation" in entry) == (task == "mask") for entry in results)


@pytest.mark.parametrize("task", ["box", "mask"])
def test_tables_of_hotcoco_have_the_bits_of_pycocotools(task: str) -> None:
    counts = coco_peers.compare_cases(task, 4)
    assert counts["hotcoco"] == {
        "cases": 4, "failed": 0, "numbers": 4, "precision": 4, "recall": 4, "scores": 4
    }  # fmt: skip
    assert counts["resnet-tasks"] == {"cases": 4, "failed": 0, "numbers": 4}


def test_a_tool_that_differs_or_fails_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = coco_peers.find_tools()

    def halve(truth: Path, results: Path, task: str) -> coco_peers.Outcome:
        outcome = tools["hotcoco"](truth, results, task)
        tables = {**outcome.tables, "precision": outcome.tables["precision"] / 2}
        return coco_peers.Outcome([number / 2 for number in outcome.numbers], tables)

    def fail(truth: Path, results: Path, task: str) -> coco_peers.Outcome:
        raise ValueError("broken")

    replaced = {"pycocotools": tools["pycocotools"], "half": halve, "broken": fail}
    monkeypatch.setattr(coco_peers, "find_tools", lambda: replaced)
    counts = coco_peers.compare_cases("box", 2)
    assert counts["half"]["numbers"] == counts["half"]["precision"] == 0
    assert counts["half"]["recall"] == 2
    assert counts["broken"]["failed"] == 2
