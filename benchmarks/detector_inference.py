"""Inference of Faster R-CNN, ours and torchvision's in eager mode, with the same layers.

    python -m benchmarks detector_inference                # ResNet-50, 1 x 480x640

Same precision: both channels-last, both in fp32 or both in bf16. As it comes: torchvision's model
with its defaults, in fp32 and channels-first, against ours in the precision that `auto` chooses.
The work is from images to boxes in pixels of the images, with the same number of proposals. In fp32
the boxes are compared too. In bf16, whose rounding changes the selection among many nearly equal
random boxes, the outputs of the stages are compared instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.harness.detectors import (
    PEER,
    build_our_detector,
    build_peer_detector,
    make_our_forward,
    make_peer_forward,
    require_same_detections,
    require_same_stages,
)
from benchmarks.harness.model_pairs import (
    Goals,
    ModelComparison,
    make_model_parser,
    measure_pairs,
    parse_options,
)
from benchmarks.harness.side_by_side import generate_street_batch
from resnet_tasks.runtime.devices import resolve_device

GOALS = Goals({"fp32": 1.2, "bf16": 1.4}, 4.0)


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmark, print the numbers and return the report.

    Raises:
        DataError: If ours and torchvision's boxes do not agree.
    """
    parser = make_model_parser("detector_inference", __doc__, size=(480, 640), batch=1)
    parser.add_argument("--backbone", default="resnet50")
    options = parse_options(parser, argv, backbone="resnet18")
    device = resolve_device(options.device)
    pairs = _build_comparison(options, device).iterate_pairs(options.precisions, device)
    return measure_pairs(pairs, options, device)


def _build_comparison(options: argparse.Namespace, device: torch.device) -> ModelComparison:
    batch = generate_street_batch(tuple(options.size), options.batch).to(device)
    ours = build_our_detector(options.backbone, batch).eval()
    height, width = options.size
    # The peer's resizing cannot be disabled here; with these limits it keeps the image size.
    theirs = build_peer_detector(options.backbone, ours, min_size=height, max_size=width)
    theirs.to(device).eval()
    ours.prepare_for_inference()  # as `resnet-tasks predict` does

    def check(precision: str) -> str:
        if precision != "fp32":
            return require_same_stages(ours, theirs, batch, precision)
        works = (
            make_our_forward(ours, batch, precision),
            make_peer_forward(theirs, batch, precision),
        )
        return require_same_detections(*works)

    return ModelComparison(
        work=f"Faster R-CNN {options.backbone} inference, {options.batch} x {height}x{width}",
        peer=PEER,
        ours=ours,
        theirs=theirs,
        our_work=lambda precision: make_our_forward(ours, batch, precision),
        their_work=lambda precision: make_peer_forward(theirs, batch, precision),
        check=check,
        shared_parts="layers and proposals",
        goals=GOALS,
    )
