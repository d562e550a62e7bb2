"""The peer's work and ours in one process: same images, alternating runs, peak memory."""

from __future__ import annotations

import math
import time
import tracemalloc
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
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.samples import Batch, Sample, collate
from resnet_tasks.structures.targets import Target

THINGS = ("car", "pedestrian", "bicyclist")
SURFACES = tuple(f"class {i}" for i in range(11))  # the number of classes of CamVid

Work = Callable[[], object]


def collect_environment(device: torch.device) -> dict[str, Any]:
    """Collect the machine, versions, threads and date of a measurement."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    environment = measuring.collect_environment(
        "torch", "torchvision", "timm", "segmentation-models-pytorch", "albumentations"
    )
    return {**environment, "device": name, "threads": torch.get_num_threads()}


def get_clock(name: measuring.Clock, device: torch.device) -> Callable[[], float]:
    """Return the function that reads a clock, in seconds.

    Args:
        name: `wall`, or `cpu` for the CPU seconds of all threads of this process, which hardly
            depend on other programs.
        device: Device of the works.

    Raises:
        DataError: If the CPU seconds do not measure the work of the device.
    """
    if name == "wall":
        return time.perf_counter
    if device.type != "cpu":
        raise DataError(
            f"--clock cpu counts the seconds of the CPU, but the device is {device.type}; use "
            "--clock wall"
        )
    return time.process_time


def measure_medians(
    works: Mapping[str, Work],
    device: torch.device,
    repeats: int = measuring.REPEATS,
    clock: measuring.Clock = "wall",
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the median seconds of each work, and the seconds of all runs; the works alternate."""
    seconds = time_interleaved(list(works.values()), device, repeats, get_clock(clock, device))
    runs = dict(zip(works, seconds, strict=True))
    return {name: median(run_seconds) for name, run_seconds in runs.items()}, runs


def measure_peaks(works: Mapping[str, Work], device: torch.device) -> dict[str, int]:
    """Return the peak bytes of each work, in addition to those that existed before.

    The peak of tensors and that of Python's and NumPy's memory are added, which is an upper bound
    where they occur at different times.
    """
    return {
        name: measure_peak_bytes(work, device) + _measure_array_peak(work)
        for name, work in works.items()
    }


def _measure_array_peak(work: Work) -> int:
    """Return the peak of the bytes that a work allocates through Python, arrays included."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def generate_street_batch(
    size: tuple[int, int],
    num_images: int,
    *,
    things: int = len(THINGS),
    surfaces: int = len(SURFACES),
    has_masks: bool = False,
    object_sides: Sequence[float] | None = None,
) -> Batch:
    """Generate images of noise with eight boxes and a label map each, the same in every call.

    Args:
        size: (height, width) of the images.
        num_images: Number of images.
        things: Number of classes of the boxes.
        surfaces: Number of classes of the pixels.
        has_masks: Whether the objects have masks: the ellipses that touch the sides of their boxes.
        object_sides: Side of the smallest and of the largest object of an image, in pixels; the
            eight objects are squares in geometric steps. None: all have a quarter of the sides of
            the image.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size
    samples = []
    for number in range(num_images):
        places = torch.rand(8, 2, generator=generator)
        corners = places * torch.tensor([width, height]) * 0.7
        sides = torch.tensor([width, height]) * 0.25
        if object_sides is not None:
            smallest, largest = object_sides
            steps = torch.linspace(math.log(smallest), math.log(min(largest, *size)), 8)
            sides = steps.exp()[:, None].expand(-1, 2)
            corners = places * (torch.tensor([width, height]) - sides)
        boxes = torch.cat((corners, corners + sides), dim=1)
        samples.append(
            Sample(
                torch.rand(3, *size, generator=generator),
                Geometry(size, size),
                number,
                target=Target(
                    boxes=boxes,
                    labels=torch.randint(0, things, (8,), generator=generator),
                    ignore=torch.zeros(8, dtype=torch.bool),
                    masks=_draw_ellipses(boxes) if has_masks else None,
                    semantic=torch.randint(0, surfaces, size, generator=generator),
                ),
            )
        )
    return collate(samples)


