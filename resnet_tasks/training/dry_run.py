"""What a run will take: parameters, memory and time, measured on its first two steps."""

from __future__ import annotations

import sys
import time
from statistics import median

import psutil
import torch
from rich.table import Table

from resnet_tasks.training.rehearsal import Rehearsal

if sys.platform != "win32":
    import resource


def dry_run_table(work: Rehearsal, title: str, pictures_to_judge: int) -> Table:
    """Takes two real steps and tells what they cost; writes nothing.

    Args:
        work: Not begun.
        title: Of the table.
        pictures_to_judge: In the val split.

    Raises:
        MemoryLimitError: If memory does not suffice.
    """
    device, precision = work.trainee.device, work.trainee.precision
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = seconds_of_steps(work, 2)
    each = median(seconds[1:] or seconds)  # the first one also warms up
    options, model, steps = work.options, work.trainee.plain_model, work.batches.length
    epoch = each * steps.updates_per_epoch
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    height, width = work.picture_size
    rows = {
        "parameters": f"{total / 1e6:.2f} M, {trained / 1e6:.2f} M of them trained",
        "pictures": (
            f"{options.batch_size} of {height} x {width} pixels at a time (height x width), "
            f"{options.accumulation} time(s) a step"
        ),
        "device": f"{device}, {precision}, {work.batches.workers} loader process(es)",
        "memory": peak_memory(device),
        "time per step": f"{each:.2f} s (the first: {seconds[0]:.2f} s)",
        "time per epoch": f"{_clock(epoch)} ({steps.updates_per_epoch} steps), evaluation apart",
        "time of the run": f"{_clock(epoch * options.epochs)} ({options.epochs} epochs)",
        "evaluation": f"{pictures_to_judge} pictures each time",
    }
    table = Table(title=title, show_header=False)
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def seconds_of_steps(work: Rehearsal, steps: int) -> list[float]:
    """Seconds of each of a run's first steps, the loading of its pictures included.

    Args:
        work: Not begun.
        steps: How many; fewer where an epoch has fewer.

    Raises:
        MemoryLimitError: If memory does not suffice.
    """
    taken: list[float] = []
    with work.begun():
        started = time.monotonic()
        for group in work.batches.groups(0, stop=steps * work.options.accumulation):
            work.learn(group.batches)
            work.synchronize()
            taken.append(time.monotonic() - started)
            started = time.monotonic()
    return taken


def peak_memory(device: torch.device) -> str:
    """The most memory that was in use so far, in words."""
    own = f"{resident_peak() / 2**30:.2f} GiB of the machine's, at its peak, this process alone"
    if device.type != "cuda":
        return own
    taken = torch.cuda.max_memory_reserved(device) / 2**30
    whole = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"{taken:.2f} of {whole:.0f} GiB of the GPU's, at its peak; {own}"


def resident_peak() -> int:
    """Greatest resident bytes of this process."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
