"""Training step of semantic nets, ours and segmentation_models.pytorch's in a plain loop.

    python -m benchmarks segmentation_step                 # ResNet-34, 4 x 384x480
    python -m benchmarks segmentation_step --heads pan upernet --recipe ''

The nets are U-Net and FPN, whose decoders are ours, and nine nets whose decoders are modules of the
peer. For the nine, the time of the parts is shown too: backbone, decoder, and the rest (classifier,
upsampling, loss, gradients and the optimizer).

Same precision: both channels-last, both in fp32 or both in bf16. As it comes: the peer in fp32 and
channels-first, against ours in the precision that `auto` chooses. Finally a shipped recipe with its
sizes, options, optimizer and averaging, against the peer's U-Net with the same backbone, image size
and number of classes.

A step consists of loss (cross entropy), gradients and an optimizer step with a learning rate of 0,
so that every step is the same. The logits are compared in evaluation mode, because both nets draw
dropout at random in training mode.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.harness.model_pairs import (
    Goals,
    ModelComparison,
    make_model_parser,
    measure_pairs,
    parse_options,
    require_same_trainable,
)
from benchmarks.harness.segmenters import (
    ARCHITECTURES,
    PEER,
    build_our_net,
    build_peer_net,
    list_parts,
    make_our_step,
    make_peer_step,
    require_same_logits,
)
from benchmarks.harness.shipped_recipes import RecipeStep
from benchmarks.harness.side_by_side import BenchmarkPair, generate_street_batch
from resnet_tasks.runtime.devices import resolve_device

GOALS = {"fp32": 1.0, "bf16": 1.0}
AS_IT_COMES = {"unet": 4.0, "fpn": 3.0}
MEMORY, MEMORY_AS_IT_COMES = 0.85, 0.6
SMALLEST = [128, 160]
"""Size of the images with `--quick`; the peer's PAN needs 8 cells per side at stride 16."""


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmark, print the numbers and return the report.

    Raises:
        DataError: If ours and the peer's logits do not agree.
    """
    parser = make_model_parser("segmentation_step", __doc__, size=(384, 480), batch=4)
    names = list(ARCHITECTURES)
    parser.add_argument("--heads", nargs="*", choices=names, default=names)
    parser.add_argument("--backbone", default="resnet34")
    parser.add_argument(
        "--recipe", default="medical/dsb2018_unet_resnet34", help="as shipped; '' for none"
    )
    options = parse_options(parser, argv, backbone="resnet18", batch=2, size=SMALLEST)
    device = resolve_device(options.device)
    return measure_pairs(_build_pairs(options, device), options, device)


def _build_pairs(options: argparse.Namespace, device: torch.device) -> Iterator[BenchmarkPair]:
    for head in options.heads:
        comparison = _build_comparison(head, options, device)
        yield from comparison.iterate_pairs(options.precisions, device)
    if options.recipe:
        step = RecipeStep(options.recipe, 1, device)
        plain = build_our_net("unet", step.backbone, step.classes).to(device)
        theirs = build_peer_net("unet", step.backbone, plain).to(device)
        work = make_peer_step(theirs, plain, step.batch, "fp32")
        yield step.pair_with(PEER, work, AS_IT_COMES["unet"], MEMORY_AS_IT_COMES)


def _build_comparison(
    head: str, options: argparse.Namespace, device: torch.device
) -> ModelComparison:
    batch = generate_street_batch(tuple(options.size), options.batch).to(device)
    ours = build_our_net(head, options.backbone).to(device)
    theirs = build_peer_net(head, options.backbone, ours).to(device)
    require_same_trainable(ours, theirs)
    height, width = options.size
    name = f"{ARCHITECTURES[head].name} {options.backbone}"
    return ModelComparison(
        work=f"{name} training step, {options.batch} x {height}x{width}",
        peer=PEER,
        ours=ours,
        theirs=theirs,
        our_work=lambda precision: make_our_step(ours, batch, precision),
        their_work=lambda precision: make_peer_step(theirs, ours, batch, precision),
        check=lambda precision: require_same_logits(ours, theirs, batch, precision),
        shared_parts="layers",
        goals=Goals(GOALS, AS_IT_COMES[head], MEMORY, MEMORY_AS_IT_COMES)
        if head in AS_IT_COMES
        else Goals(GOALS, None),
        parts=None if head in AS_IT_COMES else (list_parts(ours), list_parts(theirs)),
        repeats=options.repeats,
    )
