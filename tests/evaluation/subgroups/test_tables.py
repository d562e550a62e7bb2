"""Console tables of metrics by subgroup, and their notes."""

from __future__ import annotations

import io

from resnet_tasks.evaluation.subgroups.results import (
    RestComparison,
    SubgroupMetrics,
    SubgroupResult,
)
from resnet_tasks.evaluation.subgroups.tables import print_subgroup_tables
from resnet_tasks.runtime.console import Console
from resnet_tasks.structures.evaluation import Metric


def test_notes_and_warnings_are_one_line_each_on_a_narrow_console() -> None:
    comparison = RestComparison(0.5, 0.9, interval=(-0.5, -0.3), is_far_below=True)
    worst = SubgroupResult(
        "stain", "tissue", "cells", 30, "Dice", {"Dice": Metric(0.5)}, comparison=comparison
    )
    metrics = SubgroupMetrics((worst,), ("a note of many words " * 10 + "[b]",))
    stream = io.StringIO()
    print_subgroup_tables(metrics, Console(file=stream, width=60))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "cells/Dice by stain, worst first"
    assert lines[-2:] == [f"note: {metrics.notes[0]}", f"warning: {metrics.warnings[0]}"]
    assert min(map(len, lines[-2:])) > 60
    assert max(map(len, lines[:-2])) <= 60
