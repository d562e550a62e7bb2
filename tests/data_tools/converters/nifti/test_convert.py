import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from data_tools.catalog import convert
from data_tools.converters.nifti.convert import convert_nifti
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.data.images.intensity import Intensity
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError

AFFINE = np.diag([0.8, 0.7, 3.0, 1.0])
LABELS = {"0": "background", "1": "liver", "2": "tumor"}


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def decathlon(root: Path, cases: int = 2, channels: int = 0, **description: Any) -> Path:
    """Volumes of 8 x 6 x 5 voxels whose slices 1 and 2 have labels."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in range(cases):
        rng = np.random.default_rng(case)
        size = (8, 6, 5, channels) if channels else (8, 6, 5)
        values = rng.integers(-1000, 1000, size).astype(np.int16)
        labels = np.zeros((8, 6, 5), np.uint8)
        labels[2:6, 1:4, 1:3] = 1
        labels[3, 2, 2] = 2
        for folder, array in (("imagesTr", values), ("labelsTr", labels)):
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), root / folder / f"ct_{case}.nii.gz")
    content = {"labels": LABELS} | description
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_slices_with_label_maps(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = decathlon(tmp_path / "in")
    (summary,) = convert_nifti(
        source, tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert (summary.images, seen) == (10, [(1, 2), (2, 2)])
    assert summary.pixels == {"liver": 2 * (24 - 1), "tumor": 2}
    assert summary.skipped == ()
    read = read_coco(tmp_path / "out/train.json")
    assert (read.problems, read.find_missing_files()) == ((), ())
    assert read.annotated == {"semantic"}
    third = read.images[2]
    assert third.file_name == "images/train/ct_0/ct_0_axial_0002.tif"
    assert third.sem_seg_file_name == "semantic/train/ct_0_axial_0002.png"
    assert third.spacing == pytest.approx((0.7, 0.8))
    assert {each.group for each in read.images} == {"ct_0", "ct_1"}
    assert third.extra["attributes"] == {"slice": 2, "slice_distance": 3.0}
    image = nibabel.load(source / "imagesTr/ct_0.nii.gz")
    expected = np.asarray(image.dataobj)[::-1, ::-1, 2].T
    stored = decode_image(read.image_path(third))
    assert (stored.pixels.dtype, stored.layout) == (np.int16, "gray")
    np.testing.assert_array_equal(stored.pixels[:, :, 0], expected)
    labels = np.asarray(nibabel.load(source / "labelsTr/ct_0.nii.gz").dataobj)
    ids = read_label_map(tmp_path / "out" / third.sem_seg_file_name)
    np.testing.assert_array_equal(ids, labels[::-1, ::-1, 2].T)


def test_empty_slices_are_rationed_and_counted(tmp_path: Path) -> None:
    source = decathlon(tmp_path / "in", 3)
    train, val = convert_nifti(source, tmp_path / "out", empty_slices=0.4, val_fraction=0.34)
    assert (train.images, val.images) == (2 * 3, 5)  # of 3 empty slices of train, one stays
    assert [(each.description, each.reason) for each in train.skipped] == [
        ("2 of 5 axial slices", "they hold no labels, and empty_slices is 0.4")
    ] * 2
    assert val.skipped == ()
    none, _ = convert_nifti(source, tmp_path / "none", empty_slices=0, val_fraction=0.34)
    assert none.images == 2 * 2
    groups = [
        {each["group"] for each in load(tmp_path / "out" / f"{split}.json")["images"]}
        for split in ("train", "val")
    ]
    assert (len(groups[0]), len(groups[1]), groups[0] & groups[1]) == (2, 1, set())


def test_channels_planes_and_void(tmp_path: Path) -> None:
    source = decathlon(tmp_path / "in", 1, channels=4)
    convert_nifti(
        source, tmp_path / "out", plane="sagittal", classes={1: "organ", 2: "ignore", 3: "cyst"}
    )
    read = read_coco(tmp_path / "out/train.json")
    assert len(read.images) == 8
    assert read.categories.names == ("organ", "cyst")
    assert read.images[0].spacing == pytest.approx((3.0, 0.7))
    stored = decode_image(read.image_path(read.images[0]))
    assert (stored.pixels.shape, stored.layout) == ((5, 6, 4), "bands")
    values = {
        int(value)
        for each in read.images
        for value in np.unique(read_label_map(tmp_path / "out" / str(each.sem_seg_file_name)))
    }
    assert values == {0, 1, 255}


def test_a_named_background_is_a_class(tmp_path: Path) -> None:
    source = decathlon(tmp_path / "in", 1)
    (summary,) = convert_nifti(
        source, tmp_path / "out", classes={0: "tissue", 1: "liver", 2: "tumor"}, empty_slices=0
    )
    assert summary.images == 5
    assert summary.pixels == {"tissue": 8 * 6 * 5 - 24, "liver": 23, "tumor": 1}


def test_volumes_without_labels_are_listed(tmp_path: Path) -> None:
    source = decathlon(tmp_path / "in", 1)
    for folder in ("imagesTs", "labelsTs"):
        (source / folder).mkdir()
    for name in ("ct_8", "ct_9"):
        whole = (source / "imagesTr/ct_0.nii.gz").read_bytes()
        (source / "imagesTs" / f"{name}.nii.gz").write_bytes(whole)
    labels = (source / "labelsTr/ct_0.nii.gz").read_bytes()
    (source / "labelsTs/ct_8.nii.gz").write_bytes(labels)
    card = convert("nifti", source, tmp_path / "out")
    assert [(each.split, each.images) for each in card.splits] == [("train", 5), ("test", 5)]
    assert "| test | ct_9 | volume | it has no labels |" in card.to_markdown()
    (source / "labelsTs/ct_8.nii.gz").unlink()
    card = convert("nifti", source, tmp_path / "other")
    assert [each.split for each in card.splits] == ["train"]
    assert "| train | test: ct_9 | volume | it has no labels |" in card.to_markdown()


def test_mistakes_leave_nothing_behind(tmp_path: Path) -> None:
    source = decathlon(tmp_path / "in", 1)
    for options, part in (
        ({"empty_slices": 1.5}, "empty_slices is 1.5; it must be a fraction"),
        ({"val_fraction": 0.5}, "has only one volume; a val split needs a second"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"classes": {1: "liver"}}, r"unknown values 2 \(1 pixel\) in slice 2; allowed: 0, 1;"),
        ({"plane": "oblique"}, "option plane of the format 'nifti'"),
    ):
        with pytest.raises(DataError, match=part):
            convert("nifti", source, tmp_path / "out", **options)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in"]


def test_without_nibabel_formats_are_listed_and_files_ask_for_it(tmp_path: Path) -> None:
    source = decathlon(tmp_path / "in", 1)
    code = (
        "import sys; sys.modules['nibabel'] = None\n"
        "from pathlib import Path\n"
        "from data_tools.formats import FORMATS\n"
        "assert 'plane' in FORMATS.get('nifti').options\n"
        f"try: FORMATS.get('nifti').convert(Path({str(source)!r}), Path('x'))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DataError")
    assert "pip install 'resnet-tasks[medical]'" in done.stdout


@pytest.mark.parametrize("name", ["../../escaped", "/{}/escaped"])
def test_cases_whose_names_lead_outside(tmp_path: Path, name: str) -> None:
    """nnU-Net's `dataset` names cases freely; their slices are written under those names."""
    name = name.format(tmp_path)
    case = {"images": ["imagesTr/ct_0.nii.gz"], "label": "labelsTr/ct_0.nii.gz"}
    source = decathlon(tmp_path / "in", dataset={name: case})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"the source names '.*escaped.*, which leads out of the"):
        convert_nifti(source, tmp_path / "a" / "b" / "out")
    assert {each for each in tmp_path.rglob("*") if each.is_file()} <= before


