"""Loading of annotations of COCO's size: time to the first batch, and memory by workers.

A synthetic dataset like COCO train2017 has 120,000 images and 860,000 objects with polygons (a JSON
file of about 450 MB). Its records share a few small image files, so that the benchmark measures the
annotations and not the pixels. Every measurement is a fresh process, which reads the file, starts
the loader and takes batches spread over the whole dataset, with 0, 2, 4 and 8 workers.

Memory is the peak of the sum over all processes of their private memory and of their mapped pages
of the annotation cache. It is measured as proportional set size (PSS, Linux only): pages shared by
n processes count 1/n in each, so that the sum counts them once. Program code is excluded, because
other programs may share its pages. A dataset of a few images, with the same number of batches and
workers, measures the memory of Python, torch and the loader themselves. The difference is the cost
of the annotations, which must not grow with the number of workers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.harness.measurement import (
    BenchmarkRow,
    collect_environment,
    finish_report,
    make_option_parser,
    run_in_fresh_process,
)
from benchmarks.harness.synthetic_coco import generate_ellipses, write_coco
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import format_bytes

LIMIT = 1.1
"""Maximum ratio of the annotations' memory with the most workers to that without workers."""
SIDE = 64
"""Height and width of the images in pixels."""
_FILES = 50
"""Number of different image files."""
_TIDY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Settings of the C library that return freed memory at once, so that only used memory counts."""
_MEASURED = """
import json, os, sys, time
start, used = time.perf_counter(), time.process_time()
import numpy as np
import psutil
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.sampling.loaders import make_loader
imported = time.perf_counter()
path, workers, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
coco = read_coco(path)
data = CocoDataset([coco], categories=coco.categories, fields=("boxes",), cache=False)
counts = data.count_objects()
coco.require_files()
ready = time.perf_counter()
process = psutil.Process()

def memory():
    processes = (process, *process.children())
    own = [sum(sizes(p, "smaps_rollup", "Pss_Anon:")) for p in processes]
    columns = sum(sum(sizes(p, "smaps", "Pss:", ".packed.safetensors")) for p in processes)
    return {"own": own, "columns": columns, "bytes": sum(own) + columns}

def sizes(process, table, key, mapped=""):
    name = ""
    for line in open(f"/proc/{process.pid}/{table}"):
        fields = line.split()
        if "-" in fields[0]:
            name = fields[-1]
        elif fields[0] == key and name.endswith(mapped):
            yield 1024 * int(fields[1])

