"""Images predicted window by window: like whole ones, and in memory that windows decide."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.data.images.intensity import Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.errors import HeadError
from resnet_tasks.heads.base import Head
from resnet_tasks.heads.classifier import Classifier
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.inference.predict_images import predict_images
from resnet_tasks.inference.sliding_window import SlidingWindowPredictor
from resnet_tasks.inference.torch_outputs import TorchOutputs
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.tasks import Outputs, Task, WindowLayout, register_task
from resnet_tasks.tasks.semantic_segmentation.merge_windows import BlendedMap
from resnet_tasks.visualization.thumbnails import MAX_DRAWING_SIDE, make_overview
from tests.support.decoding import decode
from tests.support.paths import ROOT
from tests.support.pixel_heads import PixelBoxHead, PixelHead, PixelMapHead, Pixels


class Equivariant(PixelMapHead):
    """Logits of every pixel from its 3 x 3 neighbors: the same wherever a window lies."""

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kernel = torch.linspace(-2, 2, len(self.classes) * 27).reshape(-1, 3, 3, 3)
        padded = nn.functional.pad(features["C1"], (1, 1, 1, 1), mode="replicate")
        return {"logits": nn.functional.conv2d(padded, kernel)}


class BrightBlobs(PixelBoxHead):
    """The box around every connected bright region, its score the region's mean."""

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"red": features["C1"][:, 0]}

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        count, made = len(sizes), 20
        boxes, valid = torch.zeros(count, made, 4), torch.zeros(count, made, dtype=torch.bool)
        for row, found, red in zip(boxes, valid, raw["red"], strict=True):
            bright = (red > 0.5).numpy().astype(np.uint8)
            number, _, stats, _ = cv2.connectedComponentsWithStats(bright)
            x, y, width, height = stats[1:, :4].T
            row[: number - 1] = torch.from_numpy(np.stack((x, y, x + width, y + height), axis=1))
            found[: number - 1] = True
        scores = torch.linspace(0.9, 0.6, made).expand(count, made)
        labels = torch.zeros(count, made, dtype=torch.int64)
        return {"boxes": boxes, "scores": scores, "labels": labels, "valid": valid}


CLASSES = ("a", "b", "c")


def toy(**heads: type[Head]) -> TaskModel:
    backbone = Pixels()
    return TaskModel(
        backbone, {name: kind(backbone.specs, CLASSES) for name, kind in heads.items()}
    )


def small_model() -> TaskModel:
    """A random ResNet-18 with a detector and a U-Net, which tell something of noise."""
    torch.manual_seed(0)
    backbone = ResNet("resnet18", weights="none")
    options = {"score_threshold": 0.0, "detections_per_image": 20, "rpn_post_nms": (50, 50)}
    heads = {
        "objects": FasterRCNN(backbone.specs, CLASSES, {**options, "box_head_channels": 32}),
        "scene": UNet(backbone.specs, CLASSES),
    }
    return TaskModel(backbone, heads).eval()


def noise(size: tuple[int, int], seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def sliding(model: TaskModel, window: int = 64, overlap: float = 0.25, **more: Any) -> Any:
    grid = WindowGrid(window, window, overlap)
    return SlidingWindowPredictor(TorchOutputs(model, "fp32"), grid, **more)


# --- One window


@pytest.mark.parametrize("resize", [None, Resize(64, 60)])
def test_a_image_that_fits_one_window_is_predicted_as_it_is_whole(resize: Resize | None) -> None:
    model, preparation = small_model(), Preparation(3, resize)
    image = noise((61, 90))
    (whole,) = predict_images(model, [image], preparation, precision="fp32")
    in_windows = sliding(model, 96, keep="probs")
    (tiled,) = predict_images(in_windows, [image], preparation, precision="fp32")
    for name in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(tiled["objects"], name), getattr(whole["objects"], name))
    assert len(whole["objects"]) > 0
    if resize is None:
        assert torch.equal(tiled["scene"].probs, whole["scene"].probs)
        assert torch.equal(tiled["scene"].labels.long(), whole["scene"].labels)
    else:  # rows are interpolated one after the other: the same but for rounding
        assert torch.allclose(tiled["scene"].probs, whole["scene"].probs, atol=1e-5)


