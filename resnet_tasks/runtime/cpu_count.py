"""How many processors this process may use."""

from __future__ import annotations

import os


def count_usable_cores() -> int:
    """Processors that this process is allowed to run on (Linux), or that the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
