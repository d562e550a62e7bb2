"""`data check` on a file of COCO's size: seconds, CPU seconds and peak memory, without images.

A synthetic dataset like COCO train2017 has 120,000 images and 860,000 objects of 80 classes with
outlines of 4 to 40 points (a JSON file of about 450 MB). One object in `--every` has one of six
faults, in turn. Each run is a fresh process, imports included. Its findings must be exactly the
generated faults.
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

from benchmarks.harness.measurement import (
    REPEATS,
    BenchmarkRow,
    collect_environment,
    finish_report,
    make_option_parser,
    time_process,
)
from benchmarks.harness.synthetic_coco import (
    CLASSES,
    generate_ellipses,
    number_to_image_id,
    write_coco,
)
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import format_bytes

SECONDS, BYTES = 60, 3_000_000_000
"""Maximum time in seconds and memory in bytes that a check may take."""
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
found = check.count_problems()
"""


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Generate the dataset, check it, and print time and memory.

    Returns:
        Report of plain values.

    Raises:
        DataError: If the findings differ from the generated faults, or a limit is exceeded.
    """
    options = _parse_options(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        path, expected = generate_dataset(
            folder, num_images=options.images, num_objects=options.objects, every=options.every
        )
        size = path.stat().st_size
        runs = [time_process(_CHECK, path, folder / "report.json") for _ in range(options.repeats)]
        for run in runs:
            counts = run.pop("found")
            if counts != expected:
                raise DataError(
                    f"the check found {counts}, but the generated faults are {expected}"
                )
    report = _build_report(runs, size, expected, options)
    report = finish_report(report, _build_rows(report), options, summary=_format_summary(report))
    median = report["medians"]
    if median["bytes"] > BYTES or median["seconds"] > SECONDS:
        raise DataError(f"a check may take {SECONDS} s and {format_bytes(BYTES)}; see above")
    return report


def _parse_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_option_parser("data_check", __doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--images", type=int, default=120_000)
    parser.add_argument("--objects", type=int, default=860_000)
    parser.add_argument("--every", type=int, default=100, help="one object in this many is faulty")
    parser.add_argument(
        "--folder", type=Path, help=("folder for the generated dataset; default: temporary")
    )
    options = parser.parse_args(argv)
    if options.quick:
        options.repeats, options.images, options.objects, options.every = 1, 50, 1000, 50
    if min(options.repeats, options.images, options.objects, options.every) < 1:
        parser.error("all numbers must be at least 1")
    return options


def generate_dataset(
    folder: Path, *, num_images: int, num_objects: int, every: int
) -> tuple[Path, dict[str, int]]:
    """Generate annotations like those of COCO train2017, the same in every call, without images.

    Returns:
        Path of the COCO file, and its expected findings: kind -> number, most frequent first.
    """
    path = folder / "instances.json"
    expected = Counter({"missing_file": num_images, "missing_info": 1})
    write_coco(
        path,
        _generate_annotations(num_images, num_objects, every, expected),
        num_images=num_images,
        size=SIZE,
        file_name=lambda i: f"{number_to_image_id(i):012d}.jpg",
    )
    return path, dict(expected.most_common())


def _generate_annotations(
    num_images: int, num_objects: int, every: int, expected: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Generate the objects, one in `every` with a fault; count the faults in `expected`."""
    annotations = generate_ellipses(
        num_images=num_images, num_objects=num_objects, size=SIZE, sides=_sample_sides
    )
    for i, annotation in enumerate(annotations):
        if i >= CLASSES and i % every == 0:
            fault = _FAULTS[i // every % len(_FAULTS)]
            _corrupt(annotation, fault)
            expected[fault] += 1
        yield annotation


def _sample_sides(rng: np.random.Generator, objects: int) -> NDArray[np.float64]:
    return np.exp(rng.uniform(np.log(20), np.log(300), (objects, 2)))


def _corrupt(annotation: dict[str, Any], fault: str) -> None:
    if fault.startswith("missing_"):
        del annotation[fault.removeprefix("missing_")]
    elif fault == "empty_box":
        annotation["bbox"][2] = 0
    elif fault == "bad_segmentation":
        annotation["segmentation"] = [[1, 2, 3, 4]]
    elif fault == "box_apart":
        annotation["bbox"][2] *= 0.5
        annotation["area"] *= 0.5
    elif fault == "unknown_category":
        annotation["category_id"] = 99


def _build_report(
    runs: list[dict[str, Any]], size: int, expected: dict[str, int], options: argparse.Namespace
) -> dict[str, Any]:
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return {
        "set": {key: getattr(options, key) for key in ("images", "objects", "every")},
        "json_bytes": size,
        "found": expected,
        "medians": medians,
        "runs": runs,
        **collect_environment("numpy", "msgspec"),
    }


def _build_rows(report: dict[str, Any]) -> list[BenchmarkRow]:
    medians, limit = report["medians"], "our own limit"
    work = f"data check of {report['set']['objects']:,} objects"
    exact = "finds exactly the faults that were generated"
    return [
        BenchmarkRow(work, "alone", limit, medians["seconds"], None, "s", SECONDS, exact),
        BenchmarkRow(f"{work}: memory", "alone", limit, medians["bytes"], None, "bytes", BYTES),
    ]


def _format_summary(report: dict[str, Any]) -> str:
    median = report["medians"]
    return (
        f"{report['set']}, {format_bytes(report['json_bytes'])} of JSON\n"
        f"found: {report['found']}\n"
        f"{median['seconds']:.1f} s, {median['cpu_seconds']:.1f} processor seconds, "
        f"{format_bytes(median['bytes'])} (medians of {len(report['runs'])}; load "
        f"{report['hardware']['load'][0]:.1f})"
    )
