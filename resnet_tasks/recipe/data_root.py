"""Default folder of datasets."""

from __future__ import annotations

import os
from pathlib import Path


def get_data_root(data_root: Path | None = None) -> Path:
    """Return the folder of datasets: `data_root`, else `$RESNET_TASKS_DATA`, else `./data`."""
    return data_root or Path(os.environ.get("RESNET_TASKS_DATA") or "data")
