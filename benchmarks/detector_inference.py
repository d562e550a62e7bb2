"""Inference of Faster R-CNN, ours and torchvision's in eager mode: same layers and proposals.

    python -m benchmarks detector_inference                # ResNet-50, 1 x 480x640

Same precision: both channels-last, both in fp32 or both in bf16. As it comes: torchvision's model
as it is built, fp32 and channels first, against ours in the precision that `auto` chooses. From
pictures to boxes in pixels of the pictures. In the same script the boxes are compared in fp32; in
bf16, whose rounding changes which of many nearly equal random boxes come out, the stages are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.detectors import (
    PEER,
    our_detector,
    our_forward,
    peers_detector,
    peers_forward,
    require_same_detections,
    require_same_stages,
)
from benchmarks.model_pairs import Contest, Goals, measure, model_parser, parsed
from benchmarks.side_by_side import street
from resnet_tasks.model import default_device

GOALS = Goals({"fp32": 1.2, "bf16": 1.4}, 4.0)


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Measures, prints and returns the numbers.

    Raises:
        DataError: If ours and torchvision's boxes do not agree.
    """
    parser = model_parser("detector_inference", __doc__, size=(480, 640), batch=1)
    parser.add_argument("--backbone", default="resnet50")
    options = parsed(parser, argv, backbone="resnet18")
    device = default_device(options.device)
    pairs = _contest(options, device).pairs(options.precisions, device)
    return measure(pairs, options, device)


def _contest(options: argparse.Namespace, device: torch.device) -> Contest:
    batch = street(tuple(options.size), options.batch).to(device)
    ours = our_detector(options.backbone, batch).eval()
    height, width = options.size
    # Its own resizing, which cannot be left out here, finds pictures of the size it wants.
    theirs = peers_detector(options.backbone, ours, min_size=height, max_size=width)
    theirs.to(device).eval()
    ours.ready_to_predict()  # as `resnet-tasks predict` does

    def check(precision: str) -> str:
        if precision != "fp32":
            return require_same_stages(ours, theirs, batch, precision)
        works = our_forward(ours, batch, precision), peers_forward(theirs, batch, precision)
        return require_same_detections(*works)

    return Contest(
        work=f"Faster R-CNN {options.backbone} inference, {options.batch} x {height}x{width}",
        peer=PEER,
        ours=ours,
        theirs=theirs,
        our_work=lambda precision: our_forward(ours, batch, precision),
        their_work=lambda precision: peers_forward(theirs, batch, precision),
        check=check,
        alike="layers and proposals",
        goals=GOALS,
    )
