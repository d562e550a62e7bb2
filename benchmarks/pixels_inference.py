"""Inference of U-Net and FPN, ours and segmentation_models.pytorch's in eager mode.

    python -m benchmarks pixels_inference                  # ResNet-34, 1 x 480x640

Same precision: both channels-last, both in fp32 or both in bf16. As it comes: the peer in fp32 and
channels first, against ours in the precision that `auto` chooses. From pictures to logits at full
size; in the same script the logits are compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.measuring import (
    REPEATS,
    add_shared_options,
    finish,
    markdown_table,
    with_rows,
)
from benchmarks.pixels import (
    ARCHITECTURES,
    our_forward,
    our_net,
    peers_forward,
    peers_net,
    require_same_logits,
)
from benchmarks.side_by_side import Pair, compare, conditions, settled, street
from resnet_tasks.model import default_device, resolve_precision

PEER = f"smp {version('segmentation-models-pytorch')}"
GOAL = 1.1
AS_IT_COMES = {"unet": 5.0, "fpn": 3.0}


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Measures, prints and returns the numbers.

    Raises:
        DataError: If ours and the peer's logits do not agree.
    """
    options = _options(argv)
    device = default_device(options.device)
    rows, runs = [], {}
    for architecture in options.architectures:
        found, taken = compare(_pairs(architecture, options, device), device, options.repeats)
        rows += found
        runs.update(taken)
    report = {**conditions(device), "size": options.size, "batch": options.batch, "runs": runs}
    return finish(with_rows(report, rows), markdown_table(rows), options)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks pixels_inference", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--architectures", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--backbone", default="resnet34")
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


def _pairs(architecture: str, options: argparse.Namespace, device: torch.device) -> Iterator[Pair]:
    batch = street(tuple(options.size), options.batch).to(device)
    ours = our_net(architecture, options.backbone).to(device).eval()
    theirs = peers_net(architecture, options.backbone, ours).to(device).eval()
    height, width = options.size
    name = f"{ARCHITECTURES[architecture][0]} {options.backbone}"
    work = f"{name} inference, {options.batch} x {height}x{width}"
    settled(ours, channels_last=True)
    settled(theirs, channels_last=True)
    for precision in options.precisions:
        mine = our_forward(ours, batch, precision)
        yours = peers_forward(theirs, ours, batch, precision, channels_last=True)
        yield Pair(
            f"{work}, {precision}",
            "same precision",
            PEER,
            mine,
            yours,
            GOAL,
            agreement=require_same_logits(ours, theirs, batch, precision),
        )
    settled(theirs, channels_last=False)
    auto = resolve_precision("auto", device)
    mine = our_forward(ours, batch, auto)
    yours = peers_forward(theirs, ours, batch, "fp32", channels_last=False)
    yield Pair(
        f"{work}, ours {auto}, the peer fp32",
        "as it comes",
        PEER,
        mine,
        yours,
        AS_IT_COMES[architecture],
        agreement="layers alike",
    )
