"""The way from the call to a head's tensor code is short: few files in a traceback."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from torch import Tensor
from torch.utils.data import Dataset

import resnet_tasks
from data_tools.converters.synthetic import make_cells
from resnet_tasks.__main__ import main
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.structures.samples import BatchView, Sample
from resnet_tasks.training.finetune import finetune
from tests.support.light_run import LIGHT

PACKAGE = Path(resnet_tasks.__file__).parent
OPTIONS = TrainingRecipe(epochs=1, batch_size=2, precision="fp32", device="cpu")


class BrokenRuntimeError(RuntimeError):
    """As torch raises it; `translate_memory_errors` looks at errors of this kind."""


class BrokenValueError(ValueError):
    """As torch raises it; the explanation of single values looks at errors of this kind."""


@pytest.fixture(params=[BrokenRuntimeError, BrokenValueError])
def broken_head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """A semantic head whose `loss` fails when it reads the label maps."""
    kind: type[Exception] = request.param

    def fail(_: BatchView) -> Tensor:
        raise kind("shapes do not match")

    monkeypatch.setattr(BatchView, "semantic", property(fail))
    return kind


def files_down_to_the_head(error: BaseException) -> list[str]:
    """Files of the package in the order of the calls; the last one is that of the head's loss."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(PACKAGE)
    ]
    assert frames[-1].name == "loss"
    files = [str(Path(frame.filename).relative_to(PACKAGE)) for frame in frames]
    assert files[-1].startswith("heads/")
    return list(dict.fromkeys(files))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_at_most_five_files_from_python(
    tiny_model: Callable[[], TaskModel],
    shapes: Dataset[Sample],
    tmp_path: Path,
    broken_head: type[Exception],
    accumulation: int,
) -> None:
    options = OPTIONS.model_copy(update={"accumulation": accumulation})
    console = Console(file=io.StringIO())
    with pytest.raises(broken_head) as caught:
        finetune(tiny_model(), shapes, None, options, out=tmp_path, console=console)
    files = files_down_to_the_head(caught.value)
    assert files[0] == "training/finetune.py"
    assert len(files) <= 5, files


def test_at_most_eight_files_from_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_head: type[Exception]
) -> None:
    """`main` is the entry point of the console script."""
    make_cells(tmp_path / "cells", train=2, val=1, size=(96, 96))
    folders = ("--data-root", str(tmp_path), "--out", str(tmp_path / "run"))
    words = ["resnet-tasks", "finetune", "quickstart", *LIGHT, "data.workers=0", *folders]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer replaces it
    with pytest.raises(broken_head) as caught:
        main()
    files = files_down_to_the_head(caught.value)
    assert files[0] == "__main__.py"
    assert len(files) <= 8, files
