"""Exports of plugins predict what the run predicts, and say where an unknown task comes from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import resnet_tasks
from resnet_tasks.errors import RunError
from resnet_tasks.export.output_comparison import EXACT, compare_predictions
from resnet_tasks.exported.exported_model import ExportedModel
from resnet_tasks.exported.manifest import Manifest
from tests.examples.conftest import TRUST, TrainedPlugin, call
from tests.support.paths import ROOT

# Like all tests of engines, see `tests/export/test_exported_models.py`.
pytestmark = pytest.mark.slow

REASON = "the extra `export` is not installed"
for package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason=REASON)


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def export(request: pytest.FixtureRequest, trained: TrainedPlugin) -> Path:
    folder = trained.root / str(request.param)
    command = ("export", trained.run, "--format", request.param, "--out", folder)
    call(*command, TRUST, "--data-root", trained.root)
    return folder


def _read_images(trained: TrainedPlugin) -> list[Any]:
    return [
        cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        for path in sorted(trained.images.iterdir())
    ]


def test_the_export_predicts_what_the_run_predicts(trained: TrainedPlugin, export: Path) -> None:
    run = resnet_tasks.load(trained.run, trust_plugins=True)
    images = _read_images(trained)
    model = ExportedModel.open(export, precision="fp32")
    differences = compare_predictions(
        [run.predict(image) for image in images],
        [model.predict([image])[0] for image in images],
        EXACT,
    )
    assert differences["mine"].images == 4
    assert differences["mine"].is_within(EXACT), differences
    rng = np.random.default_rng(0)
    others = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((70, 200), (161, 33))]
    found = model.predict(others)
    for image, result in zip(others, found, strict=True):
        assert result["mine"].find_problem(image.shape[:2], len(run.classes["mine"])) is None


def _predict(export: Path, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """`predict` in a process of its own, which knows no task of a plugin."""
    command = [sys.executable, "-m", "resnet_tasks", "predict", str(export)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=export.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_only_tasks_of_plugins_need_their_code(
    trained: TrainedPlugin, export: Path, tmp_path: Path
) -> None:
    arguments = (trained.images, "--out", tmp_path / "plain")
    done = _predict(export, *arguments)
    manifest = Manifest.read(export)
    if trained.plugin.name != "count_task":
        assert done.returncode == 0, done.stderr
        assert manifest.plugins == ()
        return
    assert manifest.plugins == ("plugins/0_count_task.py",)
    assert (export / manifest.plugins[0]).read_text() == trained.plugin.code
    assert done.returncode == 2
    assert "the task object_counting of head mine is not registered; import the module" in (
        done.stderr
    )
    assert "plugins/0_count_task.py" in done.stderr
    assert "--trust-plugins" in done.stderr
    trusted = _predict(export, *arguments, TRUST)
    assert trusted.returncode == 0, trusted.stderr
    rows = json.loads((tmp_path / "plain" / "mine.json").read_text())
    assert len(rows) == 4 * 3


@pytest.mark.parametrize("trained", ["count_task"], indirect=True)  # the task of a plugin
def test_an_installed_package_registers_the_task(
    trained: TrainedPlugin, export: Path, tmp_path: Path
) -> None:
    (tmp_path / "counting.py").write_text(trained.plugin.code, encoding="utf-8")
    metadata = tmp_path / "counting-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[resnet_tasks.tasks]\nobject_counting = counting\n"
        "[resnet_tasks.heads]\ncounter = counting\n"
    )
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = _predict(export, trained.images, "--out", tmp_path / "out", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "out" / "mine.json").read_text())) == 4 * 3


def test_a_plugin_outside_the_export_is_refused(
    trained: TrainedPlugin, export: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(export, folder)
    stored = json.loads((folder / "export.json").read_text())
    stored["plugins"] = ["../evil.py"]
    stored["heads"]["mine"]["task"] = "no_such_task"
    (folder / "export.json").write_text(json.dumps(stored))
    (tmp_path / "evil.py").write_text("raise SystemExit(7)\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"\.\./evil\.py.* neither a file in its folder"):
        ExportedModel.open(folder, trust_plugins=True)
    stored["plugins"] = []
    (folder / "export.json").write_text(json.dumps(stored))
    with pytest.raises(RunError, match="the task no_such_task of head mine is not registered"):
        ExportedModel.open(folder, trust_plugins=True)
