"""Foreground of masks by the values in the files: one disc of known pixels in every encoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from data_tools.converters.binary_masks import ImageMaskFolders, MaskRule, convert_binary_masks
from data_tools.converters.instance_masks import convert_instance_masks
from data_tools.reading.mask_foreground import MaskReader
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.errors import DataError

ROWS, COLUMNS = np.mgrid[:48, :64]
DISC = (ROWS - 20) ** 2 + (COLUMNS - 30) ** 2 <= 15**2
SQUARE = (ROWS >= 4) & (ROWS < 12) & (COLUMNS >= 50) & (COLUMNS < 60)
PIXELS = 709
"""Lattice points in a disc of radius 15."""
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


@pytest.fixture(scope="module")
def shared_cases(shared_data: Path) -> Path:
    """Folder of the reported inputs; skips where it is absent."""
    folder = shared_data.with_name("cases")
    if not folder.is_dir():
        pytest.skip(f"the reported inputs are not at {folder}")
    return folder


Write = Callable[[Path], object]


def gray(value: int, kind: type = np.uint8) -> Write:
    return lambda file: cv2.imwrite(str(file), (DISC * value).astype(kind))


def tiff(pixels: np.ndarray, **options: Any) -> Write:
    return lambda file: tifffile.imwrite(file, pixels, **options)


def rgb(inside: tuple[int, ...], outside: tuple[int, ...]) -> Write:
    pixels = np.where(DISC[..., None], inside, outside).astype(np.uint8)
    return lambda file: Image.fromarray(pixels).save(file)


def palette(*colors: tuple[int, int, int], indices: np.ndarray = DISC, **options: Any) -> Write:
    image = Image.frombytes("P", (64, 48), indices.astype(np.uint8).tobytes())
    image.putpalette([value for color in colors for value in color])
    return lambda file: image.save(file, **options)


def gray_and_alpha(inside: tuple[int, int], outside: tuple[int, int]) -> Write:
    pixels = np.where(DISC[..., None], inside, outside).astype(np.uint8)
    return lambda file: Image.frombytes("LA", (64, 48), pixels.tobytes()).save(file)


def smooth(pixels: np.ndarray) -> np.ndarray:
    """The disc as a drawing program renders it, with an edge of intermediate values."""
    return cv2.GaussianBlur(pixels.astype(np.float32), (3, 3), 0.6)


CLEAR: dict[str, Write] = {
    "0 and 1": gray(1),
    "0 and 2": gray(2),
    "0 and 100": gray(100),
    "0 and 255": gray(255),
    "1 bit": lambda file: Image.fromarray(DISC).save(file),
    "16 bits, 1": gray(1, np.uint16),
    "16 bits, 255": gray(255, np.uint16),
    "16 bits, 256": gray(256, np.uint16),
    "16 bits, 4095": gray(4095, np.uint16),
    "16 bits, 65535": gray(65535, np.uint16),
    "RGB of 16 bits, 255": lambda file: cv2.imwrite(
        str(file), np.repeat(DISC[..., None] * 255, 3, 2).astype(np.uint16)
    ),
    "uint32, 1": tiff(DISC.astype(np.uint32)),
    "uint32, 255": tiff((DISC * 255).astype(np.uint32)),
    "int32, 255": tiff((DISC * 255).astype(np.int32)),
    "uint32, all bits": tiff((DISC * 4294967295).astype(np.uint32)),
    "float, 1": tiff(DISC.astype(np.float32)),
    "float, 0.9999": tiff(DISC * np.float32(0.9999)),
    "float, 255": tiff((DISC * 255).astype(np.float64)),
    "red on black": rgb(RED, BLACK),
    "dark blue on black": rgb((0, 0, 60), BLACK),
    "white on black, opaque": rgb((*WHITE, 255), (*BLACK, 255)),
    "red on black, opaque": rgb((*RED, 255), (*BLACK, 255)),
    "alpha only, black": rgb((*BLACK, 255), (*BLACK, 0)),
    "alpha only, white": rgb((*WHITE, 255), (*WHITE, 0)),
    "alpha only, red": rgb((*RED, 255), (*RED, 0)),
    "half opaque red": rgb((*RED, 128), (*BLACK, 0)),
    "red on transparent white": rgb((*RED, 255), (*WHITE, 0)),
    "white on transparent black": rgb((*WHITE, 255), (*BLACK, 0)),
    "gray and alpha, black": gray_and_alpha((0, 255), (0, 0)),
    "gray and alpha, white": gray_and_alpha((255, 255), (255, 0)),
    "palette of VOC": palette(BLACK, (128, 0, 0)),
    "palette of grays": palette(*((n, n, n) for n in range(256))),
    "palette, all black": palette(BLACK, BLACK),
    "palette, red on white": palette(WHITE, RED),
    "palette, transparent 0": palette(WHITE, WHITE, transparency=0),
    "palette, index 15": palette(*[(n, 0, 0) for n in range(16)], indices=DISC * 15),
    "palette without index 0": palette(RED, BLACK, WHITE, indices=DISC + 1),
    "smooth edges": lambda file: cv2.imwrite(
        str(file), np.rint(smooth(DISC * 255)).astype(np.uint8)
    ),
    "smooth edges, 16 bits": lambda file: cv2.imwrite(
        str(file), np.rint(smooth(DISC * 65535)).astype(np.uint16)
    ),
    "smooth edges, red": lambda file: cv2.imwrite(
        str(file), np.rint(smooth(DISC[..., None] * (0, 0, 255))).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("name", CLEAR)
def test_the_disc_is_the_foreground(name: str, tmp_path: Path) -> None:
    assert DISC.sum() == PIXELS
    tiffs = ("uint32", "int32", "float")
    file = tmp_path / f"m.{'tif' if name.startswith(tiffs) else 'png'}"
    CLEAR[name](file)
    for reader in (MaskReader(allow_lossy=True), MaskReader(one_level=False)):
        assert (reader.read(file) == DISC).all()


ids = DISC.astype(np.uint8) + SQUARE * 2
UNCLEAR: dict[str, tuple[Write, str]] = {
    "three classes": (
        lambda file: cv2.imwrite(str(file), ids),
        r"it holds 3 values \(0 in 2283 pixels, 1 in 709 pixels, 2 in 80 pixels\)",
    ),
    "class and void": (
        lambda file: cv2.imwrite(str(file), np.where(SQUARE, 255, DISC).astype(np.uint8)),
        "0 in 2283 pixels, 1 in 709 pixels, 255 in 80 pixels",
    ),
    "class ids and void": (
        lambda file: cv2.imwrite(
            str(file), np.where(SQUARE, 255, DISC + (COLUMNS < 5) * 2).astype(np.uint8)
        ),
        "class ids and void",
    ),
    "a shade between": (
        lambda file: cv2.imwrite(str(file), (DISC * 255 + SQUARE * 128).astype(np.uint8)),
        "128 fill",
    ),
    "no 0": (
        lambda file: cv2.imwrite(str(file), (DISC + 1).astype(np.uint8)),
        "1 in 2363 pixels, 2 in 709 pixels and no 0",
    ),
    "two colors": (
        lambda file: cv2.imwrite(
            str(file), (DISC[..., None] * RED + SQUARE[..., None] * (0, 255, 0)).astype(np.uint8)
        ),
        r"several colors besides black.*\(0, 0, 255\), \(0, 255, 0\)",
    ),
    "red on white": (rgb(RED, WHITE), "no color is black"),
    "palette, white first": (palette(WHITE, BLACK), "palette index 0 is not black"),
    "palette with void": (
        palette(BLACK, RED, *[WHITE] * 254, indices=np.where(SQUARE, 255, DISC).astype(np.uint8)),
        "several colors besides black",
    ),
    "black on transparent white": (
        rgb((*BLACK, 255), (*WHITE, 0)),
        "colors of the transparent pixels",
    ),
    "color against alpha": (
        lambda file: Image.fromarray(
            np.dstack([np.repeat(DISC[..., None] * 255, 3, 2), ~SQUARE * 255]).astype(np.uint8)
        ).save(file),
        r"color and opacity both vary and disagree on 2283 pixels",
    ),
    "all transparent": (rgb((*WHITE, 0), (*BLACK, 0)), "every pixel is transparent"),
    "white, all transparent": (
        rgb((*WHITE, 0), (*WHITE, 0)),
        "by color everything is foreground, by alpha everything is background",
    ),
    "two opacities": (rgb((*RED, 255), (*RED, 100)), "in opacity it holds 100 in 2363 pixels"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_several_interpretations_are_rejected(name: str, tmp_path: Path) -> None:
    write, message = UNCLEAR[name]
    write(tmp_path / "m.png")
    with pytest.raises(
        DataError, match=rf"m\.png has no unique interpretation: .*{message}"
    ) as hit:
        MaskReader(allow_lossy=True, group="masks").read(tmp_path / "m.png")
    assert "choose with masks={foreground: X} (X: color, alpha, index, the value" in str(hit.value)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.where(DISC, 0.7, 0.0), r"holds 0\.7 at x 30, y 5 \(709 such pixels\)"),
        (np.where(DISC, np.nan, 0.0), "holds nan at x 30, y 5"),
        (np.where(DISC, -1, 0).astype(np.int32), "holds -1 at x 30, y 5"),
        (np.stack([DISC, SQUARE]).astype(np.uint8), "holds 2 images"),
        (np.zeros((48, 64, 5), np.uint8), "5 channels that are not colors"),
    ],
)
def test_values_that_no_mask_has_are_rejected(
    pixels: np.ndarray, message: str, tmp_path: Path
) -> None:
    planes = {"planarconfig": "contig"} if pixels.shape[-1] == 5 else {}
    tifffile.imwrite(tmp_path / "m.tif", pixels, photometric="minisblack", **planes)
    with pytest.raises(DataError, match=message):
        MaskReader(allow_lossy=True).read(tmp_path / "m.tif")


def test_options_choose_between_interpretations(tmp_path: Path) -> None:
    file = tmp_path / "m.png"
    UNCLEAR["color against alpha"][0](file)
    assert (MaskReader(foreground="color").read(file) == DISC).all()
    assert (MaskReader(foreground="alpha").read(file) == ~SQUARE).all()
    palette(WHITE, BLACK)(file)
    assert (MaskReader(foreground="index").read(file) == DISC).all()
    assert (MaskReader(foreground="color").read(file) == ~DISC).all()
    cv2.imwrite(str(file), ids)
    assert (MaskReader(foreground=2).read(file) == SQUARE).all()
    assert (MaskReader(threshold=1).read(file) == DISC | SQUARE).all()
    rgb(RED, WHITE)(file)
    assert (MaskReader(foreground=(255, 0, 0)).read(file) == DISC).all()
    gray(100)(file)
    with pytest.raises(DataError, match=r"below the gray value threshold 128 \(at most 100\)"):
        MaskReader(threshold=128).read(file)


# --- lossy files


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("jpg", {"quality": 85}), ("jpg", {"quality": 40}), ("webp", {"quality": 80})],
)
def test_lossy_masks_that_are_black_and_white_are_read(
    suffix: str, options: dict[str, int], tmp_path: Path
) -> None:
    """Edges may move by a pixel; far from the edge nothing may change."""
    file = tmp_path / f"m.{suffix}"
    for color in (255, RED):
        pixels = DISC[..., None] * np.broadcast_to(color, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(file, **options)
        wrong = MaskReader(allow_lossy=True).read(file) != DISC
        core = cv2.erode(DISC.astype(np.uint8), np.ones((5, 5))) > 0
        outer = cv2.dilate(DISC.astype(np.uint8), np.ones((9, 9))) == 0
        assert not (wrong & (core | outer)).any()
        with pytest.raises(DataError, match=r"m\.\w+ is stored as (JPEG|lossy WebP), which "):
            MaskReader(one_level=False).read(file)


def test_lossy_masks_of_other_levels_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "m.jpg"
    reader = MaskReader(allow_lossy=True)
    Image.fromarray((DISC * 4).astype(np.uint8)).save(file)
    with pytest.raises(DataError, match="its largest value is 6 of 255"):
        reader.read(file)
    Image.fromarray((DISC * 255 + SQUARE * 128).astype(np.uint8)).save(file, quality=95)
    with pytest.raises(DataError, match="between black and white"):
        reader.read(file)
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(file)
    assert not reader.read(file).any()
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(file)
    assert reader.read(file).all()


# --- datasets


def dataset(root: Path, **masks: Write) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for name, write in masks.items():
        Image.new("RGB", (64, 48)).save(root / f"images/{name}.png")
        write(root / f"masks/{name}.png")
    return root


def convert(source: Path, **rule: Any) -> SplitSummary:
    (summary,) = convert_binary_masks(
        source,
        source.parent / "out",
        category="lesion",
        folders={"train": ImageMaskFolders("images", "masks")},
        masks=MaskRule(**rule),
    )
    return summary


def stored(source: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(source.parent / f"out/semantic/train/{name}.png"))


def test_empty_and_full_masks_are_written_with_a_warning(tmp_path: Path) -> None:
    source = dataset(
        tmp_path / "in",
        a=gray(1),
        empty=lambda file: cv2.imwrite(str(file), DISC * np.uint8(0)),
        full=lambda file: cv2.imwrite(str(file), np.ones((48, 64), np.uint8)),
    )
    summary = convert(source)
    assert summary.pixels == {"lesion": PIXELS + 48 * 64}
    assert [text.partition(";")[0] for text in summary.warnings] == [
        "1 of 3 masks are empty (no pixel is foreground): empty.png",
        "1 of 3 masks are full (every pixel is foreground): full.png",
    ]
    assert (stored(source, "a") == DISC).all()


def test_masks_of_one_level_are_read_like_the_others(tmp_path: Path) -> None:
    """White and wholly transparent is empty where opacity is the mask, black and opaque full."""
    source = dataset(
        tmp_path / "in",
        a=rgb((*BLACK, 0), (*BLACK, 0)),
        b=rgb((*WHITE, 0), (*WHITE, 0)),
        c=rgb((*BLACK, 255), (*BLACK, 255)),
        d=rgb((*BLACK, 255), (*BLACK, 0)),
    )
    convert(source)
    assert [int(stored(source, name).sum()) for name in "abcd"] == [0, 0, 48 * 64, PIXELS]
    source = dataset(
        tmp_path / "palette/in",
        a=palette(WHITE, RED),
        b=palette(WHITE, RED, indices=DISC * 0),
        c=palette(WHITE, RED, indices=DISC * 0 + 1),
    )
    convert(source)
    assert [int(stored(source, name).sum()) for name in "abc"] == [PIXELS, 0, 48 * 64]


def test_masks_that_contradict_each_other_are_rejected(tmp_path: Path) -> None:
    source = dataset(tmp_path / "in", a=gray(1), b=gray(255))
    message = r"a\.png has the foreground 1, the mask .*b\.png 255: .*masks=\{foreground: color\}"
    with pytest.raises(DataError, match=message):
        convert(source)
    assert convert(source, foreground="color").pixels == {"lesion": 2 * PIXELS}
    source = dataset(tmp_path / "other/in", a=rgb(RED, BLACK), b=rgb((0, 255, 0), BLACK))
    with pytest.raises(DataError, match=r"RGB \(255, 0, 0\), the mask .* RGB \(0, 255, 0\)"):
        convert(source)
    seven = lambda file: cv2.imwrite(str(file), np.full((48, 64), 7, np.uint8))  # noqa: E731
    source = dataset(tmp_path / "third/in", a=gray(255), b=seven)
    with pytest.raises(DataError, match=r"b\.png .*its only color is 7, .*a\.png is 255"):
        convert(source)
    source = dataset(tmp_path / "deep/in", a=gray(255), b=gray(65535, np.uint16))
    assert convert(source).pixels == {"lesion": 2 * PIXELS}


@pytest.mark.parametrize(
    "name",
    [
        "40-binary-0-1",
        "40-binary-16bit-0-255",
        "40-binary-P-voc",
        "40-binary-RGBA-alpha-only",
    ],
)
def test_reported_binary_masks(name: str, shared_cases: Path, tmp_path: Path) -> None:
    (summary,) = convert_binary_masks(
        shared_cases / name / "in",
        tmp_path / "out",
        category="lesion",
        folders={"train": ImageMaskFolders("images", "masks")},
    )
    assert summary.pixels == {"lesion": 949}
    assert summary.warnings == ()


def test_reported_instance_mask(shared_cases: Path, tmp_path: Path) -> None:
    (summary,) = convert_instance_masks(shared_cases / "42-instance-rgba-alpha/in", tmp_path / "o")
    assert (summary.objects, summary.pixels) == ({"nucleus": 1}, {"nucleus": 949})


def test_instances_by_their_own_number_and_by_opacity(tmp_path: Path) -> None:
    folder = tmp_path / "in/x"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "images/x.png")
    gray(1)(folder / "masks/1.png")
    cv2.imwrite(str(folder / "masks/2.png"), (SQUARE * 2).astype(np.uint8))
    rgb((*WHITE, 0), (*WHITE, 0))(folder / "masks/3.png")
    rgb((*WHITE, 255), (*WHITE, 0))(folder / "masks/4.png")
    with pytest.raises(DataError, match=r"3\.png .*it has one level only"):
        convert_instance_masks(tmp_path / "in", tmp_path / "out")  # 1 and 2 say color, 4 opacity
    for name in "12":
        (folder / f"masks/{name}.png").unlink()
    (summary,) = convert_instance_masks(tmp_path / "in", tmp_path / "out")
    assert summary.objects == {"nucleus": 1}
    assert [each.file for each in summary.skipped] == ["x/masks/3.png"]
    (warning,) = summary.warnings
    assert warning.startswith("1 of 2 masks are empty (no pixel is foreground): x/masks/3.png;")


# --- TIFFs that declare 0 as white


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
def test_arrays_of_booleans_that_tifffile_wrote_are_read_by_value(
    compression: str | None, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "m.tif", DISC, compression=compression)
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    for reader in (MaskReader(allow_lossy=True), MaskReader(one_level=False)):
        assert (reader.read(tmp_path / "m.tif") == DISC).all()
    assert (MaskReader(threshold=128).read(tmp_path / "m.tif") == DISC).all()


WHITE_IS_ZERO: dict[str, tuple[Write, int]] = {
    "1 bit of another writer": (tiff(DISC, software="fax"), 255),
    "1 bit, CCITT": (
        lambda file: Image.fromarray(DISC).save(file, compression="group4", tiffinfo={262: 0}),
        255,
    ),
    "0 and 1": (tiff(DISC.astype(np.uint8), photometric="miniswhite"), 1),
    "0 and 255": (tiff((DISC * 255).astype(np.uint8), photometric="miniswhite"), 255),
    "16 bits": (tiff((DISC * 9).astype(np.uint16), photometric="miniswhite"), 9),
}


@pytest.mark.parametrize("name", WHITE_IS_ZERO)
def test_white_is_zero_has_two_interpretations(name: str, tmp_path: Path) -> None:
    write, value = WHITE_IS_ZERO[name]
    write(tmp_path / "m.tif")
    message = (
        rf"m\.tif has no unique interpretation: .*by value the pixels of {value} .*those of 0; "
        rf".*masks=\{{foreground: {value}\}} or masks=\{{foreground: 0\}}"
    )
    for options in ({}, {"foreground": "color"}, {"threshold": 1}):
        with pytest.raises(DataError, match=message):
            MaskReader(**options, group="masks").read(tmp_path / "m.tif")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        MaskReader(group="masks").survey([tmp_path / "m.tif"])
    # Pillow stores the complement where it is asked for this tag.
    stored = ~DISC if "CCITT" in name else DISC
    assert (MaskReader(foreground=value).read(tmp_path / "m.tif") == stored).all()
    assert (MaskReader(foreground=0).read(tmp_path / "m.tif") == ~stored).all()
