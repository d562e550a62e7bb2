import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from data_tools.catalog import convert
from data_tools.converters.dicom.convert import convert_dicom
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.errors import DataError

FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def source(root: Path, **files: str) -> Path:
    for name, original in files.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FILES / original, file)
    return root


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_files_with_and_without_suffix_series_and_frames(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", ct="CT_small.dcm", us="examples_palette.dcm",
                    s__two="SC_rgb_rle_16bit_2frame.dcm", s__plan="rtplan.dcm",
                    notes="README.txt")  # fmt: skip
    (folder / "us").rename(folder / "us.1.2.DCM")
    seen: list[tuple[int, int]] = []
    (summary,) = convert_dicom(
        folder, tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert summary.images == 4
    assert [(each.file, each.reason) for each in summary.skipped] == [
        ("notes", "it is not a DICOM file"),
        ("s/plan", "it contains no image (RT Plan Storage)"),
    ]
    assert seen == [(i, 5) for i in range(1, 6)]
    read = read_coco(tmp_path / "out" / "train.json")
    assert read.annotated == frozenset()
    assert read.problems == ()
    assert read.find_missing_files() == ()
    assert [each.file_name for each in read.images] == [
        *("images/train/ct.tif", "images/train/us.1.2.png"),
        *("images/train/s/two/0000.png", "images/train/s/two/0001.png"),
    ]
    ct = read.images[0]
    assert ct.spacing == (0.661468, 0.661468)
    assert ct.extra["attributes"] == {"modality": "CT"}
    image = decode_image(read.image_path(ct))
    array = pydicom.dcmread(FILES / "CT_small.dcm").pixel_array
    assert (image.layout, image.pixels.dtype) == ("gray", np.int16)
    np.testing.assert_array_equal(image.pixels[:, :, 0], array - 1024)
    frame = decode_image(read.image_path(read.images[3]))
    assert (frame.layout, frame.pixels.dtype) == ("color", np.uint16)
    array = pydicom.dcmread(FILES / "SC_rgb_rle_16bit_2frame.dcm").pixel_array
    np.testing.assert_array_equal(frame.pixels, array[1])


def test_no_name_and_no_id_is_written(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", Doe_John="CT_small.dcm", broken_Doe="MR_truncated.dcm")
    data = pydicom.dcmread(folder / "Doe_John")
    (summary,) = convert_dicom(folder, tmp_path / "out", hashed_names=True, damaged="skip")
    card = convert("dicom", folder, tmp_path / "card", hashed_names=True, damaged="skip")
    assert (summary.images, len(summary.skipped), card.num_skipped) == (1, 1, 1)
    written = b"".join(each.read_bytes() for each in (tmp_path / "out").rglob("*.*"))
    written += (tmp_path / "card/data_card.md").read_bytes()
    names = "".join(map(str, (tmp_path / "out").rglob("*")))
    for secret in (data.PatientName, data.PatientID, data.StudyInstanceUID, data.StudyDate, "Doe"):
        assert len(str(secret)) > 2
        assert str(secret).encode() not in written
        assert str(secret) not in names
    assert len(load(tmp_path / "out/train.json")["images"][0]["group"]) == 16


def test_native_splits_and_groups(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", train__a="CT_small.dcm", train__b="MR_small.dcm",
                    val__a="examples_overlay.dcm", other="image_dfl.dcm")  # fmt: skip
    summaries = convert_dicom(folder, tmp_path / "out", classes=("lesion",), group="study")
    assert [(each.split, each.images) for each in summaries] == [("train", 2), ("val", 1)]
    content = load(tmp_path / "out/train.json")
    assert len({each["group"] for each in content["images"]}) == 2
    assert [each["name"] for each in content["categories"]] == ["lesion"]


def test_other_names_of_splits(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", Train__a="CT_small.dcm", valid__a="MR_small.dcm")
    summaries = convert_dicom(folder, tmp_path / "out")
    assert [(summary.split, summary.images) for summary in summaries] == [("train", 1), ("val", 1)]
    (folder / "validation").mkdir()
    with pytest.raises(DataError, match=r"valid and .*validation are both named after .* val;"):
        convert_dicom(folder, tmp_path / "twice")


def test_copies_are_left_out_but_not_what_only_shares_an_id(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", a="MR_small.dcm", b="MR_small_RLE.dcm")
    data = pydicom.dcmread(folder / "a")
    data.PixelData = data.pixel_array[::-1].tobytes()
    data.save_as(folder / "c")
    (summary,) = convert_dicom(folder, tmp_path / "out")
    assert summary.images == 2
    assert [each.file for each in summary.skipped] == ["b"]
    assert "same instance id and the same pixels" in summary.skipped[0].reason


def test_equal_names_get_files_of_their_own(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", a="MR_small.dcm", b="CT_small.dcm")
    (folder / "a").rename(folder / "x.dcm")
    (folder / "b").rename(folder / "x.dicom")
    convert_dicom(folder, tmp_path / "out")
    names = [each["file_name"] for each in load(tmp_path / "out/train.json")["images"]]
    assert names == ["images/train/x.tif", "images/train/x_2.tif"]


def test_damage_stops_or_is_listed(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", a="MR_truncated.dcm", b="CT_small.dcm")
    message = "in/a cannot be read: The number of bytes.*; pass damaged=skip to skip such files"
    with pytest.raises(DataError, match=message):
        convert("dicom", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    card = convert("dicom", folder, tmp_path / "out", damaged="skip")
    assert card.splits[0].images == 1
    assert "| train | a | file | the DICOM file" in card.to_markdown()
    (folder / "b").unlink()
    message = r"contains no DICOM image; found a \(a: the DICOM file .*/in/a cannot be read: "
    with pytest.raises(DataError, match=message):
        convert_dicom(folder, tmp_path / "other", damaged="skip")
    with pytest.raises(DataError, match="is not a folder"):
        convert_dicom(folder / "b", tmp_path / "other")


def test_options_are_typed(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", a="CT_small.dcm")
    convert("dicom", folder, tmp_path / "out", values=[40, 400], longest_side=64)
    record = load(tmp_path / "out/train.json")["images"][0]
    assert (record["file_name"], record["width"]) == ("images/train/a.png", 64)
    assert record["spacing"] == [1.322936, 1.322936]
    with pytest.raises(DataError, match="option values"):
        convert("dicom", folder, tmp_path / "other", values="window")
