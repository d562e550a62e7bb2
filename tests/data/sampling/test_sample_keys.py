"""Keys and seeds of samples."""

from __future__ import annotations

from pathlib import Path

from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation
from resnet_tasks.data.sampling.sample_keys import derive_sample_seed, unpack_key
from tests.support.hand_written import coco, made


def test_keys_say_no_more_than_they_need() -> None:
    assert unpack_key(7) == (0, 7, 1.0, 0)
    assert unpack_key((2, 7)) == (2, 7, 1.0, 0)
    assert unpack_key((2, 7, 0.5)) == (2, 7, 0.5, 0)
    assert unpack_key((2, 7, 0.5, 3)) == (2, 7, 0.5, 3)


def test_seed_of_a_sample_depends_on_run_epoch_image_and_visit_only(tmp_path: Path) -> None:
    seeds = {
        derive_sample_seed(s, e, i, v)
        for s in range(3)
        for e in range(3)
        for i in (1, 2, "1", "a")
        for v in range(2)
    }
    assert len(seeds) == 72
    assert all(0 <= each < 2**63 for each in seeds)
    data = made(coco(tmp_path), augmentation=SampleAugmentation(seed=5))
    assert data[(2, 0)].seed == derive_sample_seed(5, 2, 1)
    assert data[0].seed == derive_sample_seed(5, 0, 1)
    assert data[(2, 0, 1.0, 3)].seed == derive_sample_seed(5, 2, 1, 3)
