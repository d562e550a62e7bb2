from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet_tasks.assemble.labels import HeadLabels
from resnet_tasks.report.image_layers import ImagePainter, read_predicted_map
from resnet_tasks.report.run_view import read_run
from resnet_tasks.structures.evaluation import VOID, GroundTruth
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.visualization.colors import assign_class_colors


def test_each_class_of_a_large_head_keeps_its_color() -> None:
    """A palette has 256 entries; of 600 classes, this image shows one beyond them."""
    classes = tuple(f"class {i:03}" for i in range(600))
    colors = assign_class_colors(classes)
    table = LabelTable.identity(classes)
    head = HeadLabels(classes, tuple(range(1, 601)), table)
    semantic = np.full((6, 8), VOID)
    semantic[:3] = 599
    painter = ImagePainter(0, np.zeros((6, 8, 3), np.uint8), colors)
    painter.add_maps(head, GroundTruth(1, (6, 8), semantic=semantic), Path("does not exist"))
    view = painter.build_view("a", 1, ())
    uri = re.search(r"data:image/png;base64,([^\"]*)", view.truth)
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri[1]))) as image:
        pixels = np.asarray(image.convert("RGBA"))
    assert pixels[0, 0].tolist() == [*colors["class 599"], 255]
    assert pixels[5, 0, 3] == 0  # void is transparent


def test_maps_become_labels_and_foreign_values_are_void(made: Any, tmp_path: Path) -> None:
    head = read_run(made.folder).labels.heads["scene"]
    values = np.asarray([[0, 10, 40], [20, 30, 77]], np.uint8)
    Image.fromarray(values).save(tmp_path / "map.png")
    labels = read_predicted_map(tmp_path / "map.png", head, (2, 3))
    assert labels is not None
    assert labels.tolist() == [[0, 1, 4], [2, 3, VOID]]
    assert read_predicted_map(tmp_path / "map.png", head, (3, 2)) is None
    assert read_predicted_map(tmp_path / "none.png", head, (2, 3)) is None
