"""Every catalogd data set in its real format, tiny: prepared, learned from, judged."""

import io
import json
from importlib import import_module
from pathlib import Path

import pytest
from rich.console import Console

from data_tools.catalog import load_datasets, prepare
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.training.finetune_recipe import finetune_recipe

SMALL = (
    "backbone={name: resnet10t, weights: none}",
    "training.epochs=1",
    "training.batch_size=1",
    "training.accumulation=1",
    "training.unfreeze=[]",
    "training.evaluate_every=0",
    "training.precision=fp32",
    "training.device=cpu",
    "evaluation.resamples=0",
    "data.workers=0",
    "data.resize={height: 64, width: 96}",
)
NARROW_DETECTOR = {
    "pyramid_channels": 16,
    "box_head_channels": 32,
    "rpn_pre_nms": "[50, 50]",
    "rpn_post_nms": "[20, 20]",
    "roi_batch_size": 16,
}
NARROW = {
    "faster_rcnn": NARROW_DETECTOR,
    "mask_rcnn": {
        **NARROW_DETECTOR,
        "mask_head_channels": "[16, 16]",
        "mask_predictor_channels": 16,
    },
    "unet": {"decoder_channels": "[32, 16, 16, 16, 16]"},
}


@pytest.mark.parametrize("name", load_datasets())
def test_a_tiny_source_is_prepared_and_learned_from(name: str, tmp_path: Path) -> None:
    tiny = import_module(f"tests.support.tiny_sources.{name}")
    (tmp_path / "in").mkdir()
    options = getattr(tiny, "OPTIONS", {})
    card = prepare(name, tiny.write(tmp_path / "in"), tmp_path / "data" / name, **options)
    assert [split.images for split in card.splits][:2] == [2, 1]
    for split in card.splits:
        assert read_coco(tmp_path / "data" / name / f"{split.split}.json").problems == ()
    for recipe_name in load_datasets()[name].recipes:
        recipe = load_recipe(recipe_name)
        heads = recipe.heads
        crop = {"height": 64, "width": 96}
        steps = [
            {step: {**(options or {}), **(crop if step == "RandomCrop" else {})}}
            for each in recipe.augment
            for step, options in each.items()
        ]
        narrow = [
            f"heads.{head}.options.{option}={value}"
            for head, each in heads.items()
            for option, value in NARROW.get(each.type, {}).items()
        ]
        run = finetune_recipe(
            load_recipe(recipe_name, [*SMALL, *narrow, f"augment={json.dumps(steps)}"]),
            out=tmp_path / "runs" / recipe_name,
            data_root=tmp_path / "data",
            console=Console(file=io.StringIO()),
        )
        assert run is not None
        written = json.loads((run.directory / "evaluations/val/metrics.json").read_text())
        log = (run.directory / "log.jsonl").read_text().splitlines()
        taken = [each for each in map(json.loads, log) if each["event"] == "step"]
        assert len(taken) == 2, recipe_name
        for head in heads:
            assert any(key.startswith(f"{head}/") for key in taken[0]["losses"]), recipe_name
            assert any(key.startswith(f"{head}/") for key in written["metrics"]), recipe_name
