"""Runs of every decoder of smp: predict, explain, slide, calibrate, evaluate, export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resnet_tasks.export.export_run import export_run
from resnet_tasks.exported.exported_model import ExportedModel
from resnet_tasks.recipe.schema.evaluation import SlidingRecipe
from resnet_tasks.runs.calibrate import calibrate
from resnet_tasks.runs.explain import ExplanationRequest, explain_image
from resnet_tasks.runs.inference_options import InferenceOptions
from resnet_tasks.runs.run import Run
from tests.support.decoder_heads import SMALL_DECODERS
from tests.support.random_runs import random_run

pytestmark = pytest.mark.slow

REASON = "the extra `export` is not installed"
onnx = pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("openvino", reason=REASON)

RECIPE = """\
name: scene
data: {root: cells, train: [{annotations: train.json}], val: [{annotations: val.json}]}
backbone: {name: resnet10t, weights: none}
heads:
  scene: {type: linknet, background: true}
training: {epochs: 1, batch_size: 2, learning_rate: 0.001, precision: fp32}
"""


def make_run(name: str, folder: Path, cells: Path) -> Run:
    recipe = folder / "scene.yaml"
    recipe.write_text(RECIPE)
    options = ", ".join(f"{key}: {value}" for key, value in SMALL_DECODERS[name].items())
    changes = (
        f"heads.scene.type={name}",
        f"heads.scene.options={{{options}, auxiliary_level: C4}}",
    )
    return random_run(folder / "run", cells, str(recipe), changes)


@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("name", SMALL_DECODERS)
def test_exports_predict_the_same_on_images_of_any_size(
    name: str, form: str, tmp_path: Path, cells: Path
) -> None:
    run = make_run(name, tmp_path, cells)
    result = export_run(run, tmp_path / form, form=form, data_root=cells)  # type: ignore[arg-type]
    assert result.folder.is_dir()
    if form == "onnx":
        graph = onnx.load(result.folder / "model.onnx")
        assert not any("auxiliary" in weight.name for weight in graph.graph.initializer)
    exported = ExportedModel.open(result.folder, precision="fp32")
    rng = np.random.default_rng(0)
    for size in ((64, 96), (7, 9), (300, 350)):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        expected, found = run.predict(image)["scene"], exported.predict(image)["scene"]
        assert found.labels.shape == size
        assert np.abs(np.asarray(found.probs) - expected.probs.numpy()).max() < 1e-3


@pytest.mark.parametrize("name", SMALL_DECODERS)
def test_runs_explain_slide_and_calibrate(name: str, tmp_path: Path, cells: Path) -> None:
    run = make_run(name, tmp_path, cells)
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    (explanation,) = explain_image(run, image, ExplanationRequest())
    assert explanation.level == "C5"
    assert explanation.heat.shape == (96, 128)
    assert np.isfinite(np.asarray(explanation.heat)).all()
    calibrate(run, data_root=cells)
    windows = SlidingRecipe.model_validate({"height": 64, "width": 64})
    for inference in (
        InferenceOptions(calibrated=True, windows=windows),
        InferenceOptions(tta_views="flips"),
    ):
        evaluation = run.evaluate(inference=inference, data_root=cells, num_drawings=1)
        assert 0 <= evaluation.metrics["scene/mIoU"].value <= 1
