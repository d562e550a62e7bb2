"""COCO box evaluation of big files: ours and pycocotools, from two files to the 12 numbers.

A set like COCO val2017 is drawn: 5,000 pictures, 36,000 objects of 80 classes, 500,000 detections.
Both run in processes of their own, one after the other in turn, so that time and greatest memory
count from start to end, imports included. The 12 numbers must agree to 1e-12. Then the same files
once more with bootstrap intervals of every number, for which there is no peer.
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

from benchmarks.measuring import (
    REPEATS,
    Row,
    conditions,
    finish,
    option_parser,
    timed_process,
)
from resnet_tasks.errors import DataError

_PRECISIONS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
_RECALLS = ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
NAMES = (*_PRECISIONS, *_RECALLS)
GOAL = 80
"""Times faster than pycocotools."""

_OURS = f"""
from resnet_tasks.evaluation.files import evaluate_results
metrics = evaluate_results(sys.argv[1], sys.argv[2])
found = [-1.0 if metrics[n].value is None else metrics[n].value for n in {NAMES!r}]
"""
_INTERVALS = f"""
from resnet_tasks.evaluation.files import judge_results
from resnet_tasks.evaluation.intervals import Bootstrap
from resnet_tasks.evaluation.results_report import add_intervals
judged = add_intervals(judge_results(sys.argv[1], sys.argv[2]), Bootstrap(int(sys.argv[3])))
found = [list(judged.metrics[n].interval or ()) for n in {NAMES!r}]
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
    """Draws the set, runs both in turn, prints the ratios.

    Returns:
        The report.

    Raises:
        DataError: If the numbers do not agree.
    """
    options = _options(argv)
    with tempfile.TemporaryDirectory() as folder:
        truth, results = draw(
            Path(folder),
            pictures=options.pictures,
            objects=options.objects,
            detections=options.detections,
        )
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "pycocotools": []}
        for turn in range(max(options.repeats, options.peer_repeats)):
            if turn < options.repeats:
                runs["ours"].append(timed_process(_OURS, truth, results))
            if turn < options.peer_repeats:
                runs["pycocotools"].append(timed_process(_PEER, truth, results))
        report = _report(runs, options)
        if options.resamples:
            report["intervals"] = {
                "resamples": options.resamples,
                **timed_process(_INTERVALS, truth, results, str(options.resamples)),
            }
    return finish(report, _rows(report), options, told=_told(report))


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = option_parser("coco_evaluation", __doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of ours")
    parser.add_argument("--peer-repeats", type=int, default=REPEATS, help="a minute each")
    parser.add_argument("--resamples", type=int, default=1000, help="for the intervals; 0: none")
    parser.add_argument("--pictures", type=int, default=5_000)
    parser.add_argument("--objects", type=int, default=36_000)
    parser.add_argument("--detections", type=int, default=500_000)
    options = parser.parse_args(argv)
    if options.quick:
        options.repeats = options.peer_repeats = 1
        options.resamples, options.pictures = 20, 40
        options.objects, options.detections = 200, 900
    if min(options.repeats, options.peer_repeats) < 1:
        parser.error("--repeats and --peer-repeats must be at least 1")
    return options


def draw(folder: Path, *, pictures: int, objects: int, detections: int) -> tuple[Path, Path]:
    """Annotations and results of a set like COCO val2017, the same at every call.

    Class frequencies fall as 1/rank, areas are log-normal, 1 % of the objects are crowds. A third
    of the detections lie near an object of their class, with better scores; all are clipped to
    their pictures, as detectors do.

    Returns:
        The two files.
    """
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(600_000, pictures, replace=False)) + 1
    classes = np.sort(rng.choice(90, 80, replace=False)) + 1
    frequency = 1 / np.arange(1, 81)
    of_picture = np.sort(rng.integers(0, pictures, objects))
    of_class = rng.choice(80, objects, p=frequency / frequency.sum())
    area = np.exp(rng.normal(8, 2, objects)).clip(50, 150_000)
    aspect = np.exp(rng.normal(0, 0.4, objects))
    size = np.column_stack((np.sqrt(area * aspect), np.sqrt(area / aspect))).clip(2, (600, 440))
    corner = rng.random((objects, 2)) * ((640, 480) - size)
    boxes = np.round(np.column_stack((corner, size)), 2)
    crowd = rng.random(objects) < 0.01
    annotations = [
        {
            "id": i + 1,
            "image_id": int(ids[of_picture[i]]),
            "category_id": int(classes[of_class[i]]),
            "bbox": boxes[i].tolist(),
            "area": round(float(0.7 * size[i].prod()), 2),
            "iscrowd": int(crowd[i]),
        }
        for i in range(objects)
    ]
    images = [
        {"id": int(i), "file_name": f"{i:012d}.jpg", "height": 480, "width": 640} for i in ids
    ]
    categories = [{"id": int(i), "name": f"class {i}"} for i in classes]
    truth, results = folder / "truth.json", folder / "results.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    truth.write_text(json.dumps(content), encoding="utf-8")

    source = rng.integers(0, objects, detections)
    near = rng.random(detections) < 0.35
    scores = np.where(near, rng.beta(4, 2, detections), rng.beta(1, 6, detections))
    noise = np.tile(size[source], 2) * np.where(near, 0.08, 0.5)[:, None]
    moved = boxes[source] + rng.normal(0, 1, (detections, 4)) * noise
    low = moved[:, :2].clip(0, (630, 470))
    high = (low + moved[:, 2:].clip(2, None)).clip(None, (640, 480))
    found = np.round(np.column_stack((low, high - low)), 2).tolist()
    picture = np.where(near, of_picture[source], rng.integers(0, pictures, detections))
    label = np.where(near, of_class[source], rng.integers(0, 80, detections))
    entries = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(
            ids[picture].tolist(),
            classes[label].tolist(),
            found,
            np.round(scores, 5).tolist(),
            strict=True,
        )
    ]
    results.write_text(json.dumps(entries), encoding="utf-8")
    return truth, results


