"""Annotation files with random damage: every one is read or refused with a sentence."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.support.annotation_sources import CASES
from tests.support.damage import outcomes


def converted(name: str, folder: Path, count: int) -> Counter[str]:
    """How often the damaged file of a source is accepted and refused."""
    build, convert, damage = CASES[name]
    source, out = folder / "in", folder / "out"
    source.mkdir()
    file = build(source)
    good = file.read_bytes()
    convert(source, out)
    shutil.rmtree(out)

    def use(content: bytes) -> None:
        file.write_bytes(content)
        try:
            convert(source, out)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    return outcomes(good, use, damage, count, name)


@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    converted(name, tmp_path, 120)
