"""Images, label maps, videos and medical volumes."""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import tifffile
from PIL import Image

from data_tools.converters.dicom.frames import DicomFile
from data_tools.converters.dicom.options import DicomOptions
from data_tools.converters.nifti.layouts import Case
from data_tools.converters.nifti.volumes import Volume
from data_tools.reading.mask_images import load_mask_image
from resnet_tasks.data.images.bit_depths import read_bit_depth
from resnet_tasks.data.images.decoding import decode_image, read_image
from resnet_tasks.data.images.image_files import read_orientation, try_read_image_size
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.data.images.regions import open_regions
from resnet_tasks.errors import DataError
from resnet_tasks.inference.streaming.videos import count_announced_frames, read_frames
from tests.fuzz.forms import (
    damage_binary,
    damage_dicom,
    damage_gzip,
    damage_jpeg,
    damage_tiff,
)
from tests.fuzz.target import Read, Target, call_all, read_file
from tests.support.damage import Damage, damaged_png
from tests.support.dicom_files import write_dicom
from tests.support.quicktime import quicktime

Array = np.ndarray[Any, Any]
NOISE = np.random.default_rng(0).integers(0, 256, (10, 12, 3)).astype(np.uint8)
GRAY = NOISE[:, :, 0]
DEEP = GRAY.astype(np.uint16) * 257
MAX_PIXELS = 1 << 22
"""Limit of the images: the default limit allows more memory than fuzzing does."""


def _read_image(path: Path) -> None:
    readers: list[Callable[[], object]] = [
        lambda: read_image(path, 3, max_pixels=MAX_PIXELS),
        lambda: read_image(path, 1, max_pixels=MAX_PIXELS),
        lambda: open_regions(path, 3, max_pixels=MAX_PIXELS).read_all(),
        lambda: try_read_image_size(path, decode=True),
        lambda: read_orientation(path),
        lambda: read_bit_depth(path),
        lambda: read_label_map(path, MAX_PIXELS),
        lambda: load_mask_image(path, allow_lossy=True),
        lambda: decode_image(path, max_pixels=MAX_PIXELS),
    ]
    call_all(readers, (DataError, OSError))


def encode(kind: str, array: Array, mode: str | None = None, **options: Any) -> bytes:
    """Encode an image with Pillow, in another mode if that is given."""
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(stream, kind, **options)
    return stream.getvalue()


