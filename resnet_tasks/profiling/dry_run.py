"""Estimate of a run's parameters, memory and time, measured on its first two steps."""

from __future__ import annotations

import sys
import time
from statistics import median

import psutil
import torch
from rich.table import Table

from resnet_tasks.number_formats import Count, format_bytes, format_duration
from resnet_tasks.profiling.trial_steps import TrialTraining

if sys.platform != "win32":
    import resource


def build_dry_run_table(trial: TrialTraining, title: str, num_val_images: int) -> Table:
    """Take two real training steps and return a table of their cost; write no files.

    Args:
        trial: Training whose first steps are measured; no step was taken yet.
        title: Title of the table.
        num_val_images: Number of images of the val split.

    Raises:
        MemoryLimitError: If memory runs out.
    """
    device, precision = trial.train_step.device, trial.train_step.precision
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = time_steps(trial, 2)
    step_seconds = median(seconds[1:] or seconds)  # the first one also warms up
    options, model, steps = trial.options, trial.train_step.model, trial.batches.length
    epoch = step_seconds * steps.updates_per_epoch
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    height, width = trial.image_size
    rows = {
        "parameters": f"{total / 1e6:.2f} M, of which {trained / 1e6:.2f} M are trained",
        "images": (
            f"batches of {options.batch_size}, {height} x {width} pixels (height x width), "
            f"{Count(options.accumulation):batch} per step"
        ),
        "device": f"{device}, {precision}, {Count(trial.batches.workers):loader process}",
        "memory": describe_peak_memory(device),
        "time per step": f"{step_seconds:.2f} s (the first: {seconds[0]:.2f} s)",
        "time per epoch": (
            f"{format_duration(epoch)} ({Count(steps.updates_per_epoch):step}), without evaluation"
        ),
        "time of the run": (
            f"{format_duration(epoch * options.epochs)} ({Count(options.epochs):epoch})"
        ),
        "evaluation": f"{Count(num_val_images):image} per evaluation",
    }
    table = Table(title=title, show_header=False)
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def time_steps(trial: TrialTraining, steps: int) -> list[float]:
    """Measure each of the first steps of a run, loading of the images included.

    Args:
        trial: Training whose first steps are measured; no step was taken yet.
        steps: Number of steps; at most one epoch is measured.

    Returns:
        Seconds of every step.

    Raises:
        MemoryLimitError: If memory runs out.
    """
    durations: list[float] = []
    with trial.enter_training_mode():
        started = time.monotonic()
        for group in trial.batches.iter_steps(0, stop=steps * trial.options.accumulation):
            trial.run_step(group.batches)
            trial.synchronize()
            durations.append(time.monotonic() - started)
            started = time.monotonic()
    return durations


def describe_peak_memory(device: torch.device) -> str:
    """Return a text on the peak memory of this process so far, on the machine and on the GPU."""
    peak = format_bytes(measure_peak_rss(), binary=True)
    own = f"{peak} of main memory at the peak of this process"
    if device.type != "cuda":
        return own
    reserved = format_bytes(torch.cuda.max_memory_reserved(device), binary=True)
    total = format_bytes(torch.cuda.get_device_properties(device).total_memory, binary=True)
    return f"{reserved} of {total} of GPU memory at peak; {own}"


def measure_peak_rss() -> int:
    """Return the peak resident memory of this process, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    # macOS reports bytes, Linux KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