def _report(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    ours, theirs = runs["ours"], runs["pycocotools"]
    apart = max(
        abs(a - b)
        for run in (*ours, *theirs)
        for a, b in zip(run["found"], theirs[0]["found"], strict=True)
    )
    if apart > 1e-12:
        raise DataError(f"the 12 numbers differ by up to {apart:.3g}; allowed is 1e-12")
    medians = {
        name: {key: statistics.median(run[key] for run in each) for key in ("seconds", "bytes")}
        for name, each in runs.items()
    }
    return {
        "set": {key: getattr(options, key) for key in ("pictures", "objects", "detections")},
        "numbers": dict(zip(NAMES, ours[0]["found"], strict=True)),
        "greatest_difference": apart,
        "medians": medians,
        "times_faster": medians["pycocotools"]["seconds"] / medians["ours"]["seconds"],
        "times_less_memory": medians["pycocotools"]["bytes"] / medians["ours"]["bytes"],
        "runs": {
            name: [{key: run[key] for key in ("seconds", "bytes")} for run in each]
            for name, each in runs.items()
        },
        **conditions("hotcoco", "pycocotools", "numpy"),
    }


def _rows(report: dict[str, Any]) -> list[Row]:
    pictures, ours = report["set"]["pictures"], report["medians"]["ours"]
    theirs = report["medians"]["pycocotools"]
    work = f"COCO box evaluation of {pictures:,} pictures, files to numbers"
    peer = f"pycocotools {report['versions']['pycocotools']}"
    near = f"the 12 numbers differ by at most {report['greatest_difference']:.1g}"
    return [
        Row(work, "same precision", peer, ours["seconds"], theirs["seconds"], "s", GOAL, near),
        Row(f"{work}: memory", "same precision", peer, ours["bytes"], theirs["bytes"], "bytes"),
    ]


def _told(report: dict[str, Any]) -> str:
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
        made = report["intervals"]
        lines.append(
            f"with intervals of {made['resamples']} resamples: {made['seconds']:.1f} s, "
            f"{made['bytes'] / 1e9:.2f} GB"
        )
    return "\n".join(lines)
