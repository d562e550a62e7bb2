"""Texts that wait on disk for their place in a file."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from data_tools.writing.text_spool import MAX_PENDING, TextSpool


def test_texts_come_out_in_order_whether_they_waited_in_memory_or_on_disk(tmp_path: Path) -> None:
    folder, out = tmp_path / "made", tmp_path / "out.json"
    for texts in ([], ["1"], ["1", "2"], [f'"{i:0200}"' for i in range(MAX_PENDING // 100)]):
        parts = TextSpool(folder)
        for text in texts:
            parts.add(text)
        assert parts.count == len(texts)
        with out.open("w", encoding="utf-8") as stream:
            parts.copy_to(stream)
        assert out.read_text() == ", ".join(texts)
    assert list(folder.iterdir()) == []  # what is on disk has no name


def test_memory_does_not_grow_with_their_number(tmp_path: Path) -> None:
    parts = TextSpool(tmp_path)
    tracemalloc.start()
    for _ in range(20_000):
        parts.add("x" * 100)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(kept, peak) < 400_000  # of 2,000,000
