"""Latency of one image: the PyTorch model and its exported graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from resnet_tasks.export.model_comparison import Image, collate_batch
from resnet_tasks.export.quantization import build_feed
from resnet_tasks.exported.exported_model import ExportedModel
from resnet_tasks.exported.manifest import Manifest
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime.devices import resolve_precision

TIMED = 5
"""Number of timed forward passes, whose median is reported."""


def measure_latency(
    model: TaskModel, manifest: Manifest, folder: Path, image: Image
) -> dict[str, Any]:
    """Measure the median milliseconds for one image, from prepared pixels to raw outputs."""
    batch, feed = collate_batch(manifest, [image]), build_feed(manifest, [image])
    precision = resolve_precision("auto", torch.device("cpu"))
    manifest.write(folder)
    exported = ExportedModel.open(folder)
    timed: dict[str, Callable[[], object]] = {
        "pytorch_fp32_ms": lambda: model.compute_outputs(batch, precision="fp32"),
        f"pytorch_{precision}_ms": lambda: model.compute_outputs(batch, precision=precision),
        "export_ms": lambda: exported.engine.run(feed["images"], feed["sizes"]),
    }
    size = list(batch.padded_size)
    return {
        "size": size,
        "threads": torch.get_num_threads(),
        **{n: _time_ms(f) for n, f in timed.items()},
    }


def _time_ms(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(1000 * median(times), 2)
