"""Torch dataset of typed samples from COCO files."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import Dataset

from resnet_tasks.data.augmentation.transforms import decode_labels
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.pixel_labels import has_pixel_labels, read_pixel_labels
from resnet_tasks.data.datasets.ground_truth import build_truth
from resnet_tasks.data.datasets.image_index import ImageIndex
from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation, convert_to_float
from resnet_tasks.data.datasets.samples import as_tensor
from resnet_tasks.data.datasets.stored_images import decode_stored_image, open_stored_image
from resnet_tasks.data.datasets.targets import build_target
from resnet_tasks.data.images.image_cache import DecodedImage, make_cache
from resnet_tasks.data.images.preprocessing import Preparation, PreparedImage
from resnet_tasks.data.sampling.epoch_sampler import EpochSampler
from resnet_tasks.data.sampling.sample_keys import Key, unpack_key
from resnet_tasks.errors import DataError, ImageError
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.targets import Target

_PASTED_FIELDS = {"boxes": ("boxes", "labels", "ignore"), "masks": ("masks",)}
"""Annotations that copy-paste needs, and the fields of `Target` that they fill."""


class CocoDataset(Dataset[Sample]):
    """Torch dataset of the images of one or more COCO files.

    Samples are indexed by position or `SampleKey`. Their values are float32 in 0..1.

    Args:
        files: Parsed COCO files with the same categories.
        categories: Category map that the labels of the samples are indices into.
        fields: Annotations to load: any of `boxes`, `masks`, `semantic`, `image_labels`. A field
            that a file does not annotate stays `None`.
        preparation: Steps from a stored image to a sample, without augmentation.
        augmentation: Augmentation and seed of the samples.
        epoch_sampler: Sampler of the batches of the training epochs.
        annotated_classes: Names, per file, of the categories that were annotated exhaustively; None
            (for a file or for all): those that the file lists. The absence of any other category
            carries no information.
        unreadable_image_limit: Fraction of all images that may be unreadable and are skipped in
            training, up to 1; 0: each is an error.
        cache: Whether to keep resized images in memory: True, False or "auto" (if they take at most
            1 GB).

    Attributes:
        files: Files with the labels of their objects as indices into `categories`.
        categories: Category map that the labels are indices into.
        fields: Requested annotations.
        preparation: Steps from a stored image to a sample, without augmentation.
        augmentation: Augmentation and seed of the samples.
        epoch_sampler: Sampler of the batches of the training epochs.
        image_index: Index of the images: their files, records and ids.
        unannotated: Ascending indices, per file, of the categories that were not annotated.
        max_unreadable_images: Maximum number of unreadable images, the fraction rounded up.
        cache: In-memory cache of resized images within one process, or None.

    Raises:
        DataError: If there are no images.
    """

    def __init__(
        self,
        files: Sequence[CocoFile],
        *,
        categories: CategoryMap,
        fields: Sequence[str] = ("boxes", "masks", "semantic", "image_labels"),
        preparation: Preparation = Preparation(),  # noqa: B008  # frozen
        augmentation: SampleAugmentation = SampleAugmentation(),  # noqa: B008  # frozen
        epoch_sampler: EpochSampler = EpochSampler(),  # noqa: B008  # frozen
        annotated_classes: Sequence[Collection[str] | None] | None = None,
        unreadable_image_limit: float = 0.0,
        cache: bool | str = "auto",
    ) -> None:
        self.unannotated = _find_unannotated(files, categories, annotated_classes)
        self.files = tuple(file.reindex(categories) for file in files)
        self.categories = categories
        self.image_index = ImageIndex(self.files)
        if not len(self):
            raise DataError(
                f"{', '.join(str(file.path) for file in files)}: the annotations contain no images"
            )
        self.fields = frozenset(fields)
        self.preparation = preparation
        self.augmentation = augmentation
        self.epoch_sampler = epoch_sampler
        self._unreadable_image_limit = unreadable_image_limit
        self.max_unreadable_images = math.ceil(unreadable_image_limit * len(self))
        self._keep_uint8 = False
        sizes = np.concatenate([file.images.sizes for file in self.files])
        self.cache = make_cache(cache, sizes, preparation)

    def __len__(self) -> int:
        return len(self.image_index)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index, scale, visit = unpack_key(key)
        sample = self.augmentation(self.load_sample(index, scale), epoch, visit)
        if self.augmentation.copy_paste is not None:
            return self._paste_objects(sample, index, scale)
        return sample if self._keep_uint8 else convert_to_float(sample)

    def load_sample(self, index: int, scale: float = 1.0) -> Sample:
        """Load a prepared image without augmentation and seed.

        Its values are those of `Preparation.prepare_pixels`, uint8 or float32. With copy-paste, the
        annotations that it needs are loaded, too.

        Args:
            index: Index of the image.
            scale: Scale relative to the prepared size.
        """
        file, record = self.image_index.record(index)
        decoded = self._load_decoded(index, scale)
        size = (int(decoded.pixels.shape[0]), int(decoded.pixels.shape[1]))
        geometry = Geometry.from_resize(decoded.original_size, size)
        pasted_fields = set() if self.augmentation.copy_paste is None else _PASTED_FIELDS.keys()
        target = build_target(file, record, geometry, self.fields | pasted_fields)
        if decoded.semantic is not None:
            target = replace(target, semantic=torch.from_numpy(decode_labels(decoded.semantic)))
        if unknown := self.unannotated[self.image_index.locate(index)[0]]:
            target = replace(target, unannotated=torch.tensor(unknown))
        image_id = self.image_index.image_id(index)
        return Sample(as_tensor(decoded.pixels), geometry, image_id, record.file_name, target)

    def prepare_image(self, index: int) -> PreparedImage:
        """Open image `index` for reading parts of it.

        Raises:
            DataError: If it cannot be read or has a size other than in its file.
        """
        return open_stored_image(self.preparation, *self.image_index.record(index))

    def path(self, index: int) -> Path:
        """Return the path of image `index`."""
        file, record = self.image_index.record(index)
        return file.image_path(record)

    def image_id(self, index: int) -> int | str:
        """Return the id of image `index`, prefixed with the file name if files share ids."""
        return self.image_index.image_id(index)

    def group(self, index: int) -> str | None:
        """Return the patient, study or sequence of image `index`, or None if it has none."""
        return self.image_index.record(index)[1].group

    def truth(self, index: int, table: LabelTable) -> GroundTruth:
        """Return the ground truth of image `index` in original pixels and labels of one head."""
        file, record = self.image_index.record(index)
        semantic = None
        if has_pixel_labels(file, record):
            labels = read_pixel_labels(file, record, self.categories)
            view = table.apply(Target(semantic=torch.from_numpy(labels)))
            assert view.semantic is not None
            semantic = view.semantic.numpy()
        return build_truth(file, record, self.image_id(index), table.mapping, semantic)

    def count_objects(self) -> dict[str, int]:
        """Return category name -> number of objects, without crowds."""
        totals = sum(file.count_objects() for file in self.files)
        return dict(zip(self.categories.names, np.asarray(totals).tolist(), strict=True))

    # --- views of the dataset

    def select(self, positions: Sequence[int]) -> Self:
        """Return a subset of the images with the same ids and unchanged `files`, uncached."""
        dataset = copy.copy(self)
        dataset.image_index = self.image_index.select(positions)
        dataset.epoch_sampler = self.epoch_sampler.select(positions)
        dataset.max_unreadable_images = math.ceil(self._unreadable_image_limit * len(dataset))
        dataset.cache = None
        return dataset

    def at_scale(self, factor: float) -> Self:
        """Return the same images, prepared at `factor` times the size, uncached."""
        dataset = copy.copy(self)
        scale = self.preparation.scale * factor
        dataset.preparation = replace(self.preparation, scale=scale)
        dataset.cache = None
        return dataset

    def as_uint8(self) -> Self:
        """Return the same images, with uint8 samples unless a step creates other values."""
        dataset = copy.copy(self)
        dataset._keep_uint8 = True
        return dataset

    def _paste_objects(self, sample: Sample, index: int, scale: float) -> Sample:
        """Paste objects of another image, and drop annotations that only copy-paste needs."""

        def load_other(number: int) -> Sample | None:
            try:
                return self.load_sample((index + 1 + number) % len(self), scale)
            except ImageError:
                if not self.max_unreadable_images:
                    raise
                return None  # It is counted when it is loaded as a sample itself.

        pasted = self.augmentation.paste_objects(sample, len(self) - 1, load_other)
        dropped: dict[str, Any] = {
            name: None
            for field, names in _PASTED_FIELDS.items()
            if field not in self.fields
            for name in names
        }
        return replace(pasted, target=replace(pasted.target, **dropped))

    def _load_decoded(self, index: int, scale: float) -> DecodedImage:
        cached = None if self.cache is None else self.cache.get(index, scale)
        if cached is not None:
            return cached
        file, record = self.image_index.record(index)
        preparation = replace(self.preparation, scale=self.preparation.scale * scale)
        categories = self.categories if "semantic" in self.fields else None
        try:
            decoded = decode_stored_image(preparation, file, record, categories)
        except DataError as error:
            path = str(file.image_path(record))
            raise ImageError(str(error), self.image_id(index), path) from None
        if self.cache is not None:
            self.cache.add(index, scale, decoded)
        return decoded


def _find_unannotated(
    files: Sequence[CocoFile],
    categories: CategoryMap,
    annotated_classes: Sequence[Collection[str] | None] | None,
) -> tuple[tuple[int, ...], ...]:
    """Return, for each file, the indices of the categories that were not annotated."""
    unannotated = []
    for file, names in zip(files, annotated_classes or [None] * len(files), strict=True):
        annotated_names = set(file.categories.names if names is None else names)
        unannotated.append(
            tuple(i for i, name in enumerate(categories.names) if name not in annotated_names)
        )
    return tuple(unannotated)
