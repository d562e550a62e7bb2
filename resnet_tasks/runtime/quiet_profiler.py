"""torch's profiler without its messages on standard error."""

from __future__ import annotations

import os
from typing import Any

from torch.profiler import profile


def create_quiet_profiler(**options: Any) -> profile:
    """Create a profiler that prints nothing.

    Args:
        **options: Keyword arguments of `torch.profiler.profile`.
    """
    # Kineto reads this variable when a process creates its first profiler.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    return profile(**options)
