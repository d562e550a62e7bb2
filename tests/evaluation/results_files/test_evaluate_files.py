"""Results files of any tool give pycocotools' numbers, whatever is in them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.results_files import boxes as box_files
from resnet_tasks.evaluation.results_files import fast_boxes
from resnet_tasks.evaluation.results_files.evaluate_files import (
    evaluate_results,
    evaluate_results_file,
)
from resnet_tasks.evaluation.results_files.report import add_intervals
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.visualization.thumbnails import write_label_image

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
NAMES += ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
BACKENDS = pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])


def referee(truth: Path, results: Path, kind: str = "bbox") -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCO(str(truth))
        if json.loads(results.read_text()):
            found = expected.loadRes(str(results))
        else:  # pycocotools cannot load an empty list
            found = COCO()
            found.dataset = {**expected.dataset, "annotations": []}
            found.createIndex()
        run = COCOeval(expected, found, kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats]


def numbers(truth: Path, results: Path, backend: str, task: str = "box") -> list[float]:
    metrics = evaluate_results(truth, results, task=task, backend=backend)
    return [-1.0 if metrics[name].value is None else metrics[name].value for name in NAMES]


def jittered(truth: Path, *, seed: int = 0, digits: int = 9) -> list[dict[str, Any]]:
    content = json.loads(truth.read_text())
    rng = np.random.default_rng(seed)
    return [
        {
            "image_id": each["image_id"],
            "category_id": each["category_id"],
            "bbox": (np.asarray(each["bbox"]) * rng.uniform(0.8, 1.2, 4)).tolist(),
            "score": round(float(rng.uniform()), digits),
        }
        for each in content["annotations"]
        for _ in range(2)
    ]


@BACKENDS
@pytest.mark.parametrize("digits", [9, 1])
def test_real_images_and_jittered_results(
    shared_data: Path, tmp_path: Path, backend: str, digits: int
) -> None:
    truth = shared_data / "coco_tiny/annotations/instances_val2017.json"
    written = tmp_path / "results.json"
    written.write_text(json.dumps(jittered(truth, digits=digits)))
    expected = referee(truth, written)
    assert numbers(truth, written, backend) == pytest.approx(expected, abs=1e-12)
    assert 0.05 < expected[0] < 0.95


@BACKENDS
@pytest.mark.parametrize("with_boxes", [False, True])
def test_real_masks(shared_data: Path, tmp_path: Path, backend: str, with_boxes: bool) -> None:
    truth = shared_data / "coco_tiny/annotations/instances_val2017.json"
    content = json.loads(truth.read_text())
    by_image: dict[int, list[dict[str, Any]]] = {}
    for each in content["annotations"]:
        by_image.setdefault(each["image_id"], []).append(each)
    rng = np.random.default_rng(0)
    results = []
    for present in by_image.values():
        for each in present:
            other = present[int(rng.integers(len(present)))] if rng.random() < 0.3 else each
            entry = {
                "image_id": each["image_id"],
                "category_id": each["category_id"],
                "segmentation": other["segmentation"],
                "score": round(float(rng.random()), 2),
            }
            if not isinstance(other["segmentation"], dict):  # pycocotools wants run lengths packed
                results.append(entry | ({"bbox": other["bbox"]} if with_boxes else {}))
    written = tmp_path / "results.json"
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(truth))
    for entry in results:
        lengths = loaded.annToRLE(entry)
        entry["segmentation"] = {**lengths, "counts": lengths["counts"].decode()}
    written.write_text(json.dumps(results))
    expected = referee(truth, written, "segm")
    assert numbers(truth, written, backend, "mask") == pytest.approx(expected, abs=1e-12)
    assert 0.2 < expected[0] < 0.99


def dataset(seed: int, **changes: Any) -> dict[str, Any]:
    """Gapped, unsorted ids; coarse boxes and scores, so that ties abound; boxes without area."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": int(i), "file_name": f"{i}.png", "height": 200, "width": 200}
        for i in rng.permutation([900, 3, 77, 12345, 8, 41])
    ]
    annotations = []
    for image in images:
        for _ in range(int(rng.integers(0, 6))):
            x, y, w, h = (rng.integers(0, 6, 4) * 20).tolist()
            annotations.append(
                {
                    "id": 5 * len(annotations) + 2,
                    "image_id": image["id"],
                    "category_id": int(rng.choice([90, 2, 17])),
                    "bbox": [x, y, w, h],
                    "area": w * h * 0.7,
                    "iscrowd": int(rng.random() < 0.2),
                    "ignore": int(rng.random() < 0.1),  # pycocotools goes by `iscrowd` alone
                }
            )
    categories = [{"id": i, "name": f"class {i}"} for i in (90, 2, 17, 4)]
    return {"images": images, "annotations": annotations, "categories": categories, **changes}


