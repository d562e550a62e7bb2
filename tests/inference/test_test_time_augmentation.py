"""Views: mirrored geometry leads back, one view changes nothing, fusion by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from resnet_tasks.data.images.intensity import Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.inference.predict_images import as_predictor, predict_images
from resnet_tasks.inference.test_time_augmentation import TtaPredictor, TtaViews
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.input_images import InputImage
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.targets import Target
from resnet_tasks.structures.tasks import get_task
from resnet_tasks.tasks.detection.merge_views import fuse_detections
from tests.support.pixel_heads import PixelBoxHead, PixelMapHead, Pixels


class BrightPixels(PixelMapHead):
    """Class 1 where the red channel is bright, from each pixel alone."""

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        red = features["C1"][:, :1]
        return {"logits": torch.cat((1 - red, red), dim=1) * 4}


class BrightBox(PixelBoxHead):
    """The box around all bright pixels, its score their mean."""

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        boxes, scores = [], []
        for red in features["C1"][:, 0]:
            rows, columns = (red > 0.5).nonzero(as_tuple=True)
            low = torch.stack((columns.min(), rows.min()))
            boxes.append(torch.cat((low, columns.max()[None] + 1, rows.max()[None] + 1)).float())
            scores.append(red[red > 0.5].mean())
        found = torch.ones(len(boxes), 1)
        return {
            "boxes": torch.stack(boxes)[:, None],
            "scores": torch.stack(scores)[:, None],
            "labels": found.long() * 0,
            "valid": found.bool(),
        }


@pytest.fixture
def model() -> TaskModel:
    backbone = Pixels()
    return TaskModel(
        backbone,
        {
            "scene": BrightPixels(backbone.specs, ("dark", "bright")),
            "objects": BrightBox(backbone.specs, ("blob",)),
        },
    )


def make_image(seed: int = 0, size: tuple[int, int] = (30, 50)) -> Tensor:
    """Dark, with a bright blob left of the middle."""
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(seed)) * 0.2
    image[0, 5:15, 4 + seed : 20 + seed] += 0.75
    return image


def predict(predictor: Any, *images: Tensor) -> list[Any]:
    arrays = [(image * 255).byte().permute(1, 2, 0).numpy() for image in images]
    return predict_images(predictor, arrays, Preparation(), precision="fp32")


def views(model: TaskModel, kind: str | None) -> TtaPredictor:
    return TtaPredictor(as_predictor(model, "fp32"), TtaViews.from_name(kind))


def test_a_mirrored_image_leads_back_to_the_same_place() -> None:
    """Twice mirrored is the image itself, and points keep their place."""
    image = InputImage(make_image().permute(1, 2, 0).numpy(), Geometry((30, 50), (30, 50)))
    once, twice = image.flip(), image.flip().flip()
    assert np.array_equal(twice.pixels, image.pixels)
    assert twice.geometry == image.geometry
    assert np.array_equal(once.pixels, image.pixels[:, ::-1])
    box = torch.tensor([[3.0, 4.0, 10.0, 12.0]])
    there = once.geometry.boxes_to_input(box)
    assert there.tolist() == [[40.0, 4.0, 47.0, 12.0]]
    assert torch.equal(once.geometry.boxes_to_original(there), box)


def test_a_model_without_a_side_gives_the_same_with_flips(model: TaskModel) -> None:
    images = (make_image(), make_image(2))
    for plain, flipped in zip(
        predict(model, *images), predict(views(model, "flips"), *images), strict=True
    ):
        one, other = plain["scene"], flipped["scene"]
        assert torch.equal(one.labels, other.labels)
        assert torch.allclose(one.probs, other.probs, atol=1e-6)
        one, other = plain["objects"], flipped["objects"]
        assert torch.allclose(one.boxes, other.boxes, atol=1e-4)
        assert torch.allclose(one.scores, other.scores, atol=1e-6)
        assert one.boxes.shape == other.boxes.shape == (1, 4)


def test_a_single_view_is_the_plain_prediction_to_the_bit(model: TaskModel) -> None:
    (plain,), (single,) = predict(model, make_image()), predict(views(model, None), make_image())
    assert torch.equal(plain["scene"].probs, single["scene"].probs)
    assert torch.equal(plain["objects"].boxes, single["objects"].boxes)
    assert torch.equal(plain["objects"].scores, single["objects"].scores)


def test_other_sizes_go_through_the_preparation_and_come_back(model: TaskModel) -> None:
    image = (make_image(0, (60, 100)) * 255).byte().permute(1, 2, 0).numpy()
    seen: list[tuple[int, int]] = []
    compute = model.compute_outputs

    def watched(batch: Any, *, precision: str) -> Any:
        seen.append(batch.geometries[0].input_size)
        return compute(batch, precision=precision)

    model.compute_outputs = watched  # type: ignore[method-assign]
    many = views(model, "flips+scales")
    preparation = Preparation(resize=Resize(48, 80))
    (found,) = predict_images(many, [image], preparation)
    assert seen == [(36, 60), (36, 60), (48, 80), (48, 80), (60, 100), (60, 100)]
    assert found["scene"].labels.shape == (60, 100)
    assert found["objects"].boxes[0].tolist() == pytest.approx([4, 5, 20, 15], abs=1.5)
    assert len(found["objects"]) == 1


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of (x1, y1, x2, y2, score, label)."""
    table = torch.tensor([row[:5] for row in rows]).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4], torch.tensor([row[5] for row in rows]).long())


