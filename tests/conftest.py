"""What all tests share: the real samples, few threads, a fixed seed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # One of several processes: more threads than cores would wait for each other.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real public samples; skips where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"the real samples are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The real ResNet-18 checkpoint; skips where it is absent."""
    file = SHARED / "weights" / "resnet18_tinyimagenet.safetensors"
    if not file.is_file():
        pytest.skip(f"the real ResNet-18 weights are not at {file}")
    return file


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
