"""COCO box evaluation of large files: ours and pycocotools, from two files to the 12 metrics.

A synthetic dataset like COCO val2017 has 5,000 images, 36,000 objects of 80 classes and 500,000
detections. Both evaluators run in fresh processes and alternate. Time and peak memory are those of
the whole process, imports included. The 12 metrics must agree to 1e-12. Then the same files are
evaluated with bootstrap intervals of every metric, for which there is no peer.

The same is done with masks and hotcoco, whose CPU seconds are compared.

At last, all installed evaluators (`pip install -e ".[bench]"`) run side by side in one process, on
these boxes and on masks; see `harness.coco_peers`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.coco_peers import (
    NAMES,
    compare_cases,
    encode_ellipse,
    format_tools,
    time_tools,
)
from benchmarks.harness.measurement import (
    REPEATS,
    BenchmarkRow,
    collect_environment,
    finish_report,
    make_option_parser,
    time_process,
)
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import format_bytes

GOAL = 80
"""Minimum speedup over pycocotools."""

_OURS = f"""
from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results
metrics = evaluate_results(sys.argv[1], sys.argv[2], task=sys.argv[3])
found = [-1.0 if metrics[n].value is None else metrics[n].value for n in {NAMES!r}]
"""
_INTERVALS = f"""
from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results_file
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap
from resnet_tasks.evaluation.results_files.report import add_intervals
evaluation = evaluate_results_file(sys.argv[1], sys.argv[2])
evaluation = add_intervals(evaluation, Bootstrap(int(sys.argv[3])))
found = [list(evaluation.metrics[n].interval or ()) for n in {NAMES!r}]
"""
_PEER_MASKS = """
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    from hotcoco import COCO, COCOeval
    truth = COCO(sys.argv[1])
    run = COCOeval(truth, truth.load_res(sys.argv[2]), "segm")
    run.evaluate()
    run.accumulate()
    run.summarize()
found = list(run.stats)[:12]
"""
_PEER = """
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    truth = COCO(sys.argv[1])
    run = COCOeval(truth, truth.loadRes(sys.argv[2]), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
found = run.stats.tolist()
"""


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Generate the dataset, run both evaluators alternately and print the ratios.

    Returns:
        Report of plain values.

    Raises:
        DataError: If the metrics do not agree.
    """
    options = _parse_options(argv)
    with tempfile.TemporaryDirectory() as folder:
        truth, results = generate_dataset(
            Path(folder),
            num_images=options.images,
            num_objects=options.objects,
            num_detections=options.detections,
        )
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "pycocotools": []}
        for turn in range(max(options.repeats, options.peer_repeats)):
            if turn < options.repeats:
                runs["ours"].append(time_process(_OURS, truth, results, "box"))
            if turn < options.peer_repeats:
                runs["pycocotools"].append(time_process(_PEER, truth, results))
        report = _build_report(runs, options)
        if options.resamples:
            report["intervals"] = {
                "resamples": options.resamples,
                **time_process(_INTERVALS, truth, results, str(options.resamples)),
            }
        masks = generate_masks(
            truth, results, Path(folder), num_images=options.images, number=options.masks
        )
        report["masks"] = {"number": options.masks, **_time_masks(masks, options.repeats)}
        report["side_by_side"] = {
            task: {
                "time": time_tools(
                    *files,
                    task,
                    repeats=options.repeats,
                    reference_repeats=options.peer_repeats,
                ),
                "cases": compare_cases(task, options.cases),
            }
            for task, files in (("box", (truth, results)), ("mask", masks))
        }
    return finish_report(report, _build_rows(report), options, summary=_format_summary(report))


