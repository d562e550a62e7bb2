"""`export.json` comes back as it was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_tasks.data.images.intensity import Intensity, Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.exported.engines import open_engine
from resnet_tasks.exported.manifest import ExportedCombiner, ExportedHead, Manifest, PixelRange
from resnet_tasks.inference.predictor import FileHandle

PREPARATION = Preparation(1, Resize(32, 64), Intensity("percentile", low=1.0), max_pixels=99)
MANIFEST = Manifest(
    format="onnx",
    heads={"a": ExportedHead("unet", "semantic_segmentation", ("x", "y"), (3, 90))},
    categories=({"id": 3, "name": "x"}, {"id": 90, "name": "y"}),
    preparation=PREPARATION,
    pixels=PixelRange.from_preparation(PREPARATION),
    normalization={"mean": (0.5,), "std": (0.25,)},
    metadata={"source": {"run": "r"}},
)


def test_round_trip(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert Manifest.read(tmp_path) == MANIFEST


def test_metrics_of_a_quantized_model_are_read_back(tmp_path: Path) -> None:
    metadata = {"source": {"run": "r"}, "int8": {"objects/AP": {"before": 0.5, "after": 0.49}}}
    replace(MANIFEST, is_int8=True, metadata=metadata).write(tmp_path)
    found = Manifest.read(tmp_path)
    assert found.is_int8
    assert json.loads((tmp_path / "export.json").read_text())["int8"] == metadata["int8"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"layout": 2}', '{"layout": 1}'])
def test_damaged_and_foreign_files_are_named(damage: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(damage)
    message = r"export\.json (is damaged|was written by an older).*export the run"
    with pytest.raises(RunError, match=message):
        Manifest.read(tmp_path)


def test_unknown_formats_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not an exported model"):
        Manifest.read(tmp_path)
    MANIFEST.write(tmp_path)
    told = json.loads((tmp_path / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps({**told, "format": "tea"}))
    with pytest.raises(RunError, match="format 'tea'"):
        Manifest.read(tmp_path)
    with pytest.raises(RunError, match=r"model\.onnx does not exist"):
        open_engine(tmp_path / "model.onnx")
    with pytest.raises(DataError, match="'fp64' is unknown"):
        open_engine(tmp_path / "model.onnx", precision="fp64")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([3], r"heads\.a\.category_ids has 1 id for 2 classes; export"),
        ([3, 3], r"heads\.a\.category_ids has 3 more than once"),
        ([3, 91], r"category_ids has 91, but the category ids of the dataset are 3, 90; export"),
        ([3, 0], r"category_ids has 0, but"),
        ([3, True], r"expected int, got bool at heads.*category_ids\[1\]\); export"),
        ([3, "90"], r"expected int, got str at heads.*category_ids\[1\]\); export"),
        ([3, [90]], r"is damaged"),
        (3, r"is damaged"),
    ],
)
def test_invalid_category_ids_are_rejected(ids: object, message: str, tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    contents = json.loads((tmp_path / "export.json").read_text())
    contents["heads"]["a"]["category_ids"] = ids
    (tmp_path / "export.json").write_text(json.dumps(contents))
    with pytest.raises(RunError, match=message):
        Manifest.read(tmp_path)


def test_classes_that_are_not_categories_have_the_id_0(tmp_path: Path) -> None:
    """A background class of a head, and any number of classes of a combiner."""
    head = ExportedHead("unet", "semantic_segmentation", ("background", "y"), (0, 90))
    combiner = ExportedCombiner("c", {"map": "a"}, {}, ("p", "q", "y"), (0, 0, 90))
    manifest = replace(MANIFEST, heads={"a": head}, combine={"c": combiner})
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


def test_numbers_that_are_not_finite_are_rejected(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    path = tmp_path / "export.json"
    path.write_text(path.read_text().replace("0.25", "NaN"))
    with pytest.raises(RunError, match="it is not JSON: NaN is not allowed"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_a_damaged_graph_is_named(name: str, tmp_path: Path) -> None:
    package = {"model.onnx": "onnxruntime", "model.xml": "openvino"}[name]
    pytest.importorskip(package, reason="the extra `export` is not installed")
    (tmp_path / name).write_bytes(b"no graph")
    with pytest.raises(RunError, match="cannot be loaded"):
        open_engine(tmp_path / name)


def graph_input(preparation: Preparation, image: Any) -> list[float]:
    read = FileHandle(image, preparation, "a").read()
    values: list[float] = (
        PixelRange.from_preparation(preparation).convert(read.pixels).ravel().tolist()
    )
    return values


def test_what_goes_into_the_graph() -> None:
    """8-bit values as they are; deeper ones on the same scale; windows as stored; else 0..1."""
    plain = Preparation(1)
    eight = np.asarray([[0, 51, 255]], np.uint8)
    assert graph_input(plain, eight) == [0, 51, 255]
    deep = eight.astype(np.uint16) * 257
    assert graph_input(plain, deep) == pytest.approx([0, 51, 255], abs=1e-4)
    window = Preparation(1, None, Intensity("window", level=100, width=40))
    assert PixelRange.from_preparation(window) == PixelRange(80, 120, clip=True)
    # Values outside the window are clipped before the graph, which would clip them too.
    assert graph_input(window, np.asarray([[0, 90, 65535]], np.uint16)) == [80, 90, 120]
    with pytest.raises(DataError, match="a holds values that are not finite"):
        graph_input(window, np.asarray([[np.nan]]))
    resized = Preparation(1, Resize(1, 3), window.intensity)
    assert PixelRange.from_preparation(resized) == PixelRange(0, 1)
    assert graph_input(resized, deep) == [0, 1, 1]
