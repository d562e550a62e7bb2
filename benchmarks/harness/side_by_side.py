"""Peer and ours in one process: the same images, alternating runs, peaks of memory, agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.harness import measurement as measuring
from resnet_tasks.errors import DataError
from resnet_tasks.runs.model_cost import measure_peak_bytes, time_interleaved
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Batch, Sample, collate
from resnet_tasks.structures.targets import Target

THINGS = ("car", "pedestrian", "bicyclist")
SURFACES = tuple(f"class {i}" for i in range(11))  # as many as CamVid has

Work = Callable[[], object]


def collect_environment(device: torch.device) -> dict[str, Any]:
    """Machine, versions, threads and date of a measurement."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    environment = measuring.collect_environment(
        "torch", "torchvision", "timm", "segmentation-models-pytorch", "albumentations"
    )
    return {**environment, "device": name, "threads": torch.get_num_threads()}


def measure_medians(
    works: Mapping[str, Work], device: torch.device, repeats: int = measuring.REPEATS
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Median seconds of each work, and all of its runs; the works take turns."""
    seconds = time_interleaved(list(works.values()), device, repeats)
    runs = dict(zip(works, seconds, strict=True))
    return {name: median(run_seconds) for name, run_seconds in runs.items()}, runs


def measure_peaks(works: Mapping[str, Work], device: torch.device) -> dict[str, int]:
    """Greatest bytes of tensors that each work holds at once, beyond what was there before."""
    return {name: measure_peak_bytes(work, device) for name, work in works.items()}


def generate_street_batch(
    size: tuple[int, int],
    num_images: int,
    *,
    things: int = len(THINGS),
    surfaces: int = len(SURFACES),
) -> Batch:
    """Images of noise with eight boxes and a label map each, the same at every call.

    Args:
        size: (height, width).
        num_images: How many.
        things: Classes of the boxes.
        surfaces: Classes of the pixels.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size
    samples = []
    for number in range(num_images):
        corners = torch.rand(8, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        sides = torch.tensor([width, height]) * 0.25
        samples.append(
            Sample(
                torch.rand(3, *size, generator=generator),
                Geometry(size, size),
                number,
                target=Target(
                    boxes=torch.cat((corners, corners + sides), dim=1),
                    labels=torch.randint(0, things, (8,), generator=generator),
                    ignore=torch.zeros(8, dtype=torch.bool),
                    semantic=torch.randint(0, surfaces, size, generator=generator),
                ),
            )
        )
    return collate(samples)


def require_close(description: str, ours: Tensor, theirs: Tensor, tolerance: float) -> float:
    """How far outputs are apart: the length of the difference over that of the peer's.

    Args:
        description: What they are, for the message.
        ours: Of any shape.
        theirs: Likewise.
        tolerance: The most that is allowed.

    Raises:
        DataError: If they are further apart, are not finite or differ in shape.
    """
    if ours.shape != theirs.shape:
        raise DataError(
            f"{description}: ours is {tuple(ours.shape)}, the peer's {tuple(theirs.shape)}"
        )
    our_output, peer_output = ours.double(), theirs.double()
    difference = float((our_output - peer_output).norm() / peer_output.norm().clamp(min=1e-12))
    if not difference <= tolerance:
        raise DataError(
            f"{description}: ours and the peer's are {difference:.3g} of their length apart; "
            "allowed is "
            f"{tolerance:g}, so that the two did not do the same work"
        )
    return difference


def get_tolerance(precision: str) -> float:
    """What outputs may be apart, relative to their length, at a precision of arithmetic.

    fp32: other orders of summing in nets of this depth. bf16: 8 bits of each of some fifty
    layers, in both.
    """
    return {"fp32": 1e-3, "bf16": 0.1, "fp16": 1e-2}[precision]


def flatten_tensors(values: Sequence[Tensor]) -> Tensor:
    """Tensors of any shapes as one row."""
    return torch.cat([tensor.detach().float().flatten() for tensor in values])


@dataclass(frozen=True)
class BenchmarkPair:
    """The peer and ours at the same work.

    Attributes:
        work: What is done, at which size and precision.
        kind: As in `Row`.
        peer: Its name.
        ours: Does it once.
        theirs: Does it once.
        goal: Times faster, at least.
        memory_goal: Share of the peer's memory, at most; None: memory is not measured.
        agreement: How near the results are.
        metric: Of the recipe's model.
    """

    work: str
    kind: measuring.Kind
    peer: str
    ours: Work
    theirs: Work
    goal: float | None
    memory_goal: float | None = None
    agreement: str = ""
    metric: str = ""


def compare_pairs(
    pairs: Iterable[BenchmarkPair], device: torch.device, repeats: int
) -> tuple[list[measuring.BenchmarkRow], dict[str, Any]]:
    """The rows of all pairs, and every run; the two of a pair take turns.

    Args:
        pairs: Measured one after the other, before the next is asked for.
        device: Where they work.
        repeats: Timed runs of each.
    """
    rows, runs = [], {}
    for pair in pairs:
        works = {"ours": pair.ours, "theirs": pair.theirs}
        seconds, pair_runs = measure_medians(works, device, repeats)
        runs[f"{pair.work}; {pair.kind}"] = pair_runs
        rows.append(_build_row(pair, seconds, "s"))
        if pair.memory_goal is not None:
            rows.append(_build_row(pair, measure_peaks(works, device), "bytes"))
        print(f"{pair.work}: measured", flush=True)
    return rows, runs


def _build_row(
    pair: BenchmarkPair, values: Mapping[str, float], unit: Literal["s", "bytes"]
) -> measuring.BenchmarkRow:
    is_time = unit == "s"
    return measuring.BenchmarkRow(
        pair.work if is_time else f"{pair.work}: memory",
        pair.kind,
        pair.peer,
        values["ours"],
        values["theirs"],
        unit,
        pair.goal if is_time else pair.memory_goal,
        pair.agreement if is_time else "",
        pair.metric,
    )
