"""Perceptual hashes: what changes them and what does not, and the search for near ones."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from resnet_tasks.data.doctor import image_similarity as likeness
from resnet_tasks.data.doctor.image_similarity import (
    ALIKE_BITS,
    HASH_BYTES,
    difference_hash,
    find_near_duplicates,
)
from resnet_tasks.data.images.channels import StoredImage
from resnet_tasks.data.images.decoding import decode_image


def hashed(pixels: np.ndarray) -> np.ndarray:
    made = difference_hash(StoredImage(pixels, "gray" if pixels.ndim == 2 else "color"))
    assert made is not None
    return made


def bits(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.unpackbits(a ^ b).sum())


def test_a_bit_says_whether_it_gets_brighter_to_the_right() -> None:
    ramp = np.tile(np.arange(17, dtype=np.uint8) * 10, (16, 1))[:, :, None]
    assert hashed(ramp).tolist() == [255] * HASH_BYTES
    assert hashed(ramp[:, ::-1]).tolist() == [0] * HASH_BYTES
    half = ramp.copy()
    half[8:] = ramp[8:, ::-1]
    assert hashed(half).tolist() == [255] * 16 + [0] * 16


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.int32, np.float64])
def test_images_of_any_depth_and_number_of_channels(kind: type) -> None:
    ramp = np.tile(np.arange(17) * 10, (16, 1)).astype(kind)[:, :, None]
    assert hashed(np.repeat(ramp, 5, axis=2)).tolist() == [255] * HASH_BYTES
    assert difference_hash(StoredImage(np.full((9, 9, 1), 7, kind), "gray")) is None


def test_alpha_is_no_part_of_it() -> None:
    ramp = np.tile(np.arange(17, dtype=np.uint8) * 10, (16, 1))[:, :, None]
    both = np.concatenate((ramp, ramp[:, ::-1]), axis=2)
    made = difference_hash(StoredImage(both, "gray and alpha"))
    assert made is not None
    assert made.tolist() == [255] * HASH_BYTES


def test_copies_of_real_images_are_near_and_others_far(shared_data: Path) -> None:
    """Of 160 COCO photographs, no two are near; each is near to smaller and worse copies."""
    paths = sorted((shared_data / "coco_tiny").glob("*2017/*.jpg"))
    assert len(paths) == 160
    stored = [decode_image(path) for path in paths]
    hashes = np.stack([each for one in stored if (each := difference_hash(one)) is not None])
    assert len(hashes) == 160
    between = min(bits(hashes[i], hashes[j]) for i in range(len(hashes)) for j in range(i))
    assert between > 3 * ALIKE_BITS
    apart = []
    for one, original in zip(stored[::8], hashes[::8], strict=True):
        height, width = one.pixels.shape[:2]
        smaller = cv2.resize(one.pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        darker = (one.pixels * 0.8).astype(np.uint8)
        worse = io.BytesIO()
        Image.fromarray(one.pixels.squeeze()).save(worse, "JPEG", quality=40)
        decoded = np.asarray(Image.open(worse))
        apart += [bits(original, hashed(each)) for each in (smaller, darker, decoded)]
    assert max(apart) <= ALIKE_BITS


def test_the_search_finds_what_all_pairs_would(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    monkeypatch.setattr(likeness, "_PAIRS_AT_ONCE", 7)
    base = generator.integers(0, 256, (40, HASH_BYTES), dtype=np.uint8)
    near = base.copy()
    for row, number in zip(near, range(40), strict=True):  # 0 to 19 bits away
        for bit in generator.choice(256, number % 20, replace=False):
            row[bit // 8] ^= 1 << (bit % 8)
    hashes = np.concatenate((base, base[:5], near))
    splits = np.repeat([0, 1, 2], (40, 5, 40))
    expected = []
    for i in range(len(hashes)):
        others = [(bits(hashes[i], hashes[j]), j) for j in range(i) if splits[j] < splits[i]]
        if others and min(others)[0] <= ALIKE_BITS:
            expected.append((i, min(others)[1], min(others)[0]))
    assert list(find_near_duplicates(hashes, splits)) == expected
    assert len(expected) > 30
    assert list(find_near_duplicates(hashes[:0], splits[:0])) == []


def test_many_images_are_never_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Black borders make many bits equal; the search still looks at few pairs."""
    generator = np.random.default_rng(0)
    flags = generator.random((20_000, 256)) < 0.5
    flags[:, np.arange(256) % 16 < 4] = False  # a quarter of the image is black
    hashes = np.packbits(flags, axis=1)
    compared = 0
    plain = likeness._iter_equal_pairs

    def counted(keys: np.ndarray) -> object:
        nonlocal compared
        for pair in plain(keys):
            compared += len(pair[0])
            yield pair

    monkeypatch.setattr(likeness, "_iter_equal_pairs", counted)
    assert list(find_near_duplicates(hashes, np.arange(20_000) % 2)) == []
    assert compared < 20_000 * 100  # of 2e8 pairs
