"""Numpy arrays find the way back to the original image as tensors do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.geometry import Geometry as SameGeometry

FLIPPED = Geometry((37, 50), (20, 31), (20 / 37, -31 / 50), (0.0, 31.0))


@pytest.mark.parametrize(
    "geometry", [Geometry.from_resize((37, 50), (20, 31)), FLIPPED, Geometry((20, 31), (20, 31))]
)
def test_arrays_and_tensors_agree(geometry: Geometry) -> None:
    assert SameGeometry is Geometry
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
