"""The degradation measurement: nets as in the paper, results kept, image and numbers written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from benchmarks.__main__ import main
from benchmarks.degradation import (
    CifarBlock,
    Digits,
    Settings,
    build_net,
    compute_learning_rate,
    read_digits,
    shift_images,
)
from resnet_tasks.errors import DataError


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.85), (110, 1.7)])
def test_nets_have_the_papers_layers_and_parameters(depth: int, millions: float) -> None:
    """He et al. 2015, Table 6; option A adds no parameter."""
    plain, residual = (build_net(depth, is_residual=each) for each in (False, True))
    counts = [sum(p.numel() for p in net.parameters()) for net in (plain, residual)]
    assert counts[0] == counts[1] == pytest.approx(millions * 1e6, rel=0.03)
    layers = [m for m in plain.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == depth
    assert residual(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def test_a_block_without_weights_is_its_shortcut() -> None:
    x = torch.rand(1, 2, 4, 4)
    for is_residual in (True, False):
        block = CifarBlock(2, 4, 2, is_residual=is_residual)
        torch.nn.init.zeros_(block.conv2.weight)
        expected = torch.zeros(1, 4, 2, 2)
        expected[:, :2] = x[:, :, ::2, ::2] * is_residual
        assert torch.equal(block(x), expected)


def test_digits_are_split_by_class_and_normalized() -> None:
    digits: Digits = read_digits(Settings())
    assert digits.train.shape == (1437, 1, 16, 16)
    assert len(digits.test) == 360
    assert digits.train.mean().abs() < 1e-5
    assert digits.test_labels.bincount().min() >= 34


def test_rate_warms_up_and_falls_by_ten_twice() -> None:
    settings = Settings(warm_up=10)
    rates = [compute_learning_rate(settings, step, 100) for step in (0, 10, 49, 50, 75)]
    assert rates == pytest.approx([0.01, 0.1, 0.1, 0.01, 0.001])


def test_shifts_move_images_as_a_whole() -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(50, 1, 1, 1)
    moved = shift_images(images, 1, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    centers = {float(each[0, 1, 1]) for each in moved}
    assert centers == {0.0, 1.0, 2.0, 4.0, 5.0, 6.0, 8.0, 9.0, 10.0}


def test_command_writes_numbers_and_image_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["degradation", "--epochs", "1", "--depths", "8", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    file = tmp_path / "out" / "degradation.json"
    first = json.loads(file.read_text())["nets"]
    assert [(each["kind"], each["depth"]) for each in first] == [("plain", 8), ("residual", 8)]
    for each in first:
        assert 0 < each["train_error"] < 1
        assert len(each["curve"]) == 1
    assert (tmp_path / "out" / "degradation.png").stat().st_size > 1000
    shown = capsys.readouterr().out
    assert "residual-8" in shown

    (tmp_path / "out" / "residual-8.json").unlink()  # as if stopped before it was finished
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "plain-8: taken from" in shown
    again = json.loads(file.read_text())["nets"]
    assert again[1]["train_error"] == first[1]["train_error"]
    assert again[1]["curve"] == first[1]["curve"]


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path)]
    assert main(["degradation", "--depths", "8", "19", *out]) == 2
    assert "--depths: 19 is not 6n + 2" in capsys.readouterr().err
    assert main(["degradation", "--epochs", "0", *out]) == 2
    with pytest.raises(DataError, match="not 6n"):
        build_net(2, is_residual=True)