def _time_masks(files: tuple[Path, Path], repeats: int) -> dict[str, float]:
    """Return the median CPU seconds of whole processes that evaluate masks, by tool."""
    seconds: dict[str, list[float]] = {"ours": [], "hotcoco": []}
    for _ in range(repeats):
        for name, work in (("ours", _OURS), ("hotcoco", _PEER_MASKS)):
            seconds[name].append(time_process(work, *files, "mask")["cpu_seconds"])
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def _parse_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_option_parser("coco_evaluation", __doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="runs of this package")
    parser.add_argument(
        "--peer-repeats", type=int, default=REPEATS, help="runs of the peer, a minute each"
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        help="half samples for the intervals; 0 for none",
    )
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--objects", type=int, default=36_000)
    parser.add_argument("--detections", type=int, default=500_000)
    parser.add_argument("--masks", type=int, default=50_000, help="masks of detections")
    parser.add_argument(
        "--cases", type=int, default=200, help="random datasets on which all bits are compared"
    )
    options = parser.parse_args(argv)
    if options.quick:
        options.masks, options.cases = 300, 3
        options.repeats = options.peer_repeats = 1
        options.resamples, options.images = 20, 40
        options.objects, options.detections = 200, 900
    if min(options.repeats, options.peer_repeats) < 1:
        parser.error("--repeats and --peer-repeats must be at least 1")
    return options


def generate_dataset(
    folder: Path, *, num_images: int, num_objects: int, num_detections: int
) -> tuple[Path, Path]:
    """Generate annotations and results of a dataset like COCO val2017, the same in every call.

    Class frequencies decrease as 1/rank, areas are log-normal, and 1 % of the objects are crowds. A
    third of the detections are near an object of their class and have higher scores. All detections
    are clipped to their images, as detectors do.

    Returns:
        Paths of the annotation file and of the results file.
    """
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(600_000, num_images, replace=False)) + 1
    classes = np.sort(rng.choice(90, 80, replace=False)) + 1
    frequency = 1 / np.arange(1, 81)
    object_images = np.sort(rng.integers(0, num_images, num_objects))
    object_classes = rng.choice(80, num_objects, p=frequency / frequency.sum())
    area = np.exp(rng.normal(8, 2, num_objects)).clip(50, 150_000)
    aspect = np.exp(rng.normal(0, 0.4, num_objects))
    size = np.column_stack((np.sqrt(area * aspect), np.sqrt(area / aspect))).clip(2, (600, 440))
    corner = rng.random((num_objects, 2)) * ((640, 480) - size)
    boxes = np.round(np.column_stack((corner, size)), 2)
    crowd = rng.random(num_objects) < 0.01
    annotations = [
        {
            "id": i + 1,
            "image_id": int(ids[object_images[i]]),
            "category_id": int(classes[object_classes[i]]),
            "bbox": boxes[i].tolist(),
            "area": round(float(0.7 * size[i].prod()), 2),
            "iscrowd": int(crowd[i]),
        }
        for i in range(num_objects)
    ]
    images = [
        {"id": int(i), "file_name": f"{i:012d}.jpg", "height": 480, "width": 640} for i in ids
    ]
    categories = [{"id": int(i), "name": f"class {i}"} for i in classes]
    truth, results = folder / "truth.json", folder / "results.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    truth.write_text(json.dumps(content), encoding="utf-8")

    source = rng.integers(0, num_objects, num_detections)
    is_near = rng.random(num_detections) < 0.35
    scores = np.where(is_near, rng.beta(4, 2, num_detections), rng.beta(1, 6, num_detections))
    noise = np.tile(size[source], 2) * np.where(is_near, 0.08, 0.5)[:, None]
    moved = boxes[source] + rng.normal(0, 1, (num_detections, 4)) * noise
    low = moved[:, :2].clip(0, (630, 470))
    high = (low + moved[:, 2:].clip(2, None)).clip(None, (640, 480))
    detection_boxes = np.round(np.column_stack((low, high - low)), 2).tolist()
    image_indices = np.where(
        is_near, object_images[source], rng.integers(0, num_images, num_detections)
    )
    class_indices = np.where(is_near, object_classes[source], rng.integers(0, 80, num_detections))
    detection_records = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(
            ids[image_indices].tolist(),
            classes[class_indices].tolist(),
            detection_boxes,
            np.round(scores, 5).tolist(),
            strict=True,
        )
    ]
    results.write_text(json.dumps(detection_records), encoding="utf-8")
    return truth, results


