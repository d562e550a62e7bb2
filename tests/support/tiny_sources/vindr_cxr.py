"""VinDr-CXR as PhysioNet lays it out: DICOM by split, three readers of train, one of test."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from tests.support.tiny_sources import text

OPTIONS = {"val_fraction": 0.4, "seed": 7}
TRAIN = """image_id,rad_id,class_name,x_min,y_min,x_max,y_max
{0},R1,Cardiomegaly,20.0,30.0,70.0,60.0
{0},R2,Cardiomegaly,22.0,30.0,72.0,60.0
{0},R3,No finding,,,,
{1},R1,Nodule/Mass,10.5,12.0,20.5,24.0
{1},R2,No finding,,,,
{1},R3,No finding,,,,
{2},R1,Aortic enlargement,40.0,8.0,60.0,30.0
{2},R2,Aortic enlargement,41.0,8.0,61.0,30.0
{2},R3,Aortic enlargement,42.0,8.0,62.0,30.0
"""
TEST = """image_id,class_name,x_min,y_min,x_max,y_max
{0},Pleural effusion,10.0,40.0,40.0,70.0
{1},No finding,,,,
"""


def xray(file: Path, seed: int, photometric: str = "MONOCHROME2") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 4096, (80, 96), dtype=np.uint16)
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    kind = DigitalXRayImageStorageForPresentation
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = kind
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.{seed + 1}"
    data.PatientID = ""
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelSpacing = [0.139, 0.139]
    data.PixelData = pixels.tobytes()
    data.save_as(file, enforce_file_format=True)


def write(folder: Path) -> Path:
    train, test = [f"{i:032x}" for i in range(3)], [f"{i:032x}" for i in (7, 8)]
    for seed, name in enumerate(train):
        xray(folder / f"train/{name}.dicom", seed, "MONOCHROME1" if seed == 1 else "MONOCHROME2")
    for seed, name in enumerate(test, start=3):
        xray(folder / f"test/{name}.dicom", seed)
    text(folder / "annotations/annotations_train.csv", TRAIN.format(*train))
    text(folder / "annotations/annotations_test.csv", TEST.format(*test))
    text(folder / "LICENSE.txt", "as it is")
    return folder