# --- Pixels


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_blended_logits_are_those_of_the_whole_image(overlap: float, batch_size: int) -> None:
    model, image = toy(scene=Equivariant), noise((150, 201))
    (whole,) = predict_images(model, [image], Preparation())
    windows = sliding(model, 64, overlap, batch_size=batch_size, keep="probs")
    (tiled,) = predict_images(windows, [image], Preparation())
    difference = (tiled["scene"].probs - whole["scene"].probs).abs()
    # Only the pixels beside a window's border see other neighbors there; where windows overlap
    # they count little.
    assert difference.max() < (1.0 if overlap == 0 else 0.02)
    assert (difference > 1e-5).any(dim=0).float().mean() < 0.2
    assert torch.allclose(difference[:, 2:30, 2:30], torch.zeros(()), atol=1e-6)
    agreement = (tiled["scene"].labels == whole["scene"].labels).float().mean()
    assert agreement > (0.97 if overlap == 0 else 0.995)


@pytest.mark.parametrize("size", [(50, 40), (97, 131), (200, 333)])
def test_a_resized_map_comes_back_in_bands_as_it_does_whole(size: tuple[int, int]) -> None:
    """Logits of a 97 x 131 input, brought to smaller, equal and larger originals."""
    head = toy(scene=Equivariant).named_heads["scene"]
    logits = torch.randn(3, 97, 131, generator=torch.Generator().manual_seed(0))
    (expected,) = decode(head, {"logits": logits[None]}, [Geometry.from_resize(size, (97, 131))])
    windows = WindowGrid(32, 64, 0.25)
    whole = (97, 131)
    starts = windows.compute_row_starts(whole), windows.compute_column_starts(whole)
    layout = WindowLayout(whole, size, *map(tuple, starts), (32, 64), 0.5, "probs", 3)
    blended = BlendedMap("scene", layout)
    for tile in windows.make_tiles(whole):
        padded = nn.functional.pad(logits[:, tile.rows, tile.columns], (0, 3, 0, 5), value=9.0)
        blended.add([tile.box], {"logits": padded[None]}, [Geometry(tile.size, tile.size)])
    made = blended.finish()
    assert made.labels.shape == size
    assert made.probs is not None
    assert torch.allclose(made.probs, expected.probs, atol=1e-5)


def test_what_is_kept_of_pixels() -> None:
    model, image = toy(scene=Equivariant), noise((80, 100))
    kept = {
        keep: predict_images(sliding(model, keep=keep), [image], Preparation())[0]["scene"]
        for keep in ("labels", "confidence", "probs")
    }
    assert kept["labels"].labels.dtype == torch.uint8
    assert kept["labels"].probs is None
    assert kept["labels"].confidence is None
    assert torch.equal(kept["confidence"].confidence, kept["probs"].probs.max(dim=0).values)
    assert kept["confidence"].probs is None
    assert all(torch.equal(each.labels, kept["labels"].labels) for each in kept.values())


# --- Boxes


