"""COCO files: real ones, almost-COCO ones, and what is said about broken ones."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.data.coco.masks import decode_mask, is_rle
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.records import boxes_to_xywh
from resnet_tasks.data.doctor.check import CheckOptions, check_coco
from resnet_tasks.errors import DataError
from resnet_tasks.structures.predictions.detections import Detections

SMALL: dict[str, Any] = {
    "info": {"description": "two images, three categories with gapped, unsorted ids"},
    "images": [
        {"id": 7, "file_name": "a.png", "height": 10, "width": 20, "group": "p1", "scanner": "X"},
        {"id": 3, "file_name": "b.png", "height": 10, "width": 20, "license": 1},
    ],
    "categories": [
        {"id": 90, "name": "cat"},
        {"id": 5, "name": "sky", "isthing": 0, "supercategory": "outdoor"},
        {"id": 0, "name": "dog", "isthing": 1},
    ],
    "annotations": [
        {
            "id": 11,
            "image_id": 7,
            "category_id": 90,
            "bbox": [1.5, 2, 4, 4],
            "area": 12.5,
            "iscrowd": 0,
        },
    ],
}


def written(folder: Path, content: Any, name: str = "data.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def small(**annotation: Any) -> dict[str, Any]:
    """The small file, fields of its annotation changed; `...` removes a field."""
    content = copy.deepcopy(SMALL)
    content["annotations"][0].update(annotation)
    content["annotations"][0] = {
        key: value for key, value in content["annotations"][0].items() if value is not ...
    }
    return content


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        read_coco(path, **options)
    return str(error.value)


# --- Good files ----------------------------------------------------------------------------------


def test_small_file_is_read_as_written(tmp_path: Path) -> None:
    coco = read_coco(written(tmp_path, SMALL))
    assert coco.categories.names == ("dog", "sky", "cat")
    assert coco.categories.ids == (0, 5, 90)
    assert coco.categories.things == (0, 2)
    assert coco.categories.stuff == (1,)
    first = coco.images[0]
    assert (first.id, first.height, first.width, first.group) == (7, 10, 20, "p1")
    assert first.extra == {"scanner": "X"}
    assert coco.image_path(first) == tmp_path / "a.png"
    assert coco.sem_seg_path(first) is None
    (annotation,) = coco.annotations[7]
    assert annotation.bbox == (1.5, 2, 4, 4)
    assert (annotation.category, annotation.area, annotation.is_crowd) == (2, 12.5, False)
    assert coco.annotations[3] == ()
    assert coco.annotated == {"boxes"}
    assert coco.problems == ()


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_coco_parses_whole(shared_data: Path, split: str) -> None:
    path = shared_data / "coco_tiny" / "annotations" / f"instances_{split}2017.json"
    raw = json.loads(path.read_text())
    coco = read_coco(path, images_root=shared_data / "coco_tiny" / f"{split}2017")
    assert len(coco.images) == 80
    assert len(coco.categories) == 80
    assert coco.categories.ids[11:13] == (13, 14)
    assert coco.categories.ids[-1] == 90
    found = [each for objects in coco.annotations.values() for each in objects]
    assert len(found) == len(raw["annotations"])
    assert sum(each.is_crowd for each in found) == sum(a["iscrowd"] for a in raw["annotations"]) > 0
    by_id = {each.id: each for each in found}
    for each in raw["annotations"]:
        parsed = by_id[each["id"]]
        assert list(parsed.bbox or ()) == each["bbox"]
        assert coco.categories.index_to_id(parsed.category) == each["category_id"]
        assert parsed.area == each["area"]
    assert coco.annotated == {"boxes", "masks"}
    assert coco.find_missing_files() == ()
    coco.require_files()
    assert coco.count_problems() == {"missing_info": 1}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_real_masks_equal_pycocotools(shared_data: Path) -> None:
    path = shared_data / "coco_tiny" / "annotations" / "instances_val2017.json"
    raw = {each["id"]: each for each in json.loads(path.read_text())["annotations"]}
    coco = read_coco(path)
    sizes = {record.id: (record.height, record.width) for record in coco.images}
    seen = 0
    for image_id, objects in coco.annotations.items():
        height, width = sizes[image_id]
        for each in objects[:4] + tuple(a for a in objects if a.is_crowd):
            assert each.segmentation is not None
            stored = raw[each.id]["segmentation"]
            rle = coco_mask.frPyObjects(stored, height, width)
            expected = coco_mask.decode(coco_mask.merge(rle) if isinstance(stored, list) else rle)
            assert np.array_equal(
                decode_mask(each.segmentation, height, width), expected.astype(bool)
            )
            seen += 1
    assert seen > 200


def test_real_images_pass_the_check(shared_data: Path) -> None:
    folder = shared_data / "coco_tiny"
    report = check_coco(
        folder / "annotations/instances_val2017.json",
        CheckOptions(images_root=folder / "val2017", read_images=True),
    )
    assert report.is_usable
    assert report.count_problems() == {"missing_info": 1}


# --- Categories ----------------------------------------------------------------------------------


def test_gapped_ids_round_trip() -> None:
    ids = (90, 1, 13, 0, 44)
    categories = CategoryMap(tuple(Category(i, f"c{i}") for i in ids))
    assert [categories.id_to_index(categories.index_to_id(i)) for i in range(5)] == list(range(5))
    assert [categories.index_to_id(categories.id_to_index(i)) for i in ids] == list(ids)
    assert CategoryMap.from_json(categories.to_json()) == categories


def test_unknown_category_id_names_the_known_ones() -> None:
    categories = CategoryMap((Category(3, "a"), Category(8, "b")))
    with pytest.raises(DataError, match="id 4 is unknown; known: 3, 8"):
        categories.id_to_index(4)
    with pytest.raises(DataError, match=r"index 2 is not within 0\.\.1"):
        categories.index_to_id(2)


def test_maps_merge_when_they_agree() -> None:
    first = CategoryMap((Category(3, "a"), Category(8, "b")))
    second = CategoryMap((Category(5, "c"), Category(8, "b")))
    assert CategoryMap.merge([first, second]).names == ("a", "c", "b")
    for other in (Category(8, "z"), Category(9, "b"), Category(8, "b", is_thing=False)):
        with pytest.raises(DataError, match="do not agree on their categories"):
            CategoryMap.merge([first, CategoryMap((other,))])


@pytest.mark.parametrize(
    ("categories", "said"),
    [
        ([], "`categories` must be a list of at least one object, got []"),
        ([7], "`categories[0]` must be an object, got 7"),
        ([{"id": "1", "name": "a"}], "needs a whole-number `id` and a `name`, got id '1'"),
        ([{"id": 1}], "got id 1 and name None"),
        (
            [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}],
            "1 category id is used more than once: 1;",
        ),
        (
            [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}],
            "1 category name is used more than once: 'a';",
        ),
        ([{"id": 1, "name": "a", "isthing": 2}], "category 'a': `isthing` must be 0 or 1, got 2"),
    ],
)
def test_bad_categories_are_refused(tmp_path: Path, categories: Any, said: str) -> None:
    path = written(tmp_path, {**SMALL, "categories": categories})
    message = refusal(path)
    assert said in message
    assert str(path) in message
    assert not check_coco(path).is_usable


# --- Repairs, omissions, notes -------------------------------------------------------------------


def test_missing_keys_are_repaired_and_counted(tmp_path: Path) -> None:
    content = small(id=..., iscrowd=..., area=...)
    del content["info"]
    coco = read_coco(written(tmp_path, content))
    (annotation,) = coco.annotations[7]
    assert (annotation.id, annotation.is_crowd, annotation.area) == (1, False, 16.0)
    expected = {"missing_info": 1, "missing_id": 1, "missing_iscrowd": 1, "missing_area": 1}
    assert coco.count_problems() == expected
    assert {problem.severity for problem in coco.problems} == {"repaired"}


def test_box_and_area_come_from_the_segmentation(tmp_path: Path) -> None:
    polygon = [2.0, 1.0, 8.0, 1.0, 8.0, 5.0, 2.0, 5.0]
    coco = read_coco(written(tmp_path, small(bbox=..., area=..., segmentation=[polygon])))
    (annotation,) = coco.annotations[7]
    assert annotation.bbox == (2.0, 1.0, 6.0, 4.0)
    assert annotation.area == 24.0
    assert coco.count_problems() == {"missing_bbox": 1, "missing_area": 1}
    assert coco.annotated == {"boxes", "masks"}


def test_box_comes_from_run_lengths(tmp_path: Path) -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[3:6, 4:9] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    compressed = {"size": [10, 20], "counts": rle["counts"].decode()}
    # Column by column: 43 zeros, then five times 3 ones, with 7 zeros between.
    plain = {"size": [10, 20], "counts": [43, 3, 7, 3, 7, 3, 7, 3, 7, 3, 114]}
    for segmentation in (compressed, plain):
        coco = read_coco(written(tmp_path, small(bbox=[], segmentation=segmentation)))
        (annotation,) = coco.annotations[7]
        assert annotation.bbox == (4.0, 3.0, 5.0, 3.0)
        assert np.array_equal(decode_mask(segmentation, 10, 20), mask.astype(bool))


@pytest.mark.parametrize(
    ("box", "kind", "said"),
    [
        ([1, 2, 0, 4], "empty_box", "annotation 11 of image 7 (bbox [1, 2, 0, 4]"),
        ([1, 2, 4, -1], "empty_box", "width and height must be above 0"),
        ([1, 2, math.nan, 4], "non_finite_box", "must be finite"),
        ([math.inf, 2, 3, 4], "non_finite_box", "must be finite"),
        ([1, None, 3, 4], "non_finite_box", "annotation 11 of image 7 (bbox [1, nan, 3, 4]"),
        ([20, 2, 3, 4], "box_outside", "the image is 20 x 10"),
        ([1, -4, 3, 4], "box_outside", "completely outside"),
    ],
)
def test_unusable_boxes_are_left_out_by_id(
    tmp_path: Path, box: list[float | None], kind: str, said: str
) -> None:
    content = small(bbox=box)
    content["annotations"].append({**SMALL["annotations"][0], "id": 12})
    coco = read_coco(written(tmp_path, content))
    assert [each.id for each in coco.annotations[7]] == [12]
    (problem,) = coco.problems
    assert (problem.kind, problem.severity) == (kind, "warning")
    assert (problem.image_id, problem.annotation_id) == (7, 11)
    assert said in problem.message


def test_box_beyond_the_frame_is_kept_as_it_is(tmp_path: Path) -> None:
    coco = read_coco(written(tmp_path, small(bbox=[-2, 3, 30, 4])))
    assert coco.annotations[7][0].bbox == (-2, 3, 30, 4)
    assert [(p.kind, p.severity) for p in coco.problems] == [("box_beyond_frame", "note")]


def test_visibility_is_read_from_the_annotation_or_its_attributes(tmp_path: Path) -> None:
    content = copy.deepcopy(SMALL)
    first = content["annotations"][0]
    content["images"][0]["spacing"] = [0.7, 1]
    given: list[dict[str, Any]] = [
        {"occluded": 2, "truncated": 0.25},
        {"attributes": {"occluded": True, "truncated": True}},
        {"attributes": {"occluded": False}, "truncated": -1},
        {"occluded": 4, "truncated": "half"},
        {},
    ]
    content["annotations"] = [{**first, "id": i, **each} for i, each in enumerate(given)]
    coco = read_coco(written(tmp_path, content))
    assert [record.spacing for record in coco.images] == [(0.7, 1.0), None]
    assert "spacing" not in coco.images[0].extra
    read = [(each.occluded, each.truncated) for each in coco.annotations[7]]
    assert read == [(2, 0.25), (1, 0.3), (0, None), (None, None), (None, None)]
    assert coco.count_problems() == {"bad_visibility": 2}
    assert "annotation 3 of image 7 (occluded 4)" in coco.problems[0].message


@pytest.mark.parametrize("spacing", [0.5, [1], [1, 0], [1, "2"], [1, math.inf], [True, 1]])
def test_unusable_spacing_is_refused(tmp_path: Path, spacing: Any) -> None:
    content = copy.deepcopy(SMALL)
    content["images"][0]["spacing"] = spacing
    with pytest.raises(DataError, match=r"image 7 \(spacing .*\[y, x\] in millimeters per pixel"):
        read_coco(written(tmp_path, content))


def test_duplicate_annotation_ids_are_numbered_anew(tmp_path: Path) -> None:
    content = small()
    content["annotations"] *= 3
    coco = read_coco(written(tmp_path, content))
    assert [each.id for each in coco.annotations[7]] == [11, 12, 13]
    assert coco.count_problems() == {"duplicate_annotation": 2}


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5]],
        [["1", 2, 3, 4, 5, 6]],
        [[1, 2, 3, 4, 5, math.nan]],
        [[1, 2, 3, 4, 5, 1e12]],
        {"size": [20, 10], "counts": [200]},
        {"size": [10, 20], "counts": [199]},
        {"size": [10, 20], "counts": [-1, 201]},
        {"size": [10, 20], "counts": "not run lengths"},
        {"counts": [200]},
        "mask.png",
    ],
)
def test_bad_segmentation_is_left_out_and_its_box_kept(tmp_path: Path, segmentation: Any) -> None:
    coco = read_coco(written(tmp_path, small(segmentation=segmentation)))
    (annotation,) = coco.annotations[7]
    assert annotation.segmentation is None
    assert annotation.bbox is not None
    assert coco.annotated == {"boxes"}
    (problem,) = coco.problems
    assert (problem.kind, problem.annotation_id) == ("bad_segmentation", 11)


def test_compressed_run_lengths_are_measured_before_they_are_decoded() -> None:
    generator = np.random.default_rng(0)
    for density in (0.02, 0.5, 0.97):
        mask = np.asfortranarray(generator.random((37, 53)) < density).astype(np.uint8, order="F")
        rle = coco_mask.encode(mask)
        assert is_rle(rle, 37, 53)
        assert not is_rle({"size": [37, 53], "counts": rle["counts"][:-2]}, 37, 53)
    with pytest.raises(DataError, match="does not fit its image of height 9 and width 53"):
        decode_mask(rle, 9, 53)


def test_many_problems_of_one_kind_make_one_sentence(tmp_path: Path) -> None:
    content = small(iscrowd=...)
    content["annotations"] = [{**content["annotations"][0], "id": i} for i in range(1, 101)]
    (problem,) = read_coco(written(tmp_path, content)).problems
    assert problem.count == 100
    assert "100 annotations have no `iscrowd`" in problem.message
    assert "annotation 5 of image 7, ..." in problem.message


# --- What is annotated ---------------------------------------------------------------------------


def test_annotated_is_taken_from_what_the_file_holds(tmp_path: Path) -> None:
    assert read_coco(written(tmp_path, {**SMALL, "annotations": []})).annotated == {"boxes"}
    labels = read_coco(written(tmp_path, small(bbox=...)))
    assert labels.annotated == {"image"}
    assert labels.annotations[7][0].bbox is None
    without = {key: value for key, value in SMALL.items() if key != "annotations"}
    bare = read_coco(written(tmp_path, without))
    assert bare.annotated == frozenset()
    assert bare.count_problems() == {"missing_annotations": 1}
    without["images"] = [{**SMALL["images"][0], "sem_seg_file_name": "maps/a.png"}]
    semantic = read_coco(written(tmp_path, without))
    assert semantic.annotated == {"semantic"}
    assert semantic.sem_seg_path(semantic.images[0]) == tmp_path / "maps/a.png"


def test_a_box_forgotten_among_others_is_reported(tmp_path: Path) -> None:
    content = small()
    content["annotations"].append({"id": 12, "image_id": 3, "category_id": 5, "iscrowd": 0})
    coco = read_coco(written(tmp_path, content))
    assert coco.annotated == {"boxes"}
    assert coco.count_problems() == {"no_box": 1}


def test_annotated_can_be_declared(tmp_path: Path) -> None:
    content = {**SMALL, "info": {"annotated": ["masks", "semantic"]}}
    path = written(tmp_path, content)
    assert read_coco(path).annotated == {"masks", "semantic"}
    assert read_coco(path, annotated=["boxes"]).annotated == {"boxes"}
    message = refusal(path, annotated=["bokses"])
    assert "`annotated` contains 'bokses'; allowed: boxes, masks, semantic, image" in message


def test_roots_come_from_the_info(tmp_path: Path) -> None:
    content = {**SMALL, "info": {"images_root": "images", "sem_seg_root": "labels"}}
    content["images"] = [{**SMALL["images"][0], "sem_seg_file_name": "a.png"}]
    coco = read_coco(written(tmp_path, content))
    assert coco.image_path(coco.images[0]) == tmp_path / "images/a.png"
    assert coco.sem_seg_path(coco.images[0]) == tmp_path / "labels/a.png"


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"images": [\n  1,\n}', "is not JSON: Expecting value at line 3, column 1"),
        ("", "is not JSON"),
        ([{"image_id": 1}], "is a list: that is a COCO results file"),
        (3, "must contain a COCO object, got 3"),
        ({"categories": []}, "has no `images` (its keys: categories)"),
        ({"images": [], "annotations": []}, "has no `categories`"),
        ({**SMALL, "images": {}}, "`images` must be a list, got {}"),
        ({**SMALL, "annotations": "x"}, "`annotations` must be a list, got 'x'"),
        ({**SMALL, "annotations": [5]}, "annotations[0] is 5"),
        (small(image_id=4), "annotation 11 (image_id 4); image ids look like 7, 3; add the images"),
        (small(image_id="7"), "annotation 11 (image_id '7')"),
        (small(image_id=[7]), "annotation 11 (image_id [7])"),
        (
            small(category_id=91),
            "annotation 11 of image 7 (category_id 91); known ids: 0, 5, 90; add the categories",
        ),
        (small(bbox="1,2,3,4"), "bbox '1,2,3,4', it must be four numbers [x, y, width, height]"),
        (small(bbox=[1, 2, 3]), "bbox [1, 2, 3], it must be four numbers"),
        (small(bbox=[1, 2, "3", 4]), "it must be four numbers"),
        (small(iscrowd="no"), "annotation 11 of image 7 (iscrowd 'no'; allowed: 0, 1)"),
    ],
)
def test_unusable_files_say_why(tmp_path: Path, content: Any, said: str) -> None:
    path = written(tmp_path, content)
    message = refusal(path)
    assert said in message
    assert str(path) in message
    report = check_coco(path)
    assert not report.is_usable
    assert said in "\n".join(problem.message for problem in report.problems)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"id": 3}, "image 3 (b.png); give every image a unique id"),
        ({"id": None}, "images[0] has id None"),
        ({"id": 1.5}, "images[0] has id 1.5"),
        ({"file_name": ""}, "image 7 (file_name '')"),
        ({"height": 0}, "image 7 (height 0, width 20)"),
        ({"width": "20"}, "image 7 (height 10, width '20')"),
        (
            {"file_name": "../a.png"},
            "image 7 (../a.png); `resnet-tasks data check FILE --fix COPY`",
        ),
        ({"file_name": "/etc/passwd"}, "1 file name is absolute or outside the image folder"),
        ({"file_name": "C:\\a.png"}, "image 7 (C:\\a.png)"),
        ({"file_name": "x\\..\\..\\a.png"}, "1 file name is absolute or outside the image folder"),
        ({"sem_seg_file_name": "../a.png"}, "image 7 (../a.png)"),
        ({"height": None, "width": None}, "no height and width, and"),
    ],
)
def test_unusable_images_say_why(tmp_path: Path, image: dict[str, Any], said: str) -> None:
    content = copy.deepcopy(SMALL)
    content["images"][0].update(image)
    assert said in refusal(written(tmp_path, content))


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    content = small(image_id=4)
    content["annotations"].append({**SMALL["annotations"][0], "id": 12, "category_id": 1})
    message = refusal(written(tmp_path, content))
    assert len(message.splitlines()) == 2
    assert "image_id 4" in message
    assert "category_id 1" in message


def test_absent_files_and_folders(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "no.json")
    assert "is a folder; name a file in it (no .json)" in refusal(tmp_path)
    path = written(tmp_path, SMALL)
    assert "fix `images:`" in refusal(path, images_root=tmp_path / "no")
    coco = read_coco(path)
    assert coco.find_missing_files() == (tmp_path / "a.png", tmp_path / "b.png")
    with pytest.raises(DataError, match=r"2 of 2 listed files are missing, the first is .*a\.png"):
        coco.require_files()


def test_backslashes_in_file_names_are_named(tmp_path: Path) -> None:
    content = {**SMALL, "images": [{**SMALL["images"][0], "file_name": "sub\\a.png"}]}
    path = written(tmp_path, content)
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "sub/a.png")
    with pytest.raises(DataError, match=r"--fix COPY` replaces backslashes by /"):
        read_coco(path).require_files()


def test_check_looks_at_the_images(tmp_path: Path) -> None:
    content = copy.deepcopy(SMALL)
    content["images"].append({**SMALL["images"][0], "id": 4, "file_name": "c.png"})
    content["images"].append({**SMALL["images"][0], "id": 5, "file_name": "d.jpg"})
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (10, 20)).save(tmp_path / "d.jpg", exif=turned)
    path = written(tmp_path, content)
    missing, unused = check_coco(path).problems
    assert missing.kind == "missing_file"  # looked at without decoding anything
    assert (unused.kind, unused.severity, unused.count) == ("unused_category", "note", 2)
    report = check_coco(path, CheckOptions(read_images=True))
    found = {"missing_file": 1, "unreadable_file": 1, "exif_turned": 1, "unused_category": 2}
    assert report.count_problems() == found
    assert report.problems[1].image_id == 3
    Image.new("RGB", (20, 11)).save(tmp_path / "b.png")
    wrong = check_coco(path, CheckOptions(read_images=True)).problems[1]
    assert wrong.kind == "wrong_size"
    assert "is 20 x 11, but the record has 20 x 10" in wrong.message


def test_sizes_are_read_from_the_images_where_the_file_has_none(tmp_path: Path) -> None:
    content = {**SMALL, "images": [{"id": 7, "file_name": "a.png"}]}
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    coco = read_coco(written(tmp_path, content))
    assert (coco.images[0].height, coco.images[0].width) == (10, 20)
    assert coco.count_problems() == {"missing_size": 1}


# --- Results -------------------------------------------------------------------------------------


def test_results_round_trip_at_full_precision(tmp_path: Path) -> None:
    coco = read_coco(written(tmp_path, SMALL))
    detections = Detections(
        torch.tensor([[0.1, 0.2, 10.3, 7.7], [1.0, 2.0, 3.0, 5.0]]),
        torch.tensor([0.9, 0.1]),
        torch.tensor([2, 0]),
    )
    results = detections.to_results(7, coco.categories.ids)
    path = written(tmp_path, results, "results.json")
    read = json.loads(path.read_text())
    assert read == results
    assert [each["category_id"] for each in read] == [90, 0]
    x1, x2 = (float(np.float32(value)) for value in (0.1, 10.3))
    assert read[0]["bbox"][0] == x1
    assert read[0]["bbox"][2] == x2 - x1
    assert read[0]["score"] == float(np.float32(0.9))
    assert boxes_to_xywh(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (
            {"segments_info": [{"id": 5, "category_id": 1, "bbox": [1, 2, 3, 4]}]},
            (
                "this is a COCO panoptic file, whose objects and areas are in PNG files (its "
                "annotations have `segments_info`); pass the instances file of the same images, or"
            ),
        ),
        (
            {"caption": "a thing"},
            (
                "this is a COCO captions file, which has texts and no objects (its annotations "
                "have `caption`); pass the instances file of the same images"
            ),
        ),
        (
            {"category_id": 1, "keypoints": [1, 2, 2], "num_keypoints": 1},
            (
                "this is a COCO keypoints file without boxes, and no head learns keypoints (its "
                "annotations have `keypoints`); add the `bbox` of each object, or"
            ),
        ),
    ],
)
@pytest.mark.parametrize("has_categories", [True, False])
def test_files_of_other_tasks_are_named(
    annotation: dict[str, Any], message: str, has_categories: bool, tmp_path: Path
) -> None:
    content = copy.deepcopy(SMALL)
    content["annotations"] = [{"id": 1, "image_id": 7, **annotation}]
    if not has_categories:
        del content["categories"]
    path = written(tmp_path, content)
    assert refusal(path).startswith(f"{path}: {message}")
    (problem,) = check_coco(path).problems
    assert problem.message.startswith(f"{path}: {message}")


def test_files_of_video_instances_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, {"videos": [{"id": 1}], "annotations": [], "categories": []})
    assert "this is a file of video instances, as of YouTube-VIS" in refusal(path)


def test_captions_of_objects_are_other_fields(tmp_path: Path) -> None:
    content = copy.deepcopy(SMALL)
    content["annotations"][0]["caption"] = "a dog"
    assert read_coco(written(tmp_path, content)).count_problems() == {}


def test_keypoints_next_to_boxes_are_a_note(tmp_path: Path) -> None:
    content = copy.deepcopy(SMALL)
    content["annotations"][0]["keypoints"] = [1, 2, 2]
    coco = read_coco(written(tmp_path, content))
    (problem,) = coco.problems
    assert (problem.kind, problem.severity, problem.count) == ("keypoints", "note", 1)
    assert problem.message.endswith(
        "1 annotation has keypoints, which are not used; only boxes and masks are: annotation 11 "
        "of image 7"
    )
