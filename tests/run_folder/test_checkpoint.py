"""Checkpoints survive a kill at any moment and never run code."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from resnet_tasks.errors import RunError
from resnet_tasks.files.atomic import write_text
from resnet_tasks.run_folder import checkpoint
from resnet_tasks.run_folder.checkpoint import load_checkpoint, load_model_weights, save_checkpoint
from tests.support.run_files import TRAINING_STATE

WEIGHTS = {"a": torch.arange(4.0)}


def test_round_trip(tmp_path: Path) -> None:
    ema = {"a": torch.ones(4)}
    save_checkpoint(tmp_path / "last", model=WEIGHTS, ema=ema, state=TRAINING_STATE)
    model, ema, loaded = load_checkpoint(tmp_path / "last")
    assert torch.equal(model["a"], WEIGHTS["a"])
    assert ema is not None
    assert torch.equal(load_model_weights(tmp_path / "last")["a"], torch.ones(4))
    assert loaded["position"] == {"epoch": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last"]


def test_a_failed_write_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "last", model=WEIGHTS, state={**TRAINING_STATE, "threads": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    state = {**TRAINING_STATE, "threads": 2}
    with pytest.raises(
        RunError, match=r"last cannot be written \(No space left.*the previous checkpoint is kept"
    ):
        save_checkpoint(tmp_path / "last", model={"a": torch.zeros(4)}, state=state)
    assert torch.equal(load_model_weights(tmp_path / "last")["a"], WEIGHTS["a"])
    assert load_checkpoint(tmp_path / "last")[2]["threads"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_kill_between_the_two_renames_is_survived(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", model=WEIGHTS, state={**TRAINING_STATE, "threads": 1})
    (tmp_path / "last").rename(tmp_path / "last.previous")
    assert load_checkpoint(tmp_path / "last")[2]["threads"] == 1


def test_missing_and_damaged_checkpoints_are_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no checkpoint at"):
        load_checkpoint(tmp_path / "last")
    save_checkpoint(tmp_path / "best", model=WEIGHTS)
    with pytest.raises(RunError, match="no run can resume from it; use checkpoints/last"):
        load_checkpoint(tmp_path / "best")
    file = tmp_path / "best" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(RunError, match=r"model\.safetensors is damaged .*use another checkpoint"):
        load_model_weights(tmp_path / "best")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_rejected(value: float, tmp_path: Path) -> None:
    broken = {"a": torch.ones(2), "b": torch.tensor([1.0, value]), "steps": torch.tensor(7)}
    save_checkpoint(tmp_path / "last", model=broken, state=TRAINING_STATE)
    message = r"model\.safetensors has values that are not finite .* in 1 tensor, first b; use"
    with pytest.raises(RunError, match=message):
        load_model_weights(tmp_path / "last")
    with pytest.raises(RunError, match=message):
        load_checkpoint(tmp_path / "last")
    save_checkpoint(tmp_path / "last", model=WEIGHTS, ema=broken, state=TRAINING_STATE)
    with pytest.raises(RunError, match=r"ema\.safetensors has values that are not finite"):
        load_checkpoint(tmp_path / "last")


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    """The safetensors package writes metadata in random order."""
    contents = set()
    for _ in range(20):
        save_checkpoint(tmp_path / "last", model=WEIGHTS, ema=WEIGHTS)
        contents.add((tmp_path / "last/model.safetensors").read_bytes())
    assert len(contents) == 1
    with safe_open(tmp_path / "last/model.safetensors", "pt") as tensors:
        expected = {"averaged_weights": "ema.safetensors", "format_version": "1"}
        assert tensors.metadata() == expected


def test_missing_averaged_weights_are_not_replaced_by_the_trained_ones(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", model=WEIGHTS, ema=WEIGHTS, state=TRAINING_STATE)
    (tmp_path / "last/ema.safetensors").unlink()
    for load in (load_model_weights, load_checkpoint):
        with pytest.raises(RunError, match=r"last lacks ema\.safetensors, the averaged weights"):
            load(tmp_path / "last")


def test_checkpoints_of_earlier_versions_tell_by_their_siblings(tmp_path: Path) -> None:
    """Their `model.safetensors` does not name the averaged weights."""
    run = tmp_path / "checkpoints"
    save_checkpoint(run / "last", model=WEIGHTS, state=TRAINING_STATE)
    save_checkpoint(run / "best", model=WEIGHTS)
    assert torch.equal(load_model_weights(run / "best")["a"], WEIGHTS["a"])  # none is averaged
    save_file(WEIGHTS, run / "last" / "ema.safetensors")
    with pytest.raises(RunError, match=r"best lacks ema\.safetensors"):
        load_model_weights(run / "best")


@pytest.mark.parametrize("version", ["9" * 5000, "00001", "-1", "x", "٣", ""])
def test_a_version_that_is_not_a_small_number_is_damage(version: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", model=WEIGHTS)
    save_file(WEIGHTS, tmp_path / "last/model.safetensors", {"format_version": version})
    message = r"model\.safetensors is damaged \(format_version must be a whole number from 1 to"
    with pytest.raises(RunError, match=message) as raised:
        load_model_weights(tmp_path / "last")
    assert len(str(raised.value).removeprefix(str(tmp_path))) < 250


@pytest.mark.parametrize(
    "error", [SafetensorError("a"), OSError("a"), KeyError("a"), ValueError("a"), TypeError("a")]
)
def test_weights_with_any_damage_name_no_averaged_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    save_checkpoint(tmp_path / "last", model=WEIGHTS, ema=WEIGHTS)
    (tmp_path / "last/ema.safetensors").unlink()
    monkeypatch.setattr(checkpoint, "safe_open", fail)
    assert checkpoint.find_averaged_file(tmp_path / "last") is None


@pytest.mark.parametrize("ema", [None, WEIGHTS])
def test_a_pipe_is_not_found_as_weights(
    ema: dict[str, torch.Tensor] | None, tmp_path: Path
) -> None:
    """Some commands compute the digest of the weights before they load them."""
    save_checkpoint(tmp_path / "last", model=WEIGHTS, ema=ema)
    file = checkpoint.find_weights_file(tmp_path / "last")
    file.unlink()
    os.mkfifo(file)
    message = rf"{file.name} cannot be read \(it is a named pipe .*\); use another checkpoint"
    with pytest.raises(RunError, match=message):
        checkpoint.find_weights_file(tmp_path / "last")


def test_state_with_code_never_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    save_checkpoint(tmp_path / "last", model=WEIGHTS, state={**TRAINING_STATE, "threads": 1})
    (tmp_path / "last" / "state.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(RunError, match="holds Python objects, which are never loaded") as caught:
        load_checkpoint(tmp_path / "last")
    assert "weights_only" not in str(caught.value), "torch advises to run the code"
    assert not (tmp_path / "ran").exists()


def test_text_is_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "file.txt", "one")
    write_text(tmp_path / "deep" / "file.txt", "two")
    assert (tmp_path / "deep" / "file.txt").read_text() == "two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.txt"]


def test_weights_that_are_removed_from_a_checkpoint_are_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", model=WEIGHTS, state=TRAINING_STATE)
    (tmp_path / "last/state.pt").unlink()
    with pytest.raises(RunError, match="resume from it; start a new run, or restore it"):
        load_checkpoint(tmp_path / "last")
    (tmp_path / "last/model.safetensors").unlink()
    with pytest.raises(RunError, match=r"last/model\.safetensors does not exist; use another"):
        load_checkpoint(tmp_path / "last")
