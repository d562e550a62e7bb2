"""Training step of detectors, ours and torchvision's, with the same layers and samples.

    python -m benchmarks detector_step                     # ResNet-18 and 50, 2 x 480x640
    python -m benchmarks detector_step --heads mask_rcnn --backbones resnet18 --precisions fp32

The detectors are Faster and Mask R-CNN, FCOS, and RetinaNet in both versions. For the last three,
which have one stage, the time of the parts is shown too: backbone, pyramid, towers, and the rest
(targets, losses, gradients and the optimizer).

Same precision: both channels-last, both in fp32 or both in bf16. As it comes: torchvision's model
with its defaults, in fp32 and channels-first, against ours in channels-last and the precision that
`auto` chooses; layers, proposals and samples are still the same. Finally a shipped recipe with its
sizes, options, optimizer and averaging, against torchvision's Faster R-CNN with the same backbone
and image size and otherwise its defaults.

A step consists of losses, gradients and an optimizer step with a learning rate of 0, so that every
step is the same. The losses are compared with all anchors and proposals sampled. The masks of the
objects are the same pixels for both: in windows for ours, in stacks of maps for the peer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.harness import dense_detectors, detectors
from benchmarks.harness.detectors import (
    PEER,
    build_our_detector,
    build_peer_detector,
    make_our_step,
    make_peer_step,
)
from benchmarks.harness.model_pairs import (
    Goals,
    ModelComparison,
    make_model_parser,
    measure_pairs,
    parse_options,
    require_same_trainable,
)
from benchmarks.harness.shipped_recipes import RecipeStep
from benchmarks.harness.side_by_side import THINGS, BenchmarkPair, generate_street_batch
from resnet_tasks.runtime.devices import resolve_device

GOALS = {
    ("faster_rcnn", "resnet18"): {"fp32": 1.35, "bf16": 1.8},
    ("faster_rcnn", "resnet50"): {"fp32": 1.2, "bf16": 1.5},
    ("mask_rcnn", "resnet18"): {"fp32": 1.3, "bf16": 1.3},
    ("mask_rcnn", "resnet50"): {"fp32": 1.3, "bf16": 1.3},
}
DENSE_GOALS = {"fp32": 1.0, "bf16": 1.0}
HEADS = (*detectors.DETECTORS, *dense_detectors.DETECTORS)
AS_IT_COMES = {"faster_rcnn": 2.8}
RECIPE_GOAL = 4.5
MEMORY, MEMORY_AS_IT_COMES = 0.85, 0.6


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmark, print the numbers and return the report.

    Raises:
        DataError: If ours and torchvision's losses do not agree.
    """
    parser = make_model_parser("detector_step", __doc__, size=(480, 640), batch=2)
    parser.add_argument("--backbones", nargs="*", default=["resnet18", "resnet50"])
    parser.add_argument("--heads", nargs="*", choices=HEADS, default=HEADS)
    parser.add_argument(
        "--object-sides",
        nargs=2,
        type=float,
        metavar=("SMALLEST", "LARGEST"),
        help="sides of the objects in pixels, on all levels of the pyramid if they differ enough; "
        "default: all have a quarter of the sides of the image",
    )
    parser.add_argument(
        "--recipe", default="medical/bccd_faster_rcnn_resnet18", help="as shipped; '' for none"
    )
    options = parse_options(parser, argv, backbones=["resnet18"])
    device = resolve_device(options.device)
    return measure_pairs(_build_pairs(options, device), options, device)


def _build_pairs(options: argparse.Namespace, device: torch.device) -> Iterator[BenchmarkPair]:
    for head in options.heads:
        for backbone in options.backbones:
            comparison = _build_comparison(head, backbone, options, device)
            yield from comparison.iterate_pairs(options.precisions, device)
    if options.recipe:
        step = RecipeStep(options.recipe, len(THINGS), device)
        reference = build_our_detector(step.backbone, step.batch)
        height, width = step.size
        theirs = build_peer_detector(step.backbone, reference, min_size=height, max_size=width)
        work = make_peer_step(theirs.to(device), step.batch, "fp32")
        yield step.pair_with(PEER, work, RECIPE_GOAL, MEMORY_AS_IT_COMES)


def _build_comparison(
    head: str, backbone: str, options: argparse.Namespace, device: torch.device
) -> ModelComparison:
    size = tuple(options.size)
    batch = generate_street_batch(
        size,
        options.batch,
        has_masks=head == "mask_rcnn",
        object_sides=options.object_sides,
    ).to(device)
    is_dense = head in dense_detectors.DETECTORS
    family: Any = dense_detectors if is_dense else detectors
    ours = family.build_our_detector(backbone, batch, head)
    # The peer's resizing would change nothing at this size and is skipped.
    theirs = family.build_peer_detector(backbone, ours, _skip_resize=True).to(device)
    require_same_trainable(ours, theirs)
    height, width = options.size
    name = family.DETECTORS[head][0]
    return ModelComparison(
        work=f"{name} {backbone} training step, {options.batch} x {height}x{width}",
        peer=PEER,
        ours=ours,
        theirs=theirs,
        our_work=lambda precision: make_our_step(ours, batch, precision),
        their_work=lambda precision: family.make_peer_step(theirs, batch, precision),
        check=lambda precision: family.require_same_losses(ours, theirs, batch, precision),
        shared_parts="layers and targets" if is_dense else "layers, proposals and samples",
        goals=Goals(
            DENSE_GOALS if is_dense else GOALS.get((head, backbone), {}),
            AS_IT_COMES.get(head),
            None if is_dense else MEMORY,
            None if is_dense else MEMORY_AS_IT_COMES,
        ),
        parts=(family.list_parts(ours), family.list_parts(theirs)) if is_dense else None,
        repeats=options.repeats,
    )
