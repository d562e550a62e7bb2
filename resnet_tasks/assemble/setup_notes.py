"""Notes on the data and the model of a training, and the check of its image files."""

from __future__ import annotations

from collections.abc import Iterable

from resnet_tasks.assemble.measured_settings import find_measured_weights
from resnet_tasks.assemble.model import get_weights_report
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.images.bit_depths import REMEDY, BitDepths
from resnet_tasks.data.statistics.class_counts import format_counts, has_many_classes
from resnet_tasks.errors import format_list, limit_path
from resnet_tasks.model import TaskModel
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.schema.recipe import Recipe

MAX_DEPTH_FILES = 2000
"""Maximum number of images of a file whose headers are read for their bit depth."""
MAX_PRINTED_NAMES = 4
"""Maximum number of unexpected tensors that are named; `log.jsonl` names all."""


def describe_folds(recipe: Recipe) -> list[str]:
    """Return a note on the held-out fold, if the recipe has folds."""
    if (folds := recipe.data.folds) is None:
        return []
    fold = f"fold {folds.held_out} of 0 to {folds.count - 1}"
    return [f"val: held out of data.train, {fold}; data.val is not read"]


def describe_dataset(split: str, dataset: CocoDataset) -> list[str]:
    """Return a summary of a split, and a line per file with repaired or ignored annotations."""
    objects = format_counts(dataset.count_objects())
    lines = [f"{split}: {Count(len(dataset)):image}; objects: {objects}"]
    repeats = dataset.epoch_sampler.repeats
    if repeats is not None:
        lines.append(
            f"{split}: {Count(round(float(repeats.sum()))):image} per epoch; an image is "
            f"repeated up to {repeats.max():.1f} times"
        )
    for file in dataset.files:
        if file.note:
            lines.append(f"{split}: {file.path.name}: {file.note}")
        if problems := file.count_problems():
            kinds = ", ".join(f"{kind}: {count}" for kind, count in problems.items())
            lines.append(
                f"{split}: {file.path.name}: {kinds} (explained by `resnet-tasks data check`)"
            )
    return lines


def describe_other_classes(dataset: CocoDataset) -> list[str]:
    """Return a note on where the counts of all classes are, if `describe_dataset` shortens them."""
    if not has_many_classes(dataset.count_objects()):
        return []
    return ["all counts: report of the run, or `resnet-tasks data stats FILE --json OUT`"]


def require_images(split: str, dataset: CocoDataset) -> list[str]:
    """Check that images exist and label maps are lossless, up to the allowed number of exceptions.

    Returns:
        A note on the missing files, if their number is allowed.

    Raises:
        DataError: If more files are missing or lossy than allowed; the message has their number and
            the first path.
    """
    if "semantic" in dataset.fields:
        for file in dataset.files:
            file.require_lossless_maps(dataset.max_unreadable_images)
    missing = [path for file in dataset.files for path in file.find_missing_files()]
    if not missing:
        return []
    if len(missing) > dataset.max_unreadable_images:
        for file in dataset.files:
            file.require_files()
    examples = (
        f"{Count(len(missing)):image file does} not exist, the first is {limit_path(missing[0])}"
    )
    return [f"{split}: {examples}; their images are skipped (data.unreadable_images)"]


def describe_bit_depths(datasets: Iterable[CocoDataset]) -> list[str]:
    """Return warnings if images have different bit depths or use a small part of their range.

    Of a large file, `MAX_DEPTH_FILES` evenly spaced images are opened.
    """
    depths, step = BitDepths(), None
    for dataset in datasets:
        step = dataset.preparation.intensity
        for file in dataset.files:
            spacing = max(1, -(-len(file.images) // MAX_DEPTH_FILES))
            for position in range(0, len(file.images), spacing):
                record = file.images[position]
                depths.add(file.image_path(record), record.extra)
    warnings = []
    if (mixture := depths.describe_mixture(step)) is not None:
        warnings.append(
            f"warning: the images have different bit depths ({mixture}), so that equal exposures "
            f"may reach the model with different values; {REMEDY}"
        )
    depths.read_samples()
    if (warning := depths.describe_unused_bits(step)) is not None:
        warnings.append(f"warning: {warning}")
    return warnings


def describe_model(model: TaskModel, processes: int) -> list[str]:
    """Return lines on the weights that a model was built with, and on norms without effect.

    Args:
        model: Model with its initial weights.
        processes: Number of processes of the training.
    """
    lines, report = list[str](), get_weights_report(model)
    if report is not None:
        counts = f"{len(report.missing)} missing, {len(report.unexpected)} unexpected"
        lines = [
            f"weights: {report.source}; license: {report.license or 'not stated'}",
            f"weights: {Count(len(report.matched)):tensor} matched, {counts}",
        ]
        if report.unexpected:
            names = format_list(report.unexpected, MAX_PRINTED_NAMES)
            lines.append(f"weights: not used: {names}")
        lines += [f"weights: {note}" for note in report.notes]
    if processes == 1 and getattr(model.backbone, "norm_mode", "") == "sync":
        lines.append("norms: backbone.norm is sync, but with a single process this equals train")
    return lines


def describe_unmeasured(recipe: Recipe) -> list[str]:
    """Return a line per kind of setting that a trial does not measure on the data."""
    settings = {
        "class_weights": bool(find_measured_weights(recipe)),
        "normalize": recipe.data.normalize == "data",
    }
    return [
        f"{name}: measured when training starts, not with --dry-run"
        for name, is_unmeasured in settings.items()
        if is_unmeasured
    ]
