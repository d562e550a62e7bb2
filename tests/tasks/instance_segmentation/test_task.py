"""Instance segmentation task: decoding, windows, views, evaluation and explanation in one place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import resnet_tasks.structures.tensors  # noqa: F401  # registers tensors
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.evaluation.coco.instance_segmentation import InstanceSegmentationEvaluator
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.tasks import ExplainedQuestion, WindowLayout, get_task
from resnet_tasks.tasks.instance_segmentation.task import InstanceSegmentationTask

CELLS = 28
SIZE = (100, 175)
FRAMES = ((0, 0, 100, 100), (75, 0, 175, 100))
WHOLE = (20.0, 10.0, 160.0, 60.0)


def outputs_of_window(frame: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    """One object that fills its box, as far as the window reaches, and one empty slot."""
    x1, y1, x2, y2 = frame
    box = np.clip(WHOLE, (x1, y1, x1, y1), (x2, y2, x2, y2)) - [x1, y1, x1, y1]
    return {
        "boxes": np.asarray([[box, np.zeros(4)]], np.float32),
        "scores": np.asarray([[0.5 + x1 / 1000, 0]], np.float32),
        "labels": np.asarray([[1, 0]]),
        "valid": np.asarray([[True, False]]),
        "mask_logits": np.full((1, 2, CELLS, CELLS), 40, np.float32),
    }


def test_task_is_registered_with_its_contract() -> None:
    task = get_task("instance_segmentation")
    assert isinstance(task, InstanceSegmentationTask)
    assert task.fields == ("boxes", "labels", "masks")
    assert task.outputs["mask_logits"] == ("B", "D", "M", "M")
    evaluator = task.build_evaluator(("a", "b"))
    assert isinstance(evaluator, InstanceSegmentationEvaluator)
    assert task.main_metric in evaluator.compute()


def test_windows_are_decoded_and_merged_in_the_original_image() -> None:
    """The image was prepared at half the size of the original, so boxes and masks double."""
    original = (SIZE[0] * 2, SIZE[1] * 2)
    layout = WindowLayout(SIZE, original, (0,), (0, 75), (100, 100), 0.5, "labels", 2)
    merger = get_task("instance_segmentation").create_window_merger("head", layout)
    for frame in FRAMES:
        tile = Tile(frame[1], frame[0], 100, 100)
        geometry = Geometry(original, tile.size, (0.5, 0.5), (-float(tile.top), -float(tile.left)))
        merger.add([frame], outputs_of_window(frame), [geometry])
    merged = merger.finish()
    assert isinstance(merged, InstanceSegmentation)
    assert merged.boxes.tolist() == [[40, 20, 320, 120]]
    assert merged.scores.tolist() == pytest.approx([0.575])
    mask = decode_mask(dict(merged.segmentations[0]), *original)
    # Probabilities are 0 outside a mask, which rounds the corners by some pixels.
    assert 100 * 280 - 10 <= mask[20:120, 40:320].sum() == mask.sum()


def test_views_are_merged() -> None:
    task = get_task("instance_segmentation")
    geometry = Geometry.from_resize((100, 100), (100, 100))
    flipped = Geometry((100, 100), (100, 100), (1.0, -1.0), (0.0, 100.0))
    outputs = outputs_of_window(FRAMES[0])
    mirrored = {**outputs, "boxes": outputs["boxes"][..., [2, 1, 0, 3]] * [-1, 1, -1, 1]}
    mirrored["boxes"] = (mirrored["boxes"] + [100, 0, 100, 0]).astype(np.float32)
    views = [task.decode(outputs, [geometry])[0], task.decode(mirrored, [flipped])[0]]
    merged = task.merge_views(views)
    assert merged.segmentations == views[0].segmentations == views[1].segmentations
    assert merged.scores.tolist() == pytest.approx([0.5])


def test_explanation_is_the_log_odds_of_the_score() -> None:
    task = get_task("instance_segmentation")
    logit = torch.tensor([[1.5, -2.0]], requires_grad=True)
    arrays = outputs_of_window(FRAMES[0])
    outputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    outputs["scores"] = logit.sigmoid()
    geometry = Geometry.from_resize((100, 100), (100, 100))
    question = ExplainedQuestion(label=1, box=None, classes=("a", "b"))
    explained = task.select_explained(outputs, geometry, question)
    assert explained.label == 1
    assert explained.box == (20.0, 10.0, 100.0, 60.0)
    assert float(explained.value.detach()) == pytest.approx(1.5, abs=1e-5)
    explained.value.backward()
    assert logit.grad is not None
    assert logit.grad[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
