"""`data check` at COCO's size: seconds, processor seconds and greatest memory, pictures not read.

A set like COCO train2017 is drawn: 120,000 pictures, 860,000 objects of 80 classes with outlines of
4 to 40 points (a JSON of about 450 MB). One object in `--every` has one of six faults, in turn.
Each run is a process of its own, imports included; what it finds must be exactly what was drawn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.drawn_sets import CLASSES, draw_ellipses, picture_id, write_coco
from benchmarks.measuring import (
    REPEATS,
    Row,
    conditions,
    finish,
    option_parser,
    timed_process,
)
from resnet_tasks.errors import DataError

SECONDS, BYTES = 60, 3_000_000_000
"""What a check may take."""
SIZE = (480, 640)
_FAULTS = (
    "missing_area",
    "missing_iscrowd",
    "empty_box",
    "bad_segmentation",
    "box_apart",
    "unknown_category",
)
_CHECK = """
from pathlib import Path
from resnet_tasks.data.doctor.report import write_findings
from resnet_tasks.data.doctor.check import check_coco
check = check_coco(sys.argv[1])
write_findings([check], Path(sys.argv[2]))
found = check.summary()
"""


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Draws the set, checks it, prints what that took.

    Returns:
        The report.

    Raises:
        DataError: If the findings are not those that were drawn, or a limit is exceeded.
    """
    options = _options(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        path, expected = draw(
            folder, pictures=options.pictures, objects=options.objects, every=options.every
        )
        size = path.stat().st_size
        runs = [timed_process(_CHECK, path, folder / "report.json") for _ in range(options.repeats)]
        for run in runs:
            found = run.pop("found")
            if found != expected:
                raise DataError(f"found {found}, but drawn were {expected}")
    report = _report(runs, size, expected, options)
    report = finish(report, _rows(report), options, told=_told(report))
    median = report["medians"]
    if median["bytes"] > BYTES or median["seconds"] > SECONDS:
        raise DataError(f"a check may take {SECONDS} s and {BYTES / 1e9:g} GB; see above")
    return report


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = option_parser("data_check", __doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--pictures", type=int, default=120_000)
    parser.add_argument("--objects", type=int, default=860_000)
    parser.add_argument("--every", type=int, default=100, help="one object in this many is faulty")
    parser.add_argument("--folder", type=Path, help="where the set is drawn; default: temporary")
    options = parser.parse_args(argv)
    if options.quick:
        options.repeats, options.pictures, options.objects, options.every = 1, 50, 1000, 50
    if min(options.repeats, options.pictures, options.objects, options.every) < 1:
        parser.error("all numbers must be at least 1")
    return options


def draw(folder: Path, *, pictures: int, objects: int, every: int) -> tuple[Path, dict[str, int]]:
    """Annotations of a set like COCO train2017, the same at every call; there are no pictures.

    Returns:
        The COCO file, and what is wrong with it: kind -> number, most frequent first.
    """
    path = folder / "instances.json"
    expected = Counter({"missing_file": pictures, "missing_info": 1})
    write_coco(
        path,
        _annotations(pictures, objects, every, expected),
        pictures=pictures,
        size=SIZE,
        file_name=lambda i: f"{picture_id(i):012d}.jpg",
    )
    return path, dict(expected.most_common())


def _annotations(
    pictures: int, objects: int, every: int, expected: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The objects, one in `every` spoilt; what is done to them is counted in `expected`."""
    drawn = draw_ellipses(pictures=pictures, objects=objects, size=SIZE, sides=_sides)
    for i, entry in enumerate(drawn):
        if i >= CLASSES and i % every == 0:
            fault = _FAULTS[i // every % len(_FAULTS)]
            _spoil(entry, fault)
            expected[fault] += 1
        yield entry


def _sides(rng: np.random.Generator, objects: int) -> NDArray[np.float64]:
    return np.exp(rng.uniform(np.log(20), np.log(300), (objects, 2)))


def _spoil(entry: dict[str, Any], fault: str) -> None:
    if fault.startswith("missing_"):
        del entry[fault.removeprefix("missing_")]
    elif fault == "empty_box":
        entry["bbox"][2] = 0
    elif fault == "bad_segmentation":
        entry["segmentation"] = [[1, 2, 3, 4]]
    elif fault == "box_apart":
        entry["bbox"][2] *= 0.5
        entry["area"] *= 0.5
    elif fault == "unknown_category":
        entry["category_id"] = 99


def _report(
    runs: list[dict[str, Any]], size: int, expected: dict[str, int], options: argparse.Namespace
) -> dict[str, Any]:
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return {
        "set": {key: getattr(options, key) for key in ("pictures", "objects", "every")},
        "json_bytes": size,
        "found": expected,
        "medians": medians,
        "runs": runs,
        **conditions("numpy", "msgspec"),
    }


def _rows(report: dict[str, Any]) -> list[Row]:
    medians, limit = report["medians"], "a limit of our own"
    work = f"data check of {report['set']['objects']:,} objects"
    exact = "finds exactly the faults that were drawn"
    return [
        Row(work, "alone", limit, medians["seconds"], None, "s", SECONDS, exact),
        Row(f"{work}: memory", "alone", limit, medians["bytes"], None, "bytes", BYTES),
    ]


def _told(report: dict[str, Any]) -> str:
    median = report["medians"]
    return (
        f"{report['set']}, {report['json_bytes'] / 1e6:.0f} MB of JSON\n"
        f"found: {report['found']}\n"
        f"{median['seconds']:.1f} s, {median['cpu_seconds']:.1f} processor seconds, "
        f"{median['bytes'] / 1e9:.2f} GB (medians of {len(report['runs'])}; load "
        f"{report['hardware']['load'][0]:.1f})"
    )
