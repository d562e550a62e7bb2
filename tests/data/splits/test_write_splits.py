"""`data split`: whole groups, alike classes, the same parts for the same seed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from resnet_tasks.cli import app
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.doctor.split_checks import check_splits
from resnet_tasks.data.splits.write_splits import SplitPlan, split_file
from resnet_tasks.errors import DataError
from tests.support.many_classes import write_dataset

NUMBER = 120


def data_set(folder: Path, *, group: str | None = "group", unknown: str = "") -> Path:
    """120 images of 30 patients; every fifth patient has the rare class."""
    images, annotations = [], []
    for i in range(NUMBER):
        patient = i // 4
        record = {"id": 3 * i + 5, "file_name": f"p{patient:02}/{i}.png", "height": 9, "width": 9}
        if group:
            record[group] = patient
        images.append({**record, "scanner": {"kV": 1.50}})
        for kind in [1, 1] + [2] * (patient % 5 == 0):
            entry = {"id": len(annotations) + 1, "image_id": record["id"], "category_id": kind}
            annotations.append(
                {
                    **entry,
                    "bbox": [1, 1, 3, 1 + len(annotations) % 3],
                    "area": 3.0,
                    "iscrowd": 0,
                    "t": i,
                }
            )
    folder.mkdir(parents=True, exist_ok=True)
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "mitosis"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "all.json"
    path.write_text(json.dumps({**content, "licenses": ["CC0"], "info": {"images_root": "pic"}}))
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", "split", *map(str, words)])


def test_groups_stay_whole_and_classes_alike(tmp_path: Path) -> None:
    path = data_set(tmp_path / "data")
    made = split_file(path, tmp_path / "out" / "deep", SplitPlan())
    assert made.by == "group-class"
    assert [file.name for file in made.files] == ["train.json", "val.json", "test.json"]
    assert sum(made.images) == NUMBER
    assert sum(made.groups) == 30
    assert np.allclose(made.images, (84, 18, 18), atol=4)
    assert made.objects["mitosis"] == (16, 4, 4)  # of six patients
    checks = check_splits(made.files)
    assert {kind for each in checks for kind in each.count_problems()} == {"missing_file"}
    # Every record is in one part, just as it was, and finds its image.
    before = json.loads(path.read_text())
    parts = [json.loads(file.read_text()) for file in made.files]
    for key in ("images", "annotations"):
        assert sorted((e for p in parts for e in p[key]), key=lambda e: e["id"]) == before[key]
    for part, file in zip(parts, made.files, strict=True):
        assert part["licenses"] == ["CC0"]
        coco = read_coco(file)
        assert coco.images_root.resolve() == (tmp_path / "data" / "pic").resolve()
        ids = {record.id for record in coco.images}
        assert {each["image_id"] for each in part["annotations"]} <= ids


def test_the_same_seed_gives_the_same_parts(tmp_path: Path) -> None:
    path = data_set(tmp_path)
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made = split_file(path, tmp_path / name, SplitPlan(seed=seed))
        texts.append([file.read_text() for file in made.files])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("by", ["group", "group-class"])
def test_folds_are_used_as_several_files(tmp_path: Path, by: Any) -> None:
    path = data_set(tmp_path)
    made = split_file(path, tmp_path / "folds", SplitPlan(None, 3, by))
    assert [file.stem for file in made.files] == ["fold0", "fold1", "fold2"]
    assert max(made.images) - min(made.images) <= 4
    if by == "group-class":
        assert made.objects["mitosis"] == (8, 8, 8)


def test_without_groups_images_are_divided(tmp_path: Path) -> None:
    path = data_set(tmp_path, group=None)
    alike = split_file(path, tmp_path / "class", SplitPlan((2, 1)))
    assert alike.by == "class"
    assert alike.images == (80, 40)
    assert alike.objects["mitosis"] == (16, 8)
    alone = split_file(path, tmp_path / "random", SplitPlan((0.5, 0.5), by="random"))
    assert alone.images == (60, 60)
    with pytest.raises(
        DataError, match=r"has no groups to split by; .* --group-key or --group-from"
    ):
        split_file(path, tmp_path / "x", SplitPlan(by="group"))


def test_groups_are_found_in_names_and_keys(tmp_path: Path) -> None:
    path = data_set(tmp_path, group="patient_id")
    by_key = split_file(path, tmp_path / "key", SplitPlan(group_key="patient_id"))
    by_name = split_file(path, tmp_path / "name", SplitPlan(group_from=r"^p(\d+)/"))
    assert by_key.groups == by_name.groups
    assert sum(by_key.groups) == 30
    # The group travels in the record, so that later splits and recipes know of it.
    records = json.loads(by_name.files[0].read_text())["images"]
    assert all(each["group"] == f"{each['patient_id']:02}" for each in records)
    assert records[0]["scanner"] == {"kV": 1.5}
    with pytest.raises(DataError, match=r"120 of 120 images have no group from the key 'study'"):
        split_file(path, tmp_path / "x", SplitPlan(group_key="study"))
    with pytest.raises(
        DataError, match=r"80 of 120 images have no group from a match of --group-from"
    ):
        split_file(path, tmp_path / "x", SplitPlan(group_from="^p0"))
    with pytest.raises(DataError, match="is not a valid regular expression"):
        split_file(path, tmp_path / "x", SplitPlan(group_from="("))


def test_groups_are_not_cut_unless_that_is_asked_for(tmp_path: Path) -> None:
    path = data_set(tmp_path)
    with pytest.raises(DataError, match="--by random would separate images of a group"):
        split_file(path, tmp_path / "x", SplitPlan(by="random"))
    made = split_file(path, tmp_path / "x", SplitPlan(by="random", ignore_groups=True))
    assert made.images == (84, 18, 18)
    assert sum(made.groups) > 30


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (SplitPlan((1.0, 1.0, 1.0, 1.0)), "4 parts need 4 different names, got none"),
        (SplitPlan((1.0, 1.0), names=("a", "a")), "2 different names, got a, a"),
        (SplitPlan((1.0, 1.0), names=("a", "../b")), "'../b' cannot name a file"),
        (SplitPlan((1.0, -1.0)), "pass two or more numbers above 0"),
        (SplitPlan((1.0,), names=("a",)), "pass two or more numbers above 0"),
        (SplitPlan(None, 31), "31 parts need at least 31 groups"),
        (SplitPlan(None, 1, names=("a",)), "needs at least 2"),
    ],
)
def test_plans_that_do_not_fit_say_why(tmp_path: Path, plan: SplitPlan, said: str) -> None:
    path = data_set(tmp_path)
    with pytest.raises(DataError) as error:
        split_file(path, tmp_path / "out", plan)
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_all_parts_appear_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data_set(tmp_path)
    (tmp_path / "val.json").write_text("mine")
    with pytest.raises(DataError, match=r"val\.json already exists"):
        split_file(path, tmp_path, SplitPlan())
    calls = []

    def stop(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("resnet_tasks.data.splits.write_splits.write_content", stop)
    with pytest.raises(KeyboardInterrupt):
        split_file(path, tmp_path / "out", SplitPlan())
    assert not (tmp_path / "out").exists()


def test_the_command_line(tmp_path: Path) -> None:
    path = data_set(tmp_path)
    made = run(path, "--out", tmp_path / "out", "--fractions", "0.5,0.5", "--names", "one,two")
    assert made.exit_code == 0, made.output
    assert "by group-class" in made.stdout
    assert "mitosis" in made.stdout
    assert f"written: {tmp_path / 'out' / 'two.json'}" in made.stdout
    assert run(path, "--out", tmp_path / "f", "--folds", 3, "--by", "group").exit_code == 0
    for wrong in (
        ("--fractions", "half"),
        ("--fractions", "1,1", "--folds", "2"),
        ("--by", "random"),
    ):
        result = run(path, "--out", tmp_path / "x", *wrong)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


@pytest.mark.parametrize("number", [80, 1200])
@pytest.mark.parametrize("parts", [(), ("--folds", 5)])
def test_many_classes_are_summarized(
    tmp_path: Path, number: int, parts: tuple[object, ...]
) -> None:
    write_dataset(tmp_path / "data", number, images=30)
    made = run(tmp_path / "data/train.json", "--out", tmp_path / "out", *parts)
    assert made.exit_code == 0, made.output
    lines = made.stdout.splitlines()
    notes = [line for line in lines if line.startswith("note: ")]
    names = [f"fold{i}" for i in range(5)] if parts else ["train", "val", "test"]
    assert len(notes) <= len(names) + 1, "one for each part, and one for all"
    assert any(re.match(r"note: val|note: fold1 has no objects of \d+ classes: ", n) for n in notes)
    assert notes[-1].startswith("note: no part has objects of ")
    assert sum("│" in line for line in lines) <= 12
    assert sum(f"all {number} classes  " in line.replace("│", " ") for line in lines) == 1
    assert any(line.startswith(f"all {number} classes: resnet-tasks data check ") for line in lines)


def test_a_few_classes_are_all_in_the_table_and_the_notes(tmp_path: Path) -> None:
    path = data_set(tmp_path)
    content = json.loads(path.read_text())
    content["categories"].append({"id": 3, "name": "images"})
    content["annotations"][0]["category_id"] = 3
    path.write_text(json.dumps(content))
    made = run(path, "--out", tmp_path / "out")
    rows = [line.split("│")[1].strip() for line in made.stdout.splitlines() if "│" in line]
    assert rows == ["images", "groups", "cell", "mitosis", "images"]
    notes = [line for line in made.stdout.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2, "of three parts, two have no object of the class with one"
    assert all(line.endswith(" has no objects of images") for line in notes)
    assert "all 3 classes" not in made.stdout


def test_subgroups_are_balanced(tmp_path: Path) -> None:
    path = data_set(tmp_path / "data", group=None)
    content = json.loads(path.read_text())
    for i, record in enumerate(content["images"]):  # 90 of A, 24 of B, 6 without a site
        record["acquisition"] = {"site": "A" if i < 90 else "B"} if i < 114 else {}
    path.write_text(json.dumps(content))
    made = run(path, "--out", tmp_path / "out", "--fractions", "2,1", "--by", "acquisition.site")
    assert made.exit_code == 0, made.output
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in made.stdout.splitlines()]
    rows = {row[0]: row[1:] for row in cells if row}
    assert rows["acquisition.site: A"] == ["60 (67 %)", "30 (33 %)"]
    assert rows["acquisition.site: B"] == ["16 (67 %)", "8 (33 %)"]
    assert rows["acquisition.site: unknown"] == ["4 (67 %)", "2 (33 %)"]
    assert "note: 6 images have no 'acquisition.site': subgroup 'unknown'" in made.stdout
    assert "to keep all images of one in the same part, use --group-key acquisition.site" in (
        made.stdout
    )
    sites = [
        [record["acquisition"].get("site") for record in json.loads(file.read_text())["images"]]
        for file in (tmp_path / "out/train.json", tmp_path / "out/val.json")
    ]
    assert [part.count("B") for part in sites] == [16, 8]


def test_subgroups_are_balanced_without_dividing_groups(tmp_path: Path) -> None:
    path = data_set(tmp_path / "data")
    content = json.loads(path.read_text())
    for record in content["images"]:
        record["site"] = "A" if record["group"] % 3 else "B"
    path.write_text(json.dumps(content))
    plan = SplitPlan((0.5, 0.5), balance="site")
    made = split_file(path, tmp_path / "out", plan)
    assert made.by == "group-class"
    assert made.groups == (15, 15)
    assert made.subgroups == {"site: A": (40, 40), "site: B": (20, 20)}
    patients = [
        {record["group"] for record in json.loads(file.read_text())["images"]}
        for file in made.files
    ]
    assert patients[0].isdisjoint(patients[1])


def test_groups_by_nested_keys(tmp_path: Path) -> None:
    path = data_set(tmp_path, group=None)
    content = json.loads(path.read_text())
    for i, record in enumerate(content["images"]):
        record["study"] = {"id": f"s{i % 4}"}
    path.write_text(json.dumps(content))
    nested = split_file(path, tmp_path / "nested", SplitPlan((0.5, 0.5), group_key="study.id"))
    assert nested.groups == (2, 2)


def test_an_unknown_criterion_is_not_a_key(tmp_path: Path) -> None:
    made = run(data_set(tmp_path), "--out", tmp_path / "out", "--by", "clas")
    assert made.exit_code == 2
    text = " ".join(made.output.split())
    assert "--by clas is none of random, class, group, group-class, and " in text
    assert "no image record has the key 'clas'; keys of the records: " in text
    assert not (tmp_path / "out").exists()


def test_parts_of_a_file_with_infinite_boxes_can_be_read(tmp_path: Path) -> None:
    """JSON has no infinity, so that parts have null in its place."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 10, "width": 20} for i in range(1, 5)]
    box = {"category_id": 1, "iscrowd": 0, "area": 4}
    annotations = [
        {**box, "id": i, "image_id": i, "bbox": [1, float("inf"), 2, 2] if i == 2 else [1, 1, 2, 2]}
        for i in range(1, 5)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    split_file(tmp_path / "all.json", tmp_path / "parts", SplitPlan((0.5, 0.5), names=("a", "b")))
    parts = [read_coco(tmp_path / "parts" / f"{name}.json") for name in "ab"]
    assert sorted(a.id for part in parts for some in part.annotations.values() for a in some) == (
        [1, 3, 4]
    )
    assert [problem.kind for part in parts for problem in part.problems] == ["non_finite_box"]
