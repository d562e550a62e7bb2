"""Heads added to a finished run: old predictions to the bit, a folder that is enough, resuming."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from resnet_tasks.assemble.extend_run import BaseRun
from resnet_tasks.assemble.labels import HeadLabels
from resnet_tasks.errors import RecipeError, RunError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.run_folder.checkpoint import load_model_weights
from resnet_tasks.runs.run import Run, load
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.training.experiments.seeds import finetune_seeds
from resnet_tasks.training.finetune_recipe import finetune_recipe
from tests.support.interrupting import asked_to_stop_at

LIGHT = {
    "anchor_sizes": [16, 32, 64, 128, 256],
    "box_head_channels": 16,
    "rpn_pre_nms": [50, 50],
    "rpn_post_nms": [20, 20],
    "score_threshold": 0.0,
}
QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cars as boxes in one data set, roads as pixels in another."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("cars", "roads"):
        folder = root / name
        folder.mkdir()
        images, annotations = [], []
        for i in (1, 2, 3):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(
                folder / f"{i}.png"
            )
            image: dict[str, Any] = {"id": i, "file_name": f"{i}.png", "height": 64, "width": 64}
            if name == "cars":
                annotations.append(
                    {
                        "id": i,
                        "image_id": i,
                        "category_id": 1,
                        "bbox": [8, 8, 30, 30],
                        "area": 900,
                        "iscrowd": 0,
                    }
                )
            else:
                pixels = np.zeros((64, 64), np.uint8)
                pixels[32:] = 2
                Image.fromarray(pixels).save(folder / f"{i}_map.png")
                image["sem_seg_file_name"] = f"{i}_map.png"
            images.append(image)
        category = (
            {"id": 1, "name": "car"} if name == "cars" else {"id": 2, "name": "road", "isthing": 0}
        )
        content = {"images": images, "annotations": annotations, "categories": [category]}
        kind = "boxes" if name == "cars" else "semantic"
        (folder / "train.json").write_text(json.dumps({**content, "info": {"annotated": [kind]}}))
    return root


def recipe(root: str, heads: dict[str, Any], **changes: Any) -> Recipe:
    content = {
        "name": root,
        "data": {
            "root": root,
            "train": [{"annotations": "train.json"}],
            "val": [{"annotations": "train.json"}],
            "allow_leaks": True,
        },
        "heads": heads,
        "training": {
            "epochs": 2,
            "batch_size": 2,
            "evaluate_every": 0,
            "ema": 0.9,
            "precision": "fp32",
            "device": "cpu",
        },
        **changes,
    }
    return Recipe.model_validate_json(json.dumps(content))


SCENE = {
    "scene": {
        "type": "unet",
        "background": True,
        "options": {"decoder_channels": [16, 16, 16, 16, 16]},
    }
}


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with one head on a shared pyramid."""
    torch.set_num_threads(1)
    made = recipe(
        "cars",
        {"objects": {"type": "faster_rcnn", "options": LIGHT}},
        backbone={"name": "resnet10t", "weights": "none"},
        pyramid={"channels": 16},
    )
    out = tmp_path_factory.mktemp("runs") / "first"
    finetune_recipe(made, out=out, data_root=data, console=QUIET)
    return out


def extending(run: Path, **changes: Any) -> Recipe:
    extend = {"run": str(run), **changes.pop("extend", {})}
    return recipe("roads", SCENE, extend=extend, **changes)


def test_old_predictions_stay_to_the_bit_and_the_folder_is_enough(
    first: Path, data: Path, tmp_path: Path
) -> None:
    image = np.random.default_rng(5).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    old = load(first)
    before = old.predict(image)["objects"]
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    made = finetune_recipe(extending(copy), out=tmp_path / "both", data_root=data, console=QUIET)
    assert made is not None
    shutil.rmtree(copy)  # the new run needs the old one no more
    run = load(tmp_path / "both")
    after = run.predict(image)
    assert list(after) == ["scene", "objects"]
    assert len(before) > 0
    for name in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(before, name), getattr(after["objects"], name))
    assert run.labels.heads["objects"].classes == ("car",)
    assert run.labels.heads["objects"].category_ids == old.labels.heads["objects"].category_ids
    assert run.labels.heads["scene"].classes == ("background", "road")
    # Parameters and statistics of norms alike, averaged or not; the new head has moved.
    for file in ("model.safetensors", "ema.safetensors"):
        kept = load_model_weights(first / "checkpoints/last")
        new = torch_weights(tmp_path / "both/checkpoints/last" / file)
        assert all(torch.equal(value, new[key]) for key, value in kept.items())
    metrics = json.loads((tmp_path / "both/evaluations/val/metrics.json").read_text())
    assert any(key.startswith("scene/") for key in metrics["metrics"])
    assert not any(key.startswith("objects/") for key in metrics["metrics"])
    resolved = load_recipe(tmp_path / "both/recipe.yaml")
    assert resolved.extend is not None
    assert resolved.extend.freeze == ("backbone", "pyramid", "objects")
    assert resolved.backbone.frozen_stages == 5
    assert resolved.pyramid == old.recipe.pyramid


def torch_weights(file: Path) -> dict[str, torch.Tensor]:
    return load_file(file)


