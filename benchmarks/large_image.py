"""Peak memory of one large image, predicted with sliding windows in a fresh process.

The image is noise, and two random heads share a small ResNet (Faster R-CNN and U-Net, 19 classes).
The peak is `ru_maxrss`, which includes the pages read from memory-mapped files.
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

from benchmarks.harness.measurement import BenchmarkRow, finish_report, make_option_parser
from benchmarks.harness.side_by_side import collect_environment
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.inference.prediction_writer import PredictionWriter
from resnet_tasks.inference.sliding_window import SlidingWindowPredictor
from resnet_tasks.inference.streaming.stream_predictor import PredictorStream
from resnet_tasks.inference.torch_outputs import TorchOutputs
from resnet_tasks.model import TaskModel
from resnet_tasks.number_formats import Count, format_bytes

CLASSES = tuple(f"class {i}" for i in range(19))
DETECTOR = {
    "score_threshold": 0.0,
    "pyramid_channels": 32,
    "box_head_channels": 64,
    "rpn_post_nms": (300, 300),
}


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Write an image, predict it, print time and memory, and return the report."""
    parser = make_option_parser("large_image", __doc__)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--format", choices=("npy", "tif", "png"), default="npy")
    options = parser.parse_args(argv)
    if options.quick:
        options.side, options.window = 160, 128
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"big.{options.format}"
        # Written in another process, so that writing does not add to the peak of this one.
        writer = get_context("spawn").Process(target=_write_noise_image, args=(path, options.side))
        writer.start()
        writer.join()
        torch.manual_seed(0)
        backbone = ResNet(options.backbone, weights="none")
        heads = {
            "objects": FasterRCNN(backbone.specs, CLASSES, DETECTOR),
            "scene": UNet(backbone.specs, CLASSES, {"decoder_channels": (32, 16, 16, 16, 16)}),
        }
        windows = WindowGrid(options.window, options.window, options.overlap)
        model = TaskModel(backbone, heads).eval()
        outputs = TorchOutputs(model, options.precision)
        sliding = SlidingWindowPredictor(outputs, windows, batch_size=options.batch_size)
        _print_peak("model built")
        peak_before, started = _measure_peak(), time.monotonic()
        predictor = PredictorStream(sliding, Preparation())
        image = predictor.read(path, "big")
        (predictions,) = predictor.predict([image])
        count = len(windows.make_tiles((options.side, options.side)))
        seconds = time.monotonic() - started
        _print_peak(f"{Count(count):window} predicted in {seconds:.0f} s")
        ids = {name: tuple(range(1, len(CLASSES) + 1)) for name in heads}
        out = PredictionWriter(Path(folder), dict.fromkeys(heads, CLASSES), ids)
        out.write(1, "big", predictions)
        out.draw("big", image.render_overview(), predictions, image.size)
        _print_peak(f"written and drawn, {len(out.results['objects'])} detections")
    work = f"one image of {options.side:,} x {options.side:,} ({options.format}) in windows"
    rows = [
        BenchmarkRow(work, "alone", "", seconds, None, "s"),
        BenchmarkRow(
            f"{work}: memory",
            "alone",
            "the program before prediction",
            _measure_peak(),
            peak_before,
            "bytes",
        ),
    ]
    report = {**collect_environment(model.device), "windows": count}
    return finish_report(report, rows, options)


def _write_noise_image(path: Path, side: int) -> None:
    """Write an image of noise."""
    memmap = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.uint8, (side, side, 3))
    rng = np.random.default_rng(0)
    for top in range(0, side, 256):
        memmap[top : top + 256] = rng.integers(0, 256, memmap[top : top + 256].shape, np.uint8)
    if path.suffix == ".tif":
        tifffile.imwrite(path, memmap, tile=(512, 512), compression="zlib", photometric="rgb")
    elif path.suffix == ".png":
        Image.fromarray(np.asarray(memmap)).save(path, compress_level=1)


def _print_peak(event: str) -> None:
    print(f"{event}; peak so far {format_bytes(_measure_peak())}", flush=True)


def _measure_peak() -> int:
    """Return the peak memory of this process in bytes; Linux counts `ru_maxrss` in kB."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
