"""Training history from `log.jsonl`: losses, learning rate, validation metrics and durations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from resnet_tasks.number_formats import Count
from resnet_tasks.run_folder.log import read_events

Points = list[tuple[float, float | None]]
MAX_POINTS = 120
"""Maximum number of points of a learning curve; more logged steps are averaged."""


@dataclass(frozen=True)
class History:
    """Training history of one run.

    Attributes:
        losses: `head/term` -> (optimizer step, value), as logged; steps that a resumed run repeats
            replace the earlier ones.
        rates: (optimizer step, learning rate) pairs.
        validation: `head/metric` -> (epoch, value); value None if the metric was undefined.
        starts: `start` events, one per start or resume.
        seconds: Training time over all starts, seconds; None if the run has not ended.
        wall_seconds: Time from the last start to the end, evaluations included, seconds; None if
            either is missing.
        last_epoch: Last epoch that appears in the log.
        has_events: Whether the log has any event.
        unreadable: Number of lines that are not valid events, for example a line cut off by a kill.
    """

    losses: dict[str, Points] = field(default_factory=dict)
    rates: Points = field(default_factory=list)
    validation: dict[str, Points] = field(default_factory=dict)
    starts: list[dict[str, Any]] = field(default_factory=list)
    seconds: float | None = None
    wall_seconds: float | None = None
    last_epoch: int = 0
    has_events: bool = False
    unreadable: int = 0

    def describe_gaps(self) -> str:
        """Return a sentence on missing events of the log; empty if there are none."""
        if self.unreadable:
            return f"{Count(self.unreadable):line} of log.jsonl could not be read."
        return "" if self.has_events else "log.jsonl is missing or empty, so there is no history."


def read_history(path: Path) -> History:
    """Read the history from a log file; empty if the file does not exist.

    Raises:
        RunError: If the file cannot be read, contains no valid event, or was written by a newer
            version.
    """
    events, unreadable = read_events(path)
    steps = {event["update"]: event for event in events if event["event"] == "step"}
    evaluations = {event["epoch"]: event for event in events if event["event"] == "evaluation"}
    starts = [event for event in events if event["event"] == "start"]
    ends = [event for event in events if event["event"] == "end"]
    return History(
        losses=_build_curves((u, steps[u].get("losses", {})) for u in sorted(steps)),
        rates=[(u, steps[u].get("learning_rate")) for u in sorted(steps)],
        validation=_build_curves(
            (e, evaluations[e].get("metrics", {})) for e in sorted(evaluations)
        ),
        starts=starts,
        seconds=ends[-1].get("seconds") if ends else None,
        wall_seconds=_compute_seconds_between(starts[-1], ends[-1]) if starts and ends else None,
        last_epoch=max((int(event.get("epoch", 0)) for event in events), default=0),
        has_events=bool(events),
        unreadable=unreadable,
    )


def _build_curves(rows: Iterable[tuple[int, Mapping[str, float | None]]]) -> dict[str, Points]:
    curves: dict[str, Points] = {}
    for x, values in rows:
        for name, value in values.items():
            curves.setdefault(name, []).append((x, value))
    return curves


def _compute_seconds_between(start: Mapping[str, Any], end: Mapping[str, Any]) -> float | None:
    try:
        first, last = (datetime.fromisoformat(event["time"]) for event in (start, end))
    except (KeyError, TypeError, ValueError):
        return None
    return max((last - first).total_seconds(), 0.0)


def smooth(points: Points) -> tuple[Points, int]:
    """Reduce a curve to at most `MAX_POINTS` points by averaging consecutive points.

    Returns:
        Points, and number of logged points per returned point; 1: unchanged.
    """
    size = max(1, -(-len(points) // MAX_POINTS))
    if size == 1:
        return points, 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (_compute_mean([x for x, _ in group]), _average_present(group)) for group in groups
    ], size


def _average_present(group: Points) -> float | None:
    present = [y for _, y in group if y is not None]
    return _compute_mean(present) if present else None


def _compute_mean(values: list[float]) -> float:
    return sum(values) / len(values)
