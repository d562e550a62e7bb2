"""Number of CPU cores that this process may use."""

from __future__ import annotations

import os


def count_usable_cores() -> int:
    """Return the number of cores in the CPU affinity mask (Linux), else that of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
