"""Inference of Faster R-CNN, ours and torchvision's in eager mode: same layers and proposals.

    python -m benchmarks detector_inference                # ResNet-50, 1 x 480x640

Same precision: both channels-last, both in fp32 or both in bf16. As it comes: torchvision's model
as it is built, fp32 and channels first, against ours in the precision that `auto` chooses. From
pictures to boxes in pixels of the pictures. In the same script the boxes are compared in fp32; in
bf16, whose rounding changes which of many nearly equal random boxes come out, the stages are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.detectors import (
    our_detector,
    our_forward,
    peers_detector,
    peers_forward,
    require_same_detections,
    require_same_stages,
)
from benchmarks.measuring import (
    REPEATS,
    add_shared_options,
    finish,
    markdown_table,
    with_rows,
)
from benchmarks.side_by_side import Pair, compare, conditions, settled, street
from resnet_tasks.model import default_device, resolve_precision

PEER = f"torchvision {version('torchvision')}"
GOALS = {"fp32": 1.2, "bf16": 1.4}
AS_IT_COMES = 4.0


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Measures, prints and returns the numbers.

    Raises:
        DataError: If ours and torchvision's boxes do not agree.
    """
    options = _options(argv)
    device = default_device(options.device)
    rows, runs = compare(_pairs(options, device), device, options.repeats)
    report = {**conditions(device), "size": options.size, "batch": options.batch, "runs": runs}
    return finish(with_rows(report, rows), markdown_table(rows), options)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks detector_inference", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", nargs=2, type=int, default=[480, 640], help="height, width")
    parser.add_argument("--batch", type=int, default=1, help="pictures")
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--device", default="auto")
    add_shared_options(parser)
    options = parser.parse_args(argv)
    if options.quick:
        options.backbone, options.size, options.repeats = "resnet18", [64, 96], 1
    return options


def _pairs(options: argparse.Namespace, device: torch.device) -> Iterator[Pair]:
    batch = street(tuple(options.size), options.batch).to(device)
    ours = our_detector(options.backbone, batch).to(device).eval()
    height, width = options.size
    # Its own resizing, which cannot be left out here, finds pictures of the size it wants.
    theirs = peers_detector(options.backbone, ours, min_size=height, max_size=width)
    theirs.to(device).eval()
    work = f"Faster R-CNN {options.backbone} inference, {options.batch} x {height}x{width}"
    settled(ours, channels_last=True)
    settled(theirs, channels_last=True)
    for precision in options.precisions:
        mine = our_forward(ours, batch, precision)
        yours = peers_forward(theirs, batch, precision)
        agreement = (
            require_same_detections(mine, yours)
            if precision == "fp32"
            else require_same_stages(ours, theirs, batch, precision)
        )
        yield Pair(
            f"{work}, {precision}",
            "same precision",
            PEER,
            mine,
            yours,
            GOALS[precision],
            agreement=agreement,
        )
    settled(theirs, channels_last=False)
    auto = resolve_precision("auto", device)
    mine, yours = our_forward(ours, batch, auto), peers_forward(theirs, batch, "fp32")
    yield Pair(
        f"{work}, ours {auto}, the peer fp32",
        "as it comes",
        PEER,
        mine,
        yours,
        AS_IT_COMES,
        agreement="layers and proposals alike",
    )
