"""Peak memory of one big picture, predicted in windows in a fresh process.

A picture of noise, two random heads on one small ResNet (Faster R-CNN and U-Net, 19 classes). Peaks
are `ru_maxrss`, which counts what is read of mapped files too.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import Image

from benchmarks.measuring import Row, finish, option_parser
from benchmarks.side_by_side import conditions
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.data.preparation import Preparation
from resnet_tasks.data.tiles import Windows
from resnet_tasks.evaluation.sliding import SlidingWindows
from resnet_tasks.heads.faster_rcnn import FasterRCNN
from resnet_tasks.heads.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.prediction_files import PredictionWriter
from resnet_tasks.streaming.model_predictor import ModelPredictor

CLASSES = tuple(f"class {i}" for i in range(19))
DETECTOR = {
    "score_threshold": 0.0,
    "pyramid_channels": 32,
    "box_head_channels": 64,
    "rpn_post_nms": (300, 300),
}


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Writes a picture, predicts it, and prints what it took."""
    parser = option_parser("big_picture", __doc__)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--format", choices=("npy", "tif", "png"), default="npy")
    chosen = parser.parse_args(argv)
    if chosen.quick:
        chosen.side, chosen.window = 160, 128
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"big.{chosen.format}"
        # In a process of its own: what writing takes is no part of the peak.
        writer = get_context("spawn").Process(target=_write, args=(path, chosen.side))
        writer.start()
        writer.join()
        torch.manual_seed(0)
        backbone = ResNet(chosen.backbone, weights="none")
        heads = {
            "objects": FasterRCNN(backbone.specs, CLASSES, DETECTOR),
            "scene": UNet(backbone.specs, CLASSES, {"decoder_channels": (32, 16, 16, 16, 16)}),
        }
        windows = Windows(chosen.window, chosen.window, chosen.overlap)
        model = TaskModel(backbone, heads).eval()
        sliding = SlidingWindows(model, windows, batch_size=chosen.batch_size)
        _tell("model built")
        before, started = _peak(), time.monotonic()
        predictor = ModelPredictor(sliding, Preparation(), precision=chosen.precision)
        picture = predictor.read(path, "big")
        (found,) = predictor.predict([picture])
        count = len(windows.over((chosen.side, chosen.side)))
        seconds = time.monotonic() - started
        _tell(f"{count} windows predicted in {seconds:.0f} s")
        ids = {name: tuple(range(1, len(CLASSES) + 1)) for name in heads}
        out = PredictionWriter(Path(folder), dict.fromkeys(heads, CLASSES), ids)
        out.write(1, "big", found)
        out.draw("big", picture.drawable(), found, picture.size)
        _tell(f"written and drawn, {len(found['objects'])} detections")
    work = f"one picture of {chosen.side:,} x {chosen.side:,} ({chosen.format}) in windows"
    rows = [
        Row(work, "alone", "", seconds, None, "s"),
        Row(f"{work}: memory", "alone", "the program before it", _peak(), before, "bytes"),
    ]
    report = {**conditions(model.device), "windows": count}
    return finish(report, rows, chosen)


def _write(path: Path, side: int) -> None:
    """A picture of noise."""
    mapped = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.uint8, (side, side, 3))
    rng = np.random.default_rng(0)
    for top in range(0, side, 256):
        mapped[top : top + 256] = rng.integers(0, 256, mapped[top : top + 256].shape, np.uint8)
    if path.suffix == ".tif":
        tifffile.imwrite(path, mapped, tile=(512, 512), compression="zlib", photometric="rgb")
    elif path.suffix == ".png":
        Image.fromarray(np.asarray(mapped)).save(path, compress_level=1)


def _tell(what: str) -> None:
    print(f"{what}; peak so far {_peak() / 1e6:.0f} MB", flush=True)


def _peak() -> int:
    """Greatest memory of this process so far, bytes; of Linux, which counts kB."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
