"""Inference of detectors, ours and torchvision's in eager mode, with the same layers.

    python -m benchmarks detector_inference                # ResNet-50, 1 x 480x640
    python -m benchmarks detector_inference --heads mask_rcnn --precisions fp32

The detectors are Faster and Mask R-CNN, FCOS, and RetinaNet in both versions. For the last three,
which have one stage, the time of the parts is shown too: backbone, pyramid, towers, and the rest
(selection of candidates and non-maximum suppression).

Same precision: both channels-last, both in fp32 or both in bf16. As it comes: torchvision's model
with its defaults, in fp32 and channels-first, against ours in the precision that `auto` chooses.
The work is from images to boxes in pixels of the images, with the same number of proposals. In fp32
the boxes are compared too. In bf16, whose rounding changes the selection among many nearly equal
random boxes, the outputs of the stages are compared instead.

Mask R-CNN is measured twice: up to the masks as grids of 28 x 28 cells over their boxes, and
including the masks in the image. Ours become COCO RLE, the peer's a stack of maps of probabilities
(`paste_masks_in_image`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.harness import dense_detectors, detectors
from benchmarks.harness.detectors import PEER, make_our_forward, make_peer_forward
from benchmarks.harness.mask_detectors import (
    make_our_grids,
    make_peer_grids,
    require_same_grids,
)
from benchmarks.harness.model_pairs import (
    Goals,
    ModelComparison,
    make_model_parser,
    measure_pairs,
    parse_options,
)
from benchmarks.harness.side_by_side import BenchmarkPair, generate_street_batch
from resnet_tasks.runtime.devices import resolve_device

GOALS = {
    "faster_rcnn": Goals({"fp32": 1.2, "bf16": 1.4}, 4.0),
    "mask_rcnn": Goals({"fp32": 1.3, "bf16": 1.3}, None),
}
DENSE_GOALS = Goals({"fp32": 1.0, "bf16": 1.0}, None)
HEADS = (*detectors.DETECTORS, *dense_detectors.DETECTORS)
PASTED_MEMORY = 0.85
"""Maximum share of the peer's memory for masks in the image."""


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmark, print the numbers and return the report.

    Raises:
        DataError: If ours and torchvision's boxes do not agree.
    """
    parser = make_model_parser("detector_inference", __doc__, size=(480, 640), batch=1)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--heads", nargs="*", choices=HEADS, default=HEADS)
    options = parse_options(parser, argv, backbone="resnet18")
    device = resolve_device(options.device)
    return measure_pairs(_build_pairs(options, device), options, device)


def _build_pairs(options: argparse.Namespace, device: torch.device) -> Iterator[BenchmarkPair]:
    for head in options.heads:
        for comparison in _build_comparisons(head, options, device):
            yield from comparison.iterate_pairs(options.precisions, device)


def _build_comparisons(
    head: str, options: argparse.Namespace, device: torch.device
) -> Iterator[ModelComparison]:
    has_masks = head == "mask_rcnn"
    size = tuple(options.size)
    batch = generate_street_batch(size, options.batch, has_masks=has_masks).to(device)
    is_dense = head in dense_detectors.DETECTORS
    family: Any = dense_detectors if is_dense else detectors
    ours = family.build_our_detector(options.backbone, batch, head).eval()
    height, width = options.size
    # The peer's resizing cannot be disabled here; with these limits it keeps the image size.
    theirs = family.build_peer_detector(options.backbone, ours, min_size=height, max_size=width)
    theirs.to(device).eval()
    ours.prepare_for_inference()  # as `resnet-tasks predict` does

    def check(precision: str) -> str:
        if precision != "fp32":
            return str(family.require_same_stages(ours, theirs, batch, precision))
        if has_masks:
            return require_same_grids(ours, theirs, batch)
        works = (
            make_our_forward(ours, batch, precision),
            make_peer_forward(theirs, batch, precision),
        )
        return str(family.require_same_detections(*works))

    name = family.DETECTORS[head][0]
    work = f"{name} {options.backbone} inference, {options.batch} x {height}x{width}"
    shared: dict[str, Any] = {
        "peer": PEER,
        "ours": ours,
        "theirs": theirs,
        "check": check,
        "shared_parts": "layers" if is_dense else "layers and proposals",
        "parts": (family.list_parts(ours), family.list_parts(theirs)) if is_dense else None,
        "repeats": options.repeats,
    }
    goals = DENSE_GOALS if is_dense else GOALS[head]
    if has_masks:
        yield ModelComparison(
            work=f"{work}, masks over boxes",
            our_work=lambda precision: make_our_grids(ours, batch, precision),
            their_work=lambda precision: make_peer_grids(theirs, batch, precision),
            goals=goals,
            **shared,
        )
        goals = replace(goals, memory=PASTED_MEMORY)
    yield ModelComparison(
        work=f"{work}, masks in the image" if has_masks else work,
        our_work=lambda precision: make_our_forward(ours, batch, precision),
        their_work=lambda precision: make_peer_forward(theirs, batch, precision),
        goals=goals,
        **shared,
    )
