from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.converters.csv.convert import convert_csv_boxes
from data_tools.converters.dicom.convert import convert_dicom
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.images.decoding import decode_image
from tests.support.dicom_files import write_dicom

BYTES = np.array([[0, 200]], dtype=np.uint8)
WORDS = np.array([[0, 3200]], dtype=np.uint16)
TWELVE = {"BitsStored": 12, "HighBit": 11}


def convert(tmp_path: Path, files: dict[str, tuple[np.ndarray, dict[str, Any]]]) -> Any:
    for name, (pixels, elements) in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_dicom(tmp_path / "in" / name, pixels, SOPInstanceUID=f"1.2.{len(name)}", **elements)
    return convert_dicom(tmp_path / "in", tmp_path / "out")


def read_types(tmp_path: Path, split: str = "train") -> dict[str, tuple[np.dtype, Any]]:
    coco = read_coco(tmp_path / "out" / f"{split}.json")
    return {
        Path(record.file_name).stem: (
            decode_image(coco.image_path(record)).pixels.dtype,
            record.extra["attributes"].get("bits_stored"),
        )
        for record in coco.images
    }


def test_mixed_depths_share_a_type_and_are_reported(tmp_path: Path) -> None:
    (summary,) = convert(tmp_path, {"a.dcm": (BYTES, {}), "bb.dcm": (WORDS, TWELVE)})
    assert read_types(tmp_path) == {"a": (np.uint16, 8), "bb": (np.uint16, 12)}
    (warning,) = summary.warnings
    assert "(1 file of 8 bits, 1 file of 12 bits)" in warning
    assert "data.intensity.type=percentile" in warning


def test_splits_share_a_type(tmp_path: Path) -> None:
    signed = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    summaries = convert(tmp_path, {"train/a.dcm": (WORDS, TWELVE | {"RescaleSlope": 1}),
                                   "val/bb.dcm": (WORDS, TWELVE | signed)})  # fmt: skip
    assert [s.split for s in summaries] == ["train", "val"]
    assert read_types(tmp_path) == {"a": (np.int16, None)}
    assert read_types(tmp_path, "val") == {"bb": (np.int16, None)}


@pytest.mark.parametrize("slope", [0.5, 0.7])
def test_one_fractional_slope_makes_all_values_floats(tmp_path: Path, slope: float) -> None:
    scaled = TWELVE | {"RescaleSlope": slope, "RescaleIntercept": 0}
    whole = TWELVE | {"RescaleSlope": 1, "RescaleIntercept": 0}
    convert(tmp_path, {"a.dcm": (WORDS, scaled), "bb.dcm": (WORDS, whole)})
    assert read_types(tmp_path) == {"a": (np.float32, None), "bb": (np.float32, None)}


def test_depths_of_values_with_a_unit_are_no_fault(tmp_path: Path) -> None:
    unit = {"RescaleSlope": 1, "RescaleIntercept": 0}
    (summary,) = convert(tmp_path, {"a.dcm": (BYTES, unit), "bb.dcm": (WORDS, TWELVE | unit)})
    assert read_types(tmp_path) == {"a": (np.uint16, None), "bb": (np.uint16, None)}
    assert summary.warnings == ()


def test_identical_rescales_of_radiographs_give_no_unit(tmp_path: Path) -> None:
    identity = {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US", "Modality": "CR"}
    (summary,) = convert(
        tmp_path, {"a.dcm": (BYTES, identity), "bb.dcm": (WORDS, TWELVE | identity)}
    )
    assert read_types(tmp_path) == {"a": (np.uint16, 8), "bb": (np.uint16, 12)}
    assert "(1 file of 8 bits, 1 file of 12 bits)" in summary.warnings[0]
    density = identity | {"RescaleType": "OD"}
    assert not convert_types(tmp_path / "od", density).warnings


def convert_types(tmp_path: Path, elements: dict[str, Any]) -> Any:
    tmp_path.mkdir()
    files = {"a.dcm": (BYTES, elements), "bb.dcm": (WORDS, TWELVE | elements)}
    return convert(tmp_path, files)[0]


def test_colors_count_for_mixed_depths(tmp_path: Path) -> None:
    color = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    color |= {"PixelData": bytes(6), "Rows": 1, "Columns": 2}
    (summary,) = convert(tmp_path, {"a.dcm": (BYTES, color), "bb.dcm": (WORDS, TWELVE)})
    assert read_types(tmp_path) == {"a": (np.uint8, 8), "bb": (np.uint16, 12)}
    assert "(1 file of 8 bits, 1 file of 12 bits)" in summary.warnings[0]


def test_mixed_depths_of_splits_are_reported_once(tmp_path: Path) -> None:
    train, val = convert(tmp_path, {"train/a.dcm": (BYTES, {}), "val/bb.dcm": (WORDS, TWELVE)})
    assert [len(train.warnings), len(val.warnings)] == [1, 0]


def test_tables_of_boxes_share_a_type_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_dicom(tmp_path / "in/a.dcm", np.full((9, 9), 200, np.uint8))
    write_dicom(tmp_path / "in/b.dcm", np.full((9, 9), 3200, np.uint16), **TWELVE)
    rows = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
    (tmp_path / "in/train.csv").write_text(f"{rows}a,R1,x,1,2,3,4\nb,R1,x,1,2,3,4\n")
    (summary,) = convert_csv_boxes(tmp_path / "in", tmp_path / "out")
    assert read_types(tmp_path) == {"a": (np.uint16, 8), "b": (np.uint16, 12)}
    assert any("1 file of 8 bits" in warning for warning in summary.warnings)
