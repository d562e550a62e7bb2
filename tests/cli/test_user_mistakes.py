"""Mistakes of users on the command line: each gets a sentence, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from resnet_tasks.cli import app

WEIGHTS = Path("checkpoints", "last", "model.safetensors")
SMALL = (
    *("backbone.name=resnet10t", "training.epochs=1", "training.batch_size=2", "data.workers=0"),
    *("heads.objects.options.pyramid_channels=16", "heads.objects.options.box_head_channels=32"),
)


def _run(*words: object) -> tuple[int, str]:
    """Exit code and everything printed, line ends folded."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def data_root(draw_cells: Callable[..., Path]) -> Path:
    return draw_cells(train=2, val=2, size=(96, 96))


@pytest.fixture(scope="module")
def run(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    code, said = _run(
        *("finetune", "quickstart", *SMALL, "--data-root", data_root, "--out", folder)
    )
    assert code == 0, said
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.precision=fp16", "training.precision is fp16"),
        ("training.device=warp", "training.device is 'warp'"),
        (
            "evaluation.best=objects/AP5",
            "evaluation.best is 'objects/AP5', but the metrics are objects/AP",
        ),
    ],
)
def test_settings_that_cannot_run_leave_no_folder(
    data_root: Path, tmp_path: Path, change: str, message: str
) -> None:
    folder = tmp_path / "run"

    code, said = _run(
        "finetune", "quickstart", *SMALL, change, "--data-root", data_root, "--out", folder
    )

    assert code == 2
    assert message in said
    assert not folder.exists()


