"""Folders of label maps as results of semantic segmentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.coco.semantic_maps import read_semantic_map
from resnet_tasks.data.images.find_images import find_file, make_output_names
from resnet_tasks.errors import DataError, limit_path
from resnet_tasks.evaluation.protocols.surface_distance import SurfaceEvaluator, SurfaceOptions
from resnet_tasks.evaluation.results_files.file_evaluation import (
    FileEvaluation,
    build_file_evaluation,
)
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.number_formats import Count
from resnet_tasks.options import validate_options
from resnet_tasks.structures.evaluation import UNLABELED, VOID, GroundTruth

_LabelMapEvaluator = SegmentationEvaluator | SurfaceEvaluator


def evaluate_file(truth: Path, results: Path) -> FileEvaluation:
    """Evaluate the label maps in a folder by mIoU and Dice.

    Args:
        truth: Path of the COCO JSON whose images have `sem_seg_file_name`s.
        results: Path of a folder of PNGs of category ids, named like the `sem_seg_file_name`s, or
            by their stems or those of the images.

    Raises:
        DataError: If a file is invalid or missing, or has no category at an annotated pixel.
    """
    coco = read_coco(truth)
    evaluator = SegmentationEvaluator(coco.categories.names)
    return _evaluate_label_maps(coco, truth, results, evaluator, "resnet_tasks confusion matrix")


def evaluate_surfaces(truth: Path, results: Path, options: Mapping[str, Any]) -> FileEvaluation:
    """Evaluate the label maps in a folder by HD95 and surface Dice.

    Args:
        truth: Path of the COCO JSON whose images have `sem_seg_file_name`s.
        results: Path of a folder of label maps; see `evaluate_file`.
        options: Values of `SurfaceOptions`.

    Raises:
        DataError: If an option is invalid, or a file is; see `evaluate_file`.
    """
    coco = read_coco(truth)
    checked = validate_options(SurfaceOptions, options, DataError, "task 'surface'")
    evaluator = SurfaceEvaluator(coco.categories.names, checked)
    return _evaluate_label_maps(coco, truth, results, evaluator, "resnet_tasks surface distances")


def _evaluate_label_maps(
    coco: CocoFile, truth: Path, results: Path, evaluator: _LabelMapEvaluator, backend: str
) -> FileEvaluation:
    """Add the label maps of all images to an evaluator, and compute its metrics."""
    if not results.is_dir():
        raise DataError(
            f"{results} is not a folder; results of semantic segmentation are a folder of PNGs of "
            "category ids, each named like the `sem_seg_file_name` in the annotation file"
        )
    records = [record for record in coco.images if record.sem_seg_file_name is not None]
    if not records:
        raise DataError(
            f"{truth}: no image has a `sem_seg_file_name`; there are no pixels to evaluate"
        )
    layout = _find_layout(coco, records, results)
    layout.require_files(results)
    for record, name in zip(records, layout.names, strict=True):
        size = (record.height, record.width)
        truth_map = coco.sem_seg_root / str(record.sem_seg_file_name)
        expected = read_semantic_map(truth_map, coco.categories, size)
        expected[expected == UNLABELED] = VOID
        labels = read_semantic_map(results / name, coco.categories, size)
        unanswered = (labels < 0) & (expected != VOID)
        if unanswered.any():
            raise DataError(
                f"{results / name} has no category (0 or void) at "
                f"{Count(int(unanswered.sum())):labeled pixel} of the ground truth; give each of "
                "these pixels a category id; if 0 is the background, add a category with id 0 to "
                "the annotation file"
            )
        evaluator.update_labels(
            labels, GroundTruth(record.id, size, semantic=expected, spacing=record.spacing)
        )
    groups = {record.id: record.group for record in records if record.group is not None}
    num_skipped = len(coco.images) - len(records)
    note = f"{Count(num_skipped):image has} no `sem_seg_file_name`; not evaluated"
    notes = (*((note,) if num_skipped else ()), *layout.notes)
    return build_file_evaluation(evaluator, backend, groups, notes)


@dataclass(frozen=True)
class _Layout:
    """Names of the label maps of all images in a folder.

    Attributes:
        names: Path of each label map, relative to the folder.
        source: Property of an image record whose stem the names are; empty if the names are
            complete paths.
        repeated: Names that belong to several images.
    """

    names: tuple[str, ...]
    source: str = ""
    repeated: tuple[str, ...] = ()

    @classmethod
    def from_stems(
        cls, paths: Mapping[int | str, str], ids: Iterable[int | str], source: str
    ) -> Self:
        """Name the maps of the images `ids` by the stems of `paths`, which has all images."""
        names = {
            image_id: f"{make_output_names([Path(path)])[0]}.png"
            for image_id, path in paths.items()
        }
        counts = Counter(names.values())
        selected = tuple(names[image_id] for image_id in ids)
        repeated = tuple(name for name in dict.fromkeys(selected) if counts[name] > 1)
        return cls(selected, source, repeated)

    @property
    def notes(self) -> tuple[str, ...]:
        """Note that the maps are not named by complete paths."""
        if not self.source:
            return ()
        return (f"label maps are named by the stem of `{self.source}`, such as {self.names[0]}",)

    def count_files(self, folder: Path) -> int:
        """Return the number of label maps that exist."""
        return len(self.names) - len(self._find_missing(folder))

    def require_files(self, folder: Path) -> None:
        """Check that each image has a label map of its own.

        Raises:
            DataError: If a map is missing, or images share a map.
        """
        if self.repeated:
            raise DataError(
                f"{folder}: several images have the same label map, the first is "
                f"{limit_path(self.repeated[0])} ({len(self.repeated)} in total, named by the stem "
                f"of `{self.source}`); name each file like the complete `sem_seg_file_name` in the "
                "annotation file"
            )
        missing = self._find_missing(folder)
        if missing:
            raise DataError(
                f"{folder}: {len(missing)} of {len(self.names)} label maps are missing, the first "
                f"is {limit_path(missing[0])}; name each file like the "
                f"{f'stem of `{self.source}`' if self.source else '`sem_seg_file_name`'} in the "
                "annotation file"
            )

    def _find_missing(self, folder: Path) -> list[str]:
        return [name for name in self.names if find_file(folder / name) is None]


def _find_layout(coco: CocoFile, records: Sequence[ImageRecord], folder: Path) -> _Layout:
    """Return how the label maps in a folder are named: one way for all images.

    If no file has the complete path of a `sem_seg_file_name`, files may be named by the stems of
    the images, as those that `resnet-tasks evaluate` and `predict` write, or of the maps.
    """
    complete = _Layout(tuple(str(record.sem_seg_file_name) for record in records))
    if complete.count_files(folder):
        return complete
    ids = [record.id for record in records]
    images = {record.id: record.file_name for record in coco.images}
    maps = dict(zip(ids, complete.names, strict=True))
    layouts = (
        _Layout.from_stems(images, ids, "file_name"),
        _Layout.from_stems(maps, ids, "sem_seg_file_name"),
    )
    layout = max(layouts, key=lambda layout: layout.count_files(folder))
    return layout if layout.count_files(folder) else complete
