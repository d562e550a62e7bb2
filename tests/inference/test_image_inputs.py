"""Images as Python callers have them: the same values as the same image as uint8 RGB array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.data.images.preprocessing import Preparation, to_unit_range
from resnet_tasks.errors import DataError
from resnet_tasks.inference.image_inputs import load_input

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
UNIT = PIXELS / 255
ALPHA = np.full((9, 7, 1), 40, np.uint8)
GRAY = np.repeat(PIXELS[:, :, :1], 3, axis=2)
TENSOR = torch.from_numpy(PIXELS)


def prepared(image: Any, channels: int = 3) -> np.ndarray:
    """What a model gets for an image."""
    preparation = Preparation(channels)
    array = load_input(image, channels, "the image")
    assert not isinstance(array, Path)
    return preparation.prepare_image(array, "the image")[0]


@pytest.mark.parametrize(
    "image",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS.astype(">u2") * np.uint16(257),
        PIXELS.astype("<u2") * np.uint16(257),
        UNIT.astype(np.float32),
        UNIT.astype(">f4"),
        UNIT,
        UNIT.transpose(2, 0, 1),
        np.ma.masked_array(PIXELS),
        PIXELS[::-1][::-1],
        TENSOR,
        TENSOR.permute(2, 0, 1),
        TENSOR.permute(2, 0, 1).float() / 255,
        (TENSOR / 255).requires_grad_(),
        Image.fromarray(PIXELS),
        Image.fromarray(np.concatenate((PIXELS, ALPHA), axis=2)),
    ],
)
def test_forms_of_one_image_have_the_same_values(image: Any) -> None:
    expected = to_unit_range(PIXELS)
    assert prepared(image) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    "image",
    [
        PIXELS[:, :, 0],
        PIXELS[None, :, :, 0],
        torch.from_numpy(PIXELS[:, :, 0].copy()),
        torch.from_numpy(PIXELS[:, :, :1].copy()),
        torch.from_numpy(PIXELS[None, :, :, 0].copy()),
        Image.fromarray(PIXELS[:, :, 0]),
        Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257),
        Image.fromarray(UNIT[:, :, 0].astype(np.float32)),
        Image.fromarray(np.concatenate((PIXELS[:, :, :1], ALPHA), axis=2), "LA"),
    ],
)
def test_gray_images_are_repeated(image: Any) -> None:
    assert prepared(image) == pytest.approx(to_unit_range(GRAY), abs=1e-7)


def test_narrow_floats_and_truth_values_keep_their_values() -> None:
    half = np.float32(UNIT.astype(np.float16))
    assert np.array_equal(prepared(UNIT.astype(np.float16)), half)
    brain = (TENSOR / 255).bfloat16()
    assert np.array_equal(prepared(brain), brain.float().numpy())
    bright = PIXELS > 100
    assert np.array_equal(prepared(bright), bright.astype(np.float32))
    assert np.array_equal(
        prepared(Image.fromarray(bright[:, :, 0])), np.repeat(bright[:, :, :1], 3, axis=2)
    )


def test_a_palette_is_applied() -> None:
    image = Image.fromarray(PIXELS).quantize(8)
    assert np.array_equal(prepared(image), to_unit_range(np.asarray(image.convert("RGB"))))


def test_a_model_with_five_channels_takes_both_orders() -> None:
    bands = np.random.default_rng(1).integers(0, 256, (9, 7, 5), dtype=np.uint8)
    for image in (bands, bands.transpose(2, 0, 1), torch.from_numpy(bands).permute(2, 0, 1)):
        assert np.array_equal(prepared(image, 5), to_unit_range(bands))


def test_an_array_with_two_readings_is_read_as_documented() -> None:
    small = PIXELS[:3]  # (3, 7, 3)
    assert np.array_equal(prepared(small), to_unit_range(small))
    with pytest.raises(DataError, match=r"shape \(3, 7, 3\), whose first or last axis may be"):
        prepared(torch.from_numpy(small))


@pytest.mark.parametrize("path", ["a/b.png", Path("a/b.png")])
def test_a_path_stays_a_path(path: Any) -> None:
    assert load_input(path, 3, "a/b.png") == Path("a/b.png")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, r"the image has the type NoneType; allowed: the path of an image file, a NumPy"),
        ({"image": PIXELS}, "has the type dict; allowed: .*torch tensor; several images"),
        (b"\x89PNG", "has the type bytes"),
        (PIXELS.tolist(), "has the type list"),
        (np.full((4, 4, 3), None), "has values of type object; allowed: uint8, uint16"),
        (PIXELS.astype(complex), "has values of type complex128"),
        (np.array([["a"]]), "has values of type <U1"),
        (
            np.concatenate((PIXELS, ALPHA), axis=2),
            r"has the shape \(9, 7, 4\); allowed: \(height, .* pass image\[:, :, :3\]",
        ),
        (PIXELS[:, :, :2], r"has the shape \(9, 7, 2\); allowed: \(height, width, 3\)"),
        (PIXELS[:3, :, [0, 1, 2, 0]], r"has the shape \(3, 7, 4\); .* an alpha channel"),
        (PIXELS[None], r"shape \(1, 9, 7, 3\).*; pass the images of a batch as a list"),
        (TENSOR.permute(2, 0, 1)[None], r"\(1, 3, 9, 7\).*; pass the images of a batch as a list"),
        (PIXELS[0, 0], r"has the shape \(3,\)"),
        (PIXELS[:0], r"shape \(0, 7, 3\); allowed: .*, without an axis of length 0"),
        (torch.zeros(3, 0, 5), r"shape \(3, 0, 5\); .*without an axis of length 0"),
        (UNIT * np.nan, r"values that are not finite \(NaN or infinity\)"),
        (np.where(PIXELS == 0, np.inf, UNIT), "not finite"),
        (
            PIXELS.astype(np.float32),
            r"float32 values from \d+ to 2\d\d, .*allowed: uint8, uint16, and",
        ),
        (PIXELS.astype(np.int64), r"int64 values from \d+ to 2\d\d, whose range is unknown"),
        (np.ma.masked_less(PIXELS, 100), "has masked values.*image.filled"),
        (torch.eye(4).to_sparse(), "is a tensor that cannot be converted to a NumPy array"),
        (Image.new("LAB", (4, 4)), 'the Pillow mode LAB; allowed: 1, .*image.convert."RGB"'),
    ],
)
def test_other_inputs_are_explained(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepared(image)


def test_a_rotated_pillow_image_is_not_predicted_as_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        with pytest.raises(DataError, match=r"orientation 6\).*PIL.ImageOps.exif_transpose"):
            prepared(image)
        with pytest.raises(DataError, match="orientation 6"):
            prepared(image.convert("RGB"))


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_exif_orientation_without_meaning_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(prepared(image), prepared(PIXELS))


def test_a_truncated_pillow_image_is_not_predicted(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)).save(
        tmp_path / "a.png"
    )
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with (
        Image.open(tmp_path / "a.png") as image,
        pytest.raises(DataError, match=r"the image cannot be read: .*truncated"),
    ):
        prepared(image)