def blobs(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Any:
    image = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return image


@pytest.mark.parametrize("resize", [None, Resize(400, 500)])
def test_an_object_across_a_border_comes_back_as_one_box(resize: Resize | None) -> None:
    boxes = [(50, 10, 70, 20), (30, 40, 40, 80), (5, 90, 190, 95), (100, 30, 104, 34)]
    image = blobs((120, 200), *boxes)
    windows = sliding(toy(objects=BrightBlobs), 64)
    (made,) = predict_images(windows, [image], Preparation(3, resize))
    found = sorted(tuple(map(round, row)) for row in made["objects"].boxes.tolist())
    assert found == sorted(boxes)
    assert made["objects"].scores.tolist() == sorted(made["objects"].scores.tolist(), reverse=True)


def test_both_heads_see_the_same_windows_and_files_are_read_in_parts(tmp_path: Path) -> None:
    model = toy(scene=Equivariant, objects=BrightBlobs)
    image = blobs((120, 200), (50, 10, 70, 20))
    np.save(tmp_path / "a.npy", image)
    windows = sliding(model)
    (from_file,) = predict_images(windows, [tmp_path / "a.npy"], Preparation())
    (from_array,) = predict_images(windows, [image], Preparation())
    assert torch.equal(from_file["scene"].labels, from_array["scene"].labels)
    assert torch.equal(from_file["objects"].boxes, from_array["objects"].boxes)
    assert len(from_array["objects"]) == 1


def test_large_images_are_drawn_small(tmp_path: Path) -> None:
    image = np.zeros((100, 2 * MAX_DRAWING_SIDE + 10, 3), np.uint8)
    image[:, :MAX_DRAWING_SIDE] = 200
    np.save(tmp_path / "a.npy", image)
    drawn = make_overview(Preparation().open_image(tmp_path / "a.npy"))
    assert drawn.shape == (34, -(-image.shape[1] // 3), 3)
    assert (drawn[:, :1000] == 200).all()
    assert (drawn[:, -1000:] == 0).all()


# --- Refusals


def test_a_head_that_sees_images_as_a_whole_is_refused() -> None:
    backbone = ResNet("resnet18", weights="none")
    model = TaskModel(backbone, {"kind": Classifier(backbone.specs, CLASSES)})
    with pytest.raises(HeadError, match="head kind classifies the whole image"):
        sliding(model)


class Mean(PixelHead):
    """Gives what no windows can be merged for."""

    task = "mean_of_the_image"

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"mean": features["C1"].mean(dim=(1, 2, 3))}


@register_task
class MeanTask(Task):
    name = "mean_of_the_image"
    required_fields = ("mean",)
    outputs: ClassVar = {"mean": ("B",)}
    prediction = Classification
    main_metric = "error"

    def decode(self, outputs: Outputs, geometries: Sequence[Geometry]) -> list[Any]:
        raise NotImplementedError

    def build_evaluator(self, classes: Sequence[str]) -> Any:
        raise NotImplementedError


class Coarse(Equivariant):
    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": super().forward(features)["logits"][:, :, ::2, ::2]}


def test_predictions_that_cannot_be_put_together_are_told() -> None:
    image = noise((80, 80))
    with pytest.raises(HeadError, match="head x: predictions of type Classification cannot"):
        predict_images(sliding(toy(x=Mean)), [image], Preparation())
    with pytest.raises(HeadError, match=r"head y: .* shape \(B, 3, 64, 64\), .* \(4, 3, 32, 32\)"):
        predict_images(sliding(toy(y=Coarse)), [image], Preparation())


# --- Memory

_PEAK = """
import resource, sys
import numpy as np
sys.path[:0] = {paths!r}
from pathlib import Path
from tests.inference.test_sliding_window import toy, Equivariant, BrightBlobs, sliding
import tests.inference.test_sliding_window as test_sliding
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.inference.predict_images import predict_images

test_sliding.CLASSES = tuple(f"c{{i}}" for i in range(60))
windows = sliding(toy(scene=Equivariant, objects=BrightBlobs), 256)
for side in (512, 1024, 2048):
    pixels = np.lib.format.open_memmap("a.npy", "w+", np.uint8, (side, side, 3))
    del pixels
    (found,) = predict_images(windows, [Path("a.npy")], Preparation(), precision="fp32")
    assert found["scene"].labels.shape == (side, side)
    del found
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_grows_with_the_label_map_not_with_classes_times_pixels(tmp_path: Path) -> None:
    """60 classes: probabilities of 2048 x 2048 pixels would take 1 GB, of 1024 x 1024 0.25 GB."""
    script = _PEAK.format(paths=[str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    small, middle, large = map(int, done.stdout.split())
    # A band of logits (60 x 256 x side floats) and its carried-over rows, a label map, a drawing.
    assert middle - small < 160
    assert large - middle < 300
