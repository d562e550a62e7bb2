"""Combined predictions behave like those of a head: metrics, files, drawings, exports."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

import tests.support.boxes_on_map  # noqa: F401  (registers the combiner)
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import HeadError, RecipeError
from resnet_tasks.export.export_run import export_run
from resnet_tasks.exported.exported_model import ExportedModel
from resnet_tasks.inference.combiners import COMBINERS, CombiningPredictor
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.runs.run import Run, load
from tests.support.light_run import trained_on_cells

COMBINE = "combine.together={type: boxes_on_map, boxes: objects, pixels: scene}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained_on_cells(
        tmp_path_factory.mktemp("data"),
        "combine.together={type: boxes_on_map, boxes: objects, pixels: scene, "
        "options: {score: 0.05}}",
        "evaluation.best=together/mIoU",
        "evaluation.resamples=20",
        train=8,
        val=3,
        size=(96, 128),
    )


def test_metrics_of_a_combined_prediction(run: Run) -> None:
    """They are computed in training, select the checkpoint, and have intervals."""
    metrics = json.loads((run.directory / "evaluations/val/metrics.json").read_text())["metrics"]
    assert metrics["together/mIoU"]["value"] is not None
    assert {name.split("/")[0] for name in metrics} == {"objects", "scene", "together"}
    log = [json.loads(line) for line in (run.directory / "log.jsonl").read_text().splitlines()]
    assert any("together/mIoU" in str(line) for line in log)
    assert (run.directory / "checkpoints/best").is_dir()
    stored = json.loads((run.directory / "classes.json").read_text())["heads"]
    assert stored["together"]["classes"] == stored["scene"]["classes"]


def test_the_prediction_is_what_the_combiner_makes_of_the_heads(run: Run, tmp_path: Path) -> None:
    reopened = load(run.directory)
    assert isinstance(reopened.build_predictor(), CombiningPredictor)
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    result = reopened.predict(image)
    info = reopened.build_predictor().heads["together"]
    combiner = COMBINERS.get("boxes_on_map")(
        {"boxes": result.heads["objects"], "pixels": result.heads["scene"]}, {"score": 0.05}
    )
    parts = {"boxes": result["objects"].to_numpy(), "pixels": result["scene"].to_numpy()}
    expected = combiner.combine(parts, (96, 128))
    assert np.array_equal(result["together"].labels, expected.labels)
    cv2.imwrite(str(tmp_path / "a.png"), image[:, :, ::-1])
    reopened.predict_paths(
        [tmp_path / "a.png"], out=tmp_path / "out", console=Console(file=io.StringIO())
    )
    written = read_label_map(tmp_path / "out/together/a.png")
    assert np.array_equal(np.asarray(info.category_ids)[expected.labels], written)


@pytest.mark.slow
def test_an_export_combines_too(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    export_run(
        run,
        tmp_path / "exported",
        data_root=run.directory.parent,
        console=Console(file=io.StringIO()),
    )
    image = np.random.default_rng(1).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    (exported,) = ExportedModel.open(tmp_path / "exported").predict([image])
    expected = run.predict(image)
    assert set(exported) == {"objects", "scene", "together"}
    assert (exported["together"].labels == expected["together"].labels).mean() > 0.99


def test_mistakes_are_explained_together() -> None:
    from_name = load_recipe("quickstart", (COMBINE,))
    assert from_name.combine["together"].roles == {"boxes": "objects", "pixels": "scene"}
    with pytest.raises(RecipeError, match=r"combine.scene has the name of a head"):
        load_recipe("quickstart", (COMBINE.replace("together", "scene"),))
    with pytest.raises(RecipeError, match="pixels must be the name of a head, got 3"):
        load_recipe("quickstart", (COMBINE.replace("pixels: scene", "pixels: 3"),))
    with pytest.raises(HeadError, match=r"scor is not an option; did you mean 'score'\?.*score\)"):
        COMBINERS.get("boxes_on_map")({}, {"scor": 1})
