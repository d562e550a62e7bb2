"""Images of COCO files with their annotations."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.pixel_labels import has_pixel_labels, read_pixel_labels
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.datasets.ground_truth import build_truth, map_image_labels
from resnet_tasks.data.datasets.image_index import ImageIndex
from resnet_tasks.data.sampling.rare_classes import compute_repeat_factors
from resnet_tasks.errors import DataError
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.targets import Target


class AnnotatedImages:
    """Images of one or more COCO files and their annotations.

    Args:
        files: Parsed COCO files with the same categories.
        categories: Category map that the labels are indices into.

    Attributes:
        files: Files with the labels of their objects as indices into `categories`.
        categories: Category map that the labels are indices into.
        unannotated: Ascending indices, per file, of the categories that were not annotated. These
            are the categories that the file does not list, unless `with_sources` sets others.
        repeats: `(N,)` float64 number of times each image occurs in a training epoch; None: once.
        unreadable_image_limit: Fraction of images that may be unreadable and are skipped in
            training; None: each is an error.

    Raises:
        DataError: If there are no images.
    """

    def __init__(self, files: Sequence[CocoFile], categories: CategoryMap) -> None:
        self._listed_classes = tuple(file.categories.names for file in files)
        self.unannotated = _find_unannotated(self._listed_classes, categories)
        self.repeats: NDArray[np.float64] | None = None
        self.unreadable_image_limit: float | None = None
        self.files = tuple(file.reindex(categories) for file in files)
        self.categories = categories
        self._index = ImageIndex(self.files)
        if not len(self):
            raise DataError(
                f"{', '.join(str(file.path) for file in files)}: the annotations contain no images"
            )

    def __len__(self) -> int:
        return len(self._index)

    def with_sources(
        self,
        weights: Sequence[float] | None = None,
        annotated_classes: Sequence[Collection[str] | None] | None = None,
    ) -> Self:
        """Return the same images with properties of the files as training sources.

        Args:
            weights: Number of times, per file, that each of its images occurs in an epoch, above 0;
                None: once.
            annotated_classes: Names, per file, of the categories that were annotated exhaustively;
                None: those that the file lists. The absence of any other category carries no
                information.
        """
        dataset = copy.copy(self)
        if weights is not None:
            dataset.repeats = self._index.expand_by_file(weights)
        if annotated_classes is not None:
            pairs = zip(annotated_classes, self._listed_classes, strict=True)
            annotated_names = [listed if names is None else names for names, listed in pairs]
            dataset.unannotated = _find_unannotated(annotated_names, self.categories)
        return dataset

    def with_repeated_rare_classes(self, threshold: float) -> Self:
        """Return the same images, with those of rare classes repeated in every epoch.

        Args:
            threshold: Fraction of images below which a class is rare, in (0, 1]; see
                `compute_repeat_factors`.
        """
        dataset = copy.copy(self)
        rows, category_indices, images = self._index.list_image_categories()
        all_factors = compute_repeat_factors(
            rows, category_indices, images=images, threshold=threshold
        )
        factors = self._index.select_values(all_factors)
        dataset.repeats = factors if self.repeats is None else self.repeats * factors
        return dataset

    def with_unreadable_image_limit(self, limit: float) -> Self:
        """Return the same images, with loaders skipping those that cannot be read.

        Args:
            limit: Fraction of all images that may be unreadable, in (0, 1].
        """
        dataset = copy.copy(self)
        dataset.unreadable_image_limit = limit
        return dataset

    @property
    def max_unreadable_images(self) -> int:
        """Maximum number of unreadable images: the fraction rounded up, 0 if each is an error."""
        return math.ceil((self.unreadable_image_limit or 0.0) * len(self))

    def select(self, positions: Sequence[int]) -> Self:
        """Return a subset of the images with the same ids and unchanged `files`."""
        dataset = copy.copy(self)
        dataset._index = self._index.select(positions)
        dataset.repeats = None if self.repeats is None else self.repeats[np.asarray(positions)]
        return dataset

    def record(self, index: int) -> tuple[CocoFile, ImageRecord]:
        """Return the file with the annotations of image `index`, and its record there."""
        return self._index.record(index)

    def path(self, index: int) -> Path:
        """Return the path of image `index`."""
        file, record = self.record(index)
        return file.image_path(record)

    def image_id(self, index: int) -> int | str:
        """Return the id of image `index`, prefixed with the file name if files share ids."""
        return self._index.image_id(index)

    def group(self, index: int) -> str | None:
        """Return the patient, study or sequence of image `index`, or None if it has none."""
        return self.record(index)[1].group

    def truth(self, index: int, table: LabelTable) -> GroundTruth:
        """Return the ground truth of image `index` in original pixels and labels of one head."""
        file, record = self.record(index)
        semantic = None
        if has_pixel_labels(file, record):
            labels = read_pixel_labels(file, record, self.categories)
            view = table.apply(Target(semantic=torch.from_numpy(labels)))
            assert view.semantic is not None
            semantic = view.semantic.numpy()
        return build_truth(file, record, self.image_id(index), table.mapping, semantic)

    def image_labels(self, index: int, table: LabelTable) -> tuple[int, ...] | None:
        """Return the image-level labels of image `index` for one head, or None if not annotated."""
        file, record = self.record(index)
        return map_image_labels(file, record, table.mapping)

    def annotates(self, fields: Iterable[str]) -> bool:
        """Return whether the files have the annotations for all of some fields of `Target`.

        Fields that this package does not define count as annotated.
        """
        present = {kind for file in self.files for kind in file.annotated}
        return _has_annotations_for(present, fields)

    @staticmethod
    def file_annotates(file: CocoFile, fields: Iterable[str]) -> bool:
        """Return whether a file has the annotations for all of some fields of `Target`.

        Fields that this package does not define count as annotated.
        """
        return _has_annotations_for(set(file.annotated), fields)

    def count_objects(self) -> dict[str, int]:
        """Return category name -> number of objects, without crowds."""
        totals = sum(file.count_objects() for file in self.files)
        return dict(zip(self.categories.names, np.asarray(totals).tolist(), strict=True))


def _has_annotations_for(present: set[str], fields: Iterable[str]) -> bool:
    """Return whether these kinds of annotations cover some fields of `Target`."""
    sources = {
        "boxes": {"boxes"},
        "labels": {"boxes"},
        "masks": {"masks"},
        "semantic": {"semantic", "masks"},
        "image_labels": {"image"},
    }
    return all(sources.get(name, present) & present for name in fields)


def _find_unannotated(
    annotated_classes: Sequence[Collection[str]], categories: CategoryMap
) -> tuple[tuple[int, ...], ...]:
    """Return, for each file, the indices of the categories that were not annotated."""
    return tuple(
        tuple(i for i, name in enumerate(categories.names) if name not in names)
        for names in map(set, annotated_classes)
    )
