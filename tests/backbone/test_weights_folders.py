"""Runs of our own, and other folders, as the place where a backbone's weights come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import RunError, WeightsError

TINY = "test_resnet"


def whole_model(seed: int) -> dict[str, Tensor]:
    """What a run stores: backbone, heads, constants."""
    torch.manual_seed(seed)
    tensors = {f"backbone.{key}": value for key, value in ResNet(TINY).state_dict().items()}
    tensors["heads.scene.decoder.weight"] = torch.zeros(3)
    tensors["mean"], tensors["std"] = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    return tensors


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for number, name in enumerate(("last", "best")):
        (folder / "checkpoints" / name).mkdir(parents=True)
        save_file(whole_model(number), folder / "checkpoints" / name / "model.safetensors")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"backbone": {"name": TINY}}))
    events = [
        {"event": "start", "weights": {"license": "cc-by-4.0"}},
        {"event": "start", "weights": None},
    ]
    lines = "".join(json.dumps(each) + "\n" for each in events)
    (folder / "log.jsonl").write_text(lines + '{"event": "st')  # a kill cut the last line
    return folder


def assert_backbone(backbone: ResNet, expected: dict[str, Tensor]) -> None:
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, expected[f"backbone.{key}"]), key


def test_a_run_gives_its_last_checkpoint_and_what_travels_with_it(run: Path) -> None:
    backbone = ResNet(TINY, weights=str(run), frozen_stages=2)
    assert_backbone(backbone, whole_model(0))
    assert backbone.mean == pytest.approx((0.1, 0.2, 0.3))
    assert backbone.std == pytest.approx((0.4, 0.5, 0.6))
    assert backbone.license == "cc-by-4.0"
    assert backbone.weights_description == f"run {run} (last)"
    assert backbone.report is not None
    assert len(backbone.report.matched) == len(backbone.state_dict())
    assert backbone.report.unexpected == ("heads.scene.decoder.weight",)


def test_the_best_checkpoint_by_name(run: Path) -> None:
    assert_backbone(ResNet(TINY, weights=f"{run}@best"), whole_model(1))


def test_averaged_weights_are_preferred(run: Path) -> None:
    save_file(whole_model(7), run / "checkpoints" / "last" / "ema.safetensors")
    backbone = ResNet(TINY, weights=str(run))
    assert_backbone(backbone, whole_model(7))
    assert "averaged" in backbone.weights_description


def test_missing_averaged_weights_are_not_replaced_by_the_trained_ones(run: Path) -> None:
    save_file(whole_model(7), run / "checkpoints" / "best" / "ema.safetensors")
    for spec in (run, run / "checkpoints" / "last"):
        with pytest.raises(RunError, match=r"last lacks ema\.safetensors"):
            ResNet(TINY, weights=str(spec))


def test_a_checkpoint_whose_renaming_was_killed(run: Path) -> None:
    (run / "checkpoints" / "last").rename(run / "checkpoints" / "last.previous")
    assert_backbone(ResNet(TINY, weights=str(run)), whole_model(0))


def test_the_file_and_the_folder_of_a_checkpoint_do_too(run: Path) -> None:
    folder = run / "checkpoints" / "best"
    for spec in (folder, folder / "model.safetensors"):
        backbone = ResNet(TINY, weights=str(spec))
        assert_backbone(backbone, whole_model(1))
        assert backbone.mean == pytest.approx((0.1, 0.2, 0.3))


def test_images_of_one_channel_keep_their_constants(tmp_path: Path) -> None:
    first = ResNet(TINY, in_channels=1)
    tensors = {f"backbone.{key}": value for key, value in first.state_dict().items()}
    tensors |= {"mean": torch.tensor([0.25]), "std": torch.tensor([0.125])}
    save_file(tensors, tmp_path / "model.safetensors")
    backbone = ResNet(TINY, weights=str(tmp_path / "model.safetensors"), in_channels=1)
    assert (backbone.mean, backbone.std) == ((0.25,), (0.125,))


def test_another_architecture_names_both(run: Path) -> None:
    with pytest.raises(WeightsError, match=rf"backbone is {TINY}, but backbone.name is resnet18"):
        ResNet("resnet18", weights=str(run))
    with pytest.raises(WeightsError, match=rf"backbone is {TINY}, but backbone.name is resnet18"):
        ResNet("resnet18", weights=str(run / "checkpoints" / "best"))


def test_a_run_of_another_depth_says_what_to_set(run: Path) -> None:
    part = {"name": "resnet", "layers": [1, 2, 1, 1], "block": "basic"}
    (run / "recipe.yaml").write_text(yaml.safe_dump({"backbone": part}))
    wanted = r"set backbone\.name=resnet backbone\.layers=\[1,2,1,1\] backbone\.block=basic, or"
    with pytest.raises(WeightsError, match=wanted):
        ResNet("resnet18", weights=str(run))


@pytest.mark.parametrize("form", ["", "checkpoints/last", "checkpoints/best/model.safetensors"])
def test_a_run_that_began_with_weights_for_research_alone(form: str, run: Path) -> None:
    event = {"event": "start", "weights": {"license": "cc-by-nc-4.0"}}
    (run / "log.jsonl").write_text(json.dumps(event) + "\n")
    weights = str(run / form)
    with pytest.raises(WeightsError, match="accept_license=true"):
        ResNet(TINY, weights=weights)
    assert ResNet(TINY, weights=weights, accept_license=True).license == "cc-by-nc-4.0"


@pytest.mark.parametrize("events", ['{"event": "start", "weights": null}\n', ""])
def test_runs_from_random_weights_and_runs_without_a_word(events: str, run: Path) -> None:
    (run / "log.jsonl").write_text(events)
    expected = "your own" if events else "does not name the initial weights"
    assert expected in ResNet(TINY, weights=str(run)).license


def test_the_best_checkpoint_of_a_head(run: Path) -> None:
    with pytest.raises(WeightsError, match="no checkpoint best-scene yet"):
        ResNet(TINY, weights=f"{run}@best-scene")
    (run / "checkpoints/best").rename(run / "checkpoints/best-scene")
    assert_backbone(ResNet(TINY, weights=f"{run}@best-scene"), whole_model(1))


@pytest.mark.parametrize("fault", ["middle", "no checkpoint", "no run", "damaged"])
def test_folders_that_give_nothing(fault: str, run: Path) -> None:
    spec = f"{run}@middle" if fault == "middle" else str(run)
    if fault == "no checkpoint":
        (run / "checkpoints").rename(run / "moved")
    if fault == "no run":
        (run / "recipe.yaml").unlink()
    if fault == "damaged":
        (run / "recipe.yaml").write_text("backbone: 3")
    said = {
        "middle": "last and best, not 'middle'",
        "no checkpoint": "no checkpoint last yet",
        "no run": "neither recipe.yaml",
        "damaged": r"recipe.yaml is damaged (expected object, got int at backbone); restore it",
    }[fault]
    with pytest.raises((WeightsError, RunError)) as caught:
        ResNet(TINY, weights=spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_saved_repository_states_its_constants(tmp_path: Path) -> None:
    save_file(ResNet(TINY).state_dict(), tmp_path / "model.safetensors")
    config = {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "license": "mit"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = ResNet(TINY, weights=str(tmp_path))
    assert (backbone.mean, backbone.license) == ((0.5, 0.5, 0.5), "mit")
    stored = load_file(tmp_path / "model.safetensors")
    assert torch.equal(backbone.state_dict()["bn1.bias"], stored["bn1.bias"])
