import json
from pathlib import Path
from typing import Any

import pytest

from data_tools.converters.nifti.layouts import read_layout
from resnet_tasks.errors import DataError

DECATHLON = {"labels": {"0": "background", "2": "tumor", "1": "liver"}, "modality": {"0": "CT"}}
NNUNET = {
    "labels": {"background": 0, "oedema": 1, "core": 2, "ignore": 3},
    "channel_names": {"0": "T1", "1": "T2"},
    "file_ending": ".nii.gz",
}


def files(root: Path, *names: str, description: dict[str, Any] | None = None) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    if description is not None:
        (root / "dataset.json").write_text(json.dumps(description))
    return root


def test_decathlon(tmp_path: Path) -> None:
    stated = {
        "training": [
            {"image": "./imagesTr/liver_1.nii.gz", "label": "./labelsTr/liver_1.nii.gz"},
            {"image": "./imagesTr/liver_0.nii.gz", "label": "./labelsTr/liver_0.nii.gz"},
        ],
        "test": ["./imagesTs/liver_9.nii.gz"],
    }
    source = files(
        tmp_path,
        *("imagesTr/liver_0.nii.gz", "imagesTr/liver_1.nii.gz", "imagesTs/liver_9.nii.gz"),
        *("labelsTr/liver_0.nii.gz", "labelsTr/liver_1.nii.gz", "imagesTr/._liver_1.nii.gz"),
        description=DECATHLON | stated,
    )
    layout = read_layout(source)
    assert [case.name for case in layout.splits["train"]] == ["liver_1", "liver_0"]
    assert layout.splits["train"][0].channels == (source / "imagesTr/liver_1.nii.gz",)
    assert layout.splits["train"][0].labels == source / "labelsTr/liver_1.nii.gz"
    assert layout.unlabeled == {"test": ("liver_9",)}
    assert list(layout.classes.items()) == [(1, "liver"), (2, "tumor")]
    assert layout.void is None


def test_nnunet_with_channels_and_a_test_split(tmp_path: Path) -> None:
    source = files(
        tmp_path,
        *(f"imagesTr/a_{i}_000{c}.nii.gz" for i in range(2) for c in range(2)),
        *(f"labelsTr/a_{i}.nii.gz" for i in range(2)),
        *("imagesTs/a_7_0000.nii.gz", "imagesTs/a_7_0001.nii.gz", "labelsTs/a_7.nii.gz"),
        description=NNUNET,
    )
    layout = read_layout(source)
    assert [(case.name, len(case.channels)) for case in layout.splits["train"]] == [
        ("a_0", 2),
        ("a_1", 2),
    ]
    assert [path.name for path in layout.splits["test"][0].channels] == [
        "a_7_0000.nii.gz",
        "a_7_0001.nii.gz",
    ]
    assert (dict(layout.classes), layout.void) == ({1: "oedema", 2: "core"}, 3)
    (source / "imagesTr/a_1_0000.nii.gz").unlink()
    with pytest.raises(
        DataError, match=r"a_1 has the channels \[1\]; they must be numbered from 0"
    ):
        read_layout(source)


def test_first_version_of_nnunet_lists_names_without_channels(tmp_path: Path) -> None:
    stated = {"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]}
    source = files(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz",
                   "labelsTr/a.nii.gz", description=DECATHLON | stated)  # fmt: skip
    assert len(read_layout(source).splits["train"][0].channels) == 2


def test_second_version_may_list_files(tmp_path: Path) -> None:
    entry = {"images": ["x/one.nii", "x/two.nii"], "label": "y/z.nii"}
    source = files(tmp_path, "x/one.nii", "x/two.nii", "y/z.nii",
                   description=NNUNET | {"dataset": {"case": entry}})  # fmt: skip
    (case,) = read_layout(source).splits["train"]
    assert (case.name, [each.name for each in case.channels]) == ("case", ["one.nii", "two.nii"])


def test_plain_folders_need_classes(tmp_path: Path) -> None:
    source = files(tmp_path, "train/images/a.nii", "train/labels/a.nii",
                   "val/images/b.nii.gz", "val/labels/b.nii.gz")  # fmt: skip
    layout = read_layout(source, {0: "background", 4: "spleen"})
    assert {split: len(cases) for split, cases in layout.splits.items()} == {"train": 1, "val": 1}
    assert dict(layout.classes) == {4: "spleen"}
    with pytest.raises(DataError, match=r"no dataset\.json with labels; name the values"):
        read_layout(source)
    with pytest.raises(DataError, match="no label but the background"):
        read_layout(source, {0: "background"})


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"labels": {"whole": [1, 2]}}, r"the label 'whole' covers the values \[1, 2\]"),
        ({"labels": {"liver": "tumor"}}, "has no whole number"),
        ({"labels": {"liver": 1e999}}, r"the label 'liver': inf has no whole number"),
        ({"labels": {"liver": 1.5}}, r"the label 'liver': 1\.5 has no whole number"),
        ({"labels": {"liver": True}}, r"the label 'liver': True has no whole number"),
        (
            {"training": [{"image": "imagesTr/a.nii", "label": "a" * 300}]},
            r"a{300}, which does not exist; add it",
        ),
        (
            {"training": [{"image": "a" * 300, "label": "labelsTr/a.nii"}]},
            r"a{300}, which does not exist; add it",
        ),
        ({"labels": ["liver"]}, "labels must be an object"),
        ({"file_ending": ".png"}, r"file_ending is '\.png'; supported are \.nii\.gz, \.nii"),
        ({"training": [{"image": "a"}]}, "must name an image and its label"),
        (
            {"training": [{"image": "../a.nii", "label": "labelsTr/a.nii"}]},
            r"names '\.\./a\.nii', which leads out of",
        ),
        (
            {"training": [{"image": "imagesTr/b.nii", "label": "labelsTr/a.nii"}]},
            r"imagesTr/b\.nii, which does not exist",
        ),
        ({"training": [{"image": "imagesTr/a.nii", "label": "/a.nii"}]}, "leads out of"),
    ],
)
def test_descriptions_without_sense(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    source = files(tmp_path, "imagesTr/a.nii", "labelsTr/a.nii", description=DECATHLON | change)
    with pytest.raises(DataError, match=part):
        read_layout(source)


def test_files_that_are_missing(tmp_path: Path) -> None:
    source = files(tmp_path, "imagesTr/a.nii.gz", "labelsTr/b.nii.gz", description=DECATHLON)
    with pytest.raises(DataError, match=r"labelsTr/b\.nii\.gz has no volume of the same name in"):
        read_layout(source)
    (source / "labelsTr/b.nii.gz").unlink()
    with pytest.raises(DataError, match=r"imagesTr/a\.nii\.gz has no labels of the same name in"):
        read_layout(source)
    (source / "imagesTr/a.nii.gz").unlink()
    with pytest.raises(DataError, match="no volumes with labels to train on"):
        read_layout(source)
    (source / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json is not JSON: .* line 1, column 2"):
        read_layout(source)
