"""A repair reads every image file once, and a changed file again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.data.doctor import image_content
from resnet_tasks.data.doctor.check import CheckOptions, check_coco
from resnet_tasks.data.doctor.image_content import KnownImages, identify_file, read_content
from resnet_tasks.data.doctor.repair import repair
from tests.support.doctored_files import content, write


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files in the order in which they are decoded."""
    names: list[str] = []
    decode = image_content.decode_image

    def decode_and_note(path: Path) -> object:
        names.append(path.name)
        return decode(path)

    monkeypatch.setattr(image_content, "decode_image", decode_and_note)
    return names


def test_a_repair_decodes_every_image_once(tmp_path: Path, decoded: list[str]) -> None:
    document = content()
    document["images"][0]["width"] = 59  # has objects, so that it is reported after the repair too
    del document["annotations"][0]["area"]
    path = write(tmp_path / "in" / "a.json", document)
    out = tmp_path / "out" / "a.json"  # the copy names the images by another path
    out.parent.mkdir()
    report = repair(path, out, options=CheckOptions(read_images=True))
    assert report.counts["missing_area"] == 1
    assert report.after.count_problems()["wrong_size"] == 1
    assert sorted(decoded) == sorted(record["file_name"] for record in document["images"])


def test_content_is_reused_unless_the_file_changes(tmp_path: Path, decoded: list[str]) -> None:
    known: KnownImages = {}
    path = write(tmp_path / "a.json", content())
    options = CheckOptions(read_images=True, known_images=known)
    first = check_coco(path, options)
    number = len(decoded)
    assert check_coco(path, options).problems == first.problems
    assert len(decoded) == number
    (tmp_path / decoded[0]).write_bytes(b"no image")
    assert "unreadable_file" in check_coco(path, options).count_problems()
    assert len(decoded) == number + 1


def test_what_identifies_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    assert identify_file(str(file)) is None
    assert identify_file(str(tmp_path)) is None
    assert identify_file("a\0b") is None
    Image.new("L", (3, 4)).save(file)
    key = identify_file(str(file))
    (tmp_path / "link.png").symlink_to(file)
    assert identify_file(str(tmp_path / "link.png")) == key
    os.utime(file, ns=(0, 0))
    assert identify_file(str(file)) != key


def test_contents(tmp_path: Path) -> None:
    deep, cut = tmp_path / "deep.png", tmp_path / "cut.png"
    Image.fromarray(np.array([[1, 900, 4095]], np.uint16)).save(deep)
    cut.write_bytes(deep.read_bytes()[:50])
    read = read_content(deep, decode=True, hashes=False)
    assert (read.depth, read.size, read.largest) == ((16, None), (1, 3), 4095)
    header = read_content(deep, decode=False, hashes=False)
    assert (header.depth, header.size, header.largest) == ((16, None), None, None)
    assert "truncated" in read_content(cut, decode=True, hashes=False).problem
