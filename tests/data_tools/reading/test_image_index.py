from pathlib import Path

import pytest

from data_tools.reading.image_index import ImageIndex, pair_images
from resnet_tasks.errors import DataError


def folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).touch()
    return path


def test_images_are_found_by_name_whatever_their_suffix(tmp_path: Path) -> None:
    index = ImageIndex(folder(tmp_path / "in", "b.JPG", "a.png", "._a.png", "notes.txt", "c.1.tif"))
    assert [file.name for file in index.files] == ["a.png", "b.JPG", "c.1.tif"]
    assert index.find("b", Path("list.txt")).name == "b.JPG"
    assert index.find("c.1", Path("list.txt")).name == "c.1.tif"
    for missing in ("A", "c", "._a"):
        with pytest.raises(DataError, match=f"list.txt lists '{missing}', but .*in has no such"):
            index.find(missing, Path("list.txt"))


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png have the same name"):
        ImageIndex(folder(tmp_path / "in", "a.png", "a.jpg"))


def test_pairs(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", "a.jpg", "b.png")
    labels = folder(tmp_path / "labels", "a_L.png", "b_L.tif", "other_L.png")
    pairs = pair_images(images, labels, ending="_L")
    assert pairs == [
        (images / "a.jpg", labels / "a_L.png"),
        (images / "b.png", labels / "b_L.tif"),
    ]
    list_file = tmp_path / "train.txt"
    list_file.write_text("b.png\na\n")
    assert pair_images(images, labels, ending="_L", list_file=list_file) == pairs[::-1]
    with pytest.raises(DataError, match=r"images lists 'a', but .*labels has no such image"):
        pair_images(images, labels)
    list_file.write_text("c\n")
    with pytest.raises(DataError, match=r"train\.txt lists 'c', but .*images has no such image"):
        pair_images(images, labels, ending="_L", list_file=list_file)
