"""Inference of semantic nets, ours and segmentation_models.pytorch's in eager mode.

    python -m benchmarks segmentation_inference            # ResNet-34, 1 x 480x640
    python -m benchmarks segmentation_inference --heads pan upernet --clock cpu

The nets are those of `segmentation_step`. For the nine whose decoders are modules of the peer, the
time of the parts is shown too: backbone, decoder, and the rest (classifier and upsampling).

Same precision: both channels-last, both in fp32 or both in bf16. As it comes: the peer in fp32 and
channels-first, against ours in the precision that `auto` chooses. The work is from images to logits
at full size. The logits are compared too.
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
)
from benchmarks.harness.segmenters import (
    ARCHITECTURES,
    PEER,
    build_our_net,
    build_peer_net,
    list_parts,
    make_our_forward,
    make_peer_forward,
    require_same_logits,
)
from benchmarks.harness.side_by_side import BenchmarkPair, generate_street_batch
from benchmarks.segmentation_step import SMALLEST
from resnet_tasks.runtime.devices import resolve_device

GOALS = {"fp32": 1.1, "bf16": 1.1}
DECODER_GOALS = {"fp32": 1.0, "bf16": 1.0}
AS_IT_COMES = {"unet": 5.0, "fpn": 3.0}


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmark, print the numbers and return the report.

    Raises:
        DataError: If ours and the peer's logits do not agree.
    """
    parser = make_model_parser("segmentation_inference", __doc__, size=(480, 640), batch=1)
    names = list(ARCHITECTURES)
    parser.add_argument("--heads", nargs="*", choices=names, default=names)
    parser.add_argument("--backbone", default="resnet34")
    options = parse_options(parser, argv, backbone="resnet18", size=SMALLEST)
    device = resolve_device(options.device)
    return measure_pairs(_build_pairs(options, device), options, device)


def _build_pairs(options: argparse.Namespace, device: torch.device) -> Iterator[BenchmarkPair]:
    for head in options.heads:
        comparison = _build_comparison(head, options, device)
        yield from comparison.iterate_pairs(options.precisions, device)


def _build_comparison(
    head: str, options: argparse.Namespace, device: torch.device
) -> ModelComparison:
    batch = generate_street_batch(tuple(options.size), options.batch).to(device)
    ours = build_our_net(head, options.backbone).to(device).eval()
    theirs = build_peer_net(head, options.backbone, ours).to(device).eval()
    ours.prepare_for_inference()  # as `resnet-tasks predict` does
    height, width = options.size
    is_fast = head in AS_IT_COMES
    name = f"{ARCHITECTURES[head].name} {options.backbone}"
    return ModelComparison(
        work=f"{name} inference, {options.batch} x {height}x{width}",
        peer=PEER,
        ours=ours,
        theirs=theirs,
        our_work=lambda precision: make_our_forward(ours, batch, precision),
        their_work=lambda precision: make_peer_forward(theirs, ours, batch, precision),
        check=lambda precision: require_same_logits(ours, theirs, batch, precision),
        shared_parts="layers",
        goals=Goals(GOALS if is_fast else DECODER_GOALS, AS_IT_COMES.get(head)),
        parts=None if is_fast else (list_parts(ours), list_parts(theirs)),
        repeats=options.repeats,
    )
