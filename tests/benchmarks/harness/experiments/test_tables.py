"""Tables of the experiments, and the docs page that they fill."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.experiments.results import PAGE, RESULTS, read_results
from benchmarks.harness.experiments.tables import BEGIN, END, fill_page, format_tables
from resnet_tasks.errors import DataError

ENVIRONMENT = {
    "hardware": {"cpu": "Some CPU avx2"},
    "versions": {"torch": "2.9"},
    "threads": 2,
    "date": "2026-01-02 03:04:05",
}


def make_run(value: float, *, images_seen: int = 5740) -> dict[str, Any]:
    metric = {
        "value": value,
        "interval": [value - 0.1, value + 0.1],
        "per_class": {"RBC": value, "WBC": None},
    }
    return {
        "digest": "0",
        "metrics": {"AP": metric, "AP50": {**metric, "value": 2 * value}},
        "train_images": 205,
        "val_images": 87,
        "epochs": 28,
        "images_seen": images_seen,
        "training_seconds": 60.0,
        "precision": "bf16",
        "threads": 1,
        "parameters": 13_200_000,
        "environment": ENVIRONMENT,
    }


def make_content(*values: float, has_cost: bool = False) -> dict[str, Any]:
    cost = {
        "digest": "0",
        "step_seconds": 0.1234,
        "prediction_seconds": 0.0456,
        "step_bytes": 123_000_000,
        "prediction_bytes": 4_500_000,
        "parameters": 13_200_000,
        "precision": "bf16",
        "environment": ENVIRONMENT,
    }
    return {
        "format": 1,
        "runs": {f"bccd_boxes/fcos/seed-{i}": make_run(value) for i, value in enumerate(values)},
        "costs": {"bccd_boxes/fcos": cost} if has_cost else {},
    }


def find_rows(text: str, head: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| `{head}`")]


def test_a_measured_head_has_its_numbers_and_the_others_none() -> None:
    text = format_tables(make_content(0.4, has_cost=True))
    row, classes, *_ = find_rows(text, "fcos")
    assert row == (
        "| `fcos` | 0.400 | 0.800 | 0.400 [0.300, 0.500] | 123 ms | 46 ms | 123 MB | 4.50 MB "
        "| 13.2 M |"
    )
    assert classes == "| `fcos` | 0.400 | - |"
    assert find_rows(text, "retinanet")[0].count("not yet measured") == 4
    assert (
        "205 training images, 5,740 images seen (28 epochs), 87 validation images, 1 seed." in text
    )
    assert "Trained on Some CPU avx2, 1 thread, bf16, torch 2.9; 2026-01-02." in text
    assert "Time and memory measured on Some CPU avx2, 2 threads, bf16, torch 2.9" in text


def test_seeds_are_averaged_and_listed() -> None:
    text = format_tables(make_content(0.4, 0.3))
    assert find_rows(text, "fcos")[0].startswith(
        "| `fcos` | 0.350 | 0.700 | 0.400 [0.300, 0.500], 0.300 [0.200, 0.400] | not yet measured |"
    )
    assert "87 validation images, 2 seeds." in text


def test_unequal_numbers_of_images_are_reported() -> None:
    content = make_content(0.4)
    content["runs"]["bccd_boxes/retinanet/seed-0"] = make_run(0.3, images_seen=410)
    text = format_tables(content)
    assert "The numbers of images seen differ (410, 5,740): do not compare these rows." in text


def test_every_head_is_not_yet_measured_without_results() -> None:
    text = format_tables({"runs": {}, "costs": {}})
    assert len([line for line in text.splitlines() if line.startswith("| `")]) == 12
    assert text.count("not yet measured.") == 3


def test_only_the_part_between_the_marks_is_filled() -> None:
    page = f"# Title\n{BEGIN}\nold\n{END}\nafter\n"
    filled_page = fill_page(page, make_content(0.4))
    assert filled_page.startswith(f"# Title\n{BEGIN}\n\n### BCCD")
    assert filled_page.endswith(f"\n{END}\nafter\n")
    assert "old" not in filled_page
    assert fill_page(filled_page, make_content(0.4)) == filled_page
    with pytest.raises(DataError, match="has no lines"):
        fill_page("# Title\n", make_content(0.4))


def test_the_page_shows_the_tracked_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == fill_page(page, read_results())


def test_the_tracked_results_have_no_paths_of_a_machine() -> None:
    def list_texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for entry in value.values() for text in list_texts(entry)]
        if isinstance(value, list):
            return [text for entry in value for text in list_texts(entry)]
        return [value] if isinstance(value, str) else []

    assert RESULTS.is_file()
    assert [text for text in list_texts(read_results()) if "/" in text and text[0] in "/~."] == []
