"""A run that predicts in windows: by its recipe, or because it is asked to."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from resnet_tasks.cli.app import app
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError
from resnet_tasks.inference.outputs_model import CalibratedOutputs
from resnet_tasks.inference.sliding_window import SlidingWindowPredictor
from resnet_tasks.recipe.schema.evaluation import SlidingRecipe
from resnet_tasks.runs.calibrate import calibrate
from resnet_tasks.runs.inference_options import InferenceOptions
from resnet_tasks.runs.run import Run
from tests.support.light_run import trained_on_cells


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained_on_cells(
        tmp_path_factory.mktemp("data"),
        "evaluation.sliding={height: 64, width: 64, overlap: 0.5}",
        "evaluation.resamples=0",
        train=8,
        val=2,
        size=(96, 128),
    )


def test_the_recipe_s_windows_hold_in_training_evaluation_and_prediction(run: Run) -> None:
    assert run.recipe.sliding == SlidingRecipe(height=64, width=64, overlap=0.5)
    assert isinstance(run.build_predictor(), SlidingWindowPredictor)
    metrics = json.loads((run.directory / "evaluations/val/metrics.json").read_text())
    assert metrics["windows"] == {"height": 64, "width": 64, "overlap": 0.5, "nms_iou": 0.5}
    assert metrics["metrics"]["scene/mIoU"]["value"] is not None
    assert "scene/ECE" in metrics["metrics"]  # from the confidence that was kept
    log = [json.loads(line) for line in (run.directory / "log.jsonl").read_text().splitlines()]
    judged = [each for each in log if "metrics" in each or each.get("event") == "evaluation"]
    assert judged


def test_files_are_predicted_as_arrays_are(run: Run, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3)).astype(np.uint8)
    np.save(tmp_path / "a.npy", image)
    found, again = run.predict(image), run.predict(tmp_path / "a.npy")
    assert torch.equal(found["scene"].labels, again["scene"].labels)
    assert torch.equal(found["objects"].boxes, again["objects"].boxes)
    assert found["scene"].labels.shape == (100, 150)
    assert found["scene"].probs is None
    run.predict_paths([tmp_path / "a.npy"], out=tmp_path / "out", console=Console(stderr=True))
    written = read_label_map(tmp_path / "out/scene/a.png")
    ids = np.asarray(run.category_ids["scene"])
    assert np.array_equal(written, ids[found["scene"].labels.numpy()])
    assert (tmp_path / "out/overlays/a.png").is_file()


def test_windows_can_be_asked_for_and_keep_their_results_apart(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 150, 3), np.uint8))
    done = CliRunner().invoke(
        app,
        [
            *("predict", str(run.directory), str(tmp_path / "a.npy"), "--out", str(tmp_path / "o")),
            *("--tiles", "96", "--overlap", "0.3"),
        ],
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "o/scene/a.png").is_file()
    asked = SlidingRecipe(height=96, width=96, overlap=0.3)
    assert (
        run.get_evaluation_folder(inference=InferenceOptions(windows=asked)).name == "val-96x96-0.3"
    )


def test_pixels_are_calibrated_window_by_window(run: Run) -> None:
    done, _ = calibrate(
        run, "val", data_root=run.directory.parent, console=Console(file=io.StringIO())
    )
    assert "scene" in done
    calibrated = run.build_predictor(inference=InferenceOptions(calibrated=True), keep="confidence")
    assert isinstance(calibrated, SlidingWindowPredictor)
    assert isinstance(calibrated.model, CalibratedOutputs)
    assert set(calibrated.model.scalings) == set(done)


def test_what_does_not_go_together_is_told_in_a_sentence(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(flips\) cannot be combined with windows"):
        run.build_predictor(inference=InferenceOptions(tta_views="flips"))
    np.save(tmp_path / "a.npy", np.zeros((100, 150, 3), np.uint8))
    call = ["predict", str(run.directory), str(tmp_path / "a.npy"), "--out", str(tmp_path / "o")]
    for more, text in (
        (["--tiles", "100"], "multiple of 32 and at least 64, such as 96"),
        (["--overlap", "0.5"], "--tiles PIXELS"),
        (["--max-pixels", "14999"], "limit of 14,999"),
    ):
        done = CliRunner().invoke(app, [*call, *more])
        assert done.exit_code != 0
        assert text in " ".join((str(done.exception) + done.output).split())


def test_the_report_is_made(run: Run) -> None:
    done = CliRunner().invoke(
        app, ["report", str(run.directory), "--data-root", str(run.directory.parent)]
    )
    assert done.exit_code == 0, done.output
