"""Boxes and dense maps reach the original image: hand-computed cases, tensors and arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnet_tasks.structures.geometry import Geometry

FLIPPED = Geometry((37, 50), (20, 31), (20 / 37, -31 / 50), (0.0, 31.0))


@pytest.mark.parametrize(
    "geometry", [Geometry.from_resize((37, 50), (20, 31)), FLIPPED, Geometry((20, 31), (20, 31))]
)
def test_arrays_and_tensors_agree(geometry: Geometry) -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(3, 32, 32)).astype(np.float32)
    found = geometry.map_to_original(dense)
    assert found.dtype == np.float32
    assert found.shape == (3, *geometry.original_size)
    wanted = geometry.map_to_original(torch.from_numpy(dense)).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    low = rng.uniform(-5, 25, (6, 2))
    boxes = np.concatenate((low, low + rng.uniform(0, 20, (6, 2))), axis=1).astype(np.float32)
    for way in (Geometry.boxes_to_original, Geometry.boxes_to_input):
        moved = way(geometry, boxes)
        assert isinstance(moved, np.ndarray)
        assert np.array_equal(moved, way(geometry, torch.from_numpy(boxes)).numpy())
    assert (boxes[:, 0] == low[:, 0].astype(np.float32)).all()  # the given ones are as they were


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="list"):
        Geometry((1, 1), (1, 1)).map_to_original(_Sliced())


class _Sliced:
    def __getitem__(self, key: object) -> list[object]:
        return []


def test_resize_maps_boxes_there_and_back() -> None:
    geometry = Geometry.from_resize((100, 200), (50, 50))  # y halves, x quarters
    boxes = torch.tensor([[8.0, 10, 40, 30]])
    there = geometry.boxes_to_input(boxes)
    assert there.tolist() == [[2, 5, 10, 15]]
    assert geometry.boxes_to_original(there).tolist() == boxes.tolist()


def test_horizontal_flip_swaps_corners() -> None:
    geometry = Geometry((10, 20), (10, 20), scale=(1, -1), offset=(0, 20))
    there = geometry.boxes_to_input(torch.tensor([[2.0, 1, 5, 4]]))
    assert there.tolist() == [[15, 1, 18, 4]]
    assert geometry.boxes_to_original(there).tolist() == [[2, 1, 5, 4]]


def test_flip_with_resize_on_both_axes() -> None:
    geometry = Geometry((10, 20), (20, 10), scale=(-2, -0.5), offset=(20, 10))
    there = geometry.boxes_to_input(torch.tensor([[4.0, 1, 8, 3]]))
    assert there.tolist() == [[6, 14, 8, 18]]
    assert geometry.boxes_to_original(there).tolist() == [[4, 1, 8, 3]]


def test_boxes_are_clipped_to_the_image_on_both_sides() -> None:
    geometry = Geometry.from_resize((10, 20), (20, 40))
    assert geometry.boxes_to_input(torch.tensor([[-3.0, -1, 25, 9]])).tolist() == [[0, 0, 40, 18]]
    padded = torch.tensor([[30.0, 10, 64, 32]])  # reaches into the padding
    assert geometry.boxes_to_original(padded).tolist() == [[15, 5, 20, 10]]


def test_no_boxes_stay_no_boxes() -> None:
    geometry = Geometry.from_resize((10, 20), (20, 40))
    assert geometry.boxes_to_input(torch.zeros(0, 4)).shape == (0, 4)
    assert geometry.boxes_to_original(torch.zeros(0, 4)).shape == (0, 4)


def test_dense_map_loses_its_padding() -> None:
    dense = torch.full((1, 4, 4), 9.0)
    dense[0, :2, :3] = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    geometry = Geometry.from_resize((2, 3), (2, 3))
    assert geometry.map_to_original(dense)[0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_dense_map_is_flipped_back() -> None:
    dense = torch.tensor([[[1.0, 2, 3], [4, 5, 6]]])
    geometry = Geometry((2, 3), (2, 3), scale=(-1, -1), offset=(2, 3))
    assert geometry.map_to_original(dense)[0].tolist() == [[6, 5, 4], [3, 2, 1]]


def test_dense_map_is_resized_between_pixel_centers() -> None:
    dense = torch.tensor([[[0.0, 4.0]]])
    made = Geometry.from_resize((1, 4), (1, 2)).map_to_original(dense)
    assert made[0, 0].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("offset", [(-2.0, 0.0), (0.0, -3.0)])
def test_dense_map_of_a_crop_is_refused(offset: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="no full inverse"):
        Geometry((8, 8), (4, 4), offset=offset).map_to_original(torch.zeros(1, 4, 4))
