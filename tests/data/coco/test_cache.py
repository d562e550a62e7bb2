"""Packed forms of big files: the same content, in step with the file, whole or made anew."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.data.coco import cache as coco_cache
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.sampling.loaders import make_loader
from resnet_tasks.errors import DataError
from resnet_tasks.files.mapped_columns import MappedColumns, open_columns, write_columns
from resnet_tasks.files.partial_paths import create_partial_path


@pytest.fixture(autouse=True)
def every_file_is_big(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(coco_cache, "CACHE_FROM", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(coco_cache.CACHE_FOLDER, raising=False)


def content() -> dict[str, Any]:
    """Two images, three objects, one of them a mask, one without its area."""
    square = [[1, 1, 5, 1, 5, 5, 1, 5]]
    return {
        "info": {"images_root": "images"},
        "images": [
            {"id": 3, "file_name": "3.png", "height": 8, "width": 9, "group": "g"},
            {"id": 1, "file_name": "1.png", "height": 8, "width": 9},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "bbox": [0, 0, 2, 3], "iscrowd": 0},
            {
                "id": 2,
                "image_id": 3,
                "category_id": 9,
                "bbox": [1, 1, 4, 4],
                "area": 16,
                "iscrowd": 0,
            }
            | {"segmentation": square},
            {
                "id": 3,
                "image_id": 1,
                "category_id": 9,
                "bbox": [0, 0, -2, 3],
                "area": 1,
                "iscrowd": 0,
            },
        ],
        "categories": [{"id": 9, "name": "a"}, {"id": 4, "name": "b", "isthing": 0}],
    }


def written(folder: Path, **changes: Any) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for name in ("1.png", "3.png"):
        Image.new("RGB", (9, 8)).save(folder / "images" / name)
    (folder / "data.json").write_text(json.dumps(content() | changes))
    return folder / "data.json"


def form(path: Path) -> Path:
    return path.with_name(f"{path.name}.packed.safetensors")


def no_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the JSON was parsed")

    monkeypatch.setattr("resnet_tasks.data.coco.read.open_content", refuse)


def same(one: CocoFile, other: CocoFile) -> bool:
    return (
        (one.path, one.images_root, one.categories)
        == (other.path, other.images_root, other.categories)
        and tuple(one.images) == tuple(other.images)
        and dict(one.annotations) == dict(other.annotations)
        and (one.annotated, one.problems, one.info) == (other.annotated, other.problems, other.info)
    )


def test_second_reading_comes_from_the_packed_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    with monkeypatch.context() as small:
        small.setattr(coco_cache, "CACHE_FROM", 10**9)
        plain = read_coco(path)
    assert plain.note == ""
    assert not form(path).exists()
    first = read_coco(path)
    assert first.note.startswith("read in ")
    assert str(form(path)) in first.note
    no_parsing(monkeypatch)
    second = read_coco(path)
    assert second.note.startswith("opened in ")
    assert same(plain, first)
    assert same(plain, second)
    assert {each.kind for each in second.problems} == {"missing_area", "empty_box"}
    assert second.problems[0].message.startswith(f"{path}: ")
    assert isinstance(second.images.columns, MappedColumns)
    mode = form(path).stat().st_mode & 0o777
    assert mode == path.stat().st_mode & 0o777


def test_content_decides_not_the_name_or_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    read_coco(path)
    state = path.stat()
    changed = path.read_text().replace('"id": 4', '"id": 5').replace('y_id": 4', 'y_id": 5')
    path.write_text(changed)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    assert read_coco(path).categories.ids == (5, 9)
    no_parsing(monkeypatch)
    assert read_coco(path).categories.ids == (5, 9)
    os.utime(path)
    assert read_coco(path).categories.ids == (5, 9)


def test_another_version_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    read_coco(path)
    monkeypatch.setattr(coco_cache, "VERSION", coco_cache.VERSION + 1)
    assert read_coco(path).note.startswith("read in ")
    assert read_coco(path).note.startswith("opened in ")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "header"])
def test_damage_is_found_said_and_mended(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path)
    expected = read_coco(path)
    intact = form(path).read_bytes()
    broken = {
        "cut": intact[:-9],
        "flipped": intact[:-3] + bytes([intact[-3] ^ 1]) + intact[-2:],
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1",
        "header": b"\xff" * 8 + intact[8:],
    }[damage]
    form(path).unlink()  # the file that `expected` reads from stays as it is
    form(path).write_bytes(broken)
    again = read_coco(path)
    assert again.note.startswith(f"{form(path)} is damaged")
    assert "rebuilt; read in" in again.note
    assert same(again, expected)
    assert read_coco(path).note.startswith("opened in ")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("annotation.category", np.asarray([0, 7], np.int32)),
        ("annotation.starts", np.asarray([0, 5, 2])),
        ("annotation.polygons", np.asarray([0, 1, 99])),
        ("image.order", np.asarray([0, -4])),
        ("annotation.bbox", np.zeros((1, 4))),
        ("image.file_name.bytes", np.frombuffer(b"/etc/.png"[:10], np.uint8)),
        ("image.file_name.bytes", np.frombuffer(b"../x/1.png", np.uint8)),
    ],
)
def test_a_form_is_no_more_trusted_than_the_file(tmp_path: Path, column: str, values: Any) -> None:
    """Somebody may pass one on with a data set."""
    path = written(tmp_path)
    expected = read_coco(path)
    columns = open_columns(form(path))
    about = {key: value for key, value in columns.metadata.items() if key != "checksum"}
    write_columns(form(path), {**columns, column: values}, about)
    again = read_coco(path)
    assert "has unexpected contents" in again.note
    assert same(again, expected)


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)

    def beside_fails(place: Path, *rest: Any) -> None:
        if place.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        write_columns(place, *rest)

    monkeypatch.setattr(coco_cache, "write_columns", beside_fails)
    first = read_coco(path)
    assert str(tmp_path / "home/resnet-tasks/annotations") in first.note
    assert not form(path).exists()
    no_parsing(monkeypatch)
    assert same(read_coco(path), first)


def test_nowhere_to_write_is_said_and_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(coco_cache, "write_columns", fails)
    found = read_coco(path)
    assert "could not be cached" in found.note
    assert "No space left on device" in found.note
    assert "$RESNET_TASKS_CACHE" in found.note
    assert len(found.images) == 2


def test_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(coco_cache.CACHE_FOLDER, str(tmp_path / "mine"))
    path = written(tmp_path)
    read_coco(path)
    assert not form(path).exists()
    assert len(list((tmp_path / "mine").iterdir())) == 1
    no_parsing(monkeypatch)
    read_coco(path)


def test_what_is_declared_has_a_form_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert read_coco(path).annotated == {"boxes", "masks"}
    assert read_coco(path, annotated=["boxes"]).annotated == {"boxes"}
    assert read_coco(path, annotated=["boxes"]).note.startswith("opened in ")
    assert read_coco(path).note.startswith("opened in ")
    with pytest.raises(DataError, match="`annotated` contains 'boxen'"):
        read_coco(path, annotated=["boxen"])


def test_another_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    read_coco(path)
    (tmp_path / "others").mkdir()
    no_parsing(monkeypatch)
    assert read_coco(path, images_root=tmp_path / "others").images_root == tmp_path / "others"
    with pytest.raises(DataError, match="its image folder"):
        read_coco(path, images_root=tmp_path / "nowhere")


def test_sizes_that_come_from_images_are_not_kept(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.png"}]
    path = written(tmp_path, images=images, annotations=[])
    assert read_coco(path).images[0].width == 9
    assert not form(path).exists()


def test_wrong_files_are_refused_as_ever(tmp_path: Path) -> None:
    path = written(tmp_path, images=[{"id": 1, "file_name": "../1.png", "height": 1, "width": 1}])
    with pytest.raises(DataError, match="is absolute or outside the image folder"):
        read_coco(path)
    assert not form(path).exists()
    with pytest.raises(DataError, match="does not exist"):
        read_coco(tmp_path / "none.json")


def test_leftovers_of_a_kill_are_swept(tmp_path: Path) -> None:
    path = written(tmp_path)
    new = create_partial_path(form(path))
    old = new.with_name(new.name.replace(f"-{os.getpid()}-", "-4194305-"))  # no process has this id
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    read_coco(path)
    assert not old.exists()
    assert new.exists()  # perhaps being written by another thread


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_open_it_themselves(tmp_path: Path, start_method: str) -> None:
    path = written(tmp_path)
    read_coco(path)
    file = read_coco(path)
    other = replace(
        file.categories,
        categories=tuple(replace(c, id=c.id + 1) for c in file.categories.categories),
    )
    moved = file.annotations.remap_categories([1, 0])
    assert len(pickle.dumps((file.images, moved))) < 2500  # the name of the file, one column
    assert other.ids == (5, 10)
    data = CocoDataset([file], categories=file.categories, fields=("boxes", "masks"))
    batches: list[list[Any]] = [[(0, 0), (0, 1)]]
    (alone,) = make_loader(data, batches)
    (shared,) = make_loader(data, batches, workers=1, start_method=start_method)
    assert shared.image_ids == alone.image_ids == (3, 1)
    assert shared.targets[0].masks is not None
    assert shared.targets[0].masks.count_pixels().tolist() == [16]


def test_a_form_replaced_in_use(tmp_path: Path) -> None:
    path = written(tmp_path)
    read_coco(path)
    packed = pickle.dumps(read_coco(path).images)
    path.write_text(path.read_text().replace('"g"', '"h"'))
    read_coco(path)
    with pytest.raises(DataError, match="was replaced while it was in use"):
        pickle.loads(packed)