def _encode_tiff(array: Array, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def _encode_numpy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _list_images() -> dict[str, tuple[Damage, Callable[[], Mapping[str, bytes]]]]:
    exif = Image.Exif()
    exif[0x112] = 6
    return {
        "png": (
            damaged_png,
            lambda: {
                "gray.png": encode("PNG", GRAY),
                "color.png": encode("PNG", NOISE),
                "palette.png": encode("PNG", NOISE, "P", transparency=3),
                "alpha.png": encode("PNG", NOISE, "RGBA"),
                "bits.png": encode("PNG", GRAY, "1"),
                "deep.png": cv2.imencode(".png", DEEP)[1].tobytes(),
            },
        ),
        "jpeg": (
            damage_jpeg,
            lambda: {
                "color.jpg": encode("JPEG", NOISE, exif=exif),
                "gray.jpg": encode("JPEG", GRAY),
                "cmyk.jpg": encode("JPEG", NOISE, "CMYK"),
                "progressive.jpg": encode("JPEG", NOISE, progressive=True),
            },
        ),
        "tiff": (
            damage_tiff,
            lambda: {
                "color.tif": encode("TIFF", NOISE),
                "lzw.tif": encode("TIFF", NOISE, compression="tiff_lzw"),
                "packbits.tif": encode("TIFF", GRAY, compression="packbits"),
                "jpeg.tif": encode("TIFF", NOISE, compression="jpeg"),
                "deep.tif": _encode_tiff(DEEP, rowsperstrip=4),
                "tiles.tif": _encode_tiff(DEEP, tile=(16, 16), compression="zlib"),
                "big.tif": _encode_tiff(GRAY, bigtiff=True),
                "floats.tif": _encode_tiff(GRAY.astype(np.float32)),
                "bands.tif": _encode_tiff(np.zeros((5, 6, 7), np.uint8), photometric="minisblack"),
            },
        ),
        "bmp": (
            damage_binary,
            lambda: {"color.bmp": encode("BMP", NOISE), "palette.bmp": encode("BMP", GRAY)},
        ),
        "webp": (
            damage_binary,
            lambda: {
                "lossless.webp": encode("WEBP", NOISE, lossless=True),
                "lossy.webp": encode("WEBP", NOISE),
            },
        ),
        "gif": (damage_binary, lambda: {"color.gif": encode("GIF", NOISE)}),
        "npy": (
            damage_binary,
            lambda: {"gray.npy": _encode_numpy(GRAY), "deep.npy": _encode_numpy(DEEP)},
        ),
    }


def _read_dicom(path: Path) -> None:
    kinds: tuple[Any, ...] = ("modality", "voi", "stored", (40.0, 400.0))
    call_all((partial(_read_frames, path, DicomOptions(kind)) for kind in kinds), (DataError,))


def _read_frames(path: Path, options: DicomOptions) -> None:
    file = DicomFile(path, options)
    if file.explain_missing_image() is None:
        for _, frame in zip(range(2), file.iterate_frames(), strict=False):
            assert frame.pixels.ndim == 2 + frame.is_color


def _write_dicoms() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ct = {"RescaleSlope": "2", "RescaleIntercept": "-1024", "PixelSpacing": ["0.5", "0.5"]}
        window = {"WindowCenter": "40", "WindowWidth": "400", "PixelPaddingValue": 3}
        signed = (GRAY.astype(np.int16) - 100).view(np.int16)
        color = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
        color |= {"PlanarConfiguration": 0, "Rows": 10, "Columns": 12, "NumberOfFrames": 1}
        write_dicom(folder / "ct.dcm", signed, **ct, **window)
        write_dicom(folder / "gray.dcm", GRAY, PhotometricInterpretation="MONOCHROME1")
        write_dicom(folder / "frames.dcm", np.stack([DEEP, DEEP]))
        write_dicom(folder / "color.dcm", NOISE, **color)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


def _prepare_volume(folder: Path, name: str) -> Read:
    labels, path = folder / "labels.nii", folder / name
    labels.write_bytes(_write_volume(np.uint8))

    def read(content: bytes) -> None:
        path.write_bytes(content)
        for axis in ("axial", "coronal"):
            volume = Volume(Case("v", (path,), labels), axis)
            assert volume.read_image(0, fill=0).shape[:2] == volume.read_labels(0, {0: 0}).shape

    return read


def _prepare_volume_labels(folder: Path) -> Read:
    image, path = folder / "image.nii", folder / "labels.nii"
    image.write_bytes(_write_volume(np.int16))

    def read(content: bytes) -> None:
        path.write_bytes(content)
        volume = Volume(Case("v", (image,), path), "axial")
        volume.read_labels(0, {0: 0, 1: 1})

    return read


def _write_volume(dtype: Any) -> bytes:
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    return bytes(nibabel.Nifti1Image(np.zeros((4, 5, 3), dtype), affine, dtype=dtype).to_bytes())


def _read_video(path: Path) -> None:
    count_announced_frames(path)
    for _ in zip(range(4), read_frames(path, max_pixels=MAX_PIXELS), strict=False):
        pass


def _write_video() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "three.mov"
        quicktime(path, (40, 40, 80))
        return {path.name: path.read_bytes()}


def _list_targets() -> list[Target]:
    found = [
        Target(
            f"image_{kind}",
            read_file(f"a.{kind}", _read_image),
            seeds,
            damage,
            (DataError, OSError),
        )
        for kind, (damage, seeds) in _list_images().items()
    ]
    gzipped = damage_gzip(damage_binary)
    found += [
        Target("dicom", read_file("a.dcm", _read_dicom), _write_dicoms, damage_dicom, (DataError,)),
        Target(
            "nifti",
            partial(_prepare_volume, name="v.nii"),
            lambda: {"v.nii": _write_volume(np.int16)},
            damage_binary,
            (DataError,),
        ),
        Target(
            "nifti_gzip",
            partial(_prepare_volume, name="v.nii.gz"),
            lambda: {"v.nii.gz": gzip.compress(_write_volume(np.int16), mtime=0)},
            gzipped,
            (DataError,),
        ),
        Target(
            "nifti_labels",
            _prepare_volume_labels,
            lambda: {"labels.nii": _write_volume(np.uint8)},
            damage_binary,
            (DataError,),
        ),
        Target("video", read_file("a.mov", _read_video), _write_video, damage_binary, (DataError,)),
    ]
    return found


IMAGES = _list_targets()
