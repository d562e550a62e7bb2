"""`data stats --by`: images and objects of every subgroup."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from resnet_tasks.cli import app


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four images: two of scanner A with 1 and 2 objects, one of B with none, one unknown."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i, (scanner, objects) in enumerate((("A", 1), ("A", 2), ("[b]B[/b]", 0), (None, 1))):
        gray = rng.integers(1, 200, (8, 8, 1), np.uint8).repeat(3, axis=2)
        gray[:, :, 1:] //= 1 + (i == 3)  # the last image is in color
        Image.fromarray(gray).save(tmp_path / f"{i}.png")
        record = {"id": i, "file_name": f"{i}.png", "height": 8, "width": 8}
        images.append({**record, **({"scanner": scanner} if scanner else {})})
        for j in range(objects):
            entry = {"id": len(annotations) + 1, "image_id": i, "category_id": 1 + j % 2}
            annotations.append({**entry, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0})
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "debris"}]
    path = tmp_path / "train.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def test_counts_by_hand(file: Path, tmp_path: Path) -> None:
    words = ["data", "stats", str(file), "--by", "scanner", "--by", "color"]
    result = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "stats.json")])
    assert result.exit_code == 0, result.output
    stored = json.loads((tmp_path / "stats.json").read_text())["subgroups"]
    assert stored == {
        "scanner": {
            "A": {"images": 2, "objects": {"cell": 2, "debris": 1}},
            "[b]B[/b]": {"images": 1, "objects": {"cell": 0, "debris": 0}},
            "unknown": {"images": 1, "objects": {"cell": 1, "debris": 0}},
        },
        "image:color": {
            "gray": {"images": 3, "objects": {"cell": 2, "debris": 1}},
            "color": {"images": 1, "objects": {"cell": 1, "debris": 0}},
        },
    }
    cells = [line.split("│") for line in result.output.splitlines()]
    rows = [[cell.strip() for cell in row[1:-1]] for row in cells if len(row) == 7]
    assert rows[-5:] == [
        ["A", "2", "50.0%", "3", "1.50"],
        ["[b]B[/b]", "1", "25.0%", "0", "0.00"],
        ["unknown", "1", "25.0%", "1", "1.00"],
        ["gray", "3", "75.0%", "3", "1.00"],
        ["color", "1", "25.0%", "1", "1.00"],
    ]
    assert "note: 1 image has no 'scanner': subgroup 'unknown'" in result.output


def test_a_wrong_key_is_a_mistake(file: Path) -> None:
    result = CliRunner().invoke(app, ["data", "stats", str(file), "--by", "scaner"])
    assert result.exit_code == 2
    assert "did you mean 'scanner'?" in " ".join(result.output.split())
