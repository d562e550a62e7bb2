"""Memory of many instances on a large image: predicted, written and drawn without stacks."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

import resnet_tasks.structures.tensors  # noqa: F401  # registers tensors
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.inference.prediction_writer import PredictionWriter
from resnet_tasks.inference.predictor import FileHandle, WholeImagePredictor
from resnet_tasks.structures.input_images import HeadInfo, InputImage
from resnet_tasks.structures.tasks import Outputs
from resnet_tasks.tasks.built_in import BUILT_IN_TASKS

assert BUILT_IN_TASKS  # the import registers the tasks
SIDE, NUM_INSTANCES, CELLS = 2000, 500, 28
MIB = 2**20


class ManyInstances:
    """Model whose outputs are 500 blobs, of 30 to 400 pixels on average 215."""

    heads: ClassVar[dict[str, HeadInfo]] = {
        "cells": HeadInfo("instance_segmentation", ("cell",), (7,))
    }

    def outputs(self, images: Sequence[InputImage]) -> dict[str, Outputs]:
        rng = np.random.default_rng(0)
        sides = rng.uniform(30, 400, (NUM_INSTANCES, 2))
        corners = rng.uniform(0, SIDE - sides)
        distance = np.linspace(-1, 1, CELLS) ** 2
        logits = 8 * (0.9 - distance[:, None] - distance) + rng.normal(0, 1, (500, CELLS, CELLS))
        outputs = {
            "boxes": np.concatenate((corners, corners + sides), axis=1).astype(np.float32),
            "scores": np.linspace(0.99, 0.6, NUM_INSTANCES, dtype=np.float32),
            "labels": np.zeros(NUM_INSTANCES, np.int64),
            "valid": np.ones(NUM_INSTANCES, np.bool_),
            "mask_logits": logits.astype(np.float32),
        }
        assert len(images) == 1
        return {"cells": {name: torch.from_numpy(each)[None] for name, each in outputs.items()}}


def test_500_instances_of_a_large_image_are_never_a_stack(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    """A stack of their masks would take 500 x 2000 x 2000 = 1907 MiB."""
    predictor = WholeImagePredictor(ManyInstances())
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    prepared = predictor.prepare(FileHandle(image, Preparation(), "big"))
    writer = PredictionWriter(tmp_path, {"cells": ("cell",)}, {"cells": (7,)})
    tracemalloc.start()
    (result,) = predictor.predict([prepared])
    predicted = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.reset_peak()
    writer.write(1, "big", result)
    written = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.reset_peak()
    writer.draw("big", image, result)
    drawn = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()
    tell(f"predicted {predicted:.0f} MiB, written {written:.0f} MiB, drawn {drawn:.0f} MiB at peak")
    entries = json.loads(json.dumps(writer.results["cells"]))
    assert len(entries) == NUM_INSTANCES
    assert all(entry["segmentation"]["size"] == [SIDE, SIDE] for entry in entries)
    assert max(predicted, written) < 40
    assert drawn < 150  # the drawing itself takes 11 MiB per copy
