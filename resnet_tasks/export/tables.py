"""What an export differs in and what it costs, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from resnet_tasks.export.exporting import Exported
from resnet_tasks.exported.manifest import FILE, Manifest


def export_tables(done: Exported) -> list[Table]:
    """What was compared, how far it lies apart, and what it costs."""
    about, manifest = done.manifest.about, done.manifest
    number = len(about["comparison"]["pictures"])
    title = Text(f"compared with PyTorch fp32 on {number} pictures")
    columns = ("unmatched, of both", "box px", "score", "pixels")
    compared = Table("head", "precision", *columns, title=title, title_justify="left")
    for precision in ("fp32", "auto"):
        if (part := about["comparison"].get(precision)) is None:
            continue
        for name, each in part["heads"].items():
            lost = f"{each['unmatched']} of {each['detections']}: {each['lost']:.1%} of scores"
            values = (lost, f"{each['box']:.2g}", f"{each['score']:.2g}", f"{each['pixels']:.2%}")
            compared.add_row(Text(name), precision, *values)
        most = part["tolerance"]
        limits = (f"{most['unmatched']:.1%}", f"{most['box']:g}", f"{most['score']:g}")
        compared.add_row("allowed", precision, *limits, f"{most['pixels']:.1%}", style="dim")
        if not part["within"]:  # in fp32 nothing would have been written
            compared.caption = Text(
                f"{precision} lies further apart than allowed: the export computes in float32"
            )
    cost = Table("what", "value", title=Text(_cost_title(about, manifest)), title_justify="left")
    for name, value in about["latency"].items():
        if name.endswith("_ms"):
            what = name.removesuffix("_ms").replace("_", " ").replace("pytorch", "PyTorch")
            cost.add_row(what, f"{value:.1f} ms")
    for name, size in about["bytes"].items():
        if name != FILE:
            cost.add_row(name, f"{size / 1e6:.1f} MB")
    tables = [compared, cost]
    if "int8" in about:
        tables.append(_metric_table(about["int8"]))
    return tables


def _cost_title(about: Mapping[str, Any], manifest: Manifest) -> str:
    height, width = about["latency"]["size"]
    kind = "int8" if manifest.is_int8 else manifest.precision
    return f"one picture of {height}x{width}; the export in {kind}"


def _metric_table(about: Mapping[str, Any]) -> Table:
    title = (
        f"int8, calibrated on {about['calibrated_on']} training pictures, judged on "
        f"{about['judged_on']} val pictures"
    )
    table = Table("metric", "before", "int8", title=Text(title), title_justify="left")
    for name in about["main"]:
        values = (about[part][name]["value"] for part in ("before", "after"))
        table.add_row(Text(name), *("-" if each is None else f"{each:.4f}" for each in values))
    return table
