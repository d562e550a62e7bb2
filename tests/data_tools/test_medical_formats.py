"""From DICOM and NIfTI files to a trained run, by the commands that a user types."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from typer.testing import CliRunner

from resnet_tasks.assemble.datasets import build_dataset
from resnet_tasks.cli import app
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.recipe.load import load_recipe

CT = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
RECIPE = """
data:
  root: {root}
  train: [{{annotations: train.json}}]
  val: [{{annotations: val.json}}]
  allow_leaks: true  # all slices are of the one patient that pydicom brings
  channels: 1
  intensity: {{type: window, level: 40, width: 400}}
  resize: {{height: 64, width: 64}}
  workers: 0
backbone: {{name: resnet10t, weights: none}}
heads: {{{head}}}
augment: radiology
training: {{epochs: 1, batch_size: 1, evaluate_every: 0, precision: fp32, device: cpu}}
evaluation: {{resamples: 0, extra: {extra}}}
"""


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def finetune(folder: Path, root: str, head: str, extra: str) -> dict[str, Any]:
    """Two steps and an evaluation; what was measured."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(root=root, head=head, extra=extra))
    run("finetune", recipe, "--data-root", folder, "--out", folder / "run")
    log = (folder / "run/log.jsonl").read_text().splitlines()
    steps = [each for each in map(json.loads, log) if each["event"] == "step"]
    assert len(steps) == 2
    assert all(np.isfinite(list(each["losses"].values())).all() for each in steps)
    written = json.loads((folder / "run/evaluations/val/metrics.json").read_text())
    return dict(written["metrics"])


def first_input(folder: Path) -> torch.Tensor:
    """`(1, H, W)`, the first image to be judged as it goes into the network."""
    coco = read_coco(folder / "ct/val.json")
    recipe = load_recipe(folder / "recipe.yaml", ["augment=[]"])
    return build_dataset(recipe, [coco], coco.categories)[0].image


def windowed(hounsfield: np.ndarray) -> np.ndarray:
    return np.clip((hounsfield.astype(np.float32) - (40 - 200)) / 400, 0, 1)


def test_dicom_with_boxes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for split, names in {"train": ("a", "b"), "val": ("c",)}.items():
        (source / split).mkdir(parents=True)
        for name in names:
            shutil.copyfile(CT, source / split / f"{name}.dcm")
        rows = "".join(
            f"{name},R1,lesion,20,30,60,80\n{name},R2,lesion,20,30,62,80\n" for name in names
        )
        header = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
        (source / f"{split}.csv").write_text(header + rows)
    said = run("data", "convert", "csv-boxes", source, tmp_path / "ct", "readers=merged")
    assert "train: 2 images; objects: lesion 2" in said
    head = "lesions: {type: faster_rcnn, options: {pyramid_channels: 16, box_head_channels: 32}}"
    metrics = finetune(tmp_path, "ct", head, "{lesions: {froc: {hit: iou, iou: 0.4}}}")
    assert "lesions/AP" in metrics
    assert "lesions/CPM" in metrics
    stored = pydicom.dcmread(CT).pixel_array.astype(np.float32) - 1024
    small = windowed(stored).reshape(64, 2, 64, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(first_input(tmp_path)[0].numpy(), small, atol=1e-5)


def test_nifti_with_label_maps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([-0.5, 0.25, 4.0, 1.0])
    for case in range(3):
        values = rng.integers(-1000, 1000, (32, 64, 2)).astype(np.int16)
        labels = np.zeros((32, 64, 2), np.uint8)
        labels[4:20, 8:40, 1] = 1
        labels[8:12, 16:24, 1] = 2
        for folder, array in (("imagesTr", values), ("labelsTr", labels)):
            (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
            file = tmp_path / "in" / folder / f"ct_{case}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array, affine), file)
    description = {"labels": {"background": 0, "liver": 1, "tumor": 2}, "file_ending": ".nii.gz"}
    (tmp_path / "in/dataset.json").write_text(json.dumps(description))
    options = ("val_fraction=0.34", "empty_slices=0")
    said = run("data", "convert", "nifti", tmp_path / "in", tmp_path / "ct", *options)
    assert "train: 2 images" in said
    assert "skipped: 2 objects" in said
    head = (
        "organs: {type: unet, background: true, options: {decoder_channels: [32, 16, 16, 16, 16]}}"
    )
    metrics = finetune(tmp_path, "ct", head, "{organs: {surface: {unit: mm}}}")
    assert set(metrics["organs/mIoU"]["per_class"]) == {"background", "liver", "tumor"}
    assert 0 < metrics["organs/HD95"]["value"] <= np.hypot(64 * 0.25, 32 * 0.5)
    record = json.loads((tmp_path / "ct/val.json").read_text())["images"][0]
    assert record["spacing"] == pytest.approx([0.25, 0.5])
    case = nibabel.load(tmp_path / "in/imagesTr" / f"{record['group']}.nii.gz")
    # x runs to the left already, y to the front: only the rows are turned.
    expected = windowed(np.asarray(case.dataobj)[:, ::-1, 0].T)
    image = first_input(tmp_path)[0].numpy()
    np.testing.assert_allclose(image[:64, :32], expected, atol=1e-5)
