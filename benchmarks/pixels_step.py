"""Training step of U-Net and FPN, ours and segmentation_models.pytorch's in a plain loop.

    python -m benchmarks pixels_step                       # ResNet-34, 4 x 384x480

Same precision: both channels-last, both in fp32 or both in bf16. As it comes: the peer in fp32 and
channels first, against ours in the precision that `auto` chooses. Then a recipe as it is shipped,
with its own sizes, options, optimizer and averaging, against the peer's U-Net on the same backbone
at the recipe's picture size.

A step is loss (cross entropy), gradients and an optimizer step of rate 0: every step does the same.
In the same script the logits are compared, in evaluation mode: FPN's dropout is drawn by both.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
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
    our_net,
    our_step,
    peers_net,
    peers_step,
    require_same_logits,
)
from benchmarks.shipped_recipes import RecipeStep
from benchmarks.side_by_side import Pair, compare, conditions, settled, street
from resnet_tasks.model import default_device, resolve_precision

PEER = f"smp {version('segmentation-models-pytorch')}"
AS_IT_COMES = {"unet": 4.0, "fpn": 3.0}
MEMORY, MEMORY_AS_IT_COMES = 0.85, 0.6


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
    if options.recipe:
        with tempfile.TemporaryDirectory() as folder:
            pair = _recipe_pair(options.recipe, Path(folder))
            found, taken = compare([pair], device, options.repeats)
        rows += found
        runs.update(taken)
    report = {**conditions(device), "size": options.size, "batch": options.batch, "runs": runs}
    return finish(with_rows(report, rows), markdown_table(rows), options)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks pixels_step", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--architectures", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--backbone", default="resnet34")
    parser.add_argument("--size", nargs=2, type=int, default=[384, 480], help="height, width")
    parser.add_argument("--batch", type=int, default=4, help="pictures")
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument(
        "--recipe", default="medical/dsb2018_unet_resnet34", help="as shipped; '' for none"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--device", default="auto")
    add_shared_options(parser)
    options = parser.parse_args(argv)
    if options.quick:
        options.backbone, options.size, options.batch = "resnet18", [64, 96], 2
        options.repeats = 1
    return options


def _pairs(architecture: str, options: argparse.Namespace, device: torch.device) -> Iterator[Pair]:
    batch = street(tuple(options.size), options.batch).to(device)
    ours = our_net(architecture, options.backbone).to(device)
    theirs = peers_net(architecture, options.backbone, ours).to(device)
    height, width = options.size
    name = f"{ARCHITECTURES[architecture][0]} {options.backbone}"
    work = f"{name} training step, {options.batch} x {height}x{width}"
    settled(ours, channels_last=True)
    auto = resolve_precision("auto", device)
    for precision in options.precisions:
        settled(theirs, channels_last=True)
        yield Pair(
            f"{work}, {precision}",
            "same precision",
            PEER,
            our_step(ours, batch, precision),
            peers_step(theirs, ours, batch, precision, channels_last=True),
            1.0,
            MEMORY,
            require_same_logits(ours, theirs, batch, precision),
        )
    settled(theirs, channels_last=False)
    yield Pair(
        f"{work}, ours {auto}, the peer fp32",
        "as it comes",
        PEER,
        our_step(ours, batch, auto),
        peers_step(theirs, ours, batch, "fp32", channels_last=False),
        AS_IT_COMES[architecture],
        MEMORY_AS_IT_COMES,
        "layers alike",
    )


def _recipe_pair(name: str, folder: Path) -> Pair:
    """A recipe as it is shipped against the peer's U-Net on its backbone and pictures."""
    step = RecipeStep(name, 1, folder)
    height, width = step.size
    plain = our_net("unet", step.backbone).to(step.work.device)
    theirs = peers_net("unet", step.backbone, plain).to(step.work.device)
    return Pair(
        f"{name}, training step, {len(step.batch)} x {height}x{width}",
        "as it comes",
        f"{PEER}'s defaults",
        step,
        peers_step(theirs, plain, step.batch, "fp32", channels_last=False),
        AS_IT_COMES["unet"],
        MEMORY_AS_IT_COMES,
        "",
        step.metric,
    )
