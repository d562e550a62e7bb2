from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet_tasks.report.image_layers import read_predicted_map
from resnet_tasks.report.run_view import read_run
from resnet_tasks.structures.evaluation import VOID


def test_maps_become_labels_and_foreign_values_are_void(made: Any, tmp_path: Path) -> None:
    head = read_run(made.folder).labels.heads["scene"]
    values = np.asarray([[0, 10, 40], [20, 30, 77]], np.uint8)
    Image.fromarray(values).save(tmp_path / "map.png")
    labels = read_predicted_map(tmp_path / "map.png", head, (2, 3))
    assert labels is not None
    assert labels.tolist() == [[0, 1, 4], [2, 3, VOID]]
    assert read_predicted_map(tmp_path / "map.png", head, (3, 2)) is None
    assert read_predicted_map(tmp_path / "none.png", head, (2, 3)) is None
