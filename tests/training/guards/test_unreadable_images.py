"""Training data with images that cannot be read: stopped at, or left out, listed and limited."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from resnet_tasks.errors import DataError, ImageError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.run_folder.checkpoint import load_model_weights
from resnet_tasks.training.finetune_recipe import finetune_recipe
from resnet_tasks.training.guards.unreadable_images import UnreadableImages
from resnet_tasks.training.train_step import TrainStep
from tests.support.half_bright import RIGHT_HALF, write_recipe, write_split
from tests.support.interrupting import asked_to_stop_at

COUNT = 9


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Nine images to learn from, two to judge on; a half of each is bright."""
    torch.set_num_threads(1)
    folder = tmp_path / "data"
    for split, count in (("train", COUNT), ("val", 2)):
        names = [f"{split}{i}" for i in range(count)]
        write_split(folder / f"{split}.json", dict.fromkeys(names, RIGHT_HALF), first_id=0)
    return folder


def recipe(data: Path, **options: Any) -> Recipe:
    places = {split: [{"annotations": f"{split}.json"}] for split in ("train", "val")}
    path = write_recipe(
        data.parent / "mine.yaml",
        data,
        data={**places, **options, "allow_leaks": False},
        training={"epochs": 2, "seed": 4},
        evaluation={"resamples": 0},
    )
    return load_recipe(path)


def trained(made: Recipe, out: Path, **options: Any) -> str:
    said = io.StringIO()
    finetune_recipe(made, out=out, console=Console(file=said, width=300), **options)
    return said.getvalue()


def test_the_default_is_to_stop(data: Path, tmp_path: Path) -> None:
    (data / "train3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"train3\.png"):
        trained(recipe(data), tmp_path / "run")


def test_left_out_listed_and_the_same_after_a_stop(data: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    intact = (data / "train3.png").read_bytes()
    (data / "train3.png").write_bytes(intact[:-200])
    (data / "train5.png").write_bytes(b"no image")
    made = recipe(data, unreadable_images="skip", unreadable_images_limit=0.2)
    said = trained(made, whole)
    listed = (whole / "unreadable_images.jsonl").read_text()
    entries = [json.loads(line) for line in listed.splitlines()]
    assert {each["image_id"] for each in entries} == {3, 5}
    assert {each["file"] for each in entries} == {str(data / f"train{i}.png") for i in (3, 5)}
    assert all(each["file"] in each["reason"] and each["epoch"] == 1 for each in entries)
    assert said.count("skipped: ") == 2  # once each, though two epochs wanted them
    events = list(map(json.loads, (whole / "log.jsonl").read_text().splitlines()))
    assert sum(each["event"] == "unreadable_image" for each in events) == 2

    with asked_to_stop_at(3):
        trained(made, stopped)
    trained(made, stopped, resume=stopped)
    assert (stopped / "unreadable_images.jsonl").read_text() == listed
    one, other = (load_model_weights(each / "checkpoints/last") for each in (whole, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_too_many_end_the_run_and_are_listed(data: Path, tmp_path: Path) -> None:
    for i in (1, 4):
        (data / f"train{i}.png").write_bytes(b"")
    made = recipe(data, unreadable_images="skip")
    message = r"with this image, 2 of 9 training images cannot be read .* allows 1"
    with pytest.raises(DataError, match=message):
        trained(made, tmp_path / "run")
    assert len((tmp_path / "run/unreadable_images.jsonl").read_text().splitlines()) == 2


def test_missing_files_count_as_well(data: Path, tmp_path: Path) -> None:
    (data / "train2.png").unlink()
    with pytest.raises(DataError, match="1 of 9 listed files are missing"):
        trained(recipe(data), tmp_path / "never")
    made = recipe(data, unreadable_images="skip")
    said = trained(made, tmp_path / "run")
    assert "train: 1 image file does not exist" in said
    (entry,) = map(json.loads, (tmp_path / "run/unreadable_images.jsonl").read_text().splitlines())
    assert entry["image_id"] == 2
    (data / "train6.png").unlink()
    with pytest.raises(DataError, match="2 of 9 listed files are missing"):
        trained(made, tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_a_step_without_any_image_changes_nothing(data: Path, tmp_path: Path) -> None:
    for i in range(COUNT):
        (data / f"train{i}.png").write_bytes(b"")
    made = recipe(data, unreadable_images="skip", unreadable_images_limit=1.0)
    learn = TrainStep.run
    changed = []

    def compared(self: TrainStep, *arguments: Any) -> dict[str, float]:
        model = self.model
        before = {name: each.clone() for name, each in model.state_dict().items()}
        losses = learn(self, *arguments)
        after = model.state_dict()
        changed.append([name for name in before if not torch.equal(before[name], after[name])])
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "run", compared)
        trained(made, tmp_path / "run")
    assert changed == [[]] * 10


def test_images_to_judge_on_are_never_left_out(data: Path, tmp_path: Path) -> None:
    """A value over fewer images is another value."""
    (data / "val1.png").write_bytes(b"")
    made = recipe(data, unreadable_images="skip", unreadable_images_limit=1.0)
    with pytest.raises(DataError, match=r"val1\.png"):
        trained(made, tmp_path / "run")


def test_rare_classes_make_epochs_longer(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "train.json").read_text())
    content["categories"].append({"id": 2, "name": "rare"})
    content["annotations"][0]["category_id"] = 2
    (data / "train.json").write_text(json.dumps(content))
    said = trained(recipe(data, repeat_factor=1.0), tmp_path / "run")
    # 8 / 9 show `bright`, 1 / 9 `rare`: 8 sqrt(9 / 8) + sqrt(9) = 11.49
    assert "train: 11 images per epoch; an image is repeated up to 3.0 times" in said
    events = list(map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines()))
    assert sum(each["event"] == "step" for each in events) == 2 * 6


def test_several_processes_keep_the_same_list(tmp_path: Path) -> None:
    first, second = (
        UnreadableImages(tmp_path, limit=1, total=9, writes=each) for each in (True, False)
    )
    one, other = ImageError("a is bad", 1, "a"), ImageError("b is bad", "b", "b")
    for each in (first, second):
        assert [found.image_id for found in each.add([one, one], update=3, epoch=0)] == [1]
        assert each.add([one], update=9, epoch=1) == []
    again = UnreadableImages(tmp_path, limit=1, total=9, writes=False)
    again.load()
    for each in (first, second, again):
        with pytest.raises(DataError, match="b is bad; with this image, 2 of 9"):
            each.add([other], update=4, epoch=0)
