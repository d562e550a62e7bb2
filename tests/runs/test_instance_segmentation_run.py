"""A run with instance masks: evaluated, predicted, calibrated, explained, reported and shared."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from resnet_tasks.cli import app
from resnet_tasks.data.coco.masks import compute_mask_area, decode_mask, is_rle
from resnet_tasks.evaluation.protocols.froc import FrocOptions
from resnet_tasks.evaluation.protocols.operating_point import ThresholdRule
from resnet_tasks.inference.prediction_writer import PredictionWriter
from resnet_tasks.runs.operating_points import choose_operating_points, load_thresholds
from resnet_tasks.runs.run import Run
from resnet_tasks.sharing.hub import HubUpload
from resnet_tasks.sharing.model_card import CardOptions
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from tests.support.consoles import heard, quiet
from tests.support.mask_runs import ALONE, TOGETHER, mask_run
from tests.support.streamed import video

NUM_VAL = 12


@pytest.fixture(scope="module", params=["alone", "together"])
def run(
    request: pytest.FixtureRequest, draw_cells: Callable[..., Path], tmp_path_factory: Any
) -> Run:
    """An evaluated run with random weights, on images whose truth is a third of its predictions."""
    root = draw_cells(train=3, val=NUM_VAL, size=(96, 128))
    recipe = {"alone": ALONE, "together": TOGETHER}[request.param]
    made = mask_run(tmp_path_factory.mktemp("runs") / request.param, root, recipe)
    file = root / "cells/val.json"
    coco = load(file)
    coco["annotations"] = []
    for record in coco["images"]:
        prediction = made.predict(root / "cells" / record["file_name"])["instances"]
        entries = prediction.to_results(record["id"], made.category_ids["instances"])
        coco["annotations"] += [
            {**entry, "id": 100 * record["id"] + i, "area": area, "iscrowd": 0}
            for i, entry in enumerate(entries[::3])
            if (area := compute_mask_area(entry["segmentation"], 96, 128))
        ]
    file.write_text(json.dumps(coco))
    made.evaluate(data_root=root, console=quiet())
    return made


@pytest.fixture
def root(run: Run) -> Path:
    """Data root of the run."""
    files = load(run.directory / "evaluations/val/metrics.json")["data"]
    return Path(next(iter(files))).parents[1]


@pytest.fixture
def images(root: Path) -> list[Path]:
    return sorted((root / "cells/images/val").iterdir())[:3]


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def test_evaluation_has_box_and_mask_metrics_with_intervals(run: Run) -> None:
    folder = run.directory / "evaluations/val"
    metrics = load(folder / "metrics.json")["metrics"]
    for part in ("mask", "box"):
        names = [name for name in metrics if name.startswith(f"instances/{part}_A")]
        assert len(names) == 12
        for name in names:
            assert set(metrics[name]["per_class"]) == set(run.classes["instances"])
        assert metrics[f"instances/{part}_AP"]["interval"] is not None
    assert metrics["instances/mask_AP"]["value"] > 0.2
    assert metrics["instances/mask_D_ECE"]["lower_is_better"] is True
    assert "instances/CPM" in metrics
    details = load(folder / "details.json")["instances"]
    assert {"pr_curves", "confusion", "error_types", "reliability", "froc", "images"} <= set(
        details
    )
    assert len(list((folder / "images").glob("*.png"))) > 3


@pytest.mark.parametrize("task", ["mask", "box"])
def test_results_file_evaluates_to_the_same_numbers(
    run: Run, root: Path, tmp_path: Path, task: str
) -> None:
    folder = run.directory / "evaluations/val"
    files = ("--truth", root / "cells/val.json", "--results", folder / "predictions/instances.json")
    invoke("evaluate", *files, "--task", task, "--resamples", 0, "--out", tmp_path)
    expected = load(folder / "metrics.json")["metrics"]
    metrics = load(tmp_path / "metrics.json")["metrics"]
    assert len(metrics) == 12
    for name, metric in metrics.items():
        own = expected[f"instances/{task}_{name.rpartition('/')[2]}"]
        assert (metric["value"], metric["per_class"]) == (own["value"], own["per_class"])


def test_drawings_show_the_true_masks(run: Run, root: Path) -> None:
    """Pixels of true masks differ from the image, those far away from all boxes do not."""
    coco = load(root / "cells/val.json")
    record = coco["images"][0]
    name = Path(record["file_name"]).stem
    drawing = cv2.imread(str(run.directory / f"evaluations/val/images/{name}.png"))
    scale, size = 4, (96, 128)
    bar = scale * size[0] // 16  # the caption
    truth = drawing[bar : bar + scale * size[0], : scale * size[1]].astype(int)
    image = cv2.imread(str(root / "cells" / record["file_name"]))
    image = cv2.resize(image, (size[1] * scale, size[0] * scale), interpolation=cv2.INTER_CUBIC)
    differs = np.abs(truth - image).max(axis=2) > 24
    objects = [each for each in coco["annotations"] if each["image_id"] == record["id"]]
    assert objects
    inside, near = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    for each in objects:
        inside |= decode_mask(each["segmentation"], *size)
        x, y, width, height = (round(value) for value in each["bbox"])
        near[max(0, y - 6) : y + height + 3, max(0, x - 3) : x + max(width, 24) + 3] = True
    inside, near = (part.repeat(scale, axis=0).repeat(scale, axis=1) for part in (inside, near))
    assert differs[inside].mean() > 0.9
    if "scene" not in run.classes:  # its map is drawn outside objects, too
        assert differs[~near].mean() < 0.01


def test_prediction_writes_coco_results_drawings_and_images(
    run: Run, images: list[Path], tmp_path: Path
) -> None:
    run.predict_paths(images, out=tmp_path / "out", console=quiet())
    listed = load(tmp_path / "out/images.json")
    sizes = {each["id"]: (each["height"], each["width"]) for each in listed["images"]}
    assert len(sizes) == 3
    results = load(tmp_path / "out/instances.json")
    assert len(results) > 10
    for entry in results:
        assert set(entry) == {"image_id", "category_id", "bbox", "score", "segmentation"}
        assert entry["category_id"] in run.category_ids["instances"]
        assert isinstance(entry["segmentation"]["counts"], str)
        assert is_rle(entry["segmentation"], *sizes[entry["image_id"]])
    prediction = run.predict(images[0])["instances"]
    assert isinstance(prediction, InstanceSegmentation)
    assert prediction.find_problem((96, 128), 3) is None
    counts = [rle["counts"].decode() for rle in prediction.segmentations]
    first = [each for each in results if each["image_id"] == results[0]["image_id"]]
    assert [each["segmentation"]["counts"] for each in first] == counts
    assert len(list((tmp_path / "out/overlays").glob("*.png"))) == 3
    strict = max(each["score"] for each in results) - 1e-6
    run.predict_paths(images, out=tmp_path / "strict", score=strict, console=quiet())
    assert len(load(tmp_path / "strict/instances.json")) == 1


@pytest.mark.parametrize("options", [("--tta", "flips"), ("--tiles", "64"), ("--calibrated",)])
def test_prediction_with_options(
    run: Run, root: Path, images: list[Path], tmp_path: Path, options: tuple[str, ...]
) -> None:
    if options == ("--calibrated",):
        calibrated = invoke("calibrate", run.directory, "--data-root", root)
        assert "written to" in calibrated.output
        assert load(run.directory / "calibration.json")["heads"]["instances"]["decisions"] > 0
    out = tmp_path / "out"
    invoke("predict", run.directory, *images, "--out", out, *options)
    results = load(out / "instances.json")
    assert results
    assert all(is_rle(each["segmentation"], 96, 128) for each in results)
    areas = [decode_mask(each["segmentation"], 96, 128).sum() for each in results]
    assert max(areas) > 0


def test_thresholds_of_an_operating_point(
    run: Run, root: Path, images: list[Path], tmp_path: Path
) -> None:
    points = choose_operating_points(
        run, ThresholdRule.parse("max-f1"), options=FrocOptions(hit="center"), data_root=root
    )
    assert points["instances"]["all"] is not None
    thresholds = load_thresholds(run)
    run.predict_paths(images, out=tmp_path / "o", thresholds=thresholds, console=quiet())
    ids = run.category_ids["instances"]
    results = load(tmp_path / "o/instances.json")
    assert results
    assert all(
        each["score"] >= thresholds["instances"][ids.index(each["category_id"])] for each in results
    )


def test_frames_of_videos(run: Run, tmp_path: Path) -> None:
    path, out = video(tmp_path / "a.avi", 5), tmp_path / "out"
    call = ("predict", run.directory, path, "--out", out)
    invoke(*call)
    results = load(out / "instances.json")
    frames = {each["id"]: each["frame"] for each in load(out / "images.json")["images"]}
    assert sorted(frames.values()) == list(range(5))
    assert {each["image_id"] for each in results} <= set(frames)
    assert all(is_rle(each["segmentation"], 48, 64) for each in results)


def test_interrupted_prediction_resumes_to_the_same_results(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "cells/images/val"
    run.predict_paths([folder], out=tmp_path / "whole", console=quiet())
    draw, names = PredictionWriter.draw, []

    def interrupt(writer: PredictionWriter, name: str, *arguments: Any) -> Path:
        names.append(name)
        if len(names) == 7:
            raise KeyboardInterrupt
        return draw(writer, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionWriter, "draw", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.predict_paths([folder], out=tmp_path / "out", console=quiet())
    assert not (tmp_path / "out/instances.json").exists()
    console = quiet()
    run.predict_paths([folder], out=tmp_path / "out", console=console)
    assert "resuming in" in heard(console)
    for name in ("instances.json", "images.json"):
        assert load(tmp_path / "out" / name) == load(tmp_path / "whole" / name)


def test_explanation_of_an_instance(run: Run, images: list[Path], tmp_path: Path) -> None:
    invoke("explain", run.directory, images[0], "--out", tmp_path, "--head", "instances")
    (entry,) = load(tmp_path / "explanations.json")
    prediction = run.predict(images[0])["instances"]
    assert entry["box_xyxy"] == pytest.approx(prediction.boxes[0].tolist(), abs=0.01)
    assert entry["class"] == run.classes["instances"][int(prediction.labels[0])]
    assert cv2.imread(str(tmp_path / entry["drawing"])).shape[1] == 512  # 4 times the image


def test_report_has_masks_of_truth_and_prediction(run: Run, root: Path) -> None:
    invoke("report", run.directory, "--data-root", root)
    page = (run.directory / "report.html").read_text()
    assert len(page) < 4_000_000
    assert 'data-layer="masks"' in page
    for kind in ("masks truth", "masks found"):
        paths = re.findall(rf'class="{kind}[^>]*><path d="(M[^"]+Z)"', page)
        assert len(paths) > NUM_VAL / 2, kind
    for name in ("mask_AP", "box_AP", "Causes of lost average precision", "Reliability"):
        assert name in page


def test_comparison_and_model_card(run: Run, tmp_path: Path) -> None:
    other = shutil.copytree(run.directory, tmp_path / "other")
    out = tmp_path / "both.html"
    invoke("compare", run.directory, other, "--out", out, "--no-costs")
    assert "mask_AP" in out.read_text()
    upload = HubUpload.from_run(run.directory, "me/cells", CardOptions())
    card = next(each.content for each in upload.files if each.name == "README.md")
    assert isinstance(card, bytes)
    assert "pipeline_tag: image-segmentation" in card.decode()
    assert "name: instances/mask_AP\n" in card.decode()


def test_dry_run_learning_rate_and_benchmark(
    draw_cells: Callable[..., Path], tmp_path: Path
) -> None:
    root = draw_cells(train=3, val=2, size=(96, 128))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(TOGETHER)
    data = ("--data-root", root)
    out = tmp_path / "run"
    assert "memory" in invoke("finetune", recipe, "--dry-run", "--out", out, *data).output
    assert not out.exists()
    invoke("lr-find", recipe, "--steps", 10, "--out", tmp_path / "lr", *data)
    measured = tmp_path / "benchmark.json"
    steps = ("--steps", 1, "--warm-up", 1, "--out", measured)
    invoke("benchmark", recipe, "--synthetic", *steps, "data.resize={height: 64, width: 64}")
    assert measured.is_file()


def test_data_commands_read_masks(draw_cells: Callable[..., Path], tmp_path: Path) -> None:
    root = draw_cells(train=1, val=4, size=(96, 128))
    file = root / "cells/val.json"
    assert "0 problems" in invoke("data", "check", file).output
    assert "granular" in invoke("data", "stats", file, "--out", tmp_path / "stats").output
    coco = load(file)
    coco["annotations"][0]["segmentation"] = {"size": [3, 3], "counts": [9]}
    damaged = root / "cells/damaged.json"
    damaged.write_text(json.dumps(coco))
    shown = io.StringIO()
    Console(file=shown).print(CliRunner().invoke(app, ["data", "check", str(damaged)]).output)
    damaged.unlink()
    assert re.search(r"[1-9]\d* problem", shown.getvalue())
