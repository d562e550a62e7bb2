"""Views: mirrored geometry leads back, one view changes nothing, fusion by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from resnet_tasks.data.images.intensity import Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.inference.predict_images import predict_images
from resnet_tasks.inference.test_time_augmentation import (
    TtaPredictor,
    TtaViews,
    flip_batch,
    fuse_detections,
    merge_views,
    rescale_dataset,
)
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.samples import Sample, collate
from resnet_tasks.structures.targets import Target
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
        return {"boxes": torch.stack(boxes)[:, None], "scores": torch.stack(scores)[:, None]}

    def decode(self, raw: Mapping[str, Tensor], geometries: Sequence[Geometry]) -> list[Any]:
        return [
            Detections(geometry.boxes_to_original(boxes), scores, torch.zeros(1).long())
            for boxes, scores, geometry in zip(raw["boxes"], raw["scores"], geometries, strict=True)
        ]


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


def batch_of(*images: Tensor) -> Any:
    def sample(i: int, image: Tensor) -> Sample:
        size = (int(image.shape[1]), int(image.shape[2]))
        return Sample(image, Geometry(size, size), i)

    return collate([sample(i, image) for i, image in enumerate(images)])


def test_a_mirrored_batch_leads_back_to_the_same_place() -> None:
    """Twice mirrored is the batch itself, padding stays, and points keep their place."""
    batch = batch_of(make_image(), make_image(1, (32, 40)))
    once, twice = flip_batch(batch), flip_batch(flip_batch(batch))
    assert torch.equal(twice.images, batch.images)
    assert twice.geometries == batch.geometries
    assert torch.equal(once.images[1, :, :32, :40], batch.images[1, :, :32, :40].flip(-1))
    assert (once.images[1, :, :, 40:] == 0).all()
    box = torch.tensor([[3.0, 4.0, 10.0, 12.0]])
    there = once.geometries[0].boxes_to_input(box)
    assert there.tolist() == [[40.0, 4.0, 47.0, 12.0]]
    assert torch.equal(once.geometries[0].boxes_to_original(there), box)


def test_a_model_without_a_side_gives_the_same_with_flips(model: TaskModel) -> None:
    batch = batch_of(make_image(), make_image(2))
    plain = model.predict(batch)
    flipped = TtaPredictor(model, TtaViews.from_name("flips")).predict([batch])
    for one, other in zip(plain["scene"], flipped["scene"], strict=True):
        assert torch.equal(one.labels, other.labels)
        assert torch.allclose(one.probs, other.probs, atol=1e-6)
    for one, other in zip(plain["objects"], flipped["objects"], strict=True):
        assert torch.allclose(one.boxes, other.boxes, atol=1e-4)
        assert torch.allclose(one.scores, other.scores, atol=1e-6)
        assert one.boxes.shape == other.boxes.shape == (1, 4)


def test_a_single_view_is_the_plain_prediction_to_the_bit(model: TaskModel) -> None:
    batch = batch_of(make_image())
    plain, single = model.predict(batch), TtaPredictor(model, TtaViews()).predict([batch])
    assert torch.equal(plain["scene"][0].probs, single["scene"][0].probs)
    assert torch.equal(plain["objects"][0].boxes, single["objects"][0].boxes)
    assert torch.equal(plain["objects"][0].scores, single["objects"][0].scores)


def test_other_sizes_go_through_the_preparation_and_come_back(model: TaskModel) -> None:
    image = (make_image(0, (60, 100)) * 255).byte().permute(1, 2, 0).numpy()
    seen: list[tuple[int, int]] = []
    predict = model.predict

    def watched(batch: Any, *, precision: str) -> dict[str, list[Any]]:
        seen.append(batch.geometries[0].input_size)
        return predict(batch, precision=precision)

    model.predict = watched  # type: ignore[method-assign, assignment]
    many = TtaPredictor(model, TtaViews.from_name("flips+scales"))
    preparation = Preparation(resize=Resize(48, 80))
    (found,) = predict_images(many, [image], preparation, precision="fp32")
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
    views = [Classification(torch.tensor([0.9, 0.1])), Classification(torch.tensor([0.3, 0.7]))]
    assert merge_views(views).probs.tolist() == pytest.approx([0.6, 0.4])
    with pytest.raises(DataError, match="type str cannot be merged"):
        merge_views(["a", "b"])


class _Fixed(Dataset[Sample]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        image = make_image(index)
        semantic = (image[0] > 0.5).long()
        return Sample(image, Geometry((30, 50), (30, 50)), index, "", Target(semantic=semantic))


def test_evaluation_of_views(model: TaskModel) -> None:
    plain = evaluate(model, _Fixed(), precision="fp32", bootstrap=None).metrics
    flips = TtaPredictor(model, TtaViews.from_name("flips"))
    found = evaluate(flips, _Fixed(), precision="fp32", bootstrap=None).metrics
    assert found["scene/mIoU"].value == plain["scene/mIoU"].value == 1.0
    with pytest.raises(DataError, match="_Fixed has no at_scale"):
        evaluate(TtaPredictor(model, TtaViews.from_name("scales")), _Fixed(), bootstrap=None)
    assert rescale_dataset(_Fixed(), 1.0).__class__ is _Fixed


def test_names_of_views() -> None:
    assert len(TtaViews.from_name(None)) == 1
    assert len(TtaViews.from_name("flips")) == 2
    assert len(TtaViews.from_name("flips+scales")) == 6
    with pytest.raises(DataError, match="'rotations' is unknown; allowed: flips, scales"):
        TtaViews.from_name("rotations")
