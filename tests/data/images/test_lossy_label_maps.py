"""Every command that reads label maps rejects lossy ones with one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from resnet_tasks.cli import app

IDS = np.ones((64, 64), np.uint8)
IDS[10:40, 20:50] = 2
RECIPE = """\
name: lossy
data:
  root: {root}
  train: [{{annotations: train.json}}]
  val: [{{annotations: train.json}}]
  allow_leaks: true
  workers: 0
backbone: {{name: resnet10t, weights: none, frozen_stages: 0}}
heads: {{pixels: {{type: unet}}}}
training: {{epochs: 1, batch_size: 2, device: cpu}}
"""


def write_dataset(folder: Path, suffix: str) -> Path:
    """Two images whose label maps have class 1 and a square of class 2."""
    folder.mkdir(exist_ok=True)
    images = []
    for number in (1, 2):
        Image.new("RGB", (64, 64), (number * 50, 0, 0)).save(folder / f"{number}.png")
        label_map = f"map{number}{suffix}"
        Image.fromarray(IDS).save(folder / label_map)
        size = {"width": 64, "height": 64}
        images.append({"id": number, "file_name": f"{number}.png", **size})
        images[-1]["sem_seg_file_name"] = label_map
    content = {"info": {"annotated": ["semantic"]}, "images": images, "annotations": []}
    content["categories"] = [{"id": 1, "name": "road"}, {"id": 2, "name": "car"}]
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "recipe.yaml").write_text(RECIPE.format(root=folder))
    return folder / "train.json"


def run(*words: object) -> tuple[int, str]:
    """Exit code and everything printed, line ends folded."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("suffix", "stored_as"), [(".jpg", "JPEG"), (".webp", "lossy WebP"), (".png", "")]
)
@pytest.mark.parametrize(
    "command",
    [
        ("data", "check", "{folder}/train.json"),
        ("data", "check", "{folder}/train.json", "--read-images"),
        ("data", "stats", "{folder}/train.json"),
        ("finetune", "{folder}/recipe.yaml", "--out", "{folder}/run", "--dry-run"),
        (
            *("evaluate", "--truth", "{folder}/train.json", "--results", "{folder}"),
            *("--task", "semantic", "--out", "{folder}/judged"),
        ),
    ],
)
def test_commands(command: tuple[str, ...], suffix: str, stored_as: str, tmp_path: Path) -> None:
    write_dataset(tmp_path, suffix)
    code, output = run(*(word.format(folder=tmp_path) for word in command))
    if not stored_as:
        assert code == 0, output
        return
    assert code == 2
    assert f"map1{suffix}" in output
    assert f"is stored as {stored_as}, which changes pixel values; export it again" in output


def test_lossy_predictions_are_rejected(tmp_path: Path) -> None:
    truth = write_dataset(tmp_path, ".png")
    (tmp_path / "predicted").mkdir()
    for number in (1, 2):
        Image.fromarray(IDS).save(tmp_path / f"predicted/map{number}.png", "JPEG")
    words = ("--truth", truth, "--results", tmp_path / "predicted", "--task", "semantic")
    code, output = run("evaluate", *words, "--out", tmp_path / "judged")
    assert code == 2
    assert "predicted/map1.png is stored as JPEG" in output


def test_a_perfect_prediction_of_a_reported_lossy_truth_is_not_scored(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data.with_name("cases") / "62-eval-jpeg-truth"
    if not folder.is_dir():
        pytest.skip(f"the reported input is not at {folder}")
    words = ("--truth", folder / "t/truth.json", "--results", folder / "p", "--task", "semantic")
    code, output = run("evaluate", *words, "--out", tmp_path / "judged")
    assert code == 2
    assert "t/0.jpg is stored as JPEG" in output


def test_empty_masks_are_printed_as_a_warning(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "in/images/a.png")
    Image.new("L", (8, 6)).save(tmp_path / "in/masks/a.png")
    words = ("category=lesion", "folders={train: {images: images, masks: masks}}")
    code, output = run("data", "convert", "binary-masks", tmp_path / "in", tmp_path / "out", *words)
    assert code == 0
    expected = "train: 1 of 1 masks are empty (no pixel is foreground): a.png; check that"
    assert f"warning: {expected}" in output
    assert f"- Warning, {expected}" in (tmp_path / "out/data_card.md").read_text()
    Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / "in/masks/a.png")
    code, output = run(
        *("data", "convert", "binary-masks", tmp_path / "in", tmp_path / "red", *words),
        "masks={foreground: [255, 0, 0]}",
    )
    assert code == 0
    assert "1 of 1 masks are full (every pixel is foreground): a.png" in output


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_finetune_looks_at_the_header_of_every_label_map(
    split: str, dry_run: bool, tmp_path: Path
) -> None:
    """The only lossy map is the last of many: no step that is taken first would read it."""
    clean = write_dataset(tmp_path / "clean", ".png")
    mixed = write_dataset(tmp_path / "mixed", ".png")
    content = json.loads(mixed.read_text())
    for number in range(3, 31):
        content["images"].append({**content["images"][0], "id": number})
    Image.fromarray(IDS).save(mixed.parent / "last.png", "JPEG")
    content["images"].append({**content["images"][0], "id": 31, "sem_seg_file_name": "last.png"})
    mixed.write_text(json.dumps(content))
    other = "val" if split == "train" else "train"
    recipe = mixed.with_name("recipe.yaml")
    text = recipe.read_text().replace(
        f"{other}: [{{annotations: train.json}}]", f"{other}: [{{annotations: {clean}}}]"
    )
    recipe.write_text(text)
    options = ["--dry-run"] if dry_run else []
    code, output = run("finetune", recipe, "--out", tmp_path / "run", *options)
    assert code == 2
    assert f"{mixed}: 1 of 3 label maps are lossy; label map" in output
    assert "last.png is stored as JPEG, which changes pixel values" in output
    assert not (tmp_path / "run").exists()
