"""Sums of the run lengths of many masks equal those of the decoder of one mask."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from resnet_tasks.data.coco.packed import run_length_sums
from resnet_tasks.data.coco.packed.run_length_sums import sum_counts
from resnet_tasks.structures.run_lengths import decode_counts


def make_texts(rng: np.random.Generator) -> list[str]:
    """Return counts of masks of different sizes, half of them damaged."""
    texts = ["", "0", "P", "OOO", "00000", "o" * 30, "oooooo0", "ooooooO", "\u00e9", "hb0", "PPPP0"]
    for _ in range(300):
        height, width = rng.integers(1, (40, 1200))
        bitmap = np.asfortranarray(rng.random((height, width)) < rng.random() ** 4, np.uint8)
        text = coco_mask.encode(bitmap)["counts"].decode()
        place, letter = int(rng.integers(len(text))), chr(rng.integers(40, 120))
        texts += [text, text[:place] + letter + text[place + 1 :]]
    return texts


@pytest.mark.parametrize("chunk_bytes", [1, 900, 1 << 17])
def test_sums_are_those_of_the_decoder(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(run_length_sums, "_CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(0)
    valid, expected = [], []
    num_malformed = 0
    for text in make_texts(rng):
        runs = decode_counts(text)
        sums = sum_counts([text])
        if not runs:
            assert sums is None, text
            assert sum_counts([*valid[-2:], text, *valid[:2]]) is None
            num_malformed += 1
            continue
        if sums is not None:
            valid.append(text)
            expected.append((sum(runs), sum(runs[1::2])))
            assert (sums[0].item(), sums[1].item()) == expected[-1], text
    assert num_malformed > 50
    assert len(valid) > 400
    order = rng.permutation(len(valid))
    all_sums = sum_counts([valid[i] for i in order])
    assert all_sums is not None
    assert np.column_stack(all_sums).tolist() == [list(expected[i]) for i in order]


def test_large_numbers() -> None:
    most = "ooooo?"
    assert decode_counts(most) == [2**29 - 1]
    sums = sum_counts([most * 3 + "0" * 5])  # The differences of 0 repeat earlier runs.
    assert sums is not None
    assert [column.item() for column in sums] == [8 * (2**29 - 1), 4 * (2**29 - 1)]
    # One more group exceeds 32 bits, and is left to the decoder.
    assert decode_counts("oooooo?") == [2**34 - 1]
    assert sum_counts(["oooooo?"]) is None


def test_no_masks() -> None:
    sums = sum_counts([])
    assert sums is not None
    assert [column.tolist() for column in sums] == [[], []]
