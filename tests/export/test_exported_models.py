"""Exports are whole models that predict, without torch, what the model predicts."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.cli import app
from resnet_tasks.errors import RunError
from resnet_tasks.export.export_run import ExportResult, export_run
from resnet_tasks.export.export_tables import build_export_tables
from resnet_tasks.export.graph import ExportGraph
from resnet_tasks.export.model_comparison import ComparisonImages
from resnet_tasks.export.output_comparison import EXACT, compare_predictions
from resnet_tasks.export.quantization import Int8Options
from resnet_tasks.export.write_graphs import write_onnx, write_openvino
from resnet_tasks.exported.engines import open_engine
from resnet_tasks.exported.exported_model import ExportedModel
from resnet_tasks.exported.manifest import PixelRange
from resnet_tasks.heads.base import HEADS
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.rcnn.mask_rcnn import MaskRCNN
from resnet_tasks.model import TaskModel
from resnet_tasks.runs.run import Run

# Several engines and torch in one process: `.ci/run` gives them one of their own, since in one that
# had run hundreds of other tests before, native code crashed (not understood).
pytestmark = pytest.mark.slow

REASON = "the extra `export` is not installed"
onnx = pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("openvino", reason=REASON)


@pytest.fixture(scope="module")
def made(
    run: Run, cells: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ExportResult]:
    """The run of two heads in both formats."""
    folder = tmp_path_factory.mktemp("exports")
    return {
        form: export_run(run, folder / form, form=form, data_root=cells)  # type: ignore[arg-type]
        for form in ("onnx", "openvino")
    }


def _images(*sizes: tuple[int, int]) -> list[np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_any_number_of_images_of_any_size(
    form: str, made: dict[str, ExportResult], run: Run
) -> None:
    exported = ExportedModel.open(made[form].folder, precision="fp32")
    for sizes in ([(64, 96)], [(40, 130), (101, 33), (200, 180)], [(7, 9)]):
        images = _images(*sizes)
        found = exported.predict(images)
        wanted = [run.predict(each) for each in images]
        if len(sizes) == 1:
            differences = compare_predictions(wanted, found, EXACT)
            assert all(each.is_within(EXACT) for each in differences.values()), differences
            assert sizes != [(64, 96)] or differences["objects"].detections > 10
            alone = exported.predict(images[0])  # one image instead of a list: one result
            assert np.array_equal(alone["scene"].labels, found[0]["scene"].labels)
        for size, each in zip(sizes, found, strict=True):
            assert each["scene"].labels.shape == size
            assert isinstance(each["objects"].boxes, np.ndarray)


def test_the_manifest_tells_what_was_found(made: dict[str, ExportResult], run: Run) -> None:
    told = json.loads((made["onnx"].folder / "export.json").read_text())
    assert told["heads"]["objects"]["classes"] == list(run.classes["objects"])
    assert told["heads"]["scene"]["category_ids"] == list(run.category_ids["scene"])
    assert told["input"]["pixels"] == {"low": 0.0, "high": 255.0, "clip": False}
    assert told["source"]["recipe"] == run.recipe.name
    assert told["comparison"]["fp32"]["within"] is True
    assert told["comparison"]["fp32"]["heads"]["objects"]["detections"] > 0
    assert len(told["comparison"]["images"]) == 3
    assert told["latency"]["export_ms"] > 0
    assert told["bytes"]["model.onnx"] == (made["onnx"].folder / "model.onnx").stat().st_size
    shown = io.StringIO()
    for table in build_export_tables(made["onnx"]):
        Console(width=120, file=shown).print(table)
    assert "model.onnx" in shown.getvalue()
    assert "compared with PyTorch fp32 on 3 images" in shown.getvalue()


def test_a_graph_that_rounding_changes_is_said_to_stay_in_float32(
    made: dict[str, ExportResult],
) -> None:
    done = made["openvino"]
    about = copy.deepcopy(dict(done.manifest.metadata))
    rounded = {"box": 3.0, "score": 0.01, "pixels": 0.0}
    rounded |= {"detections": 20, "unmatched": 5, "lost": 0.125}
    for within in (True, False):
        tolerance = about["comparison"]["fp32"]["tolerance"]
        about["comparison"]["auto"] = {
            "tolerance": tolerance,
            "within": within,
            "heads": {"objects": rounded},
        }
        shown = io.StringIO()
        changed = replace(done, manifest=replace(done.manifest, metadata=about))
        Console(width=120, file=shown).print(build_export_tables(changed)[0])
        assert "5 of 20: 12.5% of scores" in shown.getvalue()
        assert ("computes in float32" in shown.getvalue()) is not within


def test_norms_are_inside_the_filters(made: dict[str, ExportResult]) -> None:
    graph = onnx.load(made["onnx"].folder / "model.onnx").graph
    constants = {each.name for each in graph.initializer}
    convolutions = [each for each in graph.node if each.op_type == "Conv"]
    assert len(convolutions) > 20
    assert all(each.input[1] in constants for each in convolutions)
    operators = {each.op_type for each in graph.node}
    assert not operators & {"BatchNormalization", "If", "Loop"}
    assert {"NonMaxSuppression", "RoiAlign", "TopK"} <= operators
    assert [each.op_type for each in graph.node].count("NonMaxSuppression") == 2


def test_predict_does_without_torch(
    made: dict[str, ExportResult], run: Run, cells: Path, tmp_path: Path
) -> None:
    """Results, maps and drawings are those of the run."""
    files = sorted((cells / "cells").rglob("*.jpg")) or sorted((cells / "cells").rglob("*.png"))
    chosen = [str(each) for each in files if "mask" not in str(each) and "sem" not in str(each)][:2]
    code = (
        "import sys; sys.modules['torch'] = None; from resnet_tasks.cli import app; "
        f"app({['predict', str(made['onnx'].folder), *chosen, '--out', str(tmp_path / 'a')]}, "
        "standalone_mode=False); assert sys.modules['torch'] is None; "
        "heavy = ('albumentations', 'timm', 'scipy.optimize'); "
        "assert not [m for m in sys.modules if m.startswith(heavy)]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = [sys.executable, "-m", "resnet_tasks", "predict", str(run.directory), *chosen]
    done = subprocess.run(
        [*again, "--out", str(tmp_path / "b")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = [json.loads((tmp_path / part / "images.json").read_text()) for part in "ab"]
    assert listed[0] == listed[1]
    results = [json.loads((tmp_path / part / "objects.json").read_text()) for part in "ab"]
    assert len(results[0]) == len(results[1]) > 0
    for found, wanted in zip(*results, strict=True):
        for name in ("image_id", "category_id"):
            assert found[name] == wanted[name]
        np.testing.assert_allclose(found["bbox"], wanted["bbox"], atol=0.01)
        assert found["score"] == pytest.approx(wanted["score"], abs=1e-4)
    maps = [sorted((tmp_path / part / "scene").glob("*.png")) for part in "ab"]
    assert [each.name for each in maps[0]] == [each.name for each in maps[1]]
    for one, other in zip(*maps, strict=True):
        assert (cv2.imread(str(one), -1) != cv2.imread(str(other), -1)).mean() < 1e-3
    drawn = sorted((tmp_path / "a/overlays").glob("*.png"))
    assert len(drawn) == 2


def test_options_of_runs_are_refused(made: dict[str, ExportResult], tmp_path: Path) -> None:
    folder = made["onnx"].folder
    told = CliRunner().invoke(
        app, ["predict", str(folder), str(tmp_path), "--tta", "flips", "--tiles", "64"]
    )
    assert told.exit_code == 2
    assert "which does not support --tiles, --tta" in " ".join(told.stderr.split())


@pytest.mark.parametrize("form", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_shared_pyramid_and_a_classifier(
    form: str, three_heads: Run, cells: Path, tmp_path: Path
) -> None:
    done = export_run(three_heads, tmp_path / "out", form=form, data_root=cells)  # type: ignore[arg-type]
    exported = ExportedModel.open(done.folder, precision="fp32")
    assert set(exported.heads) == {"objects", "scene", "whole"}
    for image in _images((64, 96), (150, 90)):
        (found,) = exported.predict([image])
        differences = compare_predictions([three_heads.predict(image)], [found], EXACT)
        assert all(each.is_within(EXACT) for each in differences.values()), differences
        assert found["whole"].probs.sum() == pytest.approx(1, abs=1e-5)


def test_real_images(run: Run, shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "bccd/JPEGImages").iterdir())[:2]
    done = export_run(run, tmp_path / "out", comparison_images=ComparisonImages(tuple(files)))
    assert done.manifest.metadata["comparison"]["images"] == [each.name for each in files]


def test_a_graph_that_differs_is_refused_and_leaves_nothing(
    run: Run, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ExportGraph._normalize

    def darker(graph: ExportGraph, images: Tensor, sizes: Tensor) -> Tensor:
        return whole(graph, images * 0.5, sizes)

    monkeypatch.setattr(ExportGraph, "_normalize", darker)
    with pytest.raises(
        RunError,
        match=r"head objects: \d+ of the \d+ detections of both have no counterpart.*allowed: ",
    ):
        export_run(run, tmp_path / "out", data_root=cells)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_one_sentence(
    run: Run, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="already exists; remove it"):
        export_run(run, tmp_path, data_root=cells)
    with pytest.raises(Exception, match="--images FILES-OR-FOLDER"):
        export_run(run, tmp_path / "out", data_root=tmp_path)
    with pytest.raises(RunError, match="add --format openvino"):
        export_run(run, tmp_path / "out", int8=Int8Options(), data_root=cells)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RunError, match=r"onnx is required but .*resnet-tasks\[export\]"):
        export_run(run, tmp_path / "out", data_root=cells)
    told = CliRunner().invoke(app, ["export", str(run.directory), "--max-drop", "0.1"])
    assert (told.exit_code, "require --int8" in " ".join(told.stderr.split())) == (2, True)


class Shifted(FasterRCNN):
    """Detector of a user whose outputs differ from those of its base class."""

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        outputs = super().outputs(raw, sizes)
        return {**outputs, "boxes": outputs["boxes"] + 3.0, "size": sizes.float()}


def test_heads_of_users_are_exported_with_their_own_outputs() -> None:
    backbone = ResNet("resnet10t", weights="none")
    head = Shifted(backbone.specs, ("x", "y"), {"rpn_post_nms": (20, 20), "pyramid_channels": 16})
    graph = ExportGraph(TaskModel(backbone, {"a": head}), PixelRange(0, 255)).eval()
    images, sizes = torch.rand(1, 3, 64, 96) * 255, torch.tensor([[60, 90]])
    with torch.no_grad():
        outputs = dict(
            zip(("boxes", "scores", "labels", "valid", "size"), graph(images, sizes), strict=True)
        )
        features = graph.model.compute_features(graph._normalize(images, sizes))
        raw = graph.model.named_heads["a"](features)
    assert graph.output_names == tuple(f"a.{name}" for name in outputs)
    assert outputs["size"].tolist() == [[60.0, 90.0]]
    assert outputs["valid"].any()
    expected = FasterRCNN.outputs(head, raw, sizes)["boxes"] + 3.0
    torch.testing.assert_close(outputs["boxes"], expected)


def test_masks_of_an_onnx_and_an_openvino_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = ResNet("resnet10t", weights="none")
    options = {
        "pyramid_channels": 16,
        "box_head_channels": 32,
        "mask_head_channels": (16,),
        "mask_predictor_channels": 16,
        "rpn_post_nms": (40, 30),
        "detections_per_image": 12,
    }
    head = MaskRCNN(backbone.specs, ("x", "y"), options)
    torch.nn.init.normal_(head.roi_heads.box_predictor.cls_score.weight, std=0.3)
    graph = ExportGraph(TaskModel(backbone, {"a": head}), PixelRange(0, 255)).eval()
    write_onnx(graph, 3, tmp_path / "model.onnx")
    write_openvino(tmp_path / "model.onnx", tmp_path / "model.xml")
    for file in ("model.onnx", "model.xml"):
        engine = open_engine(tmp_path / file, precision="fp32", threads=1)
        for number, height, width in ((1, 64, 160), (2, 128, 96)):
            images = 255 * torch.rand(number, 3, height, width)
            sizes = torch.tensor([[height - 9, width - 5]] * number)
            with torch.no_grad():
                outputs = dict(zip(graph.output_names, graph(images, sizes), strict=True))
            got = engine.run(images.numpy(), sizes.numpy())
            assert outputs["a.valid"].sum() > 5
            assert got["a.mask_logits"].shape == (number, 12, 28, 28)
            for name, expected in outputs.items():
                np.testing.assert_allclose(got[name], expected, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_one_stage_detectors_of_an_onnx_and_an_openvino_graph(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = ResNet("resnet10t", weights="none")
    options = {
        "pyramid_channels": 64,
        "num_convs": 1,
        "candidates_per_level": 60,
        "prior_probability": 0.3,
        "detections_per_image": 12,
    }
    head = HEADS.get(name)(backbone.specs, ("x", "y"), options)
    for key, parameter in head.named_parameters():
        if key.endswith(("cls_logits.weight", "bbox_reg.weight")):
            torch.nn.init.normal_(parameter, std=0.1)
    graph = ExportGraph(TaskModel(backbone, {"a": head}), PixelRange(0, 255)).eval()
    write_onnx(graph, 3, tmp_path / "model.onnx")
    write_openvino(tmp_path / "model.onnx", tmp_path / "model.xml")
    for file in ("model.onnx", "model.xml"):
        engine = open_engine(tmp_path / file, precision="fp32", threads=1)
        for number, height, width in ((1, 64, 160), (2, 128, 96)):
            images = 255 * torch.rand(number, 3, height, width)
            sizes = torch.tensor([[height - 9, width - 5]] * number)
            with torch.no_grad():
                outputs = dict(zip(graph.output_names, graph(images, sizes), strict=True))
            got = engine.run(images.numpy(), sizes.numpy())
            assert outputs["a.valid"].sum() > 5
            for field, expected in outputs.items():
                np.testing.assert_allclose(got[field], expected, atol=5e-3, err_msg=field)


def test_windows_of_intensity_are_inside_the_graph(run: Run) -> None:
    """Stored values of 16 bits go in; 0..1 of the window comes out, as outside the graph."""
    pixels = PixelRange(900.0, 1100.0, clip=True)
    model = run.load_model()
    graph = ExportGraph(model, pixels)
    stored = torch.tensor([0.0, 950.0, 1100.0, 4000.0])[None, None, None].expand(1, 3, 1, 4)
    unit = torch.tensor([0.0, 0.25, 1.0, 1.0])[None, None, None].expand(1, 3, 1, 4)
    wanted = model.normalize(unit, [(1, 4)])
    found = graph._normalize(stored, torch.tensor([[1, 4]]))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert (graph._normalize(stored, torch.tensor([[1, 2]]))[..., 2:] == 0).all()


@pytest.mark.slow
def test_int8_tells_metrics_before_and_after(run: Run, cells: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="the extra `export` is not installed: nncf is missing")
    how = Int8Options(calibration=3, evaluation=2, max_drop=1.0)
    done = export_run(run, tmp_path / "out", form="openvino", int8=how, data_root=cells)
    about: dict[str, Any] = dict(done.manifest.metadata["int8"])
    assert (about["calibrated_on"], about["judged_on"]) == (3, 2)
    assert about["main"] == ["objects/AP", "scene/mIoU"]
    assert ExportedModel.open(done.folder).manifest.is_int8
    plain = export_run(run, tmp_path / "plain", form="openvino", data_root=cells)
    sizes = [
        sum(n for name, n in each.manifest.metadata["bytes"].items() if not name.endswith("json"))
        for each in (done, plain)
    ]
    assert sizes[0] < 0.6 * sizes[1]
    with pytest.raises(RunError, match="int8 loses too much on 2 val images"):
        export_run(
            run, tmp_path / "no", form="openvino", int8=replace(how, max_drop=-1.0), data_root=cells
        )
    assert not (tmp_path / "no").exists()


def test_nothing_is_reported_over_the_network() -> None:
    code = (
        "import socket, sys; from resnet_tasks.exported.engines import import_extra\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "import_extra('openvino')\n"
        "assert sys.modules['openvino_telemetry'] is None"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