def test_volumes_share_one_type_that_their_headers_determine(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    stored = {"a": np.full((2, 2, 1), 94, np.uint16), "b": np.full((2, 2, 1), 94, np.uint8)}
    stored["a"][0, 0, 0] = 1000
    for name, values in stored.items():
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"images/{name}.nii.gz")
        labels = nibabel.Nifti1Image(np.ones((2, 2, 1), np.uint8), np.eye(4))
        nibabel.save(labels, folder / f"labels/{name}.nii.gz")
    train, val = convert_nifti(folder, tmp_path / "out", classes={1: "x"}, val_fraction=0.5)
    assert "(1 file of 8 bits, 1 file of 16 bits)" in train.warnings[0]
    assert (len(train.warnings), val.warnings) == (1, ())
    values = {}
    for split in ("train", "val"):
        read = read_coco(tmp_path / f"out/{split}.json")
        (record,) = read.images
        bits = {"a": 16, "b": 8}[record.group or ""]
        assert record.extra["attributes"]["bits_stored"] == bits
        values[split] = Intensity()(decode_image(read.image_path(record)).pixels).min()
    # The value 94 is 94 / 65535 in both volumes, which are in different splits.
    assert values == {"train": np.float32(94 / 65535), "val": np.float32(94 / 65535)}


