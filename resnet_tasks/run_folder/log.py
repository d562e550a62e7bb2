"""Reading of the events in `log.jsonl`; lines that a kill has cut off are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnet_tasks.run_folder.files import LOG
from resnet_tasks.run_folder.read import (
    check_line,
    decode_line,
    make_damage_error,
    read_content,
    require_known_version,
)
from resnet_tasks.run_folder.schemas import EVENTS, Event


def read_events(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the events of a log, and the number of lines that are not valid events.

    Args:
        path: Path of the log; a log that does not exist has no events.

    Raises:
        RunError: If the file cannot be read, contains no valid event, or was written by a newer
            version.
    """
    if not path.exists():
        return [], 0
    lines = [line for line in read_content(path, LOG).split(b"\n") if line.strip()]
    events = []
    for line in lines:
        try:
            event = decode_line(line, Event, accept_nan=True)
            check_line(event, EVENTS.get(event["event"], Event))
        except ValueError:
            continue
        events.append(event)
    if lines and not events:
        raise make_damage_error(path, LOG, "no line is an event of a training")
    for event in events:
        if event["event"] == "start":
            require_known_version(event.get(LOG.version_key, 1), path, LOG)
    return events, len(lines) - len(events)


def find_first_start(path: Path) -> dict[str, Any] | None:
    """Return the first start that records the initial weights; None if there is none.

    Raises:
        RunError: If the log is damaged (see `read_events`), or only lines that are not valid events
            could be this start.
    """
    events, num_invalid = read_events(path)
    starts = (event for event in events if event["event"] == "start" and "weights" in event)
    start = next(starts, None)
    if start is None and num_invalid:
        reason = "no valid line `start` records the initial weights and their license"
        raise make_damage_error(path, LOG, reason)
    return start
