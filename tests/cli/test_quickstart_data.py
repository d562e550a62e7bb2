"""The data of the quickstart: generated for a valid recipe only, and counted once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_tools import catalog
from resnet_tasks.cli import app

SMALL = (
    *("backbone.name=resnet10t", "training.batch_size=2"),
    *("heads.objects.options.pyramid_channels=16", "heads.objects.options.box_head_channels=32"),
    "heads.scene.options.decoder_channels=[16,16,16,16,16]",
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("finetune", "backbone.name=resnet19"), "backbone.name: 'resnet19' is unknown"),
        (("benchmark", "backbone.name=resnet19"), "backbone.name: 'resnet19' is unknown"),
        (("lr-find", "heads.scene.type=unett"), "heads.scene.type: unknown head 'unett'"),
        (("finetune", "BAD=VALUE"), "unknown key 'BAD'"),
        (("finetune", "training.batch_size=two"), 'training.batch_size: got "two"'),
        (("finetune", "heads.objects.options.foo=3"), "foo is not an option"),
        (("finetune", "heads.objects.options.nms_iou=3"), "nms_iou: got 3; allowed is a number"),
        (("finetune", "heads.objects.classes=[foo]"), "'foo' is not a category of the dataset"),
        (("finetune", "evaluation.best=objects/AP51"), "evaluation.best is 'objects/AP51'"),
        (("finetune", "backbone.weights=no.pth"), "no.pth"),
        (("finetune", "extend.run=no"), "no is not a run folder"),
        (("finetune", "data.channels=4"), "data.channels is 4, but the synthetic cells are color"),
        (("finetune", "training.balancing=foo"), "unknown balancing 'foo'"),
        (("finetune", "--seeds", "2"), "--seeds needs --out DIR"),
        (("lr-find", "--first", "2"), "a sweep from 2.0 to 1.0 in 100 steps is not possible"),
    ],
)
def test_a_wrong_command_generates_no_data(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    command, *others = words
    result = CliRunner().invoke(
        app, [command, "quickstart", *SMALL, *others, "--data-root", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "generating" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_counts_are_printed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_cells = partial(catalog.prepare, train=4, val=2, size=(96, 96))
    monkeypatch.setattr(catalog, "prepare", small_cells)
    command = ["finetune", "quickstart", *SMALL, "--dry-run", "--data-root", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.output.count("train: 4 images; objects:") == 1
    assert result.output.count("val: 2 images; objects:") == 1
    assert f"written to {tmp_path / 'cells'}; data card:" in result.output.replace("\n", "")