def pair(folder: Path, image: nibabel.spatialimages.SpatialImage) -> Path:
    """Save a volume as `c.hdr` and `c.img`."""
    folder.mkdir(parents=True)
    nibabel.save(image, folder / "c.img")
    return folder


def test_pairs_of_header_and_voxels(tmp_path: Path) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    pair(tmp_path / "in/images", nibabel.Nifti1Pair(values, AFFINE))
    pair(tmp_path / "in/labels", nibabel.Nifti1Pair((values > 100).astype(np.int16), AFFINE))
    (summary,) = convert_nifti(tmp_path / "in", tmp_path / "out", classes={1: "liver"})
    assert summary.images == 6
    read = read_coco(tmp_path / "out/train.json")
    stored = decode_image(read.image_path(read.images[2])).pixels[:, :, 0]
    np.testing.assert_array_equal(stored, values[::-1, ::-1, 2].T)
    (tmp_path / "in/images/c.img").unlink()
    with pytest.raises(DataError, match=r"c\.hdr is the header of a volume without c\.img"):
        convert_nifti(tmp_path / "in", tmp_path / "again", classes={1: "liver"})


def test_analyze_pairs_are_refused_because_of_their_sides(tmp_path: Path) -> None:
    image = nibabel.AnalyzeImage(np.zeros((4, 5, 6), np.int16), np.eye(4))
    for folder in ("images", "labels"):
        pair(tmp_path / "in" / folder, image)
    with pytest.raises(DataError, match=r"c\.hdr is Analyze, not NIfTI, which states left and"):
        convert_nifti(tmp_path / "in", tmp_path / "out", classes={1: "liver"})


def test_a_folder_of_dicom_files_names_its_converter(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/IM1").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match=r"found IM1: IM1 is a DICOM file; .*convert dicom"):
        convert_nifti(tmp_path / "in", tmp_path / "out", classes={1: "liver"})


@pytest.mark.parametrize(
    ("second", "slope"), [(np.uint8, 1), (np.int16, 1), (np.float32, 1), (np.uint16, 2)]
)
def test_values_with_one_depth_or_a_unit_are_not_mixed(
    tmp_path: Path, second: type, slope: float
) -> None:
    for name, kind in {"a": np.uint8, "b": second}.items():
        (tmp_path / "in/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in/labels").mkdir(exist_ok=True)
        image = nibabel.Nifti1Image(np.ones((2, 2, 1), kind), np.eye(4))
        image.header.set_slope_inter(slope if name == "b" else 1, 0)
        nibabel.save(image, tmp_path / f"in/images/{name}.nii")
        labels = nibabel.Nifti1Image(np.ones((2, 2, 1), np.uint8), np.eye(4))
        nibabel.save(labels, tmp_path / f"in/labels/{name}.nii")
    (summary,) = convert_nifti(tmp_path / "in", tmp_path / "out", classes={1: "x"})
    assert summary.warnings == ()
    (record, _) = read_coco(tmp_path / "out/train.json").images
    assert "bits_stored" not in record.extra["attributes"]
