"""Images that are kept in memory are those that would be read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation
from resnet_tasks.data.images import image_cache
from resnet_tasks.data.images.intensity import Intensity, Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError
from tests.support.hand_written import coco, made


@pytest.mark.parametrize("intensity", [Intensity(), Intensity("window", level=128, width=64)])
def test_cache_changes_nothing(tmp_path: Path, intensity: Intensity) -> None:
    file = coco(tmp_path)
    turn = Augmentation([{"Affine": {"rotate": [-20, 20], "p": 1.0}}])
    options: dict[str, Any] = {"augmentation": SampleAugmentation(turn)}
    options["preparation"] = Preparation(3, Resize(6, 6), intensity)
    kept, fresh = (made(file, cache=cache, **options) for cache in (True, False))
    for key in (0, 1, 2, 0, (1, 0), 0):
        one, other = kept[key], fresh[key]
        assert torch.equal(one.image, other.image)
        assert one.target.semantic is not None
        assert other.target.semantic is not None
        assert torch.equal(one.target.semantic, other.target.semantic)
        assert one.seed == other.seed
    (tmp_path / "1.png").unlink()
    assert kept[0].image.shape == (3, 4, 6)
    with pytest.raises(DataError, match="does not exist"):
        fresh[0]


def test_cache_keeps_no_more_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As 8-bit images all would fit.
    monkeypatch.setattr(image_cache, "CACHE_LIMIT", 3 * 8 * 12 * 4)
    preparation = Preparation(intensity=Intensity("percentile"))
    deep = made(coco(tmp_path), preparation=preparation, fields=("boxes",))
    for i in range(3):
        deep[i]
    for i in (1, 2, 3):
        (tmp_path / f"{i}.png").unlink()
    assert deep[0].image.shape == (3, 8, 12)
    with pytest.raises(DataError, match="does not exist"):
        deep[1]
