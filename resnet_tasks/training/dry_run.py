"""What a run will take: parameters, memory and time, measured on its first two steps."""

from __future__ import annotations

import sys
from statistics import median

import psutil
import torch
from rich.table import Table

from resnet_tasks.training.finetune import Finetuning

if sys.platform != "win32":
    import resource


def dry_run_table(work: Finetuning, title: str, pictures_to_judge: int) -> Table:
    """Takes two real steps and tells what they cost; writes nothing.

    Args:
        work: The run, not begun.
        title: Of the table.
        pictures_to_judge: In the val split.

    Raises:
        MemoryLimitError: If memory does not suffice.
    """
    if work.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(work.device)
    seconds = work.rehearse(2)
    each = median(seconds[1:] or seconds)  # the first one also warms up
    epoch = each * work.updates_per_epoch
    options, model = work.options, work.plain_model
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    height, width = work.picture_size or (0, 0)
    rows = {
        "parameters": f"{total / 1e6:.2f} M, {trained / 1e6:.2f} M of them trained",
        "pictures": (
            f"{options.batch_size} of {height} x {width} pixels at a time (height x width), "
            f"{options.accumulation} time(s) a step"
        ),
        "device": f"{work.device}, {work.precision}, {work.workers} loader process(es)",
        "memory": peak_memory(work.device),
        "time per step": f"{each:.2f} s (the first: {seconds[0]:.2f} s)",
        "time per epoch": f"{_clock(epoch)} ({work.updates_per_epoch} steps), evaluation apart",
        "time of the run": f"{_clock(epoch * options.epochs)} ({options.epochs} epochs)",
        "evaluation": f"{pictures_to_judge} pictures each time",
    }
    table = Table(title=title, show_header=False)
    for name, text in rows.items():
        table.add_row(name, text)
    return table


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
