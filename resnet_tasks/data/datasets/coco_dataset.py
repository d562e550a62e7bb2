"""Torch dataset of typed samples from COCO files."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from resnet_tasks.data.augmentation.copy_paste import CopyPaste
from resnet_tasks.data.augmentation.transforms import Augmentation, decode_labels
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.datasets.annotated_images import AnnotatedImages
from resnet_tasks.data.datasets.samples import as_tensor
from resnet_tasks.data.datasets.stored_images import (
    decode_stored_image,
    open_stored_image,
    read_stored_image,
)
from resnet_tasks.data.datasets.targets import build_target
from resnet_tasks.data.images.image_cache import DecodedImage, make_cache
from resnet_tasks.data.images.intensity import Intensity, Resize
from resnet_tasks.data.images.preprocessing import Preparation, PreparedImage, to_unit_range
from resnet_tasks.data.sampling.sample_keys import Key, derive_sample_seed, unpack_key
from resnet_tasks.errors import DataError, ImageError
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Sample


class CocoDataset(AnnotatedImages, Dataset[Sample]):
    """Torch dataset of the images of one or more COCO files.

    Args:
        files: Parsed COCO files with the same categories.
        categories: Category map that the labels of the samples are indices into.
        fields: Annotations to load: any of `boxes`, `masks`, `semantic`, `image_labels`. A field
            that a file does not annotate stays `None`.
        resize: Box that every image is resized to; None keeps the stored size.
        intensity: Step that maps stored values to 0..1.
        channels: Number of channels of the images.
        augment: Augmentation of the samples, or None. Its randomness is a function of (seed, epoch,
            image).
        seed: Seed of the run.
        cache: Whether to keep resized images in memory: True, False or "auto" (if they take at most
            1 GB).

    Attributes:
        fields: Loaded annotations.
        preparation: Steps from a stored image to a sample, without augmentation.

    Raises:
        DataError: If there are no images.
    """

    def __init__(
        self,
        files: Sequence[CocoFile],
        *,
        categories: CategoryMap,
        fields: Sequence[str] = ("boxes", "masks", "semantic", "image_labels"),
        resize: Resize | None = None,
        intensity: Intensity | None = None,
        channels: int = 3,
        augment: Augmentation | None = None,
        seed: int = 0,
        cache: bool | str = "auto",
    ) -> None:
        super().__init__(files, categories)
        self.fields = frozenset(fields)
        self.preparation = Preparation(channels, resize, intensity or Intensity())
        self._augment = augment
        self._copy_paste: CopyPaste | None = None
        self._paste_only_fields: frozenset[str] = frozenset()  # fields loaded only for copy-paste
        self._scales: tuple[float, ...] = ()
        self._keep_uint8 = False
        self._seed = seed
        sizes = np.concatenate([file.images.sizes for file in self.files])
        self._cache = make_cache(cache, sizes, self.preparation)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index, scale, visit = unpack_key(key)
        sample = self.finalize_sample(self.load_sample(index, scale), index, epoch, visit)
        if self._copy_paste is None:
            return sample
        return self._paste_objects(sample, index, scale)

    def load_sample(self, index: int, scale: float = 1.0) -> Sample:
        """Load a prepared image, without the steps that depend on the epoch (`finalize_sample`).

        Its values are those of `Preparation.prepare_pixels`: uint8 if `finalize_sample` converts
        them to 0..1, otherwise float32.

        Args:
            index: Index of the image.
            scale: Scale relative to the prepared size.
        """
        file, record = self.record(index)
        decoded = self._load_decoded(index, scale)
        size = (int(decoded.pixels.shape[0]), int(decoded.pixels.shape[1]))
        geometry = Geometry.from_resize(decoded.original_size, size)
        target = build_target(file, record, geometry, self.fields)
        if decoded.semantic is not None:
            target = replace(target, semantic=torch.from_numpy(decode_labels(decoded.semantic)))
        return Sample(
            as_tensor(decoded.pixels),
            geometry,
            self.image_id(index),
            record.file_name,
            target,
        )

    def finalize_sample(self, sample: Sample, index: int, epoch: int, visit: int) -> Sample:
        """Apply the steps that depend on the epoch to a sample of image `index` or of a part of it.

        Args:
            sample: Sample with values as of `Preparation.prepare_pixels`. Its id, the epoch and the
                visit determine all randomness.
            index: Index of the image.
            epoch: Epoch, from 0.
            visit: Number of earlier occurrences of the sample in the epoch.
        """
        target, image_id, geometry = sample.target, sample.image_id, sample.geometry
        if unknown := self.unannotated[self._index.locate(index)[0]]:
            target = replace(target, unannotated=torch.tensor(unknown))
        name = image_id if not visit else f"{image_id} again, {visit}"
        seed = derive_sample_seed(self._seed, epoch, name)
        image = sample.image.permute(1, 2, 0).numpy()
        if self._augment is not None:
            image, target = self._augment(image, target, seed)
        if not self._keep_uint8 or self._copy_paste is not None:
            image = to_unit_range(image)
        # Augmented images are only used in training, so the geometry omits the augmentation.
        geometry = replace(geometry, input_size=(int(image.shape[0]), int(image.shape[1])))
        return Sample(as_tensor(image), geometry, image_id, sample.file_name, target, seed)

    def _paste_objects(self, sample: Sample, index: int, scale: float) -> Sample:
        """Paste objects of another image into a sample with probability `CopyPaste.p`."""
        assert self._copy_paste is not None
        name = f"{sample.image_id}, pasted into"
        # The seed of the sample is a function of (seed, epoch, id, visit).
        rng = np.random.default_rng(derive_sample_seed(sample.seed, 0, name))
        image, target = sample.image, sample.target
        if rng.random() < self._copy_paste.p and len(self) > 1:
            other = (index + 1 + int(rng.integers(len(self) - 1))) % len(self)
            try:
                other_sample = self.load_sample(other, scale)
            except ImageError:
                if self.unreadable_image_limit is None:
                    raise
                # It is counted when it is loaded as a sample itself.
            else:
                # The random id gives the pasted image a different augmentation at every use.
                renamed_sample = replace(
                    other_sample, image_id=f"{other_sample.image_id} in {rng.integers(2**63)}"
                )
                source = self.finalize_sample(renamed_sample, other, 0, 0)
                pixels, target = self._copy_paste(
                    (_sample_to_pixels(sample), target),
                    (_sample_to_pixels(source), source.target),
                    rng,
                )
                image = as_tensor(pixels)
        dependent_fields = {"boxes": ("boxes", "labels", "ignore"), "masks": ("masks",)}
        dropped: dict[str, Any] = {
            target_field: None
            for field in self._paste_only_fields
            for target_field in dependent_fields[field]
        }
        return replace(sample, image=image, target=replace(target, **dropped))

    def with_copy_paste(self, copy_paste: CopyPaste) -> CocoDataset:
        """Return the same images, with objects of other images pasted into some of them.

        The result is a function of (seed, epoch, id).

        Args:
            copy_paste: Copy-paste augmentation.
        """
        dataset = copy.copy(self)
        dataset._copy_paste = copy_paste
        dataset._paste_only_fields = frozenset({"boxes", "masks"}) - self.fields
        dataset.fields = self.fields | dataset._paste_only_fields
        return dataset

    def with_scales(self, scales: Sequence[float]) -> CocoDataset:
        """Return the same images, with one of several sizes for each training batch.

        Args:
            scales: Scales relative to the prepared size, one drawn per batch. Without scales, all
                batches have the prepared size.
        """
        dataset = copy.copy(self)
        dataset._scales = tuple(scales)
        return dataset

    def as_uint8(self) -> CocoDataset:
        """Return the same images, with uint8 samples unless a step creates other values."""
        dataset = copy.copy(self)
        dataset._keep_uint8 = True
        return dataset

    def with_limit(self, max_pixels: int) -> CocoDataset:
        """Return the same images, but reject those with more than `max_pixels` pixels."""
        dataset = copy.copy(self)
        dataset.preparation = replace(self.preparation, max_pixels=max_pixels)
        return dataset

    def batch_keys(
        self,
        epoch: int,
        number: int,
        positions: Sequence[int],
        visits: Sequence[int] | None = None,
    ) -> list[Key]:
        """Return the keys of one training batch, all at one scale so that padded sizes stay few.

        The scale is a function of (seed, epoch, number). It depends neither on the number of
        processes nor on the step at which a run was resumed.

        Args:
            epoch: Epoch, from 0.
            number: Index of the batch in the epoch, from 0.
            positions: Positions of the images.
            visits: Number of earlier occurrences of each image in the epoch; None: 0 for all.
        """
        keys: list[Key] = [(epoch, position) for position in positions]
        if not self._scales and not any(visits or ()):
            return keys
        scales = self._scales or (1.0,)
        scale_index = derive_sample_seed(self._seed, epoch, f"scale of batch {number}") % len(
            scales
        )
        visit_counts = visits or [0] * len(positions)
        return [
            (epoch, position, scales[scale_index], visit)
            if visit
            else (epoch, position, scales[scale_index])
            for position, visit in zip(positions, visit_counts, strict=True)
        ]

    def load_image(self, index: int) -> NDArray[Any]:
        """Load image `index` as stored, `(h, w, C)` at full precision, upright.

        Raises:
            DataError: If it cannot be read or has a size other than in its file.
        """
        return read_stored_image(self.preparation, *self.record(index))

    def prepare_image(self, index: int) -> PreparedImage:
        """Open image `index` for reading parts of it.

        Raises:
            DataError: If it cannot be read or has a size other than in its file.
        """
        return open_stored_image(self.preparation, *self.record(index))

    def at_scale(self, factor: float) -> CocoDataset:
        """Return the same images, prepared at `factor` times the size and without a cache."""
        dataset = copy.copy(self)
        scale = self.preparation.scale * factor
        dataset.preparation = replace(self.preparation, scale=scale)
        dataset._cache = None
        return dataset

    def select(self, positions: Sequence[int]) -> Self:
        """Return a subset of the images with the same ids and unchanged `files`."""
        dataset = super().select(positions)
        dataset._cache = None
        return dataset

    @property
    def is_cached(self) -> bool:
        """True if images are kept in memory after the first read, within one process."""
        return self._cache is not None

    def _load_decoded(self, index: int, scale: float) -> DecodedImage:
        cached = None if self._cache is None else self._cache.get(index, scale)
        if cached is not None:
            return cached
        file, record = self.record(index)
        preparation = replace(self.preparation, scale=self.preparation.scale * scale)
        categories = self.categories if "semantic" in self.fields else None
        try:
            decoded = decode_stored_image(preparation, file, record, categories)
        except DataError as error:
            path = str(file.image_path(record))
            raise ImageError(str(error), self.image_id(index), path) from None
        if self._cache is not None:
            self._cache.add(index, scale, decoded)
        return decoded


def _sample_to_pixels(sample: Sample) -> NDArray[np.float32]:
    """Return the `(h, w, C)` float32 pixels of a sample."""
    return np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
