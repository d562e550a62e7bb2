"""Comparison of an exported graph's predictions with those of its model on real images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.datasets.samples import make_sample
from resnet_tasks.data.images.find_images import find_images
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.export.output_comparison import ROUNDED, compare_predictions
from resnet_tasks.exported.exported_model import ExportedModel
from resnet_tasks.exported.manifest import Manifest
from resnet_tasks.inference.outputs_model import OutputsModel
from resnet_tasks.inference.predictor import WholeImagePredictor, predict_sources
from resnet_tasks.inference.torch_outputs import TorchOutputs
from resnet_tasks.model import TaskModel
from resnet_tasks.number_formats import Count
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.structures.image_result import ImageResult
from resnet_tasks.structures.predictions.comparison import OutputDifference, Tolerance
from resnet_tasks.structures.samples import Batch, collate

Image = tuple[str, NDArray[Any]]


@dataclass(frozen=True)
class ComparisonImages:
    """Images on which an export is compared with its model.

    Attributes:
        paths: Images and folders of images; empty: the images of the run's val split.
        number: Maximum number of images, evenly spaced.
    """

    paths: tuple[Path, ...] = ()
    number: int = 8


DEFAULT_IMAGES = ComparisonImages()
"""Images from the run's val split."""


def load_comparison_images(
    run: Run, comparison_images: ComparisonImages, data_root: Path | None
) -> list[Image]:
    """Load evenly spaced images to compare on; if the run predicts in windows, one window of each.

    The window is the top left one.

    Raises:
        DataError: If there are no images.
    """
    preparation, windows = run.preparation, run.recipe.sliding
    if comparison_images.paths:
        files = find_images(comparison_images.paths)
    else:
        try:
            dataset = run.load_dataset("val", data_root=data_root)
        except DataError as error:
            raise DataError(
                "an export is compared with its model on real images, but there are none: "
                f"{error}; pass images with --images FILES-OR-FOLDER, or the folder of the "
                "datasets with --data-root"
            ) from None
        files = [dataset.path(i) for i in range(len(dataset))]
    indices = np.linspace(0, len(files) - 1, min(comparison_images.number, len(files))).astype(int)
    images = [(str(files[i]), preparation.read(files[i])) for i in indices]
    if windows is None:
        return images
    return [(name, image[: windows.height, : windows.width]) for name, image in images]


def _iterate_batches(images: Sequence[Image]) -> Iterator[Sequence[Image]]:
    """Yield batches of one and two images in turn, to try the graph with several shapes."""
    start, number = 0, 1
    while start < len(images):
        yield images[start : start + number]
        start, number = start + number, 3 - number


def compare_with_model(
    model: TaskModel,
    manifest: Manifest,
    folder: Path,
    images: Sequence[Image],
    tolerance: Tolerance,
    console: Console,
) -> tuple[dict[str, Any], Manifest]:
    """Compare the export with the model in float32 and in the engine's own precision.

    Returns:
        Metadata of the comparison, and the manifest with the precision that is accurate enough.

    Raises:
        RunError: If the differences in float32 exceed the tolerance.
    """
    engines = {"fp32": tolerance}
    if manifest.format == "openvino":
        engines["auto"] = ROUNDED
    expected = []
    parts = list(_iterate_batches(images))
    with track_progress(console, "Predicting with the model", len(parts)) as advance:
        for part in parts:
            expected += _predict(TorchOutputs(model, "fp32"), manifest, part)
            advance()
    comparison: dict[str, Any] = {"images": [Path(name).name for name, _ in images]}
    for precision, allowed in engines.items():
        manifest.write(folder)
        exported = ExportedModel.open(folder, precision=precision)
        exported_predictions: list[ImageResult] = []
        with track_progress(
            console, f"Predicting with the export ({precision})", len(parts)
        ) as advance:
            for part in parts:
                exported_predictions += _predict(exported, manifest, part)
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
        f"have no counterpart ({difference.unmatched_fraction:.1%} of the scores), boxes "
        f"{difference.box:.3g} px, scores {difference.score:.3g}, {difference.pixels:.2%} of the "
        "pixels differ"
        for name, difference in differences.items()
        if not difference.is_within(allowed)
    )
    return (
        f"the exported graph does not predict what the model predicts on {Count(number):image}: "
        f"{bad}; allowed: boxes {allowed.box:g} px, scores {allowed.score:g}, "
        f"{allowed.unmatched:.1%} of all detections' scores and {allowed.pixels:.1%} of the "
        "pixels; nothing was written: predict with the run folder, and please report this"
    )


def _predict(model: OutputsModel, manifest: Manifest, images: Sequence[Image]) -> list[ImageResult]:
    names, arrays = zip(*images, strict=True)
    return predict_sources(WholeImagePredictor(model), arrays, manifest.preparation, names)


def collate_batch(manifest: Manifest, images: Sequence[Image]) -> Batch:
    """Return the model's batch of stored images, prepared in the same way as for the export."""
    samples = [make_sample(manifest.preparation, image, 0, name) for name, image in images]
    return collate(samples)
