"""Sizes and stored values of image files, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.reading.image_io import measure_image_size, measure_stated_size
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError


def test_image_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (8, 6)).save(tmp_path / "x.png")
    assert measure_image_size(tmp_path / "x.png") == (6, 8)
    assert measure_image_size(tmp_path / "turned.jpg") == (8, 6)
    with pytest.raises(DataError, match=r"none\.png is missing"):
        measure_image_size(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png cannot be read"):
        measure_image_size(tmp_path / "text.png")


def test_palette_maps_are_read_as_indices(tmp_path: Path) -> None:
    indices = np.arange(48, dtype=np.uint8).reshape(6, 8) % 5
    palette = Image.fromarray(indices, mode=None).convert("L")
    colored = Image.frombytes("P", (8, 6), palette.tobytes())
    colored.putpalette([value for n in range(256) for value in (255 - n, n, 7)])
    colored.save(tmp_path / "map.png")
    assert read_label_map(tmp_path / "map.png").tolist() == indices.tolist()
    Image.new("RGB", (8, 6)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match="3 channels"):
        read_label_map(tmp_path / "rgb.png")


def test_sizes_of_pngs_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, turned = tmp_path / "plain.png", tmp_path / "turned.png"
    image = Image.new("RGB", (30, 20))
    image.save(plain)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(turned, exif=exif)
    assert measure_image_size(turned) == (30, 20)
    # The same chunk behind the pixels.
    data = turned.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    turned.write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    assert measure_image_size(turned) == (30, 20)
    whole = plain.read_bytes()
    plain.write_bytes(whole[: len(whole) - 12])
    with pytest.raises(DataError, match=r"plain\.png cannot be read \(the file is truncated\)"):
        measure_image_size(plain)
    plain.write_bytes(whole)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("decoded"))
    assert measure_image_size(plain) == (20, 30)


def test_stated_size_that_exif_swaps(tmp_path: Path) -> None:
    """The size of the pixels as stored is stated, but viewers show them rotated."""
    for orientation in (1, 3, 5, 6, 7, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.jpg"
        Image.new("RGB", (8, 6)).save(path, exif=exif)
        if orientation < 5:
            assert measure_stated_size(path, (6, 8), "a.xml states") == (6, 8)
            continue
        assert measure_stated_size(path, (8, 6), "a.xml states") == (8, 6)
        cause = (
            rf"a\.xml states \(6, 8\) \(height, width\), but .*{orientation}\.jpg has \(8, 6\); "
            rf"boxes would be misplaced: the EXIF orientation {orientation} of the image swaps "
            r"width and height, .* remove the orientation from the image .*, and if on the upright "
            r"image, swap width and height in the annotation"
        )
        with pytest.raises(DataError, match=cause):
            measure_stated_size(path, (6, 8), "a.xml states", "boxes would be misplaced")
        with pytest.raises(DataError, match=r"\(12, 16\).* has \(8, 6\); put the original image"):
            measure_stated_size(path, (12, 16), "a.xml states")


def test_messages_name_the_file_once(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"<html>")
    reason = r"the image .*a\.png cannot be read \(it is a web page \(HTML\).*\); replace it"
    with pytest.raises(DataError, match=reason) as info:
        measure_image_size(path)
    assert str(info.value).count("a.png") == 1
