"""Training step of Faster R-CNN, ours and torchvision's: same layers, proposals and samples.

    python -m benchmarks detector_step                     # ResNet-18 and 50, 2 x 480x640
    python -m benchmarks detector_step --backbones resnet18 --precisions fp32

Same precision: both channels-last, both in fp32 or both in bf16. As it comes: torchvision's model
as it is built, fp32 and channels first, against ours in the precision that `auto` chooses and
channels-last; layers, proposals and samples are still the same. Then a recipe as it is shipped,
with its own sizes, options, optimizer and averaging, against torchvision's Faster R-CNN on the same
backbone, all other things at its defaults, at the recipe's picture size.

A step is losses, gradients and an optimizer step of rate 0: every step does the same. In the same
script losses are compared where all anchors and proposals are sampled.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.detectors import (
    our_detector,
    our_step,
    peers_detector,
    peers_step,
    require_same_losses,
)
from benchmarks.measuring import (
    REPEATS,
    add_shared_options,
    finish,
    markdown_table,
    with_rows,
)
from benchmarks.shipped_recipes import RecipeStep
from benchmarks.side_by_side import THINGS, Pair, compare, conditions, settled, street
from resnet_tasks.model import default_device, resolve_precision

PEER = f"torchvision {version('torchvision')}"
GOALS = {
    ("resnet18", "fp32"): 1.35,
    ("resnet18", "bf16"): 1.8,
    ("resnet50", "fp32"): 1.2,
    ("resnet50", "bf16"): 1.5,
}
AS_IT_COMES, RECIPE_GOAL = 2.8, 4.5
MEMORY, MEMORY_AS_IT_COMES = 0.85, 0.6


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Measures, prints and returns the numbers.

    Raises:
        DataError: If ours and torchvision's losses do not agree.
    """
    options = _options(argv)
    device = default_device(options.device)
    rows, runs = [], {}
    for name in options.backbones:
        found, taken = compare(_pairs(name, options, device), device, options.repeats)
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks detector_step", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--backbones", nargs="*", default=["resnet18", "resnet50"])
    parser.add_argument("--size", nargs=2, type=int, default=[480, 640], help="height, width")
    parser.add_argument("--batch", type=int, default=2, help="pictures")
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument(
        "--recipe", default="medical/bccd_faster_rcnn_resnet18", help="as shipped; '' for none"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--device", default="auto")
    add_shared_options(parser)
    options = parser.parse_args(argv)
    if options.quick:
        options.backbones, options.size, options.batch = ["resnet18"], [64, 96], 2
        options.repeats = 1
    return options


def _pairs(backbone: str, options: argparse.Namespace, device: torch.device) -> Iterator[Pair]:
    """Same precision, one after the other; then as it comes."""
    batch = street(tuple(options.size), options.batch).to(device)
    ours = our_detector(backbone, batch).to(device)
    # At this size its own resizing changes nothing and is left out.
    theirs = peers_detector(backbone, ours, _skip_resize=True).to(device)
    height, width = options.size
    work = f"Faster R-CNN {backbone} training step, {options.batch} x {height}x{width}"
    settled(ours, channels_last=True)
    settled(theirs, channels_last=True)
    for precision in options.precisions:
        yield Pair(
            f"{work}, {precision}",
            "same precision",
            PEER,
            our_step(ours, batch, precision),
            peers_step(theirs, batch, precision),
            GOALS.get((backbone, precision)),
            MEMORY,
            require_same_losses(ours, theirs, batch, precision),
        )
    settled(theirs, channels_last=False)
    auto = resolve_precision("auto", device)
    yield Pair(
        f"{work}, ours {auto}, the peer fp32",
        "as it comes",
        PEER,
        our_step(ours, batch, auto),
        peers_step(theirs, batch, "fp32"),
        AS_IT_COMES,
        MEMORY_AS_IT_COMES,
        "layers, proposals and samples alike",
    )


def _recipe_pair(name: str, folder: Path) -> Pair:
    """A recipe as it is shipped against torchvision's defaults on its backbone and pictures."""
    step = RecipeStep(name, len(THINGS), folder)
    height, width = step.size
    like = our_detector(step.backbone, step.batch)
    theirs = peers_detector(step.backbone, like, min_size=height, max_size=width)
    return Pair(
        f"{name}, training step, {len(step.batch)} x {height}x{width}",
        "as it comes",
        f"{PEER}'s defaults",
        step,
        peers_step(theirs.to(step.work.device), step.batch, "fp32"),
        RECIPE_GOAL,
        MEMORY_AS_IT_COMES,
        "",
        step.metric,
    )
