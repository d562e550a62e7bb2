"""Tiny COCO datasets with as many classes as COCO or LVIS, and the lines of a text on a console."""

from __future__ import annotations

import random
from pathlib import Path

from rich.cells import cell_len

from tests.support.half_bright import Rectangle, write_split


def class_names(number: int) -> list[str]:
    """Names of odd characters, and of more of them than a table has room for."""
    odd = ["traffic light [red]", "<b>bold</b> & co", "two, with comma", "象の耳", "e\u0301tat"]
    long = [f"class {i} {'of a long name ' * 3}{i}" for i in range(5)]
    return [*odd, *long, *(f"class {i}" for i in range(10, number))][:number]


def write_dataset(folder: Path, number: int, *, images: int = 12) -> None:
    """Write `train.json` and `val.json` with objects of a part of the classes."""
    draw = random.Random(0)
    for split, count in (("train", images), ("val", images)):
        rectangles: dict[str, tuple[Rectangle, ...]] = {}
        for i in range(count):
            # The first classes are frequent, most of the others do not occur.
            left, right = (min(int(draw.expovariate(8 / number)), number - 1) + 1 for _ in "lr")
            rectangles[f"{split}{i}"] = ((left, 0.0, 0.0, 0.5, 1.0), (right, 0.5, 0.0, 1.0, 1.0))
        write_split(
            folder / f"{split}.json",
            rectangles,
            categories=class_names(number),
            first_id=1 + 1000 * (split == "val"),
        )


def count_lines(text: str, width: int = 80) -> int:
    """Number of lines of a text on a console that breaks lines at `width`."""
    return sum(max(1, -(-cell_len(line) // width)) for line in text.splitlines())
