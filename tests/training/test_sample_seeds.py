"""Seeds of samples in training: of (seed, epoch, image, visit), for any data and workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation
from resnet_tasks.data.datasets.tiled_dataset import TiledDataset, Tiling
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.data.sampling.epoch_sampler import EpochSampler
from resnet_tasks.data.sampling.sample_keys import Key, derive_sample_seed, unpack_key
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.processes import DistributedContext
from resnet_tasks.structures.samples import Batch, Sample
from resnet_tasks.training.batches import EpochBatches
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.state.progress import TrainingProgress
from resnet_tasks.training.train_step import TrainStep
from tests.support.consoles import quiet
from tests.support.half_bright import RIGHT_HALF, write_split
from tests.support.interrupting import killed_at
from tests.support.shapes import Shapes

CPU = torch.device("cpu")
OPTIONS = TrainingRecipe(
    epochs=2,
    batch_size=1,
    seed=6,
    precision="fp32",
    device="cpu",
    evaluate_every=0,
    checkpoint_minutes=1e-9,
)
Seeded = list[tuple[int | str, int]]


@pytest.fixture
def twice(tmp_path: Path) -> CocoDataset:
    """Three images, each of them twice per epoch."""
    images = dict.fromkeys("abc", RIGHT_HALF)
    write_split(tmp_path / "data" / "a.json", images, size=(64, 96), categories=("square", "disc"))
    file = read_coco(tmp_path / "data" / "a.json")
    return CocoDataset(
        [file],
        categories=file.categories,
        augmentation=SampleAugmentation(seed=6),
        epoch_sampler=EpochSampler(np.full(3, 2.0)),
    )


def seeded(batches: Sequence[Batch]) -> Seeded:
    """Id and seed of every image in order."""
    return [pair for batch in batches for pair in zip(batch.image_ids, batch.seeds, strict=True)]


def epoch_of(
    data: Dataset[Sample], epoch: int, options: TrainingRecipe = OPTIONS, **more: object
) -> list[Batch]:
    made = EpochBatches(data, options, device=CPU, **more)  # type: ignore[arg-type]
    return [batch for group in made.iter_steps(epoch) for batch in group.batches]


def test_a_repeated_image_samples_other_anchors(
    twice: CocoDataset, tiny_model: Callable[[], TaskModel]
) -> None:
    model = tiny_model().eval()  # a batch of one image has no statistics
    batches = epoch_of(twice, 1)
    by_image: dict[int | str, list[Batch]] = {}
    for batch in batches:
        by_image.setdefault(batch.image_ids[0], []).append(batch)
    assert len(by_image) == 3
    for image_id, (first, second) in by_image.items():
        assert torch.equal(first.images, second.images)
        assert [first.seeds, second.seeds] == [
            (derive_sample_seed(6, 1, image_id, visit),) for visit in (0, 1)
        ]
        assert first.seeds != second.seeds
        one, same, other = (model(batch, mode="loss") for batch in (first, first, second))
        name = "objects/rpn_objectness"
        assert one[name].sum.item() == same[name].sum.item()
        assert one[name].sum.item() != other[name].sum.item()


def test_augmentation_and_heads_share_the_seed(twice: CocoDataset) -> None:
    """The data set augments with the seed that its samples state; the loader sets the same."""
    keys = [
        key for batch in EpochBatches(twice, OPTIONS, device=CPU).compute_keys(1) for key in batch
    ]
    assert {unpack_key(key)[3] for key in keys} == {0, 1}
    assert [twice[key].seed for key in keys] == [seed for _, seed in seeded(epoch_of(twice, 1))]


def test_repeated_tiles_and_tiles_of_an_image_differ(twice: CocoDataset) -> None:
    tiles = TiledDataset(twice, Tiling(WindowGrid(64, 64, 0.0), empty=None))
    found = seeded(epoch_of(tiles, 0))
    assert len(found) == 12
    assert len({image_id for image_id, _ in found}) == 6
    assert len({seed for _, seed in found}) == 12


def test_workers_processes_and_resuming_change_no_seed(twice: CocoDataset) -> None:
    options = OPTIONS.model_copy(update={"batch_size": 4})
    whole = seeded(epoch_of(twice, 0, options))
    assert len(set(whole)) == 6
    assert seeded(epoch_of(twice, 0, options, workers=2)) == whole
    rest = EpochBatches(twice, options, device=CPU).iter_steps(0, start=1)
    assert seeded([batch for group in rest for batch in group.batches]) == whole[4:]
    parts = [
        epoch_of(twice, 0, options, processes=DistributedContext(index=index, count=2))
        for index in range(2)
    ]
    together = [pair for batches in zip(*parts, strict=True) for pair in seeded(batches)]
    assert together == whole


def test_a_resumed_run_trains_with_the_same_seeds(
    twice: CocoDataset,
    tiny_model: Callable[[], TaskModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = OPTIONS.model_copy(update={"batch_size": 2})
    take_step, seen = TrainStep.run, dict[int, Seeded]()

    def noted(self: TrainStep, group: list[Batch], position: TrainingProgress) -> dict[str, float]:
        seen[position.updates] = seeded(group)
        return take_step(self, group, position)

    monkeypatch.setattr(TrainStep, "run", noted)

    def train(name: str, *, resume: bool = False) -> TaskModel:
        model = tiny_model()
        finetune(model, twice, None, options, out=tmp_path / name, resume=resume, console=quiet())
        return model

    uninterrupted = train("whole").state_dict()
    whole = dict(seen)
    assert len(whole) == 6
    assert len({seed for pairs in whole.values() for _, seed in pairs}) == 12
    seen.clear()
    with killed_at(4):
        train("parts")
    resumed = train("parts", resume=True).state_dict()
    assert seen == whole
    assert all(torch.equal(each, resumed[name]) for name, each in uninterrupted.items())


def test_samples_without_a_seed_get_one(shapes: Dataset[Sample]) -> None:
    """A data set that knows neither the seed of the run nor the epoch."""
    assert {shapes[i].seed for i in range(4)} == {0}
    for run, epoch in ((6, 0), (6, 1), (7, 0)):
        found = seeded(epoch_of(shapes, epoch, OPTIONS.model_copy(update={"seed": run})))
        assert sorted(found) == [(i, derive_sample_seed(run, epoch, i)) for i in range(4)]


def test_a_foreign_data_set_names_the_visit_in_its_keys() -> None:
    class Repeated(Shapes):
        epoch_sampler = EpochSampler(np.full(4, 3.0))

        def __getitem__(self, key: Key) -> Sample:  # type: ignore[override]
            return super().__getitem__(unpack_key(key)[1])

    found = seeded(epoch_of(Repeated(), 2))
    assert sorted(found) == sorted(
        (i, derive_sample_seed(6, 2, i, visit)) for i in range(4) for visit in range(3)
    )
    assert len({seed for _, seed in found}) == 12