def test_fusion_by_hand() -> None:
    """One object in both views, one in a single view, two classes at one place, two neighbors."""
    first = detections((0, 0, 10, 10, 0.9, 0), (50, 50, 60, 60, 0.8, 0), (0, 0, 10, 10, 0.4, 1))
    second = detections((0, 0, 10, 12, 0.3, 0), (100, 0, 110, 10, 0.2, 0))
    found = fuse_detections([first, second])
    assert len(found) == 3  # as many as the view with the most: the least sure one falls out
    assert found.scores.tolist() == pytest.approx([0.6, 0.4, 0.2])
    assert found.labels.tolist() == [0, 0, 1]
    assert found.boxes[0].tolist() == pytest.approx([0, 0, 10, 10 + 2 * 0.3 / 1.2])
    assert found.boxes[1].tolist() == [50, 50, 60, 60]


def test_boxes_of_one_view_are_never_fused_with_one_another() -> None:
    crowd = detections((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 11, 0.7, 0))
    same = fuse_detections([crowd, crowd])
    assert same.scores.tolist() == pytest.approx([0.9, 0.7])
    assert torch.allclose(same.boxes, crowd.boxes)


def test_nothing_found_and_zero_scores() -> None:
    assert len(fuse_detections([detections(), detections()])) == 0
    one = fuse_detections([detections(), detections((1, 2, 3, 4, 0.0, 1))])
    assert one.boxes.tolist() == [[1, 2, 3, 4]]
    assert one.scores.tolist() == [0]
    assert one.boxes.dtype == torch.float32
    assert one.labels.dtype == torch.int64


def test_probabilities_are_averaged() -> None:
    found = [Classification(torch.tensor([0.9, 0.1])), Classification(torch.tensor([0.3, 0.7]))]
    merged = get_task("classification").merge_views(found)
    assert merged.probs.tolist() == pytest.approx([0.6, 0.4])


class _Fixed(Dataset[Sample]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        image = make_image(index)
        semantic = (image[0] > 0.5).long()
        return Sample(image, Geometry((30, 50), (30, 50)), index, "", Target(semantic=semantic))


def test_evaluation_of_views(model: TaskModel) -> None:
    plain = evaluate(model, _Fixed(), precision="fp32", bootstrap=None).metrics
    found = evaluate(views(model, "flips"), _Fixed(), bootstrap=None).metrics
    assert found["scene/mIoU"].value == plain["scene/mIoU"].value == 1.0
    with pytest.raises(DataError, match="_Fixed has no at_scale"):
        evaluate(views(model, "scales"), _Fixed(), bootstrap=None)


def test_names_of_views() -> None:
    assert len(TtaViews.from_name(None)) == 1
    assert len(TtaViews.from_name("flips")) == 2
    assert len(TtaViews.from_name("flips+scales")) == 6
    with pytest.raises(DataError, match="'rotations' is unknown; allowed: flips, scales"):
        TtaViews.from_name("rotations")
