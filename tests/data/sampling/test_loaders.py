"""Loaders over given batches: the same samples here and in workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation
from resnet_tasks.data.sampling.loaders import (
    _leave_signals_to_trainer,
    choose_num_workers,
    make_item_loader,
    make_loader,
)
from resnet_tasks.data.sampling.sample_keys import Key
from resnet_tasks.errors import DataError
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Sample, collate


@pytest.fixture
def images(tmp_path: Path) -> CocoDataset:
    """Four augmented images of different sizes."""
    rng = np.random.default_rng(0)
    image_records = []
    for i in range(4):
        pixels = rng.integers(0, 256, (20 + i, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        image_records.append({"id": i, "file_name": f"{i}.png", "height": 20 + i, "width": 30})
    boxes = [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 9, 8], "area": 72, "iscrowd": 0}
    ]
    content = {
        "images": image_records,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "data.json").write_text(json.dumps(content))
    file = read_coco(tmp_path / "data.json")
    steps = [{"Affine": {"rotate": [-30, 30], "p": 1.0}}, {"RandomBrightnessContrast": {"p": 1.0}}]
    return CocoDataset(
        [file],
        categories=file.categories,
        augmentation=SampleAugmentation(Augmentation(steps), seed=7),
    )


KEYS: list[list[Key]] = [[(1, 3), (1, 0)], [(1, 2), (1, 1)]]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_change_nothing(images: CocoDataset, start_method: str) -> None:
    """Also those that start empty, as on macOS and Windows."""
    data, keys = images, KEYS
    alone = list(make_loader(data, keys))
    shared = list(make_loader(data, keys, workers=1, start_method=start_method))
    assert len(make_loader(data, keys)) == len(alone) == len(shared) == 2
    assert [batch.image_ids for batch in shared] == [(3, 0), (2, 1)]
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.seeds == other.seeds
        assert one.geometries == other.geometries
        for mine, theirs in zip(one.targets, other.targets, strict=True):
            assert mine.boxes is not None
            assert theirs.boxes is not None
            assert torch.equal(mine.boxes, theirs.boxes)


class Threads(Dataset[Sample]):
    """Says in the seeds how many threads OpenCV and torch have where samples are made."""

    def __getitem__(self, key: int) -> Sample:
        image = torch.zeros(1, 4, 4)
        seed = 100 * cv2.getNumThreads() + torch.get_num_threads()
        return Sample(image, Geometry((4, 4), (4, 4)), key, seed=seed)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_worker_takes_one_core(start_method: str) -> None:
    """And OpenCV works there, whose threads had begun before the fork."""
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (999, 999), interpolation=cv2.INTER_AREA)
    (batch,) = make_loader(Threads(), [[0]], workers=1, start_method=start_method)
    assert batch.seeds == (101,)


@pytest.mark.parametrize(
    ("steps", "has_bytes"),
    [
        ([], True),
        ([{"HorizontalFlip": {"p": 0.5}}, {"RandomRotate90": {"p": 0.5}}], True),
        ([{"HorizontalFlip": {"p": 0.5}}, {"RandomBrightnessContrast": {"p": 0.5}}], False),
    ],
)
def test_batches_hold_what_samples_do(images: CocoDataset, steps: list, *, has_bytes: bool) -> None:
    """Loaders move 8 bits as long as they can; whoever asks for a sample gets floats in 0..1."""
    augment = Augmentation(steps) if steps else None
    augmentation = SampleAugmentation(augment, seed=7)
    data = CocoDataset(images.files, categories=images.categories, augmentation=augmentation)
    for batch, keys in zip(make_loader(data, KEYS), KEYS, strict=True):
        samples = [data[key] for key in keys]
        assert all(each.image.dtype == torch.float32 for each in samples)
        assert torch.equal(batch.images, collate(samples).images)
    kind = torch.uint8 if has_bytes else torch.float32
    assert data.as_uint8()[1, 0].image.dtype == kind


@pytest.mark.parametrize("workers", [0, 1])
def test_a_image_that_has_gone_is_one_sentence(images: CocoDataset, workers: int) -> None:
    gone = images.path(2)
    gone.unlink()
    with pytest.raises(DataError) as caught:
        list(make_loader(images, KEYS, workers=workers))
    assert str(gone) in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_no_workers_beside_training_on_a_cpu() -> None:
    assert choose_num_workers(torch.device("cpu")) == 0
    assert 1 <= choose_num_workers(torch.device("cuda")) <= 8


class ProcessIds(Dataset[int]):
    """The process that loads an item, whatever the item."""

    def __getitem__(self, _: Key) -> int:
        return os.getpid()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_survive_a_signal_that_stops_the_training(number: signal.Signals) -> None:
    """It reaches all processes of a terminal or launcher; the trainer needs them to end a step."""
    batches: list[list[Key]] = [[(0, position)] for position in range(8)]
    loaded = iter(make_item_loader(ProcessIds(), batches, workers=1))
    (worker,) = next(loaded)
    os.kill(worker, number)
    assert list(loaded) == [[worker]] * 7


def test_workers_end_at_the_second_signal() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _leave_signals_to_trainer()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            os.write(writing, b"1")
        os._exit(9)
    assert os.waitpid(child, 0) == (child, 0)
    os.close(writing)
    assert os.read(reading, 9) == b"1"
    os.close(reading)


TRAINER = """
import sys, time
from multiprocessing import get_context
from resnet_tasks.data.sampling.loaders import _init_worker

def work():
    _init_worker(0)
    time.sleep(60)

if __name__ == "__main__":
    worker = get_context(sys.argv[1]).Process(target=work)
    worker.start()
    print(worker.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_workers_end_with_a_training_that_is_killed(tmp_path: Path, start_method: str) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    command = [sys.executable, str(script), start_method]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        worker = psutil.Process(int(trainer.stdout.readline()))
        trainer.kill()
    worker.wait(timeout=50)
