"""Console tables of an export: differences from the model, latency, size and int8 metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from resnet_tasks.export.export_run import ExportResult
from resnet_tasks.exported.manifest import FILE, Manifest
from resnet_tasks.number_formats import Count, format_bytes
from resnet_tasks.runtime.console import Text


def build_export_tables(export: ExportResult) -> list[Table]:
    """Return the tables of prediction differences, costs and, for int8, metrics of an export."""
    metadata, manifest = export.manifest.metadata, export.manifest
    number = len(metadata["comparison"]["images"])
    title = Text(f"compared with PyTorch fp32 on {Count(number):image}")
    columns = ("unmatched detections", "box px", "score", "pixels")
    compared = Table("head", "precision", *columns, title=title, title_justify="left")
    for precision in ("fp32", "auto"):
        if (part := metadata["comparison"].get(precision)) is None:
            continue
        for name, difference in part["heads"].items():
            lost = (
                f"{difference['unmatched']} of {difference['detections']}: "
                f"{difference['lost']:.1%} of scores"
            )
            values = (
                lost,
                f"{difference['box']:.2g}",
                f"{difference['score']:.2g}",
                f"{difference['pixels']:.2%}",
            )
            compared.add_row(Text(name), precision, *values)
        most = part["tolerance"]
        limits = (f"{most['unmatched']:.1%}", f"{most['box']:g}", f"{most['score']:g}")
        compared.add_row("allowed", precision, *limits, f"{most['pixels']:.1%}", style="dim")
        if not part["within"]:  # in fp32 nothing would have been written
            compared.caption = Text(
                f"{precision} differs more than allowed: the export computes in float32"
            )
    cost = Table(
        "what", "value", title=Text(_build_cost_title(metadata, manifest)), title_justify="left"
    )
    for name, value in metadata["latency"].items():
        if name.endswith("_ms"):
            label = name.removesuffix("_ms").replace("_", " ").replace("pytorch", "PyTorch")
            cost.add_row(label, f"{value:.1f} ms")
    for name, size in metadata["bytes"].items():
        if name != FILE:
            cost.add_row(name, format_bytes(size))
    tables = [compared, cost]
    if "int8" in metadata:
        tables.append(_build_metric_table(metadata["int8"]))
    return tables


def _build_cost_title(metadata: Mapping[str, Any], manifest: Manifest) -> str:
    height, width = metadata["latency"]["size"]
    kind = "int8" if manifest.is_int8 else manifest.precision
    return f"one image of {height}x{width}; the export in {kind}"


def _build_metric_table(quantization: Mapping[str, Any]) -> Table:
    title = (
        f"int8, calibrated on {Count(quantization['calibrated_on']):training image}, evaluated on "
        f"{Count(quantization['judged_on']):val image}"
    )
    table = Table("metric", "before", "int8", title=Text(title), title_justify="left")
    for name in quantization["main"]:
        values = (quantization[part][name]["value"] for part in ("before", "after"))
        table.add_row(Text(name), *("-" if value is None else f"{value:.4f}" for value in values))
    return table