def test_an_out_that_is_a_file(data_root: Path, run: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine", encoding="utf-8")
    image = next((data_root / "cells").rglob("*.jpg"))

    for words in (
        ("finetune", "quickstart", *SMALL, "--data-root", data_root),
        ("predict", run, image),
    ):
        code, said = _run(*words, "--out", taken)
        assert code == 2
        assert f"folder {taken} cannot be created" in said
    assert taken.read_text(encoding="utf-8") == "mine"


def test_another_run_without_checkpoint_is_not_offered_for_resuming(
    data_root: Path, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())

    words = ("finetune", "quickstart", *SMALL, "training.seed=7")
    code, said = _run(*words, "--data-root", data_root, "--out", tmp_path)

    assert code == 2
    assert "has no checkpoint yet; remove it, or choose another --out" in said
    assert "--resume" not in said


def test_predict_names_the_file_whose_values_it_cannot_place(run: Path, tmp_path: Path) -> None:
    image = tmp_path / "scan.tif"
    Image.fromarray(np.full((32, 32), 254, np.float32)).save(image)

    code, said = _run("predict", run, image, "--out", tmp_path / "out")

    assert code == 2
    assert f"{image} holds float32 values from 254 to 254" in said


def test_the_best_checkpoint_is_judged_without_the_last(
    data_root: Path, run: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "last"
    (run / "checkpoints" / "last").rename(kept)
    try:
        code, said = _run("evaluate", run, "--checkpoint", "best", "--data-root", data_root)
    finally:
        kept.rename(run / "checkpoints" / "last")

    assert code == 0, said
    metrics = json.loads((run / "evaluations" / "val-best" / "metrics.json").read_text("utf-8"))
    assert metrics["checkpoint"] == "best"


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    data_root: Path, run: Path, tmp_path: Path
) -> None:
    torch.rand(3)  # whatever happened before in the process must not matter

    weights = []
    for name, seed in (("again", 0), ("other", 1)):
        words = (*SMALL, f"training.seed={seed}", "--data-root", data_root)
        code, said = _run("finetune", "quickstart", *words, "--out", tmp_path / name)
        assert code == 0, said
        weights.append((tmp_path / name / WEIGHTS).read_bytes())

    assert weights[0] == (run / WEIGHTS).read_bytes()
    assert weights[1] != weights[0]


def test_a_seed_that_no_generator_takes_is_refused_with_the_recipe() -> None:
    code, said = _run("recipes", "validate", "quickstart", "training.seed=99999999999999999999")

    assert code == 2
    assert "training.seed: got 99999999999999999999" in said


def test_weights_of_another_model(run: Path, data_root: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    save_file({"backbone.alien": torch.zeros(1)}, other / WEIGHTS)
    image = next((data_root / "cells").rglob("*.jpg"))

    for words in (("predict", other, image), ("finetune", "--resume", other)):
        root = ("--data-root", data_root) if words[0] == "finetune" else ()
        code, said = _run(*words, *root)
        assert code == 2
        assert "are not those of the run's model" in said
        assert "backbone.alien" in said


def test_a_state_of_another_version(run: Path, data_root: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    torch.save({"position": {}}, other / "checkpoints" / "last" / "state.pt")

    code, said = _run("finetune", "--resume", other, "--data-root", data_root)

    assert code == 2
    assert "state.pt is damaged (missing key optimizer); start a new run" in said


def test_nothing_is_appended_to_the_log_of_a_newer_version(
    run: Path, data_root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    log = other / "log.jsonl"
    log.write_text(log.read_text().replace('"format_version": 1', '"format_version": 2'))
    content = log.read_bytes()

    code, said = _run("finetune", "--resume", other, "--data-root", data_root)

    assert code == 2
    assert "log.jsonl was written by a newer version of resnet_tasks" in said
    assert log.read_bytes() == content


def test_a_crop_larger_than_the_images(data_root: Path, tmp_path: Path) -> None:
    crop = "augment=[{RandomCrop: {height: 5000, width: 5000}}]"

    code, said = _run(
        *("finetune", "quickstart", *SMALL, crop, "--data-root", data_root),
        *("--out", tmp_path / "run"),
    )

    assert code == 2
    assert "augment: albumentations rejects" in said
    assert "(5000, 5000)" in said


@pytest.mark.parametrize("content", [b"hello\n", b"", b"PK\x03\x04 cut off"])
def test_a_damaged_state(run: Path, data_root: Path, tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "checkpoints" / "last" / "state.pt").write_bytes(content)

    code, said = _run("finetune", "--resume", other, "--data-root", data_root)

    assert code == 2
    assert "state.pt is damaged (it is " in said
    assert "weights_only" not in said


@pytest.mark.parametrize("content", ["[1", "[]", "{}", '{"categories": [], "heads": {}}'])
def test_damaged_classes(run: Path, data_root: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
    (tmp_path / "classes.json").write_text(content, encoding="utf-8")

    code, said = _run("predict", tmp_path, data_root)

    assert code == 2
    assert f"{tmp_path / 'classes.json'} is damaged" in said


def test_data_below_a_file(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine", encoding="utf-8")

    code, said = _run("data", "prepare", "cells", "train=1", "val=1", "--out", taken / "cells")

    assert code == 2
    assert f"folder {taken / 'cells'} cannot be created (Not a directory); choose another" in said


@pytest.mark.parametrize("options", [(), ("category=polyp",)])
def test_options_without_a_default_are_asked_for(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    code, output = _run(
        "data", "convert", "binary-masks", tmp_path / "in", tmp_path / "a", *options
    )
    assert code == 2
    missing = "folders" if options else "category, folders"
    number = "1 option" if options else "2 options"
    assert f"the format 'binary-masks' needs {number}: {missing}; set" in output
    assert not (tmp_path / "a").exists()


def test_links_in_a_loop_and_pipes_without_a_writer_are_no_coco_files(tmp_path: Path) -> None:
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    os.mkfifo(tmp_path / "pipe.json")
    for name, reason in (("loop", "symbolic links"), ("pipe", "nothing was written to")):
        for command in ("check", "stats", "preview"):
            options = ("--out", tmp_path / "a.png") if command == "preview" else ()
            code, output = _run("data", command, tmp_path / f"{name}.json", *options)
            assert code == 2
            assert f"{name}.json" in output
            assert reason in output
