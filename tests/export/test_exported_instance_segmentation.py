"""Exported Mask R-CNN: the boxes, scores and masks of the model, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_tasks.errors import RunError
from resnet_tasks.export.export_run import ExportResult, export_run
from resnet_tasks.export.output_comparison import EXACT, compare_predictions
from resnet_tasks.export.quantization import Int8Options
from resnet_tasks.exported.exported_model import ExportedModel
from resnet_tasks.inference.predictor import FileHandle
from resnet_tasks.runs.run import Run
from tests.support.mask_runs import ALONE, TOGETHER, mask_run

# Several engines and torch in one process: see `test_exported_models`.
pytestmark = pytest.mark.slow

REASON = "the extra `export` is not installed"
pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("openvino", reason=REASON)

WINDOWS = "evaluation.sliding={height: 64, width: 64, overlap: 0.5}"


@pytest.fixture(scope="module")
def alone(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return mask_run(tmp_path_factory.mktemp("runs") / "alone", cells, ALONE)


@pytest.fixture(scope="module")
def together(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return mask_run(tmp_path_factory.mktemp("runs") / "together", cells, TOGETHER)


@pytest.fixture(scope="module")
def windowed(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return mask_run(tmp_path_factory.mktemp("runs") / "windowed", cells, ALONE, WINDOWS)


def export(run: Run, cells: Path, folder: Path, form: str) -> ExportResult:
    return export_run(run, folder / form, form=form, data_root=cells)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("heads", ["alone", "together"])
def test_boxes_scores_and_masks_are_those_of_the_model(
    form: str, heads: str, cells: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(heads)
    done = export(run, cells, tmp_path, form)
    compared = done.manifest.metadata["comparison"]["fp32"]
    assert compared["within"] is True
    assert compared["heads"]["instances"]["detections"] > 10
    exported = ExportedModel.open(done.folder, precision="fp32")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((64, 96), (101, 33))]
    outputs = exported.outputs(
        [exported.build_predictor().prepare(handle).inputs for handle in handles(run, images[:1])]
    )
    assert outputs["instances"]["mask_logits"].shape == (1, 30, 28, 28)
    for image in images:
        (prediction,) = exported.predict([image])
        differences = compare_predictions([run.predict(image)], [prediction], EXACT)
        assert all(each.is_within(EXACT) for each in differences.values()), differences
        assert prediction["instances"].find_problem(image.shape[:2], 3) is None
    (prediction,) = exported.predict(images[:1])
    differences = compare_predictions([run.predict(images[0])], [prediction], EXACT)
    assert differences["instances"].compared_pixels > 1000


def handles(run: Run, images: list[np.ndarray]) -> list[Any]:
    return [FileHandle(image, run.preparation, "image") for image in images]


def predict_without_torch(folder: Path, images: list[str], out: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from resnet_tasks.cli import app; "
        f"app({['predict', str(folder), *images, '--out', str(out)]}, standalone_mode=False); "
        "assert sys.modules['torch'] is None"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["together", "windowed"])
def test_predict_without_torch_writes_the_results_of_the_run(
    kind: str, cells: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whole images and sliding windows, whose instances the export merges itself."""
    run: Run = request.getfixturevalue(kind)
    done = export(run, cells, tmp_path, "onnx")
    images = sorted((cells / "cells/images/val").iterdir())[:2]
    predict_without_torch(done.folder, [str(each) for each in images], tmp_path / "a")
    run.predict_paths(images, out=tmp_path / "b")
    exported, expected = (
        json.loads((tmp_path / part / "instances.json").read_text()) for part in "ab"
    )
    assert len(exported) == len(expected) > 10
    num_equal = 0
    for entry, wanted in zip(exported, expected, strict=True):
        assert entry["category_id"] == wanted["category_id"]
        assert entry["score"] == pytest.approx(wanted["score"], abs=1e-4)
        np.testing.assert_allclose(entry["bbox"], wanted["bbox"], atol=0.01)
        num_equal += entry["segmentation"] == wanted["segmentation"]
    assert num_equal > 0.9 * len(expected)  # rounding moves single pixels at the threshold
    assert len(list((tmp_path / "a/overlays").glob("*.png"))) == 2


def test_int8_keeps_the_masks(together: Run, cells: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="the extra `export` is not installed: nncf is missing")
    options = Int8Options(calibration=3, evaluation=2, max_drop=1.0)
    done = export_run(together, tmp_path / "out", form="openvino", int8=options, data_root=cells)
    assert done.manifest.metadata["int8"]["main"][0] == "instances/mask_AP"
    exported = ExportedModel.open(done.folder)
    assert exported.manifest.is_int8
    (prediction,) = exported.predict([np.zeros((64, 96, 3), np.uint8)])
    assert prediction["instances"].find_problem((64, 96), 3) is None


def test_refusal_of_int8_is_one_line(
    together: Run, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nncf = pytest.importorskip("nncf", reason="the extra `export` is not installed")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("axis 2 is out of range\nat file.cpp:3")

    monkeypatch.setattr(nncf, "quantize", refuse)
    with pytest.raises(RunError, match=r"\(RuntimeError: axis 2 is out of range\); export without"):
        export_run(
            together, tmp_path / "out", form="openvino", int8=Int8Options(3, 2), data_root=cells
        )
    assert not (tmp_path / "out").exists()
