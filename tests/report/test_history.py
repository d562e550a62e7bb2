from __future__ import annotations

import json
from pathlib import Path

from resnet_tasks.report.history import MAX_POINTS, read_history, smooth


def test_steps_done_again_after_a_resume_count_once(tmp_path: Path) -> None:
    lines = [
        {"event": "start", "time": "2026-01-01T00:00:00"},
        {"event": "step", "update": 0, "epoch": 1, "losses": {"a/x": 3.0}, "learning_rate": 0.1},
        {"event": "step", "update": 1, "epoch": 1, "losses": {"a/x": 2.0}, "learning_rate": 0.1},
        {"event": "start", "time": "2026-01-01T00:01:00"},
        {"event": "step", "update": 1, "epoch": 1, "losses": {"a/x": 2.5}, "learning_rate": 0.1},
        {"event": "evaluation", "epoch": 1, "update": 2, "metrics": {"a/AP": None}},
        {"event": "end", "time": "2026-01-01T00:01:40", "seconds": 55.5},
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(each) + "\n" for each in lines) + '{"event": "st\n[1]\n')
    history = read_history(log)
    assert history.losses == {"a/x": [(0, 3.0), (1, 2.5)]}
    assert history.validation == {"a/AP": [(1, None)]}
    assert (history.seconds, history.wall_seconds, len(history.starts)) == (55.5, 40.0, 2)
    assert history.unreadable == 2
    assert history.describe_gaps() == "2 lines of log.jsonl could not be read."


def test_a_run_without_a_log_or_an_end_has_no_time(tmp_path: Path) -> None:
    assert read_history(tmp_path / "log.jsonl").starts == []
    (tmp_path / "log.jsonl").write_text('{"event": "start", "time": "x"}\n')
    assert read_history(tmp_path / "log.jsonl").seconds is None
    assert read_history(tmp_path / "log.jsonl").describe_gaps() == ""


def test_long_curves_are_means_of_consecutive_points_and_gaps_stay() -> None:
    assert smooth([(0, 1.0), (1, None)]) == ([(0, 1.0), (1, None)], 1)
    points = [(float(i), float(i)) for i in range(2 * MAX_POINTS)]
    made, size = smooth([*points[:2], (2.0, None), (3.0, None), *points[4:]])
    assert size == 2
    assert len(made) == MAX_POINTS
    assert made[:3] == [(0.5, 0.5), (2.5, None), (4.5, 4.5)]
