import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from data_tools.converters.synthetic import CLASSES, make_cells, render_scene, trace_polygons
from resnet_tasks.errors import DataError

TRAIN, VAL = 6, 24


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cells") / "out"
    make_cells(out, train=TRAIN, val=VAL)
    return out


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_cells(tmp_path / name, train=2, val=1, seed=seed)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert len(a) == 2 + 3 + 3
    assert a == b
    assert a.keys() == c.keys()
    assert not set(a.values()) & set(c.values())


def test_longer_runs_start_with_the_scenes_of_shorter_ones(tmp_path: Path, cells: Path) -> None:
    make_cells(tmp_path / "short", train=1, val=1)
    short, long = digests(tmp_path / "short"), digests(cells)
    images = [name for name in short if name.endswith((".jpg", ".png"))]
    assert len(images) == 4
    assert all(short[name] == long[name] for name in images)


def test_validation_scenes_are_not_training_scenes(cells: Path) -> None:
    prints = digests(cells / "images")
    assert len(prints) == TRAIN + VAL
    assert len(set(prints.values())) == TRAIN + VAL


def test_files_agree_with_each_other(cells: Path) -> None:
    seen = dict.fromkeys(CLASSES, 0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        content = load(cells / f"{split}.json")
        assert content["info"]["annotated"] == ["boxes", "masks", "semantic"]
        assert [c["id"] for c in content["categories"]] == [1, 2, 3]
        assert len(content["images"]) == count
        for image in content["images"]:
            pixels = cv2.imread(str(cells / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3) == (192, 256, 3)
            ids = cv2.imread(str(cells / image["sem_seg_file_name"]), cv2.IMREAD_UNCHANGED)
            assert ids.shape == (192, 256)
            assert set(np.unique(ids)) <= {0, 1, 2, 3, 255}
            for object_ in (a for a in content["annotations"] if a["image_id"] == image["id"]):
                seen[CLASSES[object_["category_id"] - 1]] += 1
                x, y, width, height = object_["bbox"]
                assert 0 <= x < x + width <= 256
                assert 0 <= y < y + height <= 192
                inside = ids[y : y + height, x : x + width]
                assert (inside == object_["category_id"]).sum() >= object_["area"]
    assert min(seen.values()) >= 30


def test_both_kinds_of_segmentation_are_the_visible_pixels(cells: Path) -> None:
    content = load(cells / "val.json")
    kinds = {list: 0, dict: 0}
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for object_ in content["annotations"]:
        segmentation = object_["segmentation"]
        kinds[type(segmentation)] += 1
        if isinstance(segmentation, list):
            parts = coco_mask.frPyObjects(segmentation, *sizes[object_["image_id"]])
            segmentation = coco_mask.merge(parts)
        assert coco_mask.area(segmentation) == pytest.approx(object_["area"], rel=0.06, abs=6)
        box = coco_mask.toBbox(segmentation)
        assert box == pytest.approx(object_["bbox"], abs=1.01)
    assert min(kinds.values()) > 50


def test_outline_of_a_rectangle_follows_the_pixel_edges() -> None:
    mask = np.zeros((20, 30), dtype=np.bool_)
    mask[4:10, 5:21] = True
    (polygon,) = trace_polygons(mask)
    assert np.reshape(polygon, (-1, 2)).min(0) == pytest.approx([5, 4], abs=0.2)
    assert np.reshape(polygon, (-1, 2)).max(0) == pytest.approx([21, 10], abs=0.2)


def test_hidden_cells_are_counted_void_and_left_out(tmp_path: Path) -> None:
    train, _ = make_cells(tmp_path, train=12, val=1)
    expected = [
        (f"cells_{index:05d}.jpg", cell.visible_fraction)
        for index in range(12)
        for cell in render_scene(np.random.default_rng([0, 0, index]), (192, 256)).cells
        if cell.visible_fraction < 0.25
    ]
    assert expected
    assert [skipped.file for skipped in train.skipped] == [file for file, _ in expected]
    assert all("visible" in skipped.reason for skipped in train.skipped)


@pytest.mark.parametrize(
    "wrong", [{"train": 0}, {"val": 0}, {"seed": -1}, {"size": (64, 256)}], ids=str
)
def test_arguments_out_of_range_are_named(tmp_path: Path, wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(DataError, match="make_cells got ") as raised:
        make_cells(tmp_path, **{"train": 1, "val": 1, **wrong})
    assert f"{name}={value}" in str(raised.value)


def test_existing_files_are_not_overwritten(cells: Path) -> None:
    before = digests(cells)
    with pytest.raises(DataError, match="already exists"):
        make_cells(cells, train=1, val=1)
    assert digests(cells) == before


# Thresholds and connected components, helped by the truth wherever they have a choice.


def flattened(image: np.ndarray) -> dict[str, np.ndarray]:
    """Gray-level images in which a cell may stand out, light evened out."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5)
    even = smooth / cv2.GaussianBlur(smooth, (0, 0), 30)
    gray = even.mean(2)
    spread = ndimage.generic_gradient_magnitude(gray, ndimage.sobel)
    return {
        "dark": -gray,
        "different": np.abs(gray - np.median(gray)),
        "colored": np.abs(even - np.median(even, axis=(0, 1))).sum(2),
        "textured": cv2.GaussianBlur(spread, (0, 0), 2),
        "raw": -smooth[..., 1],
    }


def components(feature: np.ndarray) -> list[tuple[slice, slice]]:
    low, high = float(feature.min()), float(feature.max())
    scaled = ((feature - low) / (high - low) * 255).astype(np.uint8)
    _, binary = cv2.threshold(scaled, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    filled = ndimage.binary_fill_holes(ndimage.binary_opening(binary, iterations=2))
    labels, count = ndimage.label(filled)
    areas = ndimage.sum_labels(filled, labels, range(1, count + 1))
    boxes = ndimage.find_objects(labels)
    return [box for box, area in zip(boxes, areas, strict=True) if area >= 120]


def box_iou(box: list[float], others: np.ndarray) -> np.ndarray:
    return coco_mask.iou([box], others.tolist(), [0] * len(others))[0]


def ap50(truth: COCO, detections: list[dict[str, Any]]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, truth.loadRes(detections), "bbox")
        judge.params.iouThrs = np.array([0.5])
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][0, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def test_thresholds_do_not_solve_it_even_with_an_oracle_for_classes(cells: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(cells / "val.json"))
    found: dict[str, list[dict[str, Any]]] = {}
    for image in truth.loadImgs(truth.getImgIds()):
        pixels = cv2.imread(str(cells / image["file_name"]))
        objects = truth.loadAnns(truth.getAnnIds(imgIds=image["id"]))
        boxes = np.array([o["bbox"] for o in objects], dtype=np.float64)
        for name, feature in flattened(pixels).items():
            for rows, columns in components(feature):
                box = [columns.start, rows.start, columns.stop - columns.start]
                box = [float(v) for v in (*box, rows.stop - rows.start)]
                overlaps = box_iou(box, boxes)
                best = int(overlaps.argmax())
                # The oracle gives the class of the best match and ranks by how well it fits.
                found.setdefault(name, []).append(
                    {
                        "image_id": image["id"],
                        "category_id": objects[best]["category_id"],
                        "bbox": box,
                        "score": float(overlaps[best]),
                    }
                )
    scores = {name: ap50(truth, detections) for name, detections in found.items()}
    perfect = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1}
        for a in truth.dataset["annotations"]
    ]
    assert ap50(truth, perfect) > 0.99
    assert max(scores.values()) > 0.2, "the baseline itself must find something"
    assert max(scores.values()) < 0.5, scores
