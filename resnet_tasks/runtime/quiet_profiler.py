"""Torch's profiler, without what it says on standard error."""

from __future__ import annotations

import os
from typing import Any

from torch.profiler import profile


def create_quiet_profiler(**options: Any) -> profile:
    """A profiler that says nothing.

    Args:
        options: Of `torch.profiler.profile`.
    """
    # Its library reads this when the first profile of a process is made.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    return profile(**options)
