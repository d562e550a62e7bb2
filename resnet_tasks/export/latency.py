"""Latency of one image: the PyTorch model and its exported graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from resnet_tasks.export.model_comparison import Image, collate_batch
from resnet_tasks.export.quantization import build_feed
from resnet_tasks.exported.exported_model import ExportedModel
from resnet_tasks.exported.manifest import Manifest
from resnet_tasks.model import TaskModel
from resnet_tasks.runs.model_cost import time_interleaved_median
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
    seconds = time_interleaved_median(list(timed.values()), torch.device("cpu"), TIMED)
    return {
        "size": size,
        "threads": torch.get_num_threads(),
        **{name: round(1000 * value, 2) for name, value in zip(timed, seconds, strict=True)},
    }