# A small dataset is read more than once, so that both datasets give as many batches.
rng = np.random.default_rng(0)
keys = [(0, i % len(data)) for i in rng.permutation(max(samples, len(data)))[:samples].tolist()]
batches = [keys[begin : begin + 50] for begin in range(0, len(keys), 50)]
first, seen, greatest = None, 0, memory()
for number, batch in enumerate(make_loader(data, batches, workers=workers)):
    first = first or time.perf_counter()
    seen += sum(len(target.boxes) for target in batch.targets)
    if number % max(1, len(batches) // 8) == 0 or number == len(batches) - 1:
        greatest = max(greatest, memory(), key=lambda usage: usage["bytes"])
status = open("/proc/self/status").read().splitlines()
peak = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps({
    "import_seconds": imported - start, "read_seconds": ready - imported,
    "first_batch_seconds": first - start, "cpu_seconds": time.process_time() - used,
    "objects": sum(counts.values()), "seen": seen, "parent_peak": peak, **greatest,
}))
"""


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Generate the datasets, run the measurements and print the numbers.

    Returns:
        Report of plain values.

    Raises:
        DataError: If a process failed or read another number of objects than the others, or if the
            annotations need more memory with more workers.
    """
    options = _parse_options(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        big_dataset = generate_dataset(
            Path(folder) / "big", num_images=options.images, num_objects=options.objects
        )
        tiny_dataset = generate_dataset(
            Path(folder) / "tiny", num_images=_FILES, num_objects=7 * _FILES
        )
        runs = {
            "cold": _run_loader(big_dataset, 0, options.samples),
            "warm": _run_loader(big_dataset, 0, options.samples),
        }
        table = []
        for workers in options.workers:
            big_run, tiny_run = (
                _run_loader(dataset_path, workers, options.samples)
                for dataset_path in (big_dataset, tiny_dataset)
            )
            table.append({"workers": workers, "big": big_run, "tiny": tiny_run})
        require_all_objects([*runs.values(), *(row["big"] for row in table)], options.objects)
        report = _build_report(runs, table, big_dataset, options)
    report = finish_report(report, [_build_row(report)], options, summary=_format_summary(report))
    if report["growth"] > LIMIT and not options.quick:
        raise DataError(
            f"annotations cost {report['growth']:.2f} times as much with {options.workers[-1]} "
            f"workers as with {options.workers[0]}; allowed: {LIMIT}"
        )
    return report


def _parse_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_option_parser("loading", __doc__)
    parser.add_argument("--images", type=int, default=120_000)
    parser.add_argument("--objects", type=int, default=860_000)
    parser.add_argument("--samples", type=int, default=10_000, help="images read per measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4, 8])
    parser.add_argument(
        "--folder", type=Path, help=("folder for the generated dataset; default: temporary")
    )
    options = parser.parse_args(argv)
    if options.quick:
        options.images, options.objects, options.samples = 500, 3500, 100
        options.workers = [0, 2]
    return options


def generate_dataset(folder: Path, *, num_images: int, num_objects: int) -> Path:
    """Generate annotations of a dataset like COCO train2017, the same in every call.

    Returns:
        Path of the COCO file; `folder/images` contains the few images that all records share.
    """
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(_FILES):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    path = folder / "instances.json"
    annotations = generate_ellipses(
        num_images=num_images, num_objects=num_objects, size=(SIDE, SIDE), sides=_sample_sides
    )
    write_coco(
        path,
        annotations,
        num_images=num_images,
        size=(SIDE, SIDE),
        file_name=lambda i: f"{i % _FILES}.png",
        info={"images_root": "images"},
    )
    return path


def _sample_sides(rng: np.random.Generator, objects: int) -> NDArray[np.float64]:
    return rng.uniform(3, SIDE / 2, (objects, 2))


def _run_loader(path: Path, workers: int, samples: int) -> dict[str, Any]:
    return run_in_fresh_process(_MEASURED, path, workers, samples, environment=_TIDY)


def require_all_objects(runs: Sequence[dict[str, Any]], objects: int) -> None:
    """Require that every run read all objects, and that all runs had as many in their batches.

    Raises:
        DataError: If a run has other numbers.
    """
    num_seen = runs[0]["seen"]
    for run in runs:
        if (run["objects"], run["seen"]) != (objects, num_seen):
            raise DataError(
                f"a run read {run['objects']:,} objects and had {run['seen']:,} in its batches; "
                f"{objects:,} were generated, of which the first run had {num_seen:,} in its "
                "batches"
            )


def _build_report(
    runs: dict[str, Any], table: list[dict[str, Any]], path: Path, options: argparse.Namespace
) -> dict[str, Any]:
    for row in table:
        row["annotations"] = row["big"]["bytes"] - row["tiny"]["bytes"]
    return {
        "set": {"images": options.images, "objects": options.objects},
        "json_bytes": path.stat().st_size,
        **runs,
        "by_workers": table,
        "growth": table[-1]["annotations"] / table[0]["annotations"],
        **collect_environment("torch", "numpy", "msgspec"),
    }


def _build_row(report: dict[str, Any]) -> BenchmarkRow:
    none, most = report["by_workers"][0], report["by_workers"][-1]
    objects = report["set"]["objects"]
    return BenchmarkRow(
        f"annotations of {objects:,} objects with {most['workers']} workers: memory",
        "alone",
        f"ours with {none['workers']} workers",
        most["annotations"],
        none["annotations"],
        "bytes",
        LIMIT,
    )


def _format_summary(report: dict[str, Any]) -> str:
    lines = [f"{report['set']}, {format_bytes(report['json_bytes'])} of JSON"]
    lines += [
        f"{name}: first batch after {run['first_batch_seconds']:.1f} s "
        f"({run['import_seconds']:.1f} s of imports, {run['read_seconds']:.1f} s of reading); "
        f"{run['cpu_seconds']:.1f} CPU s in all; peak {format_bytes(run['parent_peak'])}"
        for name, run in (("cold", report["cold"]), ("warm", report["warm"]))
    ]
    lines.append("workers   all processes   without annotations   annotations   of them mapped")
    for row in report["by_workers"]:
        big, tiny = row["big"], row["tiny"]
        lines.append(
            f"{row['workers']:7d} {big['bytes'] / 1e6:12.0f} MB {tiny['bytes'] / 1e6:18.0f} MB "
            f"{row['annotations'] / 1e6:10.0f} MB {big['columns'] / 1e6:12.0f} MB"
        )
    lines.append(f"annotations: {report['growth']:.2f} times with the most workers")
    return "\n".join(lines)
