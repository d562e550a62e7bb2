"""A torch model in a stream predicts what it predicts for images in memory."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.data.images.intensity import Resize
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.data.images.preprocessing import Preparation, PreparedImage
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.errors import DataError
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.inference.predict_images import as_predictor, predict_images
from resnet_tasks.inference.predictor import Predictor, WholeImagePredictor
from resnet_tasks.inference.sliding_window import SlidingWindowPredictor
from resnet_tasks.inference.streaming.stream import PredictionRequest, StreamOptions, predict_all
from resnet_tasks.inference.streaming.stream_predictor import PredictorStream
from resnet_tasks.inference.test_time_augmentation import TtaPredictor, TtaViews
from resnet_tasks.inference.torch_outputs import TorchOutputs
from resnet_tasks.model import TaskModel

PREPARATION = Preparation(3, Resize(64, 64))


@pytest.fixture
def model() -> TaskModel:
    backbone = ResNet("test_resnet")
    head = UNet(backbone.specs, ("a", "b"), {"decoder_channels": (8, 8, 8, 8, 8)})
    return TaskModel(backbone, {"scene": head}).eval()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 255, (60, 90, 3)).astype(np.uint8))
    return paths


def outputs(model: TaskModel) -> TorchOutputs:
    return TorchOutputs(model, "fp32", {"scene": (1, 2)})


def stream_predictor(predictor: Predictor) -> PredictorStream:
    return PredictorStream(predictor, PREPARATION, batch_size=2)


def streamed(model: Any, images: list[Path], out: Path) -> list[np.ndarray]:
    """The label maps that a stream writes."""
    predict_all(
        stream_predictor(model),
        PredictionRequest(tuple(images)),
        out,
        settings={},
        options=StreamOptions(draw=False),
        console=Console(file=io.StringIO()),
    )
    return [read_label_map(out / f"scene/{i}.png") for i in range(3)]


@pytest.mark.parametrize("kind", [None, "flips+scales"])
def test_maps_are_those_of_arrays(
    model: TaskModel, images: list[Path], tmp_path: Path, kind: str | None
) -> None:
    made: Predictor = WholeImagePredictor(outputs(model))
    if kind is not None:
        made = TtaPredictor(made, TtaViews.from_name(kind))
    arrays = [PREPARATION.read(path) for path in images]
    first = predict_images(made, arrays[:2], PREPARATION)
    last = predict_images(made, arrays[2:], PREPARATION)
    found = streamed(made, images, tmp_path / "out")
    for expected, each in zip([*first, *last], found, strict=True):
        assert np.array_equal(expected["scene"].labels.numpy() + 1, each)
    assert json.loads((tmp_path / "out/images.json").read_text())["images"][2]["width"] == 90


def test_windows_read_files_in_parts(model: TaskModel, images: list[Path], tmp_path: Path) -> None:
    made = SlidingWindowPredictor(outputs(model), WindowGrid(64, 64, 0.25))
    predictor = stream_predictor(made)
    assert isinstance(predictor.read(images[0], "a").inputs, PreparedImage)
    found = streamed(made, images, tmp_path / "out")
    for path, each in zip(images, found, strict=True):
        (whole,) = predict_images(made, [path], PREPARATION)
        whole = whole["scene"].labels
        assert np.array_equal(whole.numpy() + 1, each)


def test_a_file_that_cannot_be_read_is_a_data_error(model: TaskModel, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"a\.png"):
        stream_predictor(as_predictor(model)).read(tmp_path / "a.png", "a.png")
    with pytest.raises(DataError, match=r"frame 3 .*has the shape \(8, 8, 5\)"):
        stream_predictor(as_predictor(model)).read(
            np.zeros((8, 8, 5), np.uint8), "frame 3 of a.mp4"
        )
