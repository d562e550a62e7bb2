"""A run as an exported folder: written, run, compared with the model, and only then kept."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.samples import make_sample
from resnet_tasks.data.images.find_images import find_images
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.evaluation.evaluators import MAIN_METRIC
from resnet_tasks.evaluation.metric_tables import metric_to_json
from resnet_tasks.export.graph import ExportGraph
from resnet_tasks.export.output_comparison import (
    EXACT,
    ROUNDED,
    OutputDifference,
    Tolerance,
    compare_predictions,
)
from resnet_tasks.export.quantization import Feed, evaluate_export, quantize
from resnet_tasks.export.write_graphs import write_onnx, write_openvino
from resnet_tasks.exported.engines import PACKAGES, import_extra
from resnet_tasks.exported.exported_model import ExportedModel, collate_images
from resnet_tasks.exported.manifest import GRAPHS, ExportedHead, Manifest, PixelRange
from resnet_tasks.files.atomic import make_folder
from resnet_tasks.heads.classifier import MULTI_LABEL
from resnet_tasks.model import TaskModel
from resnet_tasks.runs.evaluate_run import weights_sha256
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.devices import resolve_precision
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.structures.samples import Batch, collate

Format = Literal["onnx", "openvino"]
Image = tuple[str, NDArray[Any]]
TIMED = 5
"""Forwards whose median is told."""


@dataclass(frozen=True)
class Int8Options:
    """How an export is quantized.

    Attributes:
        calibration: Training images to calibrate on, at most.
        evaluation: Val images to judge on before and after, at most; None: all.
        max_drop: The main metric of no head may fall by more.
    """

    calibration: int = 300
    evaluation: int | None = None
    max_drop: float = 0.01


@dataclass(frozen=True)
class ComparisonImages:
    """The images that an export is compared with its model on.

    Attributes:
        paths: Images and folders; none: those of the run's val split.
        number: How many of them, at most; evenly spread.
    """

    paths: tuple[Path, ...] = ()
    number: int = 8


@dataclass(frozen=True)
class ExportResult:
    """What came out.

    Attributes:
        folder: With graph and `export.json`.
        manifest: The latter.
    """

    folder: Path
    manifest: Manifest


def export_run(
    run: Run,
    out: Path,
    *,
    form: Format = "onnx",
    int8: Int8Options | None = None,
    checkpoint: str = "last",
    comparison_images: ComparisonImages = ComparisonImages(),  # frozen
    data_root: Path | None = None,
    console: Console | None = None,
    tolerance: Tolerance = EXACT,
) -> ExportResult:
    """Exports a run's model, compares it with the model on real images, and keeps it if it fits.

    Args:
        run: Whose model.
        out: Folder to make.
        form: Of the graph.
        int8: Quantize it too; None: float32 weights.
        checkpoint: `last` or `best`.
        comparison_images: Images to compare on.
        data_root: Folder that holds data sets.
        console: For progress and the table.
        tolerance: Of float32 against float32.

    Raises:
        DataError: If there are no images to compare on.
        HeadError: If a head cannot be exported.
        RunError: If `out` exists, a package is missing, or the export differs from the model.
    """
    console = console or Console(stderr=True)
    if out.exists():
        raise RunError(f"{out} exists already; remove it or choose another --out")
    if int8 is not None and form != "openvino":
        raise RunError("int8 is made of OpenVINO's graphs only; add --format openvino")
    for package in ("onnx", PACKAGES[form], *(("nncf",) if int8 else ())):
        import_extra(package)
    if int8 is not None and run.recipe.sliding is not None:
        raise RunError(
            f"{run.directory} predicts in windows, whose metric an export cannot measure; export "
            "without --int8"
        )
    model = _copy_to_cpu(run.load_model(checkpoint))
    manifest = _build_manifest(run, model, form, checkpoint)
    graph = ExportGraph(model, manifest.pixels).eval()
    images = _load_images(run, comparison_images, data_root)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        _write_graph(graph, manifest, partial)
        metadata, manifest = _compare_with_model(
            model, manifest, partial, images, tolerance, console
        )
        if int8 is not None:
            metadata["int8"] = _quantize_graph(
                run, model, manifest, partial, int8, data_root, console
            )
            manifest = replace(manifest, is_int8=True)
        metadata["latency"] = _measure_latency(model, manifest, partial, images[0])
        metadata["bytes"] = {file.name: file.stat().st_size for file in sorted(partial.iterdir())}
        manifest = replace(manifest, metadata={**manifest.metadata, **metadata})
        manifest.write(partial)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return ExportResult(out, manifest)


def _copy_to_cpu(model: TaskModel) -> TaskModel:
    plain = model if model.device.type == "cpu" else copy.deepcopy(model).cpu()
    return plain.eval()


def _build_manifest(run: Run, model: TaskModel, form: Format, checkpoint: str) -> Manifest:
    recipe, preparation = run.recipe, run.preparation
    heads = {
        name: ExportedHead(
            recipe.heads[name].type,
            head.task.name,
            head.classes,
            run.category_ids[name],
            head.evaluator_name == MULTI_LABEL,
            getattr(head.options, "score_threshold", None),
        )
        for name, head in model.named_heads.items()
    }
    return Manifest(
        format=form,
        heads=heads,
        categories=tuple(run.labels.categories.to_json()),
        preparation=preparation,
        pixels=PixelRange.from_preparation(preparation),
        normalization={"mean": tuple(model.mean.tolist()), "std": tuple(model.std.tolist())},
        windows=None if recipe.sliding is None else recipe.sliding.model_dump(),
        metadata={
            "source": {
                "recipe": recipe.name,
                "run": run.directory.name,
                "checkpoint": checkpoint,
                "weights": weights_sha256(run.find_checkpoint(checkpoint)),
            },
            "versions": _collect_versions(),
        },
    )


def _collect_versions() -> dict[str, str]:
    versions = {}
    for name in ("resnet-tasks", "torch", "torchvision", "onnx", "onnxruntime", "openvino", "nncf"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _load_images(
    run: Run, comparison_images: ComparisonImages, data_root: Path | None
) -> list[Image]:
    """Stored images to compare on, evenly spread; of big ones the first window.

    Raises:
        DataError: If there are none.
    """
    preparation, windows = run.preparation, run.recipe.sliding
    if comparison_images.paths:
        files = find_images(comparison_images.paths)
    else:
        try:
            dataset = run.load_dataset("val", data_root=data_root)
        except DataError as error:
            raise DataError(
                f"an export is compared with its model on real images, but there are none: "
                f"{error}; name some with --images FILES-OR-FOLDER, or the data with --data-root"
            ) from None
        files = [dataset.path(i) for i in range(len(dataset))]
    indices = np.linspace(0, len(files) - 1, min(comparison_images.number, len(files))).astype(int)
    images = [(str(files[i]), preparation.read(files[i])) for i in indices]
    if windows is None:
        return images
    return [(name, image[: windows.height, : windows.width]) for name, image in images]


def _write_graph(graph: ExportGraph, manifest: Manifest, folder: Path) -> None:
    target = folder / manifest.graph
    traced = folder / GRAPHS["onnx"]
    write_onnx(graph, manifest.preparation.channels, traced)
    if manifest.format == "openvino":
        write_openvino(traced, target)
        traced.unlink()


def _iterate_batches(images: Sequence[Image]) -> Iterator[Sequence[Image]]:
    """One by one and in twos, so that a graph is tried with several numbers and sizes."""
    start, number = 0, 1
    while start < len(images):
        yield images[start : start + number]
        start, number = start + number, 3 - number


def _compare_with_model(
    model: TaskModel,
    manifest: Manifest,
    folder: Path,
    images: Sequence[Image],
    tolerance: Tolerance,
    console: Console,
) -> tuple[dict[str, Any], Manifest]:
    """How far the export is from the model in float32 and in the engine's own precision.

    Raises:
        RunError: If it is too far in float32.
    """
    engines = {"fp32": tolerance}
    if manifest.format == "openvino":
        engines["auto"] = ROUNDED
    expected = []
    parts = list(_iterate_batches(images))
    with track_progress(console, "Predicting with the model", len(parts)) as advance:
        for part in parts:
            expected += _predict(model, manifest, part)
            advance()
    comparison: dict[str, Any] = {"images": [name for name, _ in images]}
    for precision, allowed in engines.items():
        manifest.write(folder)
        exported = ExportedModel.open(folder, precision=precision)
        exported_predictions: list[dict[str, Any]] = []
        with track_progress(
            console, f"Predicting with the export ({precision})", len(parts)
        ) as advance:
            for part in parts:
                exported_predictions += exported.predict(
                    [image for _, image in part], [name for name, _ in part]
                )
                advance()
        differences = compare_predictions(expected, exported_predictions, allowed)
        good = all(difference.is_within(allowed) for difference in differences.values())
        if precision == "fp32" and not good:
            raise RunError(_describe_excess(differences, allowed, len(images)))
        if precision == "auto":
            manifest = replace(manifest, precision="auto" if good else "fp32")
        comparison[precision] = {
            "tolerance": asdict(allowed),
            "within": good,
            "heads": {name: difference.to_json() for name, difference in differences.items()},
        }
    return {"comparison": comparison}, manifest


def _describe_excess(
    differences: Mapping[str, OutputDifference], allowed: Tolerance, number: int
) -> str:
    bad = "; ".join(
        f"head {name}: {difference.unmatched} of the {difference.detections} detections of both "
        "without a "
        f"counterpart ({difference.unmatched_fraction:.1%} of the scores), boxes "
        f"{difference.box:.3g} px, scores "
        f"{difference.score:.3g}, {difference.pixels:.2%} of the pixels apart"
        for name, difference in differences.items()
        if not difference.is_within(allowed)
    )
    return (
        f"the exported graph does not predict what the model predicts on {number} images: {bad}; "
        f"allowed are boxes {allowed.box:g} px, scores {allowed.score:g}, "
        f"{allowed.unmatched:.1%} of all detections' scores and {allowed.pixels:.1%} of the "
        "pixels; nothing was written: predict with the run folder, and please report this"
    )


def _predict(model: TaskModel, manifest: Manifest, images: Sequence[Image]) -> list[dict[str, Any]]:
    predictions = model.predict(_collate_batch(manifest, images), precision="fp32")
    return [
        {name: head_predictions[i] for name, head_predictions in predictions.items()}
        for i in range(len(images))
    ]


def _collate_batch(manifest: Manifest, images: Sequence[Image]) -> Batch:
    samples = [make_sample(manifest.preparation, image, 0, name) for name, image in images]
    return collate(samples)


def _build_feed(manifest: Manifest, images: Sequence[Image]) -> Feed:
    prepared = [
        manifest.pixels.prepare(manifest.preparation, image, name) for name, image in images
    ]
    batched_images, sizes = collate_images(prepared, manifest.multiple)
    return {"images": batched_images, "sizes": sizes}


def _quantize_graph(
    run: Run,
    model: TaskModel,
    manifest: Manifest,
    folder: Path,
    options: Int8Options,
    data_root: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Quantizes the graph in `folder`; its metrics before and after.

    Raises:
        RunError: If a main metric falls too far.
    """
    train = _sample_evenly(run.load_dataset("train", data_root=data_root), options.calibration)
    val = _sample_evenly(run.load_dataset("val", data_root=data_root), options.evaluation)

    def measure_metrics(text: str) -> dict[str, Metric]:
        manifest.write(folder)
        exported = ExportedModel.open(folder)
        with track_progress(console, text, len(val)) as advance:
            return evaluate_export(model, exported, val, on_image=advance).metrics

    before = measure_metrics("Judging before int8")
    console.print(f"calibrating on {len(train)} training images")
    quantize(folder / manifest.graph, _CalibrationFeed(manifest, train), len(train))
    after = measure_metrics("Judging int8")
    main = {
        f"{name}/{MAIN_METRIC[head.evaluator_name]}"
        for name, head in model.named_heads.items()
        if head.evaluator_name in MAIN_METRIC
    }
    fallen = {
        name: (before[name].value, after[name].value)
        for name in sorted(main & before.keys())
        if (before[name].value or 0) - (after[name].value or 0) > options.max_drop
    }
    if fallen:
        listed = ", ".join(
            f"{name} from {a or 0:.4f} to {b or 0:.4f}" for name, (a, b) in fallen.items()
        )
        raise RunError(
            f"int8 costs too much on {len(val)} val images: {listed}, allowed is a fall of "
            f"{options.max_drop:g}; nothing was written: calibrate on more images "
            "(--calibrate-on), "
            "allow more (--max-drop), or export without --int8"
        )
    return {
        "calibrated_on": len(train),
        "judged_on": len(val),
        "main": sorted(main & before.keys()),
        "before": {name: metric_to_json(metric) for name, metric in before.items()},
        "after": {name: metric_to_json(metric) for name, metric in after.items()},
    }


