"""`data check` at COCO's size: seconds, processor seconds and greatest memory, pictures not read.

A set like COCO train2017 is drawn: 120,000 pictures, 860,000 objects of 80 classes with outlines of
4 to 40 points (a JSON of about 450 MB). One object in `--every` has one of six faults, in turn.
Each run is a process of its own, imports included; what it finds must be exactly what was drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import strftime
from typing import Any

import numpy as np

from resnet_tasks.errors import DataError

SECONDS, BYTES = 60, 3_000_000_000
"""What a check may take."""
_FAULTS = (
    "missing_area",
    "missing_iscrowd",
    "empty_box",
    "bad_segmentation",
    "box_apart",
    "unknown_category",
)
_MEASURED = """
import json, resource, sys, time
start = time.perf_counter()
from pathlib import Path
from resnet_tasks.data.doctor.report import write_findings
from resnet_tasks.data.doctor.check import check_coco
{work}
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_SELF)
# On Linux `ru_maxrss` starts from the parent's; `VmHWM` is this program's own. macOS counts bytes.
if sys.platform == "linux":
    lines = open("/proc/self/status").read().splitlines()
    memory = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
else:
    memory = used.ru_maxrss
cpu = used.ru_utime + used.ru_stime
print(json.dumps({{"seconds": seconds, "cpu_seconds": cpu, "bytes": memory, "found": found}}))
"""
_CHECK = """
check = check_coco(sys.argv[1])
write_findings([check], Path(sys.argv[2]))
found = check.summary()
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Draws the set, checks it, prints what that took.

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
        runs = [_run(_CHECK, path, folder / "report.json") for _ in range(options.repeats)]
        for run in runs:
            found = run.pop("found")
            if found != expected:
                raise DataError(f"found {found}, but drawn were {expected}")
    report = _report(runs, size, expected, options)
    print(_told(report))
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"written to {options.out}")
    median = report["medians"]
    if median["bytes"] > BYTES or median["seconds"] > SECONDS:
        raise DataError(f"a check may take {SECONDS} s and {BYTES / 1e9:g} GB; see above")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks data_check")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=120_000)
    parser.add_argument("--objects", type=int, default=860_000)
    parser.add_argument("--every", type=int, default=100, help="one object in this many is faulty")
    parser.add_argument("--folder", type=Path, help="where the set is drawn; default: temporary")
    parser.add_argument("--out", type=Path, help="JSON file for the report")
    options = parser.parse_args(argv)
    if min(options.repeats, options.pictures, options.objects, options.every) < 1:
        parser.error("all numbers must be at least 1")
    return options


def draw(folder: Path, *, pictures: int, objects: int, every: int) -> tuple[Path, dict[str, int]]:
    """Annotations of a set like COCO train2017, the same at every call; there are no pictures.

    Returns:
        The COCO file, and what is wrong with it: kind -> number, most frequent first.
    """
    rng = np.random.default_rng(0)
    path = folder / "instances.json"
    expected = Counter({"missing_file": pictures, "missing_info": 1})
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"categories": ')
        json.dump([{"id": i + 1, "name": f"class {i + 1}"} for i in range(80)], stream)
        stream.write(', "images": [')
        for i in range(pictures):
            stream.write(", " if i else "")
            name = f'"file_name": "{5 * i + 9:012d}.jpg", "height": 480, "width": 640'
            stream.write(f'{{"id": {5 * i + 9}, {name}, "license": 3}}')
        stream.write('], "annotations": [')
        for i, (text, fault) in enumerate(_annotations(rng, pictures, objects, every)):
            stream.write((", " if i else "") + text)
            if fault:
                expected[fault] += 1
        stream.write("]}")
    return path, dict(expected.most_common())


def _annotations(
    rng: np.random.Generator, pictures: int, objects: int, every: int
) -> Iterator[tuple[str, str]]:
    """(JSON, fault) of each object; classes fall as 1/rank, the first 80 have one each."""
    frequency = 1 / np.arange(1, 81)
    classes = rng.choice(80, objects, p=frequency / frequency.sum()) + 1
    classes[:80] = np.arange(1, 81)[: len(classes)]
    images = 5 * rng.integers(0, pictures, objects) + 9
    sizes = np.exp(rng.uniform(np.log(20), np.log(300), (objects, 2)))
    corners = rng.random((objects, 2)) * ((640, 480) - sizes)
    points = rng.integers(1, 11, objects) * 4  # so that an ellipse touches all sides of its box
    for i in range(objects):
        angles = np.linspace(0, 2 * np.pi, points[i], endpoint=False)
        circle = np.column_stack((np.cos(angles), np.sin(angles)))
        outline = np.round(corners[i] + sizes[i] * (1 + circle) / 2, 2).ravel().tolist()
        box = np.round(np.concatenate((corners[i], sizes[i])), 2).tolist()
        entry: dict[str, Any] = {
            "id": i + 1,
            "image_id": int(images[i]),
            "category_id": int(classes[i]),
            "segmentation": [outline],
            "area": round(0.785 * float(sizes[i].prod()), 4),
            "bbox": box,
            "iscrowd": 0,
        }
        fault = ""
        if i >= 80 and i % every == 0:
            fault = _FAULTS[i // every % len(_FAULTS)]
            _spoil(entry, fault)
        yield json.dumps(entry), fault


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


def _run(work: str, *arguments: Path) -> dict[str, Any]:
    made = subprocess.run(
        [sys.executable, "-c", _MEASURED.format(work=work), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise DataError(f"a measured process failed: {made.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(made.stdout)
    return found


def _report(
    runs: list[dict[str, Any]], size: int, expected: dict[str, int], options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "set": {key: getattr(options, key) for key in ("pictures", "objects", "every")},
        "json_bytes": size,
        "found": expected,
        "medians": {key: statistics.median(run[key] for run in runs) for key in runs[0]},
        "runs": runs,
        "hardware": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
        },
        "python": platform.python_version(),
        "date": strftime("%Y-%m-%d %H:%M:%S"),
    }


def _told(report: dict[str, Any]) -> str:
    median = report["medians"]
    return (
        f"{report['set']}, {report['json_bytes'] / 1e6:.0f} MB of JSON\n"
        f"found: {report['found']}\n"
        f"{median['seconds']:.1f} s, {median['cpu_seconds']:.1f} processor seconds, "
        f"{median['bytes'] / 1e9:.2f} GB (medians of {len(report['runs'])}; load "
        f"{report['hardware']['load'][0]:.1f})"
    )


if __name__ == "__main__":
    main()
