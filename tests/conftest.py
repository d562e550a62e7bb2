"""What all tests share: the real samples, few threads, a fixed seed."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from data_tools.converters.synthetic import make_cells
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime import malloc
from tests.support.paths import SHARED
from tests.support.shapes import CLASSES, LIGHT_DETECTOR, Broken, Shapes

if "PYTEST_XDIST_WORKER" in os.environ:
    # One of several processes: more threads than cores would wait for each other.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TOLD = "told"
PROCESS = psutil.Process()
LARGE_GROWTH = 16 << 20
"""Growth of the process in a test, in bytes, after which garbage is collected."""


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


@pytest.fixture(scope="session")
def draw_cells(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Draws cells, with the options of `make_cells`, below a new data root."""

    def draw(**options: Any) -> Path:
        root = tmp_path_factory.mktemp("data")
        make_cells(root / "cells", **{"seed": 5, **options})
        return root

    return draw


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _return_freed_memory() -> Iterator[None]:
    """Keep the memory of the process small: thousands of tests follow one another in it.

    Commands that run inside the process must not switch its allocator to `keep_freed_memory`, which
    would add up the peaks of all tests. Objects that exist already are hidden from the garbage
    collector, so that `_collect_garbage` is faster.
    """
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(malloc, "keep_freed_memory", lambda: True)
        yield


@pytest.fixture(autouse=True)
def _collect_garbage() -> Iterator[None]:
    """Free the models of a test, which reference cycles keep alive."""
    before = PROCESS.memory_info().rss
    yield
    if PROCESS.memory_info().rss > before + LARGE_GROWTH:
        gc.collect()


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes what people want to read after a run, such as counts; shown in the summary."""
    return lambda text: record_property(TOLD, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what tests told, whichever process they ran in."""
    reports = [each for found in terminalreporter.stats.values() for each in found]
    for report in reports:
        for name, text in getattr(report, "user_properties", ()):
            if name == TOLD and getattr(report, "when", "") == "call":
                terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {text}")


@pytest.fixture
def shapes() -> Shapes:
    return Shapes()


@pytest.fixture
def broken() -> Broken:
    return Broken()


@pytest.fixture
def tiny_model() -> Callable[[], TaskModel]:
    """Builds the same small two-head model each time."""

    def build(name: str = "resnet10t") -> TaskModel:
        torch.manual_seed(3)
        backbone = ResNet(name, weights="none")
        heads = {
            "objects": FasterRCNN(backbone.specs, CLASSES, LIGHT_DETECTOR),
            "scene": UNet(
                backbone.specs,
                ("background", *CLASSES),
                {"decoder_channels": (32, 16, 16, 16, 16), "loss": "cross_entropy+dice"},
            ),
        }
        return TaskModel(backbone, heads)

    return build
