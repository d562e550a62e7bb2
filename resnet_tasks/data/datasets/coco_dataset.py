"""COCO files as a torch data set of typed samples."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from resnet_tasks.data.augmentation.copy_paste import CopyPaste
from resnet_tasks.data.augmentation.transforms import Augmentation, decode_labels, encode_labels
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.pixel_labels import has_pixel_labels, read_pixel_labels
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.datasets.ground_truth import build_truth, map_image_labels
from resnet_tasks.data.datasets.image_index import ImageIndex
from resnet_tasks.data.datasets.samples import as_tensor
from resnet_tasks.data.datasets.targets import build_target
from resnet_tasks.data.images.image_cache import DecodedImage, make_cache
from resnet_tasks.data.images.intensity import Intensity, Resize, resize_labels
from resnet_tasks.data.images.preprocessing import Preparation, PreparedImage, to_unit_range
from resnet_tasks.data.sampling.rare_classes import compute_repeat_factors
from resnet_tasks.data.sampling.sample_keys import Key, derive_sample_seed, unpack_key
from resnet_tasks.errors import DataError, ImageError
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.targets import Target
from resnet_tasks.structures.tasks import Task


class CocoDataset(Dataset[Sample]):
    """Images of one or more COCO files.

    Args:
        files: Parsed COCO files with the same categories.
        categories: Categories whose indices the samples' labels are.
        fields: What to load: any of `boxes`, `masks`, `semantic`, `image_labels`. A field that a
            file does not annotate stays `None`.
        resize: Box that every image is brought to; None keeps the stored size.
        intensity: How stored values become 0..1.
        channels: Channels of the images.
        augment: Applied when given; its randomness is a function of (seed, epoch, image).
        seed: Of the run.
        cache: Keep resized images in memory: True, False or "auto" (where they take at most 1
            GB).

    Attributes:
        files: With their objects as indices into `categories`.
        categories: As given.
        unannotated: Per file: indices of the categories that were not looked for, rising; those
            that the file does not list, unless `with_sources` says otherwise.
        fields: What is loaded.
        repeats: `(N,)` how often each image comes in an epoch of training; None: once.
        bad_image_limit: Share of images that may be unreadable and are left out of training;
            None: each is an error.
        preparation: The steps between a stored image and a sample, augmentation apart.

    Raises:
        DataError: If there is no image at all.
    """

    def __init__(
        self,
        files: Sequence[CocoFile],
        *,
        categories: CategoryMap,
        fields: Sequence[str] = ("boxes", "semantic", "image_labels"),
        resize: Resize | None = None,
        intensity: Intensity | None = None,
        channels: int = 3,
        augment: Augmentation | None = None,
        seed: int = 0,
        cache: bool | str = "auto",
    ) -> None:
        self._listed_classes = tuple(file.categories.names for file in files)
        self.unannotated = _find_unannotated(self._listed_classes, categories)
        self.repeats: NDArray[np.float64] | None = None
        self.bad_image_limit: float | None = None
        self.files = tuple(file.reindex(categories) for file in files)
        self.categories = categories
        self._index = ImageIndex(self.files)
        if not len(self):
            raise DataError(
                f"{', '.join(str(file.path) for file in files)}: there is no image in it"
            )
        self.fields = frozenset(fields)
        self.preparation = Preparation(channels, resize, intensity or Intensity())
        self._augment = augment
        self._copy_paste: CopyPaste | None = None
        self._paste_only_fields: frozenset[str] = frozenset()  # fields that only pasting needs
        self._scales: tuple[float, ...] = ()
        self._keep_uint8 = False
        self._seed = seed
        sizes = np.concatenate([file.images.sizes for file in self.files])
        self._cache = make_cache(cache, sizes, self.preparation)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index, scale, visit = unpack_key(key)
        sample = self.finalize_sample(self.load_sample(index, scale), index, epoch, visit)
        if self._copy_paste is None:
            return sample
        return self._paste_objects(sample, index, scale)

    def load_sample(self, index: int, scale: float = 1.0) -> Sample:
        """A prepared image, before all that depends on the epoch (`finished`).

        Its values are those of `Preparation.pixels`: 8 bits, where `finished` shall make 0..1 of
        them, or float32.

        Args:
            index: Of the image.
            scale: Relative to the prepared size.
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
        """A sample of image `index`, or of a part of it, with all that depends on the epoch.

        Args:
            sample: Its id decides, with epoch and visit, what is random; values as of `plain`.
            index: Of the image.
            epoch: From 0.
            visit: How often it has come before in the epoch.
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
        # The way back through an augmentation is not kept: its images are for training only.
        geometry = replace(geometry, input_size=(int(image.shape[0]), int(image.shape[1])))
        return Sample(as_tensor(image), geometry, image_id, sample.file_name, target, seed)

    def _paste_objects(self, sample: Sample, index: int, scale: float) -> Sample:
        """An image with objects of another one, where chance wants it so."""
        assert self._copy_paste is not None
        name = f"{sample.image_id}, pasted into"
        # The sample's own seed is a function of (seed, epoch, id, visit).
        rng = np.random.default_rng(derive_sample_seed(sample.seed, 0, name))
        image, target = sample.image, sample.target
        if rng.random() < self._copy_paste.p and len(self) > 1:
            other = (index + 1 + int(rng.integers(len(self) - 1))) % len(self)
            try:
                other_sample = self.load_sample(other, scale)
            except ImageError:
                if self.bad_image_limit is None:
                    raise
                # It is counted when its own turn comes.
            else:
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
        """The same images, some of them with objects of others: a function of (seed, epoch, id).

        Args:
            copy_paste: How often, and what.
        """
        dataset = copy.copy(self)
        dataset._copy_paste = copy_paste
        dataset._paste_only_fields = frozenset({"boxes", "masks"}) - self.fields
        dataset.fields = self.fields | dataset._paste_only_fields
        return dataset

    def with_scales(self, scales: Sequence[float]) -> CocoDataset:
        """The same images, whose training batches have one of several sizes.

        Args:
            scales: Relative to the prepared size, one drawn per batch; none: all have that size.
        """
        dataset = copy.copy(self)
        dataset._scales = tuple(scales)
        return dataset

    def as_uint8(self) -> CocoDataset:
        """The same images, whose samples hold 8 bits where nothing made other values of them."""
        dataset = copy.copy(self)
        dataset._keep_uint8 = True
        return dataset

    def with_limit(self, max_pixels: int) -> CocoDataset:
        """The same images, of which those with more pixels than that are refused."""
        dataset = copy.copy(self)
        dataset.preparation = replace(self.preparation, max_pixels=max_pixels)
        return dataset

    def with_sources(
        self,
        weights: Sequence[float] | None = None,
        annotated_classes: Sequence[Collection[str] | None] | None = None,
    ) -> CocoDataset:
        """The same images, with what is known of the files as sources of training.

        Args:
            weights: Per file: how often each of its images comes per epoch, above 0; None: once.
            annotated_classes: Per file: names of the categories that were annotated wherever they
                appear;
                None: those that the file lists. That another one is not there teaches nothing.
        """
        dataset = copy.copy(self)
        if weights is not None:
            dataset.repeats = self._index.expand_by_file(weights)
        if annotated_classes is not None:
            pairs = zip(annotated_classes, self._listed_classes, strict=True)
            annotated_names = [listed if names is None else names for names, listed in pairs]
            dataset.unannotated = _find_unannotated(annotated_names, self.categories)
        return dataset

    def with_repeated_rare_classes(self, threshold: float) -> CocoDataset:
        """The same images; those that show rare classes come several times per epoch.

        Args:
            threshold: Share of images below which a class is rare, of (0, 1] (`repeat_factors`).
        """
        dataset = copy.copy(self)
        rows, category_indices, images = self._index.list_image_categories()
        all_factors = compute_repeat_factors(
            rows, category_indices, images=images, threshold=threshold
        )
        factors = self._index.select_values(all_factors)
        dataset.repeats = factors if self.repeats is None else self.repeats * factors
        return dataset

    def with_bad_image_limit(self, limit: float) -> CocoDataset:
        """The same images; loaders leave out those that cannot be read.

        Args:
            limit: Share of all images that may be so, of (0, 1].
        """
        dataset = copy.copy(self)
        dataset.bad_image_limit = limit
        return dataset

    @property
    def max_bad_images(self) -> int:
        """How many images may be unreadable: the share rounded up; 0 where each is an error."""
        return math.ceil((self.bad_image_limit or 0.0) * len(self))

    def batch_keys(
        self,
        epoch: int,
        number: int,
        positions: Sequence[int],
        visits: Sequence[int] | None = None,
    ) -> list[Key]:
        """Keys of one training batch, all at one scale, so that padded sizes stay few.

        The scale is a function of (seed, epoch, number): it depends neither on processes nor on
        where a run was resumed.

        Args:
            epoch: From 0.
            number: Of the batch in the epoch, from 0.
            positions: Of the images.
            visits: How often each of them has come before in the epoch; None: never.
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
        """Image `index` as stored, `(h, w, C)` at full precision, upright.

        Raises:
            DataError: If it cannot be read, or has another size than its file says.
        """
        return self._read_image(*self.record(index))

    def prepare_image(self, index: int) -> PreparedImage:
        """Image `index`, of which parts can be read.

        Raises:
            DataError: If it cannot be read, or has another size than its file says.
        """
        file, record = self.record(index)
        prepared_image = self.preparation.open_image(file.image_path(record))
        _require_size(file, record, prepared_image.original_size)
        return prepared_image

    def at_scale(self, factor: float) -> CocoDataset:
        """The same images, prepared `factor` times as large; none of them kept in memory."""
        dataset = copy.copy(self)
        scale = self.preparation.scale * factor
        dataset.preparation = replace(self.preparation, scale=scale)
        dataset._cache = None
        return dataset

    def select(self, positions: Sequence[int]) -> CocoDataset:
        """Some of its images, under the same ids; `files` stay as they are."""
        dataset = copy.copy(self)
        dataset._index = self._index.select(positions)
        dataset.repeats = None if self.repeats is None else self.repeats[np.asarray(positions)]
        dataset._cache = None
        return dataset

    def record(self, index: int) -> tuple[CocoFile, ImageRecord]:
        """The file that image `index` is annotated in, and its record there."""
        return self._index.record(index)

    def path(self, index: int) -> Path:
        """File of image `index`."""
        file, record = self.record(index)
        return file.image_path(record)

    def image_id(self, index: int) -> int | str:
        """Id of image `index`; made unique with the file's name where several files share ids."""
        return self._index.image_id(index)

    def group(self, index: int) -> str | None:
        """Patient, study or sequence of image `index`; None where the file names none."""
        return self.record(index)[1].group

    def truth(self, index: int, table: LabelTable) -> GroundTruth:
        """What is annotated on image `index`, in original pixels and the labels of one head."""
        file, record = self.record(index)
        semantic = None
        if has_pixel_labels(file, record):
            labels = read_pixel_labels(file, record, self.categories)
            view = table.apply(Target(semantic=torch.from_numpy(labels)))
            assert view.semantic is not None
            semantic = view.semantic.numpy()
        return build_truth(file, record, self.image_id(index), table.mapping, semantic)

    def image_labels(self, index: int, table: LabelTable) -> tuple[int, ...] | None:
        """Labels of image `index` as a whole, as one head sees them; None: not annotated."""
        file, record = self.record(index)
        return map_image_labels(file, record, table.mapping)

    def annotates(self, task: Task) -> bool:
        """Whether any of the files annotates what `task` needs; fields of the user's own count."""
        return _has_annotations_for({kind for file in self.files for kind in file.annotated}, task)

    @staticmethod
    def file_annotates(file: CocoFile, task: Task) -> bool:
        """Whether one file annotates what `task` needs; fields of the user's own count."""
        return _has_annotations_for(set(file.annotated), task)

    def count_objects(self) -> dict[str, int]:
        """Objects per category name, crowds left out."""
        totals = sum(file.count_objects() for file in self.files)
        return dict(zip(self.categories.names, np.asarray(totals).tolist(), strict=True))

    @property
    def is_cached(self) -> bool:
        """Whether images that were read once come from memory, within one process."""
        return self._cache is not None

    def _load_decoded(self, index: int, scale: float) -> DecodedImage:
        cached = None if self._cache is None else self._cache.get(index, scale)
        if cached is not None:
            return cached
        file, record = self.record(index)
        try:
            decoded = self._decode(file, record, scale)
        except DataError as error:
            path = str(file.image_path(record))
            raise ImageError(str(error), self.image_id(index), path) from None
        if self._cache is not None:
            self._cache.add(index, scale, decoded)
        return decoded

    def _decode(self, file: CocoFile, record: ImageRecord, scale: float) -> DecodedImage:
        image = self._read_image(file, record)
        preparation = replace(self.preparation, scale=self.preparation.scale * scale)
        original = (record.height, record.width)
        semantic = None
        if "semantic" in self.fields and has_pixel_labels(file, record):
            labels = read_pixel_labels(file, record, self.categories)
            semantic = resize_labels(
                encode_labels(labels), preparation.compute_input_size(original)
            )
        image_name = str(file.image_path(record))
        return DecodedImage(preparation.prepare_pixels(image, image_name), semantic, original)

    def _read_image(self, file: CocoFile, record: ImageRecord) -> NDArray[Any]:
        image = self.preparation.read(file.image_path(record))
        _require_size(file, record, (int(image.shape[0]), int(image.shape[1])))
        return image


def _sample_to_pixels(sample: Sample) -> NDArray[np.float32]:
    """`(h, w, C)` of a sample."""
    return np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())


def _has_annotations_for(present: set[str], task: Task) -> bool:
    """Whether these kinds of annotations hold what a task needs."""
    sources = {
        "boxes": {"boxes"},
        "labels": {"boxes"},
        "semantic": {"semantic", "masks"},
        "image_labels": {"image"},
    }
    return all(sources.get(name, present) & present for name in task.target_fields)


def _find_unannotated(
    annotated_classes: Sequence[Collection[str]], categories: CategoryMap
) -> tuple[tuple[int, ...], ...]:
    """Per file: indices of the categories that were not looked for."""
    return tuple(
        tuple(i for i, name in enumerate(categories.names) if name not in names)
        for names in map(set, annotated_classes)
    )


def _require_size(file: CocoFile, record: ImageRecord, size: tuple[int, int]) -> None:
    if size != (record.height, record.width):
        raise DataError(
            f"{file.image_path(record)} is {size[1]} x {size[0]} (width x height, upright), but "
            f"image {record.id!r} of {file.path} says {record.width} x {record.height}; "
            "repair the file (resnet-tasks data check)"
        )