def _draw_ellipses(boxes: Tensor) -> InstanceMasks:
    """Draw the ellipse that touches the sides of each box, `(N, 4)` xyxy inside the image."""
    bitmaps, corners = [], []
    for x1, y1, x2, y2 in boxes.tolist():
        left, top = math.floor(x1), math.floor(y1)
        x = (torch.arange(left, math.ceil(x2)) + 0.5 - (x1 + x2) / 2) / ((x2 - x1) / 2)
        y = (torch.arange(top, math.ceil(y2)) + 0.5 - (y1 + y2) / 2) / ((y2 - y1) / 2)
        bitmaps.append(y[:, None] ** 2 + x[None] ** 2 <= 1)
        corners.append((left, top))
    return InstanceMasks.from_bitmaps(bitmaps, corners)


def require_close(description: str, ours: Tensor, theirs: Tensor, tolerance: float) -> float:
    """Return the norm of the difference of two outputs, relative to the norm of the peer's.

    Args:
        description: Name of the outputs, for the error message.
        ours: Our output, of any shape.
        theirs: The peer's output, of the same shape.
        tolerance: Maximum allowed relative difference.

    Raises:
        DataError: If the difference is greater, or the outputs are not finite or differ in shape.
    """
    if ours.shape != theirs.shape:
        raise DataError(
            f"{description}: ours is {tuple(ours.shape)}, the peer's {tuple(theirs.shape)}"
        )
    our_output, peer_output = ours.double(), theirs.double()
    difference = float((our_output - peer_output).norm() / peer_output.norm().clamp(min=1e-12))
    # "not <=" instead of ">", so that NaN is refused.
    if not difference <= tolerance:
        raise DataError(
            f"{description}: the relative difference between ours and the peer's is "
            f"{difference:.3g}, more than the allowed {tolerance:g}, so the two did not do the "
            "same work"
        )
    return difference


def get_tolerance(precision: str) -> float:
    """Return the allowed relative difference of outputs at a precision.

    In fp32 it allows for other orders of summation in nets of this depth. In bf16 it allows for 8
    bits of precision in each of some fifty layers, in both nets.
    """
    return {"fp32": 1e-3, "bf16": 0.1, "fp16": 1e-2}[precision]


def flatten_tensors(values: Sequence[Tensor]) -> Tensor:
    """Flatten tensors of any shapes into one vector."""
    return torch.cat([tensor.detach().float().flatten() for tensor in values])


@dataclass(frozen=True)
class BenchmarkPair:
    """Our work and the same work of the peer.

    Attributes:
        work: Description of the work with its size and precision.
        kind: Kind of the comparison, see `BenchmarkRow`.
        peer: Name of the peer.
        ours: Callable that does our work once.
        theirs: Callable that does the peer's work once.
        goal: Minimum speedup.
        memory_goal: Maximum share of the peer's memory; None if memory is not measured.
        agreement: Description of the difference between the results.
        metric: Metric that the recipe's model reached.
        measure_parts: Function that measures and describes the time of both by part with a clock,
            called after the pair is measured; None for works that are not divided.
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
    measure_parts: Callable[[measuring.Clock], tuple[str, dict[str, Any]]] | None = None


def compare_pairs(
    pairs: Iterable[BenchmarkPair],
    device: torch.device,
    repeats: int,
    clock: measuring.Clock = "wall",
) -> tuple[list[measuring.BenchmarkRow], dict[str, Any]]:
    """Measure all pairs; return their rows and the seconds of every run.

    The two works of a pair alternate.

    Args:
        pairs: Pairs to measure, each before the next one is requested.
        device: Device of the works.
        repeats: Timed runs of each work.
        clock: Clock of the seconds, see `get_clock`.
    """
    rows, runs = [], {}
    for pair in pairs:
        works = {"ours": pair.ours, "theirs": pair.theirs}
        seconds, pair_runs = measure_medians(works, device, repeats, clock)
        runs[f"{pair.work}; {pair.kind}"] = pair_runs
        rows.append(_build_row(pair, seconds, "s"))
        if pair.memory_goal is not None:
            rows.append(_build_row(pair, measure_peaks(works, device), "bytes"))
        print(f"{pair.work}: measured", flush=True)
        if pair.measure_parts is not None:
            description, parts = pair.measure_parts(clock)
            runs[f"{pair.work}; {pair.kind}; parts"] = parts
            print(f"  {description}", flush=True)
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
