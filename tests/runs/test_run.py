"""From a recipe to a run folder that is enough by itself."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

import resnet_tasks
from resnet_tasks.cli import app
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError, RecipeError, RunError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runs.run import Run, load
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.training.finetune_recipe import finetune_recipe
from tests.support.consoles import heard, quiet
from tests.support.interrupting import killed_at
from tests.support.light_run import ONE_EPOCH

LIGHT = (*ONE_EPOCH, "training.ema=0.5")


@pytest.fixture(scope="module")
def data(draw_cells: Callable[..., Path]) -> Path:
    return draw_cells(train=8, val=4, size=(96, 128))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("quickstart", LIGHT)


@pytest.fixture(scope="module")
def run(data: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    console = quiet()
    folder = tmp_path_factory.mktemp("runs") / "cells"
    made = finetune_recipe(recipe, out=folder, data_root=data, console=console)
    assert made is not None
    text = heard(console)
    assert "objects/AP50" in text
    assert "scene/mIoU" in text
    assert "images:" in text
    return made


def test_folder_holds_what_the_design_names(run: Run) -> None:
    files = {path.relative_to(run.directory).as_posix() for path in run.directory.rglob("*")}
    assert {
        "recipe.yaml",
        "classes.json",
        "data.json",
        "log.jsonl",
        "checkpoints/last/model.safetensors",
        "checkpoints/last/ema.safetensors",
        "checkpoints/last/state.pt",
        "checkpoints/best/model.safetensors",
        "evaluations/val/metrics.json",
        "evaluations/val/predictions/objects.json",
    } <= files
    assert len(list((run.directory / "evaluations/val/images").glob("*.png"))) == 4
    assert load_recipe(run.directory / "recipe.yaml").heads == run.recipe.heads


def test_metrics_file_says_what_made_the_number(run: Run) -> None:
    kept = json.loads((run.directory / "evaluations/val/metrics.json").read_text())
    assert set(kept["metrics"]["objects/AP"]["per_class"]) == {"granular", "striated", "lobed"}
    assert {"objects", "scene"} == set(kept["protocol"])
    assert kept["evaluator"]["boxes"] == "hotcoco"
    assert [len(digest) for digest in kept["data"].values()] == [64]
    assert "torch" in kept["versions"]


def test_written_predictions_judged_by_pycocotools_give_the_same_numbers(
    run: Run, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = COCO(str(data / "cells/val.json"))
    results = truth.loadRes(str(run.directory / "evaluations/val/predictions/objects.json"))
    referee = COCOeval(truth, results, "bbox")
    referee.evaluate()
    referee.accumulate()
    referee.summarize()
    kept = json.loads((run.directory / "evaluations/val/metrics.json").read_text())["metrics"]
    for name, position in (("AP", 0), ("AP50", 1), ("AR_100", 8)):
        assert kept[f"objects/{name}"]["value"] == pytest.approx(referee.stats[position], abs=1e-12)


def test_semantic_predictions_are_category_ids_in_original_size(run: Run) -> None:
    maps = sorted((run.directory / "evaluations/val/predictions/scene").glob("*.png"))
    assert len(maps) == 4
    values = read_label_map(maps[0])
    assert values.shape == (96, 128)
    assert set(np.unique(values)) <= {0, 1, 2, 3}


def test_loaded_run_predicts_an_array_in_its_own_pixels(run: Run, data: Path) -> None:
    opened = resnet_tasks.load(run.directory)
    file = next((data / "cells/images/val").iterdir())
    image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    prediction = opened.predict(image)
    assert isinstance(prediction["objects"], Detections)
    assert isinstance(prediction["scene"], SegmentationMap)
    assert prediction["scene"].labels.shape == image.shape[:2]
    assert (prediction["objects"].boxes[:, 2] <= image.shape[1]).all()
    from_file = opened.predict(file)
    assert torch.equal(from_file["scene"].labels, prediction["scene"].labels)
    with pytest.raises(DataError, match=r"\(height, width, 3\)"):
        opened.predict(image[:, :, :2])


def test_a_list_gives_the_predictions_of_each_image(run: Run, data: Path) -> None:
    files = sorted((data / "cells/images/val").iterdir())
    opened = [Image.open(file) for file in files]
    inputs = [files[0], str(files[1]), np.asarray(opened[2]), opened[3], *opened[:2]]
    results = run.predict(inputs)
    assert [result.name for result in results[:3]] == [str(files[0]), str(files[1]), "image 2"]
    for result, file in zip(results, [*files, *files[:2]], strict=True):
        alone = run.predict(file)
        assert (result["scene"].labels == alone["scene"].labels).float().mean() > 0.99
        assert result.size == alone.size == (96, 128)
    assert run.predict([]) == []
    with pytest.raises(DataError, match="image 1 has the type NoneType"):
        run.predict([files[0], None])


def test_predicting_a_folder_writes_results_maps_and_overlays(
    run: Run, data: Path, tmp_path: Path
) -> None:
    out = run.predict_paths([data / "cells/images/val"], out=tmp_path / "out", console=quiet())
    listed = json.loads((out / "images.json").read_text())
    assert [record["id"] for record in listed["images"]] == [1, 2, 3, 4]
    results = json.loads((out / "objects.json").read_text())
    assert {entry["category_id"] for entry in results} <= {1, 2, 3}
    assert len(list((out / "scene").glob("*.png"))) == 4
    assert len(list((out / "overlays").glob("*.png"))) == 4
    few = run.predict_paths(
        [data / "cells/images/val"], out=tmp_path / "few", score=0.99, console=quiet()
    )
    assert len(json.loads((few / "objects.json").read_text())) < len(results)


def test_evaluating_a_file_of_ones_own(run: Run, data: Path) -> None:
    before = (run.directory / "evaluations/val/metrics.json").read_bytes()
    file = data / "cells/val.json"
    metrics = run.evaluate(annotations=file, checkpoint="best", console=quiet()).metrics
    (made,) = (run.directory / "evaluations").glob("file-val-*-best")
    assert json.loads((made / "metrics.json").read_text())["checkpoint"] == "best"
    assert metrics["scene/mIoU"].value is not None
    assert (run.directory / "evaluations/val/metrics.json").read_bytes() == before


def test_checkpoints_that_a_run_cannot_have_are_refused(run: Run) -> None:
    with pytest.raises(RunError, match=r"has no checkpoint 'worst'; allowed: last, best, best-obj"):
        run.find_checkpoint("worst")
    with pytest.raises(RunError, match=r"'best-scene', because it was trained without evaluation"):
        run.find_checkpoint("best-scene")


def test_foreign_categories_are_refused(run: Run, data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "cells/val.json").read_text())
    content["categories"][0]["name"] = "other"
    file = tmp_path / "foreign.json"
    file.write_text(json.dumps(content))
    with pytest.raises(
        RunError, match=r"has the categories 1 other, but the run .* was trained on"
    ):
        run.evaluate(annotations=file, images=data / "cells", console=quiet())


def test_a_run_is_not_overwritten_and_not_guessed(
    run: Run, data: Path, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="already contains a run"):
        finetune_recipe(recipe, out=run.directory, data_root=data, console=quiet())
    with pytest.raises(RunError, match="is not a run folder"):
        load(tmp_path)
    with pytest.raises(RunError, match="has no checkpoint 'newest'; allowed: last, best, best-ob"):
        run.load_model("newest")


def test_dry_run_writes_nothing(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    console = quiet()
    made = finetune_recipe(
        recipe, out=tmp_path / "never", data_root=data, dry_run=True, console=console
    )
    assert made is None
    assert not (tmp_path / "never").exists()
    assert not list(tmp_path.iterdir())
    said = heard(console)
    assert "M parameters" in said
    assert "batches of 4, 96 x 128 pixels" in said
    assert "(2 steps), without evaluation" in said  # 8 images
    assert "4 images per evaluation" in said
    memory = re.search(r"([0-9.]+) GiB of main memory", said)
    assert memory is not None
    assert 0.1 < float(memory.group(1)) < 100


def test_resume_of_a_finished_run_changes_no_weights(run: Run, data: Path, recipe: Recipe) -> None:
    before = (run.directory / "checkpoints/last/model.safetensors").read_bytes()
    finetune_recipe(recipe, resume=run.directory, data_root=data, console=quiet())
    assert (run.directory / "checkpoints/last/model.safetensors").read_bytes() == before


def test_resume_with_changed_data_is_refused_unless_accepted(
    run: Run, data: Path, recipe: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(data / "cells", tmp_path / "cells")
    shutil.copytree(run.directory, tmp_path / "run")
    finetune_recipe(recipe, resume=tmp_path / "run", data_root=tmp_path, console=quiet())  # a copy
    path = sorted((tmp_path / "cells/semantic").rglob("*.png"))[0]
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(RunError, match=rf"1 label map of \d+ of train\.json .*{path.name}"):
        finetune_recipe(recipe, resume=tmp_path / "run", data_root=tmp_path, console=quiet())
    finetune_recipe(
        recipe,
        resume=tmp_path / "run",
        data_root=tmp_path,
        console=quiet(),
        accept_changed_data=True,
    )
    assert "data_changed" in (tmp_path / "run/log.jsonl").read_text()


def test_killed_run_resumes_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    """Two heads, augmentation, accumulation and averaged weights, from a recipe, in mid-epoch."""
    settings = [
        "training.epochs=2",
        "training.batch_size=2",
        "training.accumulation=2",
        "training.checkpoint_minutes=0.000001",
        "training.evaluate_every=0",
    ]
    chosen = load_recipe("quickstart", [*LIGHT, *settings])
    finetune_recipe(chosen, out=tmp_path / "whole", data_root=data, console=quiet())
    with killed_at(3):
        finetune_recipe(chosen, out=tmp_path / "parts", data_root=data, console=quiet())
    again = load_recipe(tmp_path / "parts" / "recipe.yaml")
    finetune_recipe(again, resume=tmp_path / "parts", data_root=data, console=quiet())
    for name in ("model.safetensors", "ema.safetensors"):
        whole, parts = (tmp_path / each / "checkpoints/last" / name for each in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes(), name


def test_resume_with_another_recipe_is_refused(run: Run, data: Path) -> None:
    other = load_recipe("quickstart", [*LIGHT, "training.learning_rate=0.5"])
    with pytest.raises(RunError, match="resume with the run's recipe"):
        finetune_recipe(other, resume=run.directory, data_root=data, console=quiet())


def test_a_head_that_nothing_annotates_is_refused_before_training(
    data: Path, tmp_path: Path
) -> None:
    content = json.loads((data / "cells/train.json").read_text())
    content["info"]["annotated"] = ["boxes"]
    (data / "cells/boxes_only.json").write_text(json.dumps(content))
    only = load_recipe("quickstart", [*LIGHT, "data.train=[{annotations: boxes_only.json}]"])
    with pytest.raises(RecipeError, match=r"heads\.scene: no file under data\.train annotates"):
        finetune_recipe(only, out=tmp_path / "never", data_root=data, console=quiet())
    assert not (tmp_path / "never").exists()


def test_metric_of_the_best_checkpoint_is_checked_before_training(
    data: Path, tmp_path: Path
) -> None:
    wrong = load_recipe("quickstart", [*LIGHT, "evaluation.best=objects/AP5"])
    with pytest.raises(RecipeError, match="objects/AP50"):
        finetune_recipe(wrong, out=tmp_path / "never", data_root=data, console=quiet())


def test_missing_images_are_named_before_training(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "cells/train.json").read_text())
    content["images"][0]["file_name"] = "images/train/gone.jpg"
    (data / "cells/gone.json").write_text(json.dumps(content))
    gone = load_recipe("quickstart", [*LIGHT, "data.train=[{annotations: gone.json}]"])
    with pytest.raises(DataError, match=r"gone\.jpg"):
        finetune_recipe(gone, out=tmp_path / "never", data_root=data, console=quiet())


def test_subgroups_are_added_to_the_metrics(run: Run, data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run.directory, tmp_path / "run")
    words = ("evaluate", folder, "--data-root", data, "--by")
    runner = CliRunner()
    failed = runner.invoke(app, [*map(str, words), "scanner"])
    assert "no image record has the key 'scanner'" in failed.output
    result = runner.invoke(app, [*map(str, words), "brightness"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert "objects/AP by image:brightness, worst first" in result.output
    assert "scene/mIoU by image:brightness, worst first" in result.output
    stored = json.loads((folder / "evaluations/val/metrics.json").read_text())
    rows = stored["subgroups"]["results"]
    # Pixel accuracy is a mean over pixels, and all images have the same number of pixels.
    accuracy = [
        (row["images"], row["metrics"]["pixel_accuracy"]["value"])
        for row in rows
        if row["head"] == "scene"
    ]
    assert sum(images for images, _ in accuracy) == 4
    mean = sum(images * value for images, value in accuracy) / 4
    assert mean == pytest.approx(stored["metrics"]["scene/pixel_accuracy"]["value"])