def generate_masks(
    truth: Path, results: Path, folder: Path, *, num_images: int, number: int
) -> tuple[Path, Path]:
    """Write the first objects and detections of a dataset of boxes as ellipses inside the boxes.

    Args:
        truth: Path of the annotation file of boxes.
        results: Path of the results file of boxes.
        folder: Folder of the new files.
        num_images: Number of images of the dataset.
        number: Number of detections to write.

    Returns:
        Paths of the annotation file and of the results file.
    """
    content = json.loads(truth.read_text(encoding="utf-8"))
    detections = json.loads(results.read_text(encoding="utf-8"))
    used = max(1, num_images * number // len(detections))
    content["images"] = content["images"][:used]
    ids = {image["id"] for image in content["images"]}
    parts = [
        [entry for entry in entries if entry["image_id"] in ids]
        for entries in (content["annotations"], detections)
    ]
    for entry in (*parts[0], *parts[1]):
        entry["segmentation"] = encode_ellipse(entry["bbox"], (480, 640))
    for entry in parts[1]:
        del entry["bbox"]
    content["annotations"] = parts[0]
    paths = folder / "truth_masks.json", folder / "results_masks.json"
    for path, values in zip(paths, (content, parts[1]), strict=True):
        path.write_text(json.dumps(values), encoding="utf-8")
    return paths


def _build_report(
    runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace
) -> dict[str, Any]:
    ours, theirs = runs["ours"], runs["pycocotools"]
    max_difference = max(
        abs(a - b)
        for run in (*ours, *theirs)
        for a, b in zip(run["found"], theirs[0]["found"], strict=True)
    )
    if max_difference > 1e-12:
        raise DataError(f"the 12 numbers differ by up to {max_difference:.3g}; allowed: 1e-12")
    medians = {
        name: {
            key: statistics.median(run[key] for run in tool_runs) for key in ("seconds", "bytes")
        }
        for name, tool_runs in runs.items()
    }
    return {
        "set": {key: getattr(options, key) for key in ("images", "objects", "detections")},
        "numbers": dict(zip(NAMES, ours[0]["found"], strict=True)),
        "greatest_difference": max_difference,
        "medians": medians,
        "times_faster": medians["pycocotools"]["seconds"] / medians["ours"]["seconds"],
        "times_less_memory": medians["pycocotools"]["bytes"] / medians["ours"]["bytes"],
        "runs": {
            name: [{key: run[key] for key in ("seconds", "bytes")} for run in tool_runs]
            for name, tool_runs in runs.items()
        },
        **collect_environment(
            "hotcoco", "pycocotools", "faster-coco-eval", "ultrafast-pycocotools", "numpy"
        ),
    }


def _build_rows(report: dict[str, Any]) -> list[BenchmarkRow]:
    images, ours = report["set"]["images"], report["medians"]["ours"]
    theirs = report["medians"]["pycocotools"]
    work = f"COCO box evaluation of {images:,} images, files to numbers"
    peer = f"pycocotools {report['versions']['pycocotools']}"
    agreement = f"the 12 numbers differ by at most {report['greatest_difference']:.1g}"
    return [
        BenchmarkRow(
            work, "same precision", peer, ours["seconds"], theirs["seconds"], "s", GOAL, agreement
        ),
        BenchmarkRow(
            f"{work}: memory", "same precision", peer, ours["bytes"], theirs["bytes"], "bytes"
        ),
    ]


def _format_summary(report: dict[str, Any]) -> str:
    lines = [
        f"{name:12} {median['seconds']:7.2f} s {median['bytes'] / 1e9:5.2f} GB (medians of "
        f"{len(report['runs'][name])})"
        for name, median in report["medians"].items()
    ]
    lines.append(
        f"{report['times_faster']:.0f} times faster, {report['times_less_memory']:.1f} times less "
        f"memory; the 12 numbers differ by at most {report['greatest_difference']:.1g}"
    )
    if "intervals" in report:
        intervals = report["intervals"]
        lines.append(
            f"with intervals of {intervals['resamples']} resamples: {intervals['seconds']:.1f} s, "
            f"CPU {intervals['cpu_seconds']:.1f} s, {format_bytes(intervals['bytes'])}"
        )
    if "masks" in report:
        masks = report["masks"]
        lines.append(
            f"{masks['number']:,} masks, whole process: CPU {masks['ours']:.2f} s, hotcoco "
            f"{masks['hotcoco']:.2f} s, {masks['ours'] / masks['hotcoco']:.2f}x"
        )
    lines += format_tools(report.get("side_by_side", {}))
    return "\n".join(lines)
