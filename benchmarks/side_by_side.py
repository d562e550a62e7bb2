"""Peer and ours in one process: the same pictures, alternating runs, peaks of memory, agreement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import measuring
from resnet_tasks.errors import DataError
from resnet_tasks.structures import Batch, Geometry, Sample, Target, collate
from resnet_tasks.training.price import peak_bytes, seconds_in_turns

THINGS = ("car", "pedestrian", "bicyclist")
SURFACES = tuple(f"class {i}" for i in range(11))  # as many as CamVid has

Work = Callable[[], object]


def conditions(device: torch.device) -> dict[str, Any]:
    """Machine, versions, threads and date of a measurement."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found = measuring.conditions(
        "torch", "torchvision", "timm", "segmentation-models-pytorch", "albumentations"
    )
    return {**found, "device": name, "threads": torch.get_num_threads()}


def medians(
    works: Mapping[str, Work], device: torch.device, repeats: int = measuring.REPEATS
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Median seconds of each work, and all of its runs; the works take turns."""
    taken = seconds_in_turns(list(works.values()), device, repeats)
    runs = dict(zip(works, taken, strict=True))
    return {name: median(each) for name, each in runs.items()}, runs


def peaks(works: Mapping[str, Work], device: torch.device) -> dict[str, int]:
    """Greatest bytes of tensors that each work holds at once, beyond what was there before."""
    return {name: peak_bytes(work, device) for name, work in works.items()}


def street(size: tuple[int, int], pictures: int) -> Batch:
    """Pictures of noise with eight boxes and a label map each, the same at every call.

    Args:
        size: (height, width).
        pictures: How many.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size
    samples = []
    for number in range(pictures):
        corners = torch.rand(8, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        sides = torch.tensor([width, height]) * 0.25
        samples.append(
            Sample(
                torch.rand(3, *size, generator=generator),
                Geometry(size, size),
                number,
                target=Target(
                    boxes=torch.cat((corners, corners + sides), dim=1),
                    labels=torch.randint(0, len(THINGS), (8,), generator=generator),
                    ignore=torch.zeros(8, dtype=torch.bool),
                    semantic=torch.randint(0, len(SURFACES), size, generator=generator),
                ),
            )
        )
    return collate(samples)


def require_close(what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> float:
    """How far outputs are apart, relative to the greatest of the peer's.

    Args:
        what: What they are, for the message.
        ours: Of any shape.
        theirs: Likewise.
        tolerance: The most that is allowed.

    Raises:
        DataError: If they are further apart, are not finite or differ in shape.
    """
    if ours.shape != theirs.shape:
        raise DataError(f"{what}: ours is {tuple(ours.shape)}, the peer's {tuple(theirs.shape)}")
    scale = theirs.float().abs().max().clamp(min=1e-12)
    apart = float(((ours.float() - theirs.float()).abs().max() / scale).item())
    if not apart <= tolerance:
        raise DataError(
            f"{what}: ours and the peer's are {apart:.3g} of the greatest value apart; allowed is "
            f"{tolerance:g}, so that the two did not do the same work"
        )
    return apart


def of_precision(precision: str) -> float:
    """What outputs may be apart, relative to the greatest, at a precision of arithmetic.

    fp32: other orders of summing in nets of this depth. bf16: 8 bits of each of some fifty layers.
    """
    return {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}[precision]


def joined(values: Sequence[Tensor]) -> Tensor:
    """Tensors of any shapes as one row."""
    return torch.cat([each.detach().float().flatten() for each in values])