def found_in(content: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    results = []
    for each in [*content["annotations"], *content["annotations"]]:
        x, y, w, h = each["bbox"]
        dx, dy = (rng.integers(-1, 2, 2) * 4).tolist()
        category = int(rng.choice([each["category_id"], 2]))
        box = [x + dx, y - dy, w, h]
        score = round(float(rng.random()), 1)
        results.append(
            {"image_id": each["image_id"], "category_id": category, "bbox": box, "score": score}
        )
    return results


@BACKENDS
def test_random_files_with_ties_and_gaps(tmp_path: Path, backend: str) -> None:
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    for seed in range(20):
        content = dataset(seed)
        truth.write_text(json.dumps(content))
        results.write_text(json.dumps(found_in(content, seed)))
        expected = referee(truth, results)
        assert numbers(truth, results, backend) == pytest.approx(expected, abs=1e-12), seed


@BACKENDS
@pytest.mark.parametrize("case", ["no detections", "no truth", "crowd only", "negative corner"])
def test_adversarial_files(tmp_path: Path, backend: str, case: str) -> None:
    content = dataset(4)
    entries = found_in(content, 4)
    if case == "no detections":
        entries = []
    elif case == "no truth":
        content = {**content, "annotations": []}
    elif case == "crowd only":
        for each in content["annotations"]:
            each["iscrowd"] = 1
    else:
        for each in entries[::2]:
            each["bbox"][:2] = [-3.5, -1e-5]
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps(entries))
    expected = referee(truth, results)
    assert numbers(truth, results, backend) == pytest.approx(expected, abs=1e-12)
    if case in ("no truth", "crowd only"):
        assert expected == [-1.0] * 12


