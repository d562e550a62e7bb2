"""Images that cannot be read, and unusual ones that can, on their way into a batch."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.images import image_files
from resnet_tasks.data.sampling.loaders import make_loader
from resnet_tasks.data.statistics.measure import measure_channels
from resnet_tasks.errors import DataError, ImageError

SIZE = (12, 8)
"""Width and height."""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def color() -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.uint8))


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", SIZE, shade) for shade in ("red", "green")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def turned() -> bytes:
    """Stored lying on its side, as cameras do."""
    lying = color().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 6
    return encoded(lying, "PNG", exif=exif)


BAD = {
    "truncated PNG": ("a.png", lambda: encoded(color(), "PNG")[:-60], "cannot be read"),
    "truncated JPEG": ("a.jpg", lambda: encoded(color(), "JPEG")[:-90], "cannot be read"),
    "zero bytes": ("a.png", lambda: b"", "is not an image"),
    "text": ("a.jpg", lambda: b"<html>404 Not Found</html>", "is not an image"),
    "another size": ("a.png", lambda: encoded(Image.new("L", (3, 3)), "PNG"), "is 3 x 3"),
    "animated GIF": ("a.gif", lambda: animation("GIF"), "is an animation of several images"),
    "animated PNG": ("a.png", lambda: animation("PNG"), "is an animation of 2 images"),
    "animated WebP": ("a.webp", lambda: animation("WEBP"), "is an animation of 2 images"),
    "gone": ("a.png", lambda: None, "does not exist"),
}


def dataset(folder: Path, content: dict[str, bytes | None], **options: Any) -> CocoDataset:
    images = []
    for i, (name, stored) in enumerate(content.items()):
        if stored is not None:
            (folder / name).write_bytes(stored)
        images.append({"id": 10 + i, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
    text = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (folder / "data.json").write_text(json.dumps(text))
    file = read_coco(folder / "data.json")
    return CocoDataset([file], categories=file.categories, **options)


def with_good(folder: Path, name: str, stored: bytes | None, limit: float = 0.0) -> CocoDataset:
    good = encoded(color(), "PNG")
    content = {"g0.png": good, name: stored, "g2.png": good, "g3.png": good}
    return dataset(folder, content, unreadable_image_limit=limit)


KEYS: list[list[Any]] = [[(0, 0), (0, 1)], [(0, 1)], [(0, 2), (0, 3)]]


@pytest.mark.parametrize("kind", list(BAD))
def test_unreadable_images_are_named_or_left_out(tmp_path: Path, kind: str) -> None:
    name, stored, reason = BAD[kind]
    data = with_good(tmp_path, name, stored())
    with pytest.raises(ImageError, match=reason) as caught:
        list(make_loader(data, KEYS))
    assert (caught.value.image_id, caught.value.file) == (11, str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    batches = list(make_loader(with_good(tmp_path, name, stored(), 0.5), KEYS))
    assert [batch.image_ids for batch in batches] == [(10,), ("none",), (12, 13)]
    assert [len(batch.left_out) for batch in batches] == [1, 1, 0]
    assert [batch.is_stand_in for batch in batches] == [False, True, False]
    assert str(batches[0].left_out[0]) == str(caught.value)
    assert batches[1].targets[0].boxes is None  # nothing is known of the black image


def test_a_bomb_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    data = with_good(tmp_path, "a.png", bomb)
    with pytest.raises(ImageError, match="limit of 178,956,970"):
        data[1]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_say_the_same(tmp_path: Path, start_method: str) -> None:
    data = with_good(tmp_path, "a.png", b"", 0.5)
    alone = list(make_loader(data, KEYS))
    shared = list(make_loader(data, KEYS, workers=1, start_method=start_method))
    for one, other in zip(alone, shared, strict=True):
        assert one.image_ids == other.image_ids
        assert torch.equal(one.images, other.images)
        told = [(str(each), each.image_id, each.file) for each in one.left_out]
        assert told == [(str(each), each.image_id, each.file) for each in other.left_out]
    error = pickle.loads(pickle.dumps(shared[0].left_out[0]))
    assert error.image_id == 11


def test_a_damaged_label_map_is_bad_too(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(encoded(color(), "PNG"))
    (tmp_path / "map.png").write_bytes(b"")
    image = {"id": 1, "file_name": "1.png", "width": SIZE[0], "height": SIZE[1]}
    image["sem_seg_file_name"] = "map.png"
    text = {"images": [image], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "data.json").write_text(json.dumps(text))
    file = read_coco(tmp_path / "data.json")
    data = CocoDataset([file], categories=file.categories, unreadable_image_limit=1.0)
    (batch,) = make_loader(data, [[(0, 0)]])
    assert "map.png" in str(batch.left_out[0])


def test_other_mistakes_are_never_skipped(tmp_path: Path) -> None:
    class Wrong(CocoDataset):
        def __getitem__(self, key: Any) -> Any:
            raise DataError("not about one image")

    good = dataset(tmp_path, {"g.png": encoded(color(), "PNG")})
    data = Wrong(good.files, categories=good.categories, unreadable_image_limit=1.0)
    with pytest.raises(DataError, match="not about one image"):
        list(make_loader(data, [[(0, 0)]]))


def test_share_is_rounded_up(tmp_path: Path) -> None:
    assert with_good(tmp_path, "a.png", b"").max_unreadable_images == 0
    assert with_good(tmp_path, "a.png", b"", 0.01).max_unreadable_images == 1
    data = with_good(tmp_path, "a.png", b"", 0.3)
    assert data.max_unreadable_images == 2
    assert data.select([0, 1, 2]).max_unreadable_images == 1


def test_measuring_leaves_them_out_too(tmp_path: Path) -> None:
    data = with_good(tmp_path, "a.png", b"")
    with pytest.raises(DataError, match="is not an image"):
        measure_channels(data)
    expected = np.asarray(color()).reshape(-1, 3).mean(axis=0) / 255
    mean, _ = measure_channels(with_good(tmp_path, "a.png", b"", 0.25))
    assert np.allclose(mean, expected)


# --- Unusual ones are read right


def deep() -> Any:
    return np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE[1], SIZE[0]) * 500


def cmyk() -> bytes:
    return encoded(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "TIFF")


UNUSUAL = {
    "CMYK": ("a.tif", cmyk, np.full((8, 12, 3), (255, 0, 0))),
    "1-bit": (
        "a.png",
        lambda: encoded(Image.fromarray(deep() > 9000), "PNG"),
        np.repeat((deep() > 9000)[:, :, None] * 255, 3, axis=2),
    ),
    "EXIF": ("a.png", turned, np.asarray(color())),
    "one frame of GIF": (
        "a.gif",
        lambda: encoded(Image.new("RGB", SIZE, (0, 0, 255)), "GIF"),
        np.full((8, 12, 3), (0, 0, 255)),
    ),
    "16-bit": (
        "a.png",
        lambda: encoded(Image.fromarray(deep()), "PNG"),
        np.repeat(deep()[:, :, None] / 257.0, 3, axis=2),
    ),
}


@pytest.mark.parametrize("kind", list(UNUSUAL))
def test_unusual_images_are_read_right(tmp_path: Path, kind: str) -> None:
    name, stored, expected = UNUSUAL[kind]
    sample = dataset(tmp_path, {name: stored()})[0]
    found = sample.image.permute(1, 2, 0).numpy() * 255
    assert np.allclose(found, expected, atol=1e-3)


def test_a_preview_beside_a_photograph_is_no_animation(tmp_path: Path) -> None:
    photo, preview = color(), Image.new("RGB", SIZE)
    stored = encoded(photo, "MPO", save_all=True, append_images=[preview], quality=100)
    sample = dataset(tmp_path, {"a.jpg": stored})[0]
    expected = np.asarray(Image.open(io.BytesIO(encoded(photo, "JPEG", quality=100))))
    assert np.allclose(sample.image.permute(1, 2, 0).numpy() * 255, expected, atol=1e-3)