@dataclass(frozen=True)
class _CalibrationFeed:
    """Training images one by one, as often as they are asked for."""

    manifest: Manifest
    images: CocoDataset

    def __iter__(self) -> Iterator[Feed]:
        for i in range(len(self.images)):
            image = (str(self.images.path(i)), self.images.load_image(i))
            yield _build_feed(self.manifest, [image])


def _sample_evenly(dataset: CocoDataset, number: int | None) -> CocoDataset:
    """At most so many of its images, evenly spread."""
    if number is None or number >= len(dataset):
        return dataset
    return dataset.select(np.linspace(0, len(dataset) - 1, number).astype(int).tolist())


def _measure_latency(
    model: TaskModel, manifest: Manifest, folder: Path, image: Image
) -> dict[str, Any]:
    """Milliseconds of one image, from prepared pixels to raw outputs: medians."""
    batch, feed = _collate_batch(manifest, [image]), _build_feed(manifest, [image])
    precision = resolve_precision("auto", torch.device("cpu"))
    manifest.write(folder)
    exported = ExportedModel.open(folder)
    timed: dict[str, Callable[[], object]] = {
        "pytorch_fp32_ms": lambda: model.predict_raw(batch, precision="fp32"),
        f"pytorch_{precision}_ms": lambda: model.predict_raw(batch, precision=precision),
        "export_ms": lambda: exported.engine.run(feed["images"], feed["sizes"]),
    }
    size = list(batch.padded_size)
    return {
        "size": size,
        "threads": torch.get_num_threads(),
        **{n: _time_ms(f) for n, f in timed.items()},
    }


def _time_ms(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(1000 * median(times), 2)
