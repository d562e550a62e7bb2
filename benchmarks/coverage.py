"""Coverage of 95 % intervals, and size and power of the paired test, in simulated evaluations.

Every dataset is drawn from a distribution whose true metrics are known: detections and
segmentations with frequent and rare classes, of images of unequal difficulty. An interval covers if
it contains the true value. The paired test compares two models on the same images: equally good
ones (size: how often p < 0.05) and ones of different skill (power). All methods see the same draws.

    python -m benchmarks coverage                     # about two hours on one core
    python -m benchmarks coverage --images 200 --settings "hard" "easy images"
    python -m benchmarks coverage --paired --images 200

Datasets are simulated in parts, and every part is saved below `--out`, so that an interrupted
command resumes with the next part and `--datasets` can be raised later. The draws depend only on
`--seed`, the setting, the number of images and the number of the dataset.

Shape glossary: `D` datasets, `M` metrics.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.interval_methods import METHODS, draw, draw_without_replacement
from benchmarks.harness.measurement import collect_environment
from benchmarks.harness.simulated_evaluations import SETTINGS
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.uncertainty.half_samples import BIAS, WIDENING, spread_values
from resnet_tasks.evaluation.uncertainty.paired_test import PAIRED_WIDENING, two_sided_p
from resnet_tasks.files.atomic import write_json

Floats = NDArray[np.float64]

PART = 50
"""Datasets per file."""
TRUE_IMAGES = 10_000
"""Number of images of each of the datasets whose mean metrics are taken as the true ones."""
LEAST_DEFINED = 0.95
"""Minimum fraction of half samples that must define a metric; see `compute_percentiles`."""
SKILL = 3.0
"""Skill of the better model of the paired test, times the square root of the number of images."""
TESTS = ("percentile bootstrap", "half samples, widened", "this package")
P_LEVEL = 0.05


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Simulate the settings, write `coverage.json` or `paired.json`, and print its tables.

    Returns:
        Content of the JSON file.

    Raises:
        DataError: If a setting is unknown.
    """
    options = _parse_options(argv)
    if options.quick:
        options.images, options.datasets, options.resamples = [20], 4, 40
        options.true_datasets, options.out = 1, options.out / "quick"
    unknown = [name for name in options.settings if name not in SETTINGS]
    if unknown:
        raise DataError(f"--settings: {unknown[0]!r} is unknown; allowed: {', '.join(SETTINGS)}")
    rows = []
    for num_images in options.images:
        for name in options.settings:
            rows += _run_setting(name, num_images, options)
    content = {**collect_environment(), "seed": options.seed, "resamples": options.resamples}
    content |= {"datasets": options.datasets, "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / ("paired.json" if options.paired else "coverage.json")
    write_json(path, content)
    print(format_paired(rows) if options.paired else format_coverage(rows))
    print(f"written to {path}")
    return content


def _parse_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks coverage", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--images", nargs="+", type=int, default=[20, 40, 200, 1000], metavar="N")
    parser.add_argument("--datasets", type=int, default=1000, help="datasets per setting and size")
    parser.add_argument("--resamples", type=int, default=400, help="draws of every kind")
    parser.add_argument(
        "--true-datasets",
        type=int,
        default=100,
        metavar="N",
        help=f"datasets of {TRUE_IMAGES} images whose mean metrics are taken as the true ones",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paired", action="store_true", help="size and power of the paired test")
    parser.add_argument("--out", type=Path, default=Path("runs/coverage"), help="folder")
    parser.add_argument(
        "--quick", action="store_true", help="tiny run that only shows that the benchmark works"
    )
    return parser.parse_args(argv)


def _run_setting(name: str, num_images: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Simulate the datasets of a setting, or read them, and return a row per metric."""
    simulate = _simulate_pairs if options.paired else _simulate_intervals
    parts = []
    for start in range(0, options.datasets, PART):
        stop = min(start + PART, options.datasets)
        kind = "paired" if options.paired else "intervals"
        key = f"{name} {num_images} {start} {stop} {options.resamples} {options.seed} {BIAS}"
        key += f" {PAIRED_WIDENING if options.paired else WIDENING}"
        path = options.out / kind / f"{re.sub('[^0-9a-z]+', '-', key)}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets = [
                simulate(name, num_images, number, options) for number in range(start, stop)
            ]
            temporary = path.with_suffix(".tmp.npy")
            np.save(temporary, np.stack(datasets))
            temporary.replace(path)
        parts.append(np.load(path))
    values = np.concatenate(parts)
    print(f"{name}, {num_images} images: {len(values)} datasets", flush=True)
    metrics = SETTINGS[name].metrics
    if options.paired:
        return [
            {"setting": name, "images": num_images, "metric": metric, **_summarize_tests(column)}
            for metric, column in zip(metrics, np.moveaxis(values, -1, 0), strict=True)
        ]
    true = _compute_true_values(name, options)
    return [
        {
            "setting": name,
            "images": num_images,
            "metric": metric,
            "true": true[index],
            **_summarize_intervals(values[:, :, :, index], true[index]),
        }
        for index, metric in enumerate(metrics)
    ]


def _create_rng(name: str, num_images: int, number: int, seed: int) -> np.random.Generator:
    return np.random.default_rng((seed, zlib.crc32(name.encode()), num_images, number))


def _compute_true_values(name: str, options: argparse.Namespace) -> list[float]:
    """Return the true metrics of a setting, which are kept in a file."""
    path = options.out / "true_values.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if name not in known:
        ones = np.ones((TRUE_IMAGES, 1), np.float32)
        metrics = []
        for number in range(options.true_datasets):
            rng = _create_rng(name, TRUE_IMAGES, number, seed=1)
            (evaluation,) = SETTINGS[name].simulate(rng, TRUE_IMAGES)
            metrics.append(evaluation.resample(ones)[0])
        known[name] = np.mean(metrics, axis=0).tolist()
        write_json(path, known)
    values: list[float] = known[name]
    return values


def _simulate_intervals(
    name: str, num_images: int, number: int, options: argparse.Namespace
) -> Floats:
    """Return the lower and upper ends of all methods on one dataset, `(methods, 2, M)`.

    They are NaN where too few half samples define the metric, for all methods alike.
    """
    rng = _create_rng(name, num_images, number, options.seed)
    (evaluation,) = SETTINGS[name].simulate(rng, num_images)
    draws = draw(evaluation, rng, num_images, options.resamples)
    ends = np.full((len(METHODS), 2, len(draws.estimate)), np.nan)
    for column in range(len(draws.estimate)):
        metric_draws = draws.select(column)
        is_defined = (~np.isnan(metric_draws.halves)).mean() >= LEAST_DEFINED
        if is_defined and not np.isnan(metric_draws.estimate):
            for index, method in enumerate(METHODS.values()):
                ends[index, :, column] = method(metric_draws, num_images)
    return ends


def _summarize_intervals(ends: Floats, true: float) -> dict[str, Any]:
    """Return the coverage of every method from the ends `(D, methods, 2)` of one metric."""
    is_defined = ~np.isnan(ends[:, -1]).any(axis=1)
    ends = ends[is_defined]
    methods = {}
    for index, method in enumerate(METHODS):
        low, high = ends[~np.isnan(ends[:, index, 0]), index].T
        methods[method] = {
            "covered": _mean((low <= true) & (true <= high)),
            "below": _mean(true < low),
            "width": _mean(high - low),
        }
    return {"datasets": int(is_defined.sum()), "methods": methods}


def _mean(values: NDArray[Any]) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def _simulate_pairs(name: str, num_images: int, number: int, options: argparse.Namespace) -> Floats:
    """Return the p-values of all tests on one dataset, `(size and power, tests, M)`."""
    rng = _create_rng(name, num_images, number, options.seed)
    skills = (0.0, 0.0, SKILL / math.sqrt(num_images))
    evaluations = SETTINGS[name].simulate(rng, num_images, skills)
    counts = (
        np.ones((1, num_images)),
        rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=options.resamples),
        draw_without_replacement(rng, num_images, num_images // 2, options.resamples),
    )
    weights = np.ascontiguousarray(np.concatenate(counts).T.astype(np.float32))
    first, *others = (evaluation.resample(weights) for evaluation in evaluations)
    p_values = np.full((len(others), len(TESTS), first.shape[1]), np.nan)
    for row, other in enumerate(others):
        estimate, bootstrap, halves = np.split(other - first, (1, 1 + options.resamples))
        for column in range(first.shape[1]):
            if (~np.isnan(halves[:, column])).mean() < LEAST_DEFINED:
                continue
            arguments = (halves[:, column], float(estimate[0, column]), num_images)
            samples = (
                bootstrap[:, column],
                spread_values(*arguments),
                spread_values(*arguments, widening=PAIRED_WIDENING),
            )
            p_values[row, :, column] = [two_sided_p(values) for values in samples]
    return p_values


def _summarize_tests(p_values: Floats) -> dict[str, Any]:
    """Return the size and power of all tests from the p-values `(D, size and power, tests)`."""
    p_values = p_values[~np.isnan(p_values).any(axis=(1, 2))]
    rejected = p_values < P_LEVEL
    return {
        "datasets": len(p_values),
        "tests": {
            test: {"size": _mean(rejected[:, 0, index]), "power": _mean(rejected[:, 1, index])}
            for index, test in enumerate(TESTS)
        },
    }


def _group_rows(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[tuple[int, str], list[Mapping[str, Any]]]]:
    """Yield the rows of every number of images and metric that have a dataset."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["datasets"]:
            groups.setdefault((row["images"], row["metric"]), []).append(row)
    yield from groups.items()


def format_coverage(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the lowest and the mean coverage of every method over the settings, in Markdown."""
    groups = list(_group_rows(rows))
    heads = [f"{metric}, {images} images" for (images, metric), _ in groups]
    lines = [
        _format_row("method: lowest / mean coverage, %", heads),
        "| --- " * (len(heads) + 1) + "|",
    ]
    for method in METHODS:
        cells = []
        for _, group in groups:
            numbers = [row["methods"][method]["covered"] for row in group]
            covered = [100 * number for number in numbers if number is not None]
            cells.append(f"{min(covered):.1f} / {np.mean(covered):.1f}" if covered else "-")
        lines.append(_format_row(method, cells))
    lines += ["", _format_settings(rows, lambda row: row["methods"]["this package"]["covered"])]
    return "\n".join(lines)


def format_paired(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format size and power of all tests in every setting, in Markdown."""
    tables = []
    for quantity in ("size", "power"):
        for test in TESTS:
            table = _format_settings(rows, lambda row: row["tests"][test][quantity])  # noqa: B023
            tables.append(f"{quantity}, {test}, %\n\n{table}")
    return "\n\n".join(tables)


def _format_settings(
    rows: Sequence[Mapping[str, Any]], get_value: Callable[[Mapping[str, Any]], float]
) -> str:
    """Format one number of every setting, metric and number of images, in %."""
    sizes = sorted({row["images"] for row in rows})
    lines = [_format_row("setting", [f"{size} images" for size in sizes])]
    lines.append("| --- " * (len(sizes) + 1) + "|")
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        if row["datasets"]:
            name = f"{row['setting']}, {row['metric']}"
            cells.setdefault(name, {})[row["images"]] = f"{100 * get_value(row):.1f}"
    lines += [
        _format_row(name, [by_size.get(size, "-") for size in sizes])
        for name, by_size in cells.items()
    ]
    return "\n".join(lines)


def _format_row(name: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join((name, *cells))} |"
