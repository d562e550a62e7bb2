"""Damaged DICOM and NIfTI files, tables and descriptions: read or refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from data_tools.converters.csv.tables import merge_findings, read_box_table
from data_tools.converters.dicom.frames import DicomFile
from data_tools.converters.dicom.options import DicomOptions
from data_tools.converters.nifti.layouts import Case, read_layout
from data_tools.converters.nifti.volumes import Volume
from resnet_tasks.errors import DataError

DICOM = Path(pydicom.__file__).parent / "data" / "test_files"
SOURCES = (
    *("MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm", "CT_small.dcm", "examples_jpeg2k.dcm"),
    *("SC_rgb_rle_16bit_2frame.dcm", "rtplan.dcm", "dicomdirtests/77654033/CR1/6154"),
)
NIFTI = Path(nibabel.__file__).parent / "tests" / "data" / "standard.nii.gz"
CELLS = ("", "a", "1", "-3", "1e400", "nan", "No finding", '"', 'x"y', "\0", "\r", "\n", "5,5")
KEYS = ("image", "label", "images", "0", "1", "background", "ignore")
LEAVES = (None, 1, "x", "imagesTr/a.nii", "labelsTr/a.nii", "../b", 1.5, True, "", [], {})


def damaged(random: Random, whole: bytes, start: int, header: int) -> bytes:
    """A few bytes replaced, mostly of the header, and sometimes the end cut off."""
    content = bytearray(whole)
    for _ in range(random.randint(1, 10)):
        end = len(content) if random.random() < 0.3 else min(len(content), header)
        content[random.randrange(start, end)] = random.randrange(256)
    if random.random() < 0.3:
        del content[random.randrange(start, len(content)) :]
    return bytes(content)


def dicom(random: Random, folder: Path) -> None:
    whole = (DICOM / random.choice(SOURCES)).read_bytes()
    (folder / "a").write_bytes(damaged(random, whole, 132, 2500))
    values: Any = random.choice(["voi", "modality", "stored", (40.0, 400.0)])
    file = DicomFile(folder / "a", DicomOptions(values, longest_side=random.choice([None, 16])))
    assert file.group is None or len(file.group) == 16
    if file.explain_missing_image() is None:
        frames = file.iterate_frames()
        for frame in (frame for _, frame in zip(range(2), frames, strict=False)):
            assert frame.pixels.ndim == 2 + frame.is_color


def nifti(random: Random, folder: Path) -> None:
    labels = folder / "l.nii"
    if not labels.exists():
        size = nibabel.load(NIFTI).shape
        affine = nibabel.load(NIFTI).affine
        nibabel.save(nibabel.Nifti1Image(np.zeros(size, np.uint8), affine), labels)
        nibabel.save(nibabel.Nifti1Image(np.zeros(size, np.int16), affine), folder / "whole.nii")
    kind = random.choice(["nii", "nii.gz"])
    whole = (NIFTI if kind == "nii.gz" else folder / "whole.nii").read_bytes()
    (folder / f"v.{kind}").write_bytes(damaged(random, whole, 0, 352))
    volume = Volume(Case("v", (folder / f"v.{kind}",), labels), "coronal")
    assert volume.read_image(0, fill=0).shape[:2] == volume.read_labels(0, {0: 0}).shape


def table(random: Random, folder: Path) -> None:
    rows = ["image_id,rad_id,class_name,x_min,y_min,x_max,y_max"]
    for _ in range(random.randint(0, 4)):
        row = ["a", random.choice("RS"), "mass", *map(str, random.sample(range(99), 4))]
        for _ in range(random.choice([0, 0, 1, 3])):
            row[random.randrange(len(row))] = random.choice(CELLS)
        rows.append(",".join(row[: random.choice([7, 7, 7, 5])]))
    encoding = random.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])
    (folder / "t.csv").write_bytes("\n".join(rows).encode(encoding))
    for image in read_box_table(folder / "t.csv", {}).values():
        assert sum(count for _, count in merge_findings(image.boxes)) == len(image.boxes)


def description(random: Random, folder: Path) -> None:
    def made(depth: int) -> Any:
        if random.random() < 0.3 or depth > 3:
            return random.choice(LEAVES)
        if random.random() < 0.5:
            return [made(depth + 1) for _ in range(random.randint(0, 3))]
        return {random.choice(KEYS): made(depth + 1) for _ in range(random.randint(0, 4))}

    for name in ("imagesTr/a.nii", "labelsTr/a.nii"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    content: dict[str, Any] = {"labels": {"0": "background", "1": "liver"}}
    for key in ("labels", "training", "dataset", "test", "file_ending"):
        if random.random() < 0.3:
            content[key] = made(0)
    (folder / "dataset.json").write_text(json.dumps(content))
    assert read_layout(folder).splits["train"]


@pytest.mark.parametrize("parser", [dicom, nifti, table, description], ids=lambda p: p.__name__)
def test_damage_never_ends_in_a_traceback(
    parser: Callable[[Random, Path], None], tmp_path: Path
) -> None:
    random = Random(150)
    refused: list[str] = []
    for _ in range(150):
        try:
            parser(random, tmp_path)
        except DataError as error:
            refused.append(str(error))
    assert not [each for each in refused if "\n" in each]
    assert 0.1 < len(refused) / 150 < 0.95
