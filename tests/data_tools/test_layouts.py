"""The format of a folder is recognized by the functions of the converters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.formats import FORMATS
from data_tools.layouts import find_layout, list_dataset_folders
from tests.support import source_layouts as sources

BOTH, TRAIN = {"train", "val"}, {"train"}
HELD_OUT = "val_fraction=0.2"
LAYOUTS: list[tuple[Callable[[Path], None], str, set[str], list[str]]] = [
    (sources.flat_voc, "voc", TRAIN, []),
    (sources.split_voc, "voc", BOTH, []),
    (sources.roboflow_coco, "coco", BOTH, []),
    (sources.cvat_coco, "coco", TRAIN, []),
    (sources.label_studio_coco, "coco", TRAIN, []),
    (sources.darknet, "yolo", TRAIN, []),
    (sources.classes_txt, "yolo", TRAIN, []),
    (sources.labelme_folder, "labelme", TRAIN, []),
    (sources.cvat_xml, "cvat", TRAIN, []),
    (sources.csv_table, "csv-boxes", BOTH, [HELD_OUT]),
    (sources.csv_above_images, "csv-boxes", BOTH, [HELD_OUT]),
    (sources.roboflow_csv, "csv-boxes", BOTH, []),
    (sources.kitti, "kitti", BOTH, [HELD_OUT]),
    (
        sources.mask_folders,
        "binary-masks",
        BOTH,
        ["category=object", 'folders={"train": {"images": "images", "masks": "masks"}}', HELD_OUT],
    ),
    (
        sources.split_masks,
        "binary-masks",
        BOTH,
        [
            "category=object",
            (
                'folders={"train": {"images": "train/Images", "masks": "train/mask"}, '
                '"val": {"images": "valid/Images", "masks": "valid/mask"}}'
            ),
        ],
    ),
    (sources.label_maps, "label-maps", TRAIN, ["classes=[NAME, NAME]"]),
    (sources.volumes, "nifti", BOTH, [HELD_OUT]),
    (sources.named_volumes, "nifti", BOTH, ["classes={1: NAME}", HELD_OUT]),
    (sources.dicom, "dicom", TRAIN, []),
]


@pytest.mark.parametrize(
    ("build", "name", "splits", "options"), LAYOUTS, ids=[row[0].__name__ for row in LAYOUTS]
)
def test_layouts(
    tmp_path: Path,
    build: Callable[[Path], None],
    name: str,
    splits: set[str],
    options: list[str],
) -> None:
    build(tmp_path / "source")
    layout = find_layout(tmp_path / "source")
    assert layout is not None
    assert (layout.format, layout.splits, list(layout.options)) == (name, splits, options)
    allowed = FORMATS.get(name).options
    assert all(option.partition("=")[0] in allowed for option in options)


@pytest.mark.parametrize("build", [sources.nothing, sources.index_masks])
def test_other_folders_have_no_format(tmp_path: Path, build: Callable[[Path], None]) -> None:
    build(tmp_path / "source")
    assert find_layout(tmp_path / "source") is None


def test_folders_of_an_annotation_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_dataset_folders(Path("a/b/train.csv")) == [Path("a/b")]
    assert list_dataset_folders(Path("a/valid/b.csv")) == [Path("a"), Path("a/valid")]
    assert list_dataset_folders(Path("annotations/b.json")) == [Path(), Path("annotations")]
    (tmp_path / "annotations").mkdir()
    monkeypatch.chdir(tmp_path / "annotations")
    assert list_dataset_folders(Path("b.json")) == [tmp_path, tmp_path / "annotations"]


@pytest.mark.parametrize(
    ("build", "suffix", "other_suffix", "name"),
    [
        (sources.classes_txt, "labels/*.txt", ".TXT", "yolo"),
        (sources.labelme_folder, "*.json", ".JSON", "labelme"),
    ],
)
def test_suffixes_in_upper_case(
    tmp_path: Path, build: Callable[[Path], None], suffix: str, other_suffix: str, name: str
) -> None:
    build(tmp_path)
    for file in list(tmp_path.glob(suffix)):
        file.rename(file.with_suffix(other_suffix))
    layout = find_layout(tmp_path)
    assert layout is not None
    assert layout.format == name


def test_a_table_that_cannot_be_parsed_is_no_layout(tmp_path: Path) -> None:
    sources.write(tmp_path / "train.csv", "a" * 200_000 + "\n1,2\n")
    assert find_layout(tmp_path) is None


def test_a_folder_with_other_json_files_is_not_searched_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.write(tmp_path / "settings.json", "{}")
    sources.write(tmp_path / "z/other.json", "{}")
    searched: list[Path] = []
    monkeypatch.setattr("data_tools.converters.labelme.walk_files", searched.append)
    assert find_layout(tmp_path) is None
    assert not searched
