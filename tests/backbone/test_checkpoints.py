from __future__ import annotations

import argparse
import os
import pickle
import re
import shlex
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from resnet_tasks.backbone.checkpoints import read_checkpoint, strip_key
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import WeightsError

TINY = "test_resnet"


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(timm.create_model(TINY).state_dict())


def _save(content: Any, file: Path) -> str:
    torch.save(content, file)
    return str(file)


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "backbone.", "encoder.", "model.", "module.backbone.body."],
)
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_prefixes_and_containers_are_opened(
    prefix: str, container: str | None, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    named = OrderedDict(_prefixed(prefix, tensors))
    content = {container: named, "epoch": 3} if container else named
    backbone = ResNet(TINY, weights=_save(content, tmp_path / "a.pth"))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, tensors[key]), key
    assert backbone.report is not None
    assert backbone.report.missing == ()
    assert set(backbone.report.unexpected) == {"fc.weight", "fc.bias"}


def test_prefixes_are_stripped_from_the_front_only() -> None:
    assert strip_key("module.model.backbone.layer1.0.conv1.weight") == "layer1.0.conv1.weight"
    assert strip_key("layer1.model.weight") == "layer1.model.weight"


def test_half_precision_and_absent_counters_load(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    half = {key: value.half() for key, value in tensors.items() if "num_batches_tracked" not in key}
    save_file(half, tmp_path / "half.safetensors")
    state = ResNet(TINY, weights=str(tmp_path / "half.safetensors")).state_dict()
    assert state["bn1.running_var"].dtype == torch.float32
    assert torch.equal(state["conv1.0.weight"], half["conv1.0.weight"].float())


def test_the_real_resnet18_loads_whole(shared_weights: Path) -> None:
    backbone = ResNet("resnet18", weights=str(shared_weights), frozen_stages=1)
    report = backbone.report
    assert report is not None
    assert report.missing == ()
    assert report.unexpected == ("fc.bias", "fc.weight")
    assert set(report.matched) == set(backbone.state_dict())
    stored = load_file(shared_weights)
    assert torch.equal(
        backbone.state_dict()["layer4.1.bn2.running_var"],
        stored["layer4.1.bn2.running_var"].float(),
    )
    assert backbone.mean == (0.485, 0.456, 0.406)
    assert backbone.weights_description == str(shared_weights)


def test_missing_tensors_are_counted_and_named(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    part = {key: value for key, value in tensors.items() if not key.startswith("layer4.0.bn2.")}
    with pytest.raises(WeightsError, match=r"4 tensors are missing \(layer4.0.bn2.bias") as caught:
        ResNet(TINY, weights=_save(part, tmp_path / "a.pth"))
    assert "test_resnet" in str(caught.value)


@pytest.mark.parametrize(("own", "given"), [("resnet18", "resnet34"), ("resnet34", "resnet18")])
def test_weights_of_another_depth_are_refused_and_recognized(
    own: str, given: str, tmp_path: Path
) -> None:
    # resnet34 holds every tensor of resnet18 and more: it must not load cut short.
    weights = _save(timm.create_model(given).state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError) as caught:
        ResNet(own, weights=weights)
    assert f"as {given} and its relatives have" in str(caught.value)
    assert f"backbone.name {own!r}" in str(caught.value)


def test_other_shapes_are_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    changed = tensors | {"bn1.weight": torch.ones(33)}
    with pytest.raises(WeightsError, match=r"bn1.weight with \(33,\) in place of \(32,\)"):
        ResNet(TINY, weights=_save(changed, tmp_path / "a.pth"))


def test_values_that_are_not_finite_are_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    changed = tensors | {"bn1.weight": torch.full((32,), torch.nan)}
    with pytest.raises(WeightsError, match=r"not finite in 1 tensor, first bn1.weight"):
        ResNet(TINY, weights=_save(changed, tmp_path / "a.pth"))


def test_two_models_in_one_file_are_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    both = _prefixed("model.", tensors) | _prefixed("module.", tensors)
    with pytest.raises(WeightsError, match="twice"):
        ResNet(TINY, weights=_save(both, tmp_path / "a.pth"))


class _Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.file),))


@pytest.mark.parametrize("legacy", [True, False])
def test_pickled_code_never_runs(legacy: bool, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    content = {"state_dict": tensors, "extra": _Attack(tmp_path / "ran")}
    file = tmp_path / "evil.pth"
    if legacy:
        file.write_bytes(pickle.dumps({"extra": _Attack(tmp_path / "ran")}, protocol=2))
    else:
        torch.save(content, file)
    with pytest.raises(WeightsError, match="run code") as caught:
        ResNet(TINY, weights=str(file))
    assert str(file) in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("content", ["cut", "text", "empty"])
def test_damaged_files_are_refused(
    name: str, content: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / name
    if content == "cut":
        if name.endswith("pth"):
            torch.save(tensors, file)
        else:
            save_file(tensors, file)
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        file.write_bytes(b"# no checkpoint at all, but text\n" if content == "text" else b"")
    with pytest.raises(WeightsError) as caught:
        ResNet(TINY, weights=str(file))
    assert str(file) in str(caught.value)
    assert "checkpoint" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["module", "checkpoint"])
def test_the_offered_conversion_works_from_any_folder(kind: str, tmp_path: Path) -> None:
    model = timm.create_model(TINY, pretrained=False, num_classes=3)
    file = tmp_path / "a.pth"
    torch.save(
        model
        if kind == "module"
        else {"state_dict": model.state_dict(), "args": argparse.Namespace(lr=1)},
        file,
    )
    with pytest.raises(WeightsError) as caught:
        ResNet(TINY, weights=str(file))
    command = shlex.split(str(caught.value).partition("source of the file: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True)
    made = ResNet(TINY, weights=str(tmp_path / "a-tensors.pth")).state_dict()
    expected = model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in made.items())


@pytest.mark.parametrize(
    ("content", "kind"), [({"epoch": 3}, "dict"), (torch.zeros(3), "Tensor"), ([1, 2], "list")]
)
def test_files_without_named_tensors_are_refused(content: Any, kind: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"no named tensors .found {kind} with"):
        ResNet(TINY, weights=_save(content, tmp_path / "a.pth"))


def test_another_architecture_is_named(tmp_path: Path) -> None:
    weights = _save({"stem.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="no ResNet stages"):
        ResNet(TINY, weights=weights)


@pytest.mark.parametrize("legacy", [True, False])
def test_damaged_files_are_one_sentence_without_advice_to_run_them(
    tensors: dict[str, Tensor], tmp_path: Path, legacy: bool
) -> None:
    file = tmp_path / "a.pth"
    part = {key: value for key, value in tensors.items() if key.startswith("bn1.")}
    torch.save(part, file, _use_new_zipfile_serialization=not legacy)
    content = file.read_bytes()
    contents = [content[:length] for length in range(0, len(content), 97)]
    contents += [content[:n] + b"\x01\xff" + content[n + 2 :] for n in range(2, 600, 9)]
    contents += [b"\x80", b"\x80\x02", b"\x80\x02N.", bytes(99)]
    num_refused = 0
    for damaged in contents:
        file.write_bytes(damaged)
        try:
            read_checkpoint(file)
        except WeightsError as error:
            num_refused += 1
            message = str(error)
            assert message.startswith(str(file)), (damaged, message)
            assert "; " in message, message
            assert "\n" not in message, message
            if "weights_only=False" in message:
                assert re.search(r"beyond plain tensors \([A-Za-z_]", message), message
    assert num_refused > 80
