"""A run is calibrated, keeps that, and refuses it for other weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_tasks.assemble.split_files import merge_categories, read_split
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.inference.outputs_model import CalibratedOutputs
from resnet_tasks.inference.torch_outputs import TorchOutputs
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.run_folder.checkpoint import save_checkpoint
from resnet_tasks.runs.calibrate import build_calibration_table, calibrate
from resnet_tasks.runs.inference_options import InferenceOptions, read_calibration
from resnet_tasks.runs.run import Run
from tests.support.consoles import heard, quiet
from tests.support.random_runs import untrained_run

LIGHT = (
    "backbone.name=resnet10t",
    "backbone.weights=none",
    "training.precision=fp32",
    "training.device=cpu",
    "heads.objects.options.pyramid_channels=16",
    "heads.objects.options.box_head_channels=32",
    "heads.objects.options.score_threshold=0.0",
    "heads.objects.options.detections_per_image=20",
    "heads.objects.options.rpn_post_nms=[50,50]",
    "heads.scene.options.decoder_channels=[16,16,8,8,8]",
    "data.resize={height: 64, width: 64}",
    "evaluation.resamples=50",
)
CALIBRATED = InferenceOptions(calibrated=True)


@pytest.fixture(scope="module")
def root(draw_cells: Callable[..., Path]) -> Path:
    return draw_cells(train=2, val=10, size=(96, 96))


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Run:
    """An untrained model of two heads, far too sure of its pixels."""

    def sharpen(model: TaskModel) -> None:
        for name, weights in model.state_dict().items():
            if name.startswith("heads.scene.classifier") and name.endswith("weight"):
                weights.mul_(30)

    recipe = load_recipe("quickstart", LIGHT)
    categories = merge_categories(read_split(recipe, "val", root))
    return untrained_run(tmp_path / "run", recipe, categories, change=sharpen)


def test_calibration_lowers_the_error_and_leaves_the_ranking(run: Run, root: Path) -> None:
    plain = run.evaluate(data_root=root, console=quiet())
    done, reasons = calibrate(run, data_root=root, console=quiet())
    assert set(done) | set(reasons) == {"objects", "scene"}
    scene = done["scene"]
    before, after = scene.before["ECE"], scene.after["ECE"]
    assert before is not None
    assert after is not None
    assert before == plain.metrics["scene/ECE"].value
    assert scene.scaling.temperature > 2
    assert after < before / 2
    kept = json.loads((run.directory / "calibration.json").read_text())
    assert kept["heads"]["scene"]["temperature"] == scene.scaling.temperature
    assert (kept["split"], kept["checkpoint"]) == ("val", "last")
    assert [len(each) for each in kept["data"].values()] == [64]

    found = run.evaluate(data_root=root, inference=CALIBRATED, console=quiet())
    assert found.metrics["scene/ECE"].value == after
    for name in ("scene/mIoU", "scene/pixel_accuracy", "objects/AP"):
        assert found.metrics[name].value == pytest.approx(plain.metrics[name].value, abs=1e-9)
    folder = run.directory / "evaluations"
    assert json.loads((folder / "val-calibrated/metrics.json").read_text())["calibrated"] is True
    assert json.loads((folder / "val/metrics.json").read_text())["calibrated"] is False
    text = quiet()
    text.print(build_calibration_table(done, "run"))
    assert "scene" in heard(text)


def test_a_calibration_is_asked_for_and_holds_for_its_weights_alone(run: Run, root: Path) -> None:
    with pytest.raises(RunError, match=r"is not calibrated: .* run `resnet-tasks calibrate"):
        run.evaluate(data_root=root, inference=CALIBRATED, console=quiet())
    calibrate(run, data_root=root, console=quiet())
    plain, scaled = run.build_predictor(), run.build_predictor(inference=CALIBRATED)
    assert isinstance(plain.model, TorchOutputs)  # off unless asked for
    assert isinstance(scaled.model, CalibratedOutputs)
    assert plain.model.model is scaled.model.model.model  # built once
    file = run.directory / "calibration.json"
    text = file.read_text()
    file.write_text(text.replace('"slope"', '"slop"'))
    with pytest.raises(RunError, match="is damaged"):
        run.build_predictor(inference=CALIBRATED)
    file.write_text(text)
    weights = {name: each + 1 for name, each in run.load_model().state_dict().items()}
    save_checkpoint(run.find_checkpoint(), model=weights)
    with pytest.raises(RunError, match="was fitted to other weights"):
        run.build_predictor(inference=CALIBRATED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slope": float("nan")}, r"it is not JSON: NaN is not allowed"),
        ({"slope": 0}, r"heads\.scene\.slope is 0\.0, allowed: a finite number above 0"),
        ({"slope": -1}, r"heads\.scene\.slope is -1\.0, allowed"),
        ({"slope": float("inf")}, r"it is not JSON: Infinity is not allowed"),
        ({"intercept": float("-inf")}, r"it is not JSON: -Infinity is not allowed"),
        ({"field": "boxes"}, r"heads\.scene\.field is 'boxes', allowed: logits or scores"),
    ],
)
def test_invalid_scalings_are_rejected(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    scaling = {"field": "logits", "slope": 0.5, "intercept": 0.0}
    contents = {"heads": {"scene": scaling | changes}, "weights": "0", "checkpoint": "last"}
    (tmp_path / "calibration.json").write_text(json.dumps(contents))
    with pytest.raises(RunError, match=rf"calibration\.json is damaged \({message}"):
        read_calibration(tmp_path, "0", ["scene"])


def test_scalings_of_unknown_heads_are_rejected(tmp_path: Path) -> None:
    scaling = {"field": "logits", "slope": 0.5, "intercept": 0.0}
    contents = {"heads": {"scene": scaling, "sky": scaling}, "weights": "0", "checkpoint": "last"}
    (tmp_path / "calibration.json").write_text(json.dumps(contents))
    assert set(read_calibration(tmp_path, "0", ["scene", "sky"])) == {"scene", "sky"}
    message = r"calibrates sky, but the heads of the run are objects, scene; run `resnet-tasks"
    with pytest.raises(RunError, match=message):
        read_calibration(tmp_path, "0", ["objects", "scene"])


def test_views_and_calibration_go_together(run: Run, root: Path) -> None:
    calibrate(run, data_root=root, console=quiet())
    how = InferenceOptions(calibrated=True, tta_views="flips+scales")
    made = run.evaluate(data_root=root, inference=how, console=quiet())
    assert made.metrics["scene/mIoU"].value is not None
    folder = run.directory / "evaluations/val-calibrated-flips+scales"
    kept = json.loads((folder / "metrics.json").read_text())
    assert kept["test_time_augmentation"] == "flips+scales"
    assert kept["metrics"]["objects/D_ECE"]["lower_is_better"] is True
    assert {"reliability", "abstention"} <= set(
        json.loads((folder / "details.json").read_text())["scene"]
    )
    with pytest.raises(DataError, match="'rotations' is unknown"):
        run.evaluate(
            data_root=root, inference=InferenceOptions(tta_views="rotations"), console=quiet()
        )