def test_a_resumed_extension_ends_with_the_same_weights(
    first: Path, data: Path, tmp_path: Path
) -> None:
    """With the backbone learning too; its heads stay."""
    made = extending(first, extend={"freeze": ["pyramid", "objects"]})
    finetune_recipe(made, out=tmp_path / "whole", data_root=data, console=QUIET)
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    made = extending(copy, extend={"freeze": ["pyramid", "objects"]})
    with asked_to_stop_at(1):
        finetune_recipe(made, out=tmp_path / "cut", data_root=data, console=QUIET)
    shutil.rmtree(copy)
    kept = load_recipe(tmp_path / "cut/recipe.yaml")
    finetune_recipe(kept, resume=tmp_path / "cut", data_root=data, console=QUIET)
    whole, cut = (
        torch_weights(tmp_path / each / "checkpoints/last/model.safetensors")
        for each in ("whole", "cut")
    )
    assert all(torch.equal(value, cut[key]) for key, value in whole.items())
    old = load_model_weights(first / "checkpoints/last")
    for key, value in old.items():
        is_same = torch.equal(value, whole[key])
        if key.startswith(("heads.objects.", "pyramid.")):
            assert is_same, key
        elif key.endswith("conv1.weight"):
            assert not is_same, key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": {"name": "resnet50"}}, "backbone: the run provides it"),
        ({"pyramid": {"channels": 32}}, "pyramid: the run provides it"),
        (
            {"extend": {"freeze": ["necks"]}},
            "'necks' is not a part of .*backbone, pyramid, objects",
        ),
        (
            {"training": {"unfreeze": [{"epoch": 1, "frozen_stages": 0}]}},
            "extend.freeze keeps the backbone frozen|unfreezes nothing",
        ),
    ],
)
def test_what_the_run_has_decided_is_refused(
    changes: dict[str, Any], message: str, first: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises((RecipeError, ValueError), match=message):
        finetune_recipe(
            extending(first, **changes), out=tmp_path / "no", data_root=data, console=QUIET
        )
    assert not (tmp_path / "no").exists()


def test_names_and_unlabeled_heads_are_refused(first: Path, data: Path, tmp_path: Path) -> None:
    again = recipe("roads", {"objects": SCENE["scene"]}, extend={"run": str(first)})
    with pytest.raises(RecipeError, match=r"heads\.objects: the run has a head with this name"):
        finetune_recipe(again, out=tmp_path / "no", data_root=data, console=QUIET)
    free = extending(first, extend={"freeze": ["backbone"]})
    with pytest.raises(RecipeError, match=r"heads\.objects: .*name it in extend\.freeze"):
        finetune_recipe(free, out=tmp_path / "no", data_root=data, console=QUIET)
    with pytest.raises(RunError, match="is not a run folder"):
        finetune_recipe(extending(tmp_path), out=tmp_path / "no", data_root=data, console=QUIET)


def test_frozen_heads_stay_in_evaluation_mode(first: Path) -> None:
    model = Run.read(first).load_model()
    model.freeze(["objects", "backbone"])
    model.train()
    assert not model.backbone.training  # type: ignore[attr-defined]
    assert not model.heads["objects"].training
    assert model.pyramid is not None
    assert model.pyramid.training
    assert not any(p.requires_grad for p in model.heads["objects"].parameters())
    assert model.trained_heads == ()
    with pytest.raises(RecipeError, match="'scene' cannot be frozen"):
        model.freeze(["scene"])


@pytest.mark.slow
def test_over_seeds_and_asked_again(first: Path, data: Path, tmp_path: Path) -> None:
    weighted = {"scene": {**SCENE["scene"], "options": {**SCENE["scene"]["options"]}}}
    weighted["scene"]["options"]["class_weights"] = "inverse_sqrt"
    wanted = recipe("roads", weighted, extend={"run": str(first)})
    made = finetune_seeds(wanted, 2, out=tmp_path / "seeds", data_root=data, console=QUIET)
    said = io.StringIO()
    again = finetune_seeds(
        wanted, 2, out=tmp_path / "seeds", data_root=data, console=Console(file=said, width=300)
    )
    assert made.keys() == again.keys()
    assert any(name.startswith("scene/") for name in made)
    assert said.getvalue().count("is already complete") == 2
    old = load_model_weights(first / "checkpoints/last")
    for seed in (0, 1):
        kept = load_model_weights(tmp_path / f"seeds/seed-{seed}/checkpoints/last")
        assert all(torch.equal(kept[name], value) for name, value in old.items())
    with pytest.raises(RunError, match="another recipe"):
        finetune_seeds(
            recipe("roads", weighted), 2, out=tmp_path / "seeds", data_root=data, console=QUIET
        )


def test_of_many_changed_classes_the_message_names_those_that_differ() -> None:
    names = tuple(f"class {i}" for i in range(1200))
    ids = tuple(range(1, 1201))
    swapped = (*names[:700], "other", *names[701:])
    before, now = (HeadLabels(n, ids, LabelTable.identity(n)) for n in (names, swapped))
    run: Any = SimpleNamespace(
        recipe=SimpleNamespace(heads={"objects": None}),
        labels=SimpleNamespace(heads={"objects": before}),
        directory="runs/first",
    )
    labels: Any = SimpleNamespace(heads={"objects": now})
    model: Any = None
    message = (
        r"head objects of runs/first has the classes class 700 \(id 701\) \(1200 classes\), but "
        r"with the new data it would have other \(id 701\) \(1200 classes\); give the categories"
    )
    with pytest.raises(RunError, match=message):
        BaseRun(run, "last").load_weights_into(model, labels)