def triangles(**changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two triangles whose masks are small, in boxes that are medium, and nearly exact results."""
    corners = [(10, 10, 60, 60), (30, 20, 75, 62)]
    polygons = [[x1, y1, x2, y1, x1, y2] for x1, y1, x2, y2 in corners]
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": (18, 7)[i], "iscrowd": 0}
        | {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": [polygons[i]], "area": 900}
        for i, (x1, y1, x2, y2) in enumerate(corners)
    ]
    image = {"id": 1, "file_name": "a.png", "height": 100, "width": 100}
    categories = [{"id": 18, "name": "a"}, {"id": 7, "name": "b"}]
    shapes = [[[value + 1 for value in polygon]] for polygon in polygons]
    runs = [coco_mask.merge(coco_mask.frPyObjects(shape, 100, 100)) for shape in shapes]
    entries = [
        {"image_id": 1.0, "category_id": (18.0, 7.0)[i], "score": 0.9, "bbox": annotation["bbox"]}
        | {"segmentation": {"size": [100, 100], "counts": runs[i]["counts"].decode()}}
        | changes
        for i, annotation in enumerate(annotations)
    ]
    truth = {"images": [image], "annotations": annotations, "categories": categories}
    return truth, entries


@BACKENDS
@pytest.mark.parametrize(
    ("task", "missing", "note"),
    [
        ("box", {"segmentation"}, ""),
        ("mask", {"bbox"}, ""),
        ("mask", {"segmentation"}, "2 results have no `segmentation`; as in pycocotools, the box"),
        ("box", {"bbox"}, "no `bbox`; as in pycocotools, the bounding boxes of the masks are ev"),
    ],
)
def test_boxes_and_masks_replace_each_other_as_in_pycocotools(
    tmp_path: Path, backend: str, task: str, missing: set[str], note: str
) -> None:
    content, entries = triangles()
    entries = [{k: v for k, v in entry.items() if k not in missing} for entry in entries]
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps(entries))
    expected = referee(truth, results, "bbox" if task == "box" else "segm")
    assert numbers(truth, results, backend, task) == pytest.approx(expected, abs=1e-12)
    notes = evaluate_results_file(truth, results, task=task, backend=backend).notes
    assert any(note in text for text in notes) if note else notes == ()
    # null and an empty list are missing values, too.
    for value in (None, []):
        empty = [entry | dict.fromkeys(missing, value) for entry in entries]
        results.write_text(json.dumps(empty))
        assert numbers(truth, results, backend, task) == pytest.approx(expected, abs=1e-12)


@BACKENDS
def test_boxes_of_masks_are_small_by_the_area_of_the_mask(tmp_path: Path, backend: str) -> None:
    """A false positive in a medium box with a small mask lowers the AP of small objects only."""
    content, entries = triangles()
    # The annotated objects are small (900 pixels) as well; the first detection finds nothing.
    content["annotations"] = content["annotations"][1:]
    content["annotations"] += [
        {**content["annotations"][0], "id": 9, "area": 2000, "bbox": [0, 0, 9, 9]}
    ]
    polygon = [[5, 40, 65, 40, 5, 70]]
    runs = coco_mask.merge(coco_mask.frPyObjects(polygon, 100, 100))
    mask = {"size": [100, 100], "counts": runs["counts"].decode()}
    wrong = {**entries[1], "score": 0.95, "segmentation": mask}
    entries = [{k: v for k, v in e.items() if k != "bbox"} for e in (wrong, entries[1])]
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps(entries))
    expected = referee(truth, results, "bbox")
    found = numbers(truth, results, backend, "box")
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[3] == pytest.approx(0.5)  # AP_small


def test_a_rectangle_far_outside_is_no_fault_of_the_truth(tmp_path: Path) -> None:
    content, entries = triangles(bbox=[5, 5, 1e12, 1e12], segmentation=None)
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps(entries))
    assert evaluate_results(truth, results, task="mask")["AP50"].value == 0.0
    results.write_text(json.dumps([entries[0], entries[1] | {"bbox": None}]))
    for task, problem in (("box", "has bbox None"), ("mask", "has segmentation None")):
        with pytest.raises(DataError, match=rf"entry 1 \(image 1\).* {problem}"):
            evaluate_results(truth, results, task=task)


def test_big_files_take_the_short_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = dataset(1)
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps(found_in(content, 1)))
    slow = numbers(truth, results, "pycocotools")
    monkeypatch.setattr(box_files, "build_evaluator", lambda *_: pytest.fail("the long way"))
    assert numbers(truth, results, "hotcoco") == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": -5}, "entry 0 has image_id -5"),
        ({"image_id": 10**9}, "entry 0 has image_id 1000000000"),
        ({"category_id": 3}, "entry 0 .* has category_id 3; known ids: 2, 4, 17, 90"),
        ({"score": float("nan")}, "entry 0 .* has score nan"),
        ({"score": float("inf")}, "entry 0 .* has score inf"),
        ({"score": None}, "entry 0 .* has score None"),
        ({"bbox": [1, 2, -3, 4]}, r"entry 0 .* has bbox \[1, 2, -3, 4\]"),
        ({"bbox": [1, 2, 3, -4.5]}, r"entry 0 .* has bbox \[1, 2, 3, -4.5\]"),
        ({"bbox": None}, "entry 0 .* has bbox None"),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    content = dataset(2)
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    entries = found_in(content, 2)
    entries[0].update(change)
    results.write_text(json.dumps(entries))
    for backend in ("hotcoco", "pycocotools"):
        with pytest.raises(DataError, match=said):
            evaluate_results(truth, results, backend=backend)


@pytest.mark.parametrize("change", [{"image_id": 10**9}, {"category_id": 3}])
def test_the_compiled_evaluator_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    content = dataset(2)
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps([{**found_in(content, 2)[0], **change}]))
    with pytest.raises(DataError, match="entry 0 "):
        evaluate_results(truth, results)
    assert capfd.readouterr() == ("", "")


def test_only_lines_of_the_compiled_evaluator_are_dropped(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with fast_boxes._drop_lines_of_hotcoco():
        os.write(2, b"first\nhotcoco: warning\nhotcoco elsewhere\n")
    os.write(2, b"last\n")
    assert capfd.readouterr().err == "first\nhotcoco elsewhere\nlast\n"
    with contextlib.suppress(ZeroDivisionError), fast_boxes._drop_lines_of_hotcoco():
        os.write(2, b"before the error\n")
        os.write(2, b"%d\n" % (1 // 0))
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before the error\nafter\n"


def test_odd_files_get_a_note(tmp_path: Path) -> None:
    content = dataset(3)
    for each in content["annotations"]:
        del each["iscrowd"]
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text("[]")
    notes = evaluate_results_file(truth, results).notes
    assert any("no `iscrowd`; taken as 0" in note for note in notes)
    assert any("the results are empty" in note for note in notes)
    content["annotations"][0]["bbox"][2] = -3
    truth.write_text(json.dumps(content))
    assert any(
        "1 object has a box of neg" in each for each in evaluate_results_file(truth, results).notes
    )
    truth.write_text(json.dumps({**content, "annotations": []}))
    assert any(
        "contains no objects" in each for each in evaluate_results_file(truth, results).notes
    )
    with pytest.raises(
        DataError, match="task 'boxes' is unknown; known: box, mask, semantic, surface, f"
    ):
        evaluate_results_file(truth, results, task="boxes")


def test_a_broken_mask_of_the_truth_is_told_with_its_file(tmp_path: Path) -> None:
    content = dataset(3)
    for each in content["annotations"]:
        each["segmentation"] = [[1, 2, 3, 4]]
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text("[]")
    with pytest.raises(
        DataError, match=r"truth\.json: image .* contains no polygon; .*; fix the ann"
    ):
        evaluate_results(truth, results, task="mask")


def test_intervals_hold_the_value(shared_data: Path, tmp_path: Path) -> None:
    truth = shared_data / "coco_tiny/annotations/instances_val2017.json"
    written = tmp_path / "results.json"
    written.write_text(json.dumps(jittered(truth)))
    metric = add_intervals(evaluate_results_file(truth, written), Bootstrap(200)).metrics["AP50"]
    assert metric.interval is not None
    low, high = metric.interval
    assert metric.value is not None
    assert low < metric.value < high


# --- Pixels --------------------------------------------------------------------------------------


def pixels(folder: Path) -> tuple[Path, Path]:
    """Two classes (ids 3 and 8) and void on 2 x 4 pixels; one of six judged pixels is wrong."""
    truth, answers = folder / "maps", folder / "answers"
    truth.mkdir()
    answers.mkdir()
    Image.fromarray(np.array([[3, 3, 3, 255], [8, 8, 8, 0]], np.uint8)).save(truth / "a.png")
    Image.fromarray(np.array([[3, 3, 8, 3], [8, 8, 8, 0]], np.uint8)).save(answers / "a.png")
    image = {"id": 1, "file_name": "a.jpg", "height": 2, "width": 4, "sem_seg_file_name": "a.png"}
    content = {
        "info": {"sem_seg_root": "maps"},
        "images": [image],
        "annotations": [],
        "categories": [{"id": 3, "name": "road"}, {"id": 8, "name": "sky"}],
    }
    file = folder / "truth.json"
    file.write_text(json.dumps(content))
    return file, answers


def test_pixels_by_hand(tmp_path: Path) -> None:
    metrics = evaluate_results(*pixels(tmp_path), task="semantic")
    assert metrics["mIoU"].per_class == {"road": pytest.approx(2 / 3), "sky": pytest.approx(3 / 4)}
    assert metrics["pixel_accuracy"].value == pytest.approx(5 / 6)


def test_surfaces_by_hand(tmp_path: Path) -> None:
    """Road: distances 0, 0 and 0, 0, 1 along x; sky: 0, 0, 0 and 1, 0, 0, 0 along y."""
    truth, answers = pixels(tmp_path)
    evaluation = evaluate_results_file(truth, answers, task="surface", options={"tolerance": 0})
    distance, dice = (evaluation.metrics[name] for name in ("HD95", "NSD"))
    assert (distance.unit, distance.lower_is_better) == ("px", True)
    assert distance.per_class == {"road": pytest.approx(0.9), "sky": pytest.approx(0.85)}
    assert dice.per_class == {"road": pytest.approx(4 / 5), "sky": pytest.approx(6 / 7)}
    assert evaluate_results(truth, answers, task="surface")["NSD"].value == 1.0
    content = json.loads(truth.read_text())
    content["images"][0]["spacing"] = [2.0, 1.0]
    truth.write_text(json.dumps(content))
    distance = evaluate_results(truth, answers, task="surface")["HD95"]
    assert distance.unit == "mm"
    assert distance.per_class == {"road": pytest.approx(0.9), "sky": pytest.approx(1.7)}


def test_maps_with_the_colors_of_classes_are_read_as_ids(tmp_path: Path) -> None:
    truth, answers = pixels(tmp_path)
    gray = evaluate_results(truth, answers, task="semantic")
    colors = {3: (3, 8, 8), 8: (8, 3, 3)}  # colors whose channels look like other ids
    for folder in (tmp_path / "maps", answers):
        with Image.open(folder / "a.png") as image:
            values = np.asarray(image)
        write_label_image(folder / "a.png", values, colors)
        with Image.open(folder / "a.png") as image:
            assert image.mode == "P"
    assert evaluate_results(truth, answers, task="semantic") == gray
    read = CocoDataset([read_coco(truth)], categories=read_coco(truth).categories)
    semantic = read.truth(0, LabelTable.identity(("road", "sky"))).semantic
    assert semantic is not None
    assert semantic.tolist() == [[0, 0, 0, VOID], [1, 1, 1, VOID]]


def test_pixels_that_cannot_be_judged(tmp_path: Path) -> None:
    truth, answers = pixels(tmp_path)
    Image.fromarray(np.zeros((2, 4), np.uint8)).save(answers / "a.png")
    with pytest.raises(DataError, match=r"has no category \(0 or void\) at 6 labeled pixels"):
        evaluate_results(truth, answers, task="semantic")
    content = json.loads(truth.read_text())
    content["categories"].append({"id": 0, "name": "background"})
    with_background = tmp_path / "with_background.json"
    with_background.write_text(json.dumps(content))
    metrics = evaluate_results(with_background, answers, task="semantic")
    assert metrics["mIoU"].per_class == {"road": 0, "sky": 0, "background": pytest.approx(1 / 7)}
    (answers / "a.png").unlink()
    with pytest.raises(DataError, match=r"1 of 1 label maps are missing, the first is a\.png"):
        evaluate_results(truth, answers, task="semantic")
    with pytest.raises(DataError, match="is not a folder"):
        evaluate_results(truth, truth, task="semantic")


def pixels_in_subfolders(folder: Path, stems: tuple[str, str]) -> tuple[Path, Path]:
    """Two images in different subfolders, whose maps are in one; the answers lie in no subfolder.

    The answer for the first image is the one of `pixels`, the one for the second is correct.
    """
    truth, answers = pixels(folder)
    content = json.loads(truth.read_text())
    (image,) = content["images"]
    (folder / "maps" / "deep").mkdir()
    right = (folder / "maps" / "a.png").read_bytes()
    wrong = (answers / "a.png").read_bytes()
    (answers / "a.png").unlink()
    content["images"] = []
    for number, (stem, answer) in enumerate(zip(stems, (wrong, right), strict=True)):
        name = f"deep/map{number}.png"
        (folder / "maps" / name).write_bytes(right)
        (answers / f"{stem}.png").write_bytes(answer)
        record = {"id": number, "file_name": f"{number}/{stem}.jpg", "sem_seg_file_name": name}
        content["images"].append(image | record)
    truth.write_text(json.dumps(content))
    return truth, answers


@pytest.mark.parametrize("source", ["file_name", "sem_seg_file_name"])
@pytest.mark.parametrize("task", ["semantic", "surface"])
def test_label_maps_may_be_named_by_stems(source: str, task: str, tmp_path: Path) -> None:
    truth, answers = pixels_in_subfolders(tmp_path, ("x", "y"))
    (answers / "deep").mkdir()
    for number, stem in enumerate("xy"):
        shutil.copy(answers / f"{stem}.png", answers / "deep" / f"map{number}.png")
    expected = evaluate_results_file(truth, answers, task=task)
    assert not [note for note in expected.notes if "stem" in note]
    for number, stem in enumerate("xy"):
        (answers / "deep" / f"map{number}.png").rename(answers / f"map{number}.png")
        (answers / f"{stem if source != 'file_name' else f'map{number}'}.png").unlink()
    evaluation = evaluate_results_file(truth, answers, task=task)
    assert evaluation.metrics == expected.metrics
    assert [note for note in evaluation.notes if f"named by the stem of `{source}`" in note]
    if source == "file_name":
        shutil.copy(answers / "x.png", answers / "deep" / "map0.png")
        with pytest.raises(DataError, match=r"1 of 2 label maps are missing, .* deep/map1\.png"):
            evaluate_results_file(truth, answers, task=task)  # two kinds of names are not mixed


def test_stems_of_several_images_are_refused(tmp_path: Path) -> None:
    truth, answers = pixels_in_subfolders(tmp_path, ("x", "x"))
    with pytest.raises(DataError, match=r"several images have the same label map.*x\.png"):
        evaluate_results(truth, answers, task="semantic")


def test_pixels_are_taken_one_image_at_a_time(tmp_path: Path) -> None:
    """24 maps take 8 MB each while they are judged, and together no more."""
    truth, answers = pixels(tmp_path)
    content = json.loads(truth.read_text())
    content["images"] = []
    for number in range(24):
        name = f"{number}.png"
        labels = np.full((1000, 1000), 3, np.uint8)
        labels[: 20 * number] = 8
        for folder in (tmp_path / "maps", answers):
            Image.fromarray(labels).save(folder / name)
        record = {"id": number, "file_name": name, "height": 1000, "width": 1000}
        content["images"].append({**record, "sem_seg_file_name": name})
    truth.write_text(json.dumps(content))
    tracemalloc.start()
    judged = evaluate_results_file(truth, answers, task="semantic")
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert judged.metrics["mIoU"].value == 1.0
    assert left < 2e6
    assert peak < 12 * 8e6  # Of some arrays at a time, not of 48.


# --- The command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "settings"),
    [("box", ()), ("semantic", ()), ("froc", ("--set", "hit=center", "--set", "iou=0.4"))],
)
def test_command_loads_no_torch(tmp_path: Path, task: str, settings: tuple[str, ...]) -> None:
    if task != "semantic":
        content = dataset(5)
        truth, results = tmp_path / "truth.json", tmp_path / "results.json"
        truth.write_text(json.dumps(content))
        results.write_text(json.dumps(found_in(content, 5)))
    else:
        truth, results = pixels(tmp_path)
    out = tmp_path / "out"
    options = ["--truth", str(truth), "--results", str(results), "--task", task, "--out", str(out)]
    options += settings
    code = (
        "import sys\n"
        "from resnet_tasks.cli import app\n"
        f"app({['evaluate', *options]!r}, standalone_mode=False)\n"
        "heavy = [m for m in ('torch', 'timm', 'albumentations') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")
    written = json.loads((out / "metrics.json").read_text())
    evaluators = {"box": "hotcoco", "semantic": "resnet_tasks confusion matrix"}
    assert written["evaluator"] == evaluators.get(task, "resnet_tasks FrocEvaluator")
    assert {"hotcoco", "pycocotools", "resnet-tasks"} <= set(written["versions"])
    assert [len(digest) for digest in written["data"].values()] == [64, 64]
    metrics = {"box": {"AP", "AR_100"}, "semantic": {"mIoU", "Dice"}, "froc": {"CPM"}}
    assert set(written["metrics"]) >= metrics[task]
    if task == "box":
        assert "error_types" in json.loads((out / "details.json").read_text())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--truth", "a.json"], "--truth also needs --results"),
        (["--results", "a.json"], "--results also needs --truth"),
        (["--truth", "a", "--results", "b", "--set", "hit"], "'hit' is not of the form key=value"),
        (["--task", "mask"], "--task also needs --truth|--task also needs --results"),
        ([], "nothing to evaluate: give a RUN folder, or --truth FILE and --results FILE"),
        (
            ["runs/x", "--truth", "a", "--results", "b"],
            "--truth, --results evaluate results of any tool, RUN evaluate a run; give one or",
        ),
        (["--split", "test", "--truth", "a", "--results", "b"], "--split evaluate a run"),
        (["--truth", "gone.json", "--results", "b.json"], "gone.json does not exist"),
    ],
)
def test_mixtures_are_refused(options: list[str], said: str) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "resnet_tasks", "evaluate", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 2
    assert any(each in made.stderr for each in said.split("|")), made.stderr
    assert "Traceback" not in made.stderr
