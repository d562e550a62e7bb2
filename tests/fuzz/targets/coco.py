"""COCO files, results, recipes and masks."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_tools.exporters.export import export_coco
from data_tools.exporters.formats import EXPORTS
from resnet_tasks.data.coco.masks import (
    compute_bounding_box,
    compute_mask_area,
    decode_mask,
    is_rle,
)
from resnet_tasks.data.coco.packed.run_length_sums import sum_counts
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.doctor.check import check_coco
from resnet_tasks.data.doctor.repair import repair
from resnet_tasks.data.splits.write_splits import SplitPlan, split_file
from resnet_tasks.errors import DataError, RecipeError
from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results_file
from resnet_tasks.files.mapped_columns import open_columns, write_columns
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.structures.run_lengths import decode_counts, have_sum
from tests.fuzz.forms import damage_json_text, damage_safetensors
from tests.fuzz.target import Read, Target, read_file
from tests.support.coco_contents import PACKED, build_content, build_results, build_truth
from tests.support.damage import damaged_png, damaged_text, damaged_yaml

SIZE = (30, 40)
RECIPE = b"""\
data:
  root: cells
  train: [{annotations: train.json, weight: 2}]
  val: [{annotations: val.json}]
  resize: {height: 64, width: 96}
backbone: {name: resnet18, weights: none, frozen_stages: 0}
heads:
  cells: {type: unet, loss_weight: 0.5, options: {dropout: 0.1}}
  objects: {type: faster_rcnn, classes: [a, b]}
augment: [{HorizontalFlip: {p: 0.5}}]
training: {epochs: 3, learning_rate: 1e-3, steps: [0.5, 0.9]}
"""


def _encode_map(size: tuple[int, int] = SIZE) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full(size, 2, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _read_all(path: Path) -> None:
    coco = read_coco(path)
    for image in coco.images:
        for annotation in coco.annotations[image.id]:
            if annotation.segmentation is not None:
                decode_mask(annotation.segmentation, image.height, image.width)
                compute_bounding_box(annotation.segmentation, image.height, image.width)


def _read_written(path: Path) -> None:
    try:
        _read_all(path)
    except DataError as error:
        raise AssertionError(f"{path.name}, which was just written: {error}") from error


def _check(path: Path) -> None:
    check_coco(path)


def _repair(path: Path) -> None:
    out = path.with_name("repaired.json")
    for file in (out, path.with_name("repaired.json.changes.json")):
        file.unlink(missing_ok=True)
    repair(path, out)
    _read_all(out)


def _split(path: Path) -> None:
    out = path.with_name("parts")
    shutil.rmtree(out, ignore_errors=True)
    splits = split_file(path, out, SplitPlan((0.5, 0.5), names=("one", "two")))
    assert splits
    for file in out.glob("*.json"):
        _read_written(file)


def _export(path: Path, name: str) -> None:
    out = path.parent / "exported"
    shutil.rmtree(out, ignore_errors=True)
    export_coco(name, path, out)


def _prepare_coco(folder: Path, use: Callable[[Path], object]) -> Read:
    for name in "ab":
        (folder / f"{name}.png").write_bytes(_encode_map())
    return read_file("train.json", use)(folder)


def _encode(content: object) -> bytes:
    return json.dumps(content).encode()


def _build_groups() -> dict[str, Any]:
    content = build_content()
    content["images"][1] |= {"id": 8, "group": "q"}
    return content


def _evaluate(folder: Path, damaged: str, task: str, backend: str) -> Read:
    files = {name: folder / f"{name}.json" for name in ("truth", "results")}
    if task in ("semantic", "surface"):
        files["results"] = folder / "results"
        files["results"].mkdir()
        (folder / "a.png").write_bytes(_encode_map())
        (files["results"] / "a.png").write_bytes(_encode_map())
    else:
        files["results"].write_bytes(_encode_results(task))
    files["truth"].write_bytes(_encode(build_truth()))
    file = files["results"] / "a.png" if damaged == "map" else files[damaged]

    def read(content: bytes) -> object:
        file.write_bytes(content)
        return evaluate_results_file(files["truth"], files["results"], task=task, backend=backend)

    return read


def _encode_results(task: str) -> bytes:
    entries = build_results()
    if task != "mask":
        for entry in entries:
            del entry["segmentation"]
    return _encode(entries)


def _measure_mask(content: bytes) -> None:
    """The decoder in Python, the compiled one and that of many masks agree."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise DataError("not text") from None
    runs = decode_counts(text)
    total = SIZE[0] * SIZE[1]
    fits = runs is not None and sum(runs) == total
    assert have_sum(text, total) == fits
    sums = sum_counts([text])
    if sums is not None:
        assert runs is not None
        assert sums[0].tolist() == [sum(runs)]
    segmentation = {"size": list(SIZE), "counts": text}
    assert is_rle(segmentation, *SIZE) == fits
    if fits:
        assert compute_mask_area(segmentation, *SIZE) == decode_mask(segmentation, *SIZE).sum()
        compute_bounding_box(segmentation, *SIZE)


def _prepare_mask(_: Path) -> Read:
    return _measure_mask


def _write_columns() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache.safetensors"
        columns = {"ids": np.arange(5), "areas": np.ones((2, 3)), "crowd": np.zeros(4, bool)}
        write_columns(path, columns, {"version": 1})
        return {path.name: path.read_bytes()}


def _list_targets() -> list[Target]:
    uses: dict[str, Callable[[Path], object]] = {
        "read": _read_all,
        "check": _check,
        "repair": _repair,
        "split": _split,
        **{f"export_{name}": partial(_export, name=name) for name in EXPORTS},
    }
    found = [
        Target(
            f"coco_{name}",
            partial(_prepare_coco, use=use),
            lambda: {"train.json": _encode(_build_groups())},
            damage_json_text,
            (DataError,),
        )
        for name, use in uses.items()
    ]
    cases = {
        ("results", "box", "hotcoco"),
        ("results", "box", "pycocotools"),
        ("results", "mask", "hotcoco"),
        ("results", "froc", "hotcoco"),
        ("results", "kitti", "hotcoco"),
        ("truth", "box", "hotcoco"),
        ("truth", "mask", "pycocotools"),
        ("truth", "semantic", "hotcoco"),
    }
    found += [
        Target(
            f"evaluate_{damaged}_{task}_{backend}",
            partial(_evaluate, damaged=damaged, task=task, backend=backend),
            partial(
                lambda damaged, task: {
                    f"{damaged}.json": _encode(build_truth())
                    if damaged == "truth"
                    else _encode_results(task)
                },
                damaged,
                task,
            ),
            damage_json_text,
            (DataError,),
        )
        for damaged, task, backend in sorted(cases)
    ]
    found += [
        Target(
            f"evaluate_map_{task}",
            partial(_evaluate, damaged="map", task=task, backend="hotcoco"),
            lambda: {"a.png": _encode_map()},
            damaged_png,
            (DataError,),
        )
        for task in ("semantic", "surface")
    ]
    found += [
        Target(
            "recipe",
            read_file("mine.yaml", load_recipe),
            lambda: {"mine.yaml": RECIPE},
            damaged_yaml,
            (RecipeError,),
        ),
        Target(
            "mapped_columns",
            read_file("cache.safetensors", lambda path: dict(open_columns(path))),
            _write_columns,
            damage_safetensors,
            (DataError, OSError),
        ),
        Target(
            "run_lengths",
            _prepare_mask,
            lambda: {"counts.txt": PACKED["counts"].encode()},
            damaged_text,
            (DataError,),
            max_bytes=512,
        ),
    ]
    return found


COCO = _list_targets()
