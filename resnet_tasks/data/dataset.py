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

from resnet_tasks.data.coco import CategoryMap, CocoFile, ImageRecord
from resnet_tasks.data.copy_paste import CopyPaste
from resnet_tasks.data.picture_cache import DecodedPicture, cache_for
from resnet_tasks.data.picture_index import PictureIndex
from resnet_tasks.data.pixel_labels import has_pixel_labels, pixel_labels
from resnet_tasks.data.pixels import Intensity, Resize, resize_labels
from resnet_tasks.data.preparation import Preparation, PreparedPicture, unit_range
from resnet_tasks.data.rare_classes import repeat_factors
from resnet_tasks.data.sample_keys import Key, parts_of, sample_seed
from resnet_tasks.data.samples import as_tensor
from resnet_tasks.data.targets import annotated_target
from resnet_tasks.data.transforms import Augmentation, decode_labels, encode_labels
from resnet_tasks.data.truths import annotated_truth, mapped_labels
from resnet_tasks.errors import DataError, PictureError
from resnet_tasks.structures import (
    Geometry,
    LabelTable,
    Sample,
    Target,
    Task,
    Truth,
)


class CocoDataset(Dataset[Sample]):
    """Pictures of one or more COCO files.

    Args:
        files: Parsed COCO files with the same categories.
        categories: Categories whose indices the samples' labels are.
        fields: What to load: any of `boxes`, `masks`, `semantic`, `image_labels`. A field that a
            file does not annotate stays `None`.
        resize: Box that every picture is brought to; None keeps the stored size.
        intensity: How stored values become 0..1.
        channels: Channels of the pictures.
        augment: Applied when given; its randomness is a function of (seed, epoch, picture).
        seed: Of the run.
        cache: Keep resized pictures in memory: True, False or "auto" (where they take at most 1
            GB).

    Attributes:
        files: With their objects as indices into `categories`.
        categories: As given.
        unannotated: Per file: indices of the categories that were not looked for, rising; those
            that the file does not list, unless `with_sources` says otherwise.
        fields: What is loaded.
        repeats: `(N,)` how often each picture comes in an epoch of training; None: once.
        bad_picture_limit: Share of pictures that may be unreadable and are left out of training;
            None: each is an error.
        preparation: The steps between a stored picture and a sample, augmentation apart.

    Raises:
        DataError: If there is no picture at all.
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
        self._listed = tuple(file.categories.names for file in files)
        self.unannotated = _unannotated(self._listed, categories)
        self.repeats: NDArray[np.float64] | None = None
        self.bad_picture_limit: float | None = None
        self.files = tuple(file.reindexed(categories) for file in files)
        self.categories = categories
        self._index = PictureIndex(self.files)
        if not len(self):
            raise DataError(
                f"{', '.join(str(file.path) for file in files)}: there is no picture in it"
            )
        self.fields = frozenset(fields)
        self.preparation = Preparation(channels, resize, intensity or Intensity())
        self._augment = augment
        self._copy_paste: CopyPaste | None = None
        self._helping: frozenset[str] = frozenset()  # fields that only pasting needs
        self._scales: tuple[float, ...] = ()
        self._in_bytes = False
        self._seed = seed
        sizes = np.concatenate([file.images.sizes for file in self.files])
        self._cache = cache_for(cache, sizes, self.preparation)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index, scale, visit = parts_of(key)
        made = self.finished(self.plain(index, scale), index, epoch, visit)
        if self._copy_paste is None:
            return made
        return self._with_objects(made, index, scale)

    def plain(self, index: int, scale: float = 1.0) -> Sample:
        """A prepared picture, before all that depends on the epoch (`finished`).

        Its values are those of `Preparation.pixels`: 8 bits, where `finished` shall make 0..1 of
        them, or float32.

        Args:
            index: Of the picture.
            scale: Relative to the prepared size.
        """
        file, record = self.record(index)
        decoded = self._decoded(index, scale)
        size = (int(decoded.pixels.shape[0]), int(decoded.pixels.shape[1]))
        geometry = Geometry.resized(decoded.original_size, size)
        target = annotated_target(file, record, geometry, self.fields)
        if decoded.semantic is not None:
            target = replace(target, semantic=torch.from_numpy(decode_labels(decoded.semantic)))
        return Sample(
            as_tensor(decoded.pixels),
            geometry,
            self.image_id(index),
            record.file_name,
            target,
        )

    def finished(self, sample: Sample, index: int, epoch: int, visit: int) -> Sample:
        """A sample of picture `index`, or of a part of it, with all that depends on the epoch.

        Args:
            sample: Its id decides, with epoch and visit, what is random; values as of `plain`.
            index: Of the picture.
            epoch: From 0.
            visit: How often it has come before in the epoch.
        """
        target, image_id, geometry = sample.target, sample.image_id, sample.geometry
        if unknown := self.unannotated[self._index.place(index)[0]]:
            target = replace(target, unannotated=torch.tensor(unknown))
        name = image_id if not visit else f"{image_id} again, {visit}"
        seed = sample_seed(self._seed, epoch, name)
        image = sample.image.permute(1, 2, 0).numpy()
        if self._augment is not None:
            image, target = self._augment(image, target, seed)
        if not self._in_bytes or self._copy_paste is not None:
            image = unit_range(image)
        # The way back through an augmentation is not kept: its pictures are for training only.
        geometry = replace(geometry, input_size=(int(image.shape[0]), int(image.shape[1])))
        return Sample(as_tensor(image), geometry, image_id, sample.file_name, target, seed)

    def _with_objects(self, sample: Sample, index: int, scale: float) -> Sample:
        """A picture with objects of another one, where chance wants it so."""
        assert self._copy_paste is not None
        name = f"{sample.image_id}, pasted into"
        # The sample's own seed is a function of (seed, epoch, id, visit).
        rng = np.random.default_rng(sample_seed(sample.seed, 0, name))
        image, target = sample.image, sample.target
        if rng.random() < self._copy_paste.p and len(self) > 1:
            other = (index + 1 + int(rng.integers(len(self) - 1))) % len(self)
            try:
                plain = self.plain(other, scale)
            except PictureError:
                if self.bad_picture_limit is None:
                    raise
                # It is counted when its own turn comes.
            else:
                named = replace(plain, image_id=f"{plain.image_id} in {rng.integers(2**63)}")
                source = self.finished(named, other, 0, 0)
                pixels, target = self._copy_paste(
                    (_pixels(sample), target), (_pixels(source), source.target), rng
                )
                image = as_tensor(pixels)
        unwanted = {"boxes": ("boxes", "labels", "ignore"), "masks": ("masks",)}
        dropped: dict[str, Any] = {
            each: None for field in self._helping for each in unwanted[field]
        }
        return replace(sample, image=image, target=replace(target, **dropped))

    def with_copy_paste(self, copy_paste: CopyPaste) -> CocoDataset:
        """The same pictures, some of them with objects of others: a function of (seed, epoch, id).

        Args:
            copy_paste: How often, and what.
        """
        made = copy.copy(self)
        made._copy_paste = copy_paste
        made._helping = frozenset({"boxes", "masks"}) - self.fields
        made.fields = self.fields | made._helping
        return made

    def with_scales(self, scales: Sequence[float]) -> CocoDataset:
        """The same pictures, whose training batches have one of several sizes.

        Args:
            scales: Relative to the prepared size, one drawn per batch; none: all have that size.
        """
        made = copy.copy(self)
        made._scales = tuple(scales)
        return made

    def in_bytes(self) -> CocoDataset:
        """The same pictures, whose samples hold 8 bits where nothing made other values of them."""
        made = copy.copy(self)
        made._in_bytes = True
        return made

    def with_limit(self, max_pixels: int) -> CocoDataset:
        """The same pictures, of which those with more pixels than that are refused."""
        made = copy.copy(self)
        made.preparation = replace(self.preparation, max_pixels=max_pixels)
        return made

    def with_sources(
        self,
        weights: Sequence[float] | None = None,
        looked_for: Sequence[Collection[str] | None] | None = None,
    ) -> CocoDataset:
        """The same pictures, with what is known of the files as sources of training.

        Args:
            weights: Per file: how often each of its pictures comes per epoch, above 0; None: once.
            looked_for: Per file: names of the categories that were annotated wherever they appear;
                None: those that the file lists. That another one is not there teaches nothing.
        """
        made = copy.copy(self)
        if weights is not None:
            made.repeats = self._index.by_file(weights)
        if looked_for is not None:
            pairs = zip(looked_for, self._listed, strict=True)
            told = [listed if names is None else names for names, listed in pairs]
            made.unannotated = _unannotated(told, self.categories)
        return made

    def with_rare_repeated(self, threshold: float) -> CocoDataset:
        """The same pictures; those that show rare classes come several times per epoch.

        Args:
            threshold: Share of pictures below which a class is rare, of (0, 1] (`repeat_factors`).
        """
        made = copy.copy(self)
        rows, found, pictures = self._index.shown()
        whole = repeat_factors(rows, found, pictures=pictures, threshold=threshold)
        factors = self._index.chosen(whole)
        made.repeats = factors if self.repeats is None else self.repeats * factors
        return made

    def skipping_bad_pictures(self, limit: float) -> CocoDataset:
        """The same pictures; loaders leave out those that cannot be read.

        Args:
            limit: Share of all pictures that may be so, of (0, 1].
        """
        made = copy.copy(self)
        made.bad_picture_limit = limit
        return made

    @property
    def most_bad_pictures(self) -> int:
        """How many pictures may be unreadable: the share rounded up; 0 where each is an error."""
        return math.ceil((self.bad_picture_limit or 0.0) * len(self))

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
            positions: Of the pictures.
            visits: How often each of them has come before in the epoch; None: never.
        """
        keys: list[Key] = [(epoch, each) for each in positions]
        if not self._scales and not any(visits or ()):
            return keys
        scales = self._scales or (1.0,)
        drawn = sample_seed(self._seed, epoch, f"scale of batch {number}") % len(scales)
        again = visits or [0] * len(positions)
        return [
            (epoch, each, scales[drawn], visit) if visit else (epoch, each, scales[drawn])
            for each, visit in zip(positions, again, strict=True)
        ]

    def picture(self, index: int) -> NDArray[Any]:
        """Picture `index` as stored, `(h, w, C)` at full precision, upright.

        Raises:
            DataError: If it cannot be read, or has another size than its file says.
        """
        return self._picture(*self.record(index))

    def prepared(self, index: int) -> PreparedPicture:
        """Picture `index`, of which parts can be read.

        Raises:
            DataError: If it cannot be read, or has another size than its file says.
        """
        file, record = self.record(index)
        opened = self.preparation.opened(file.image_path(record))
        _require_size(file, record, opened.original_size)
        return opened

    def at_scale(self, factor: float) -> CocoDataset:
        """The same pictures, prepared `factor` times as large; none of them kept in memory."""
        made = copy.copy(self)
        scale = self.preparation.scale * factor
        made.preparation = replace(self.preparation, scale=scale)
        made._cache = None
        return made

    def of_positions(self, positions: Sequence[int]) -> CocoDataset:
        """Some of its pictures, under the same ids; `files` stay as they are."""
        made = copy.copy(self)
        made._index = self._index.of_positions(positions)
        made.repeats = None if self.repeats is None else self.repeats[np.asarray(positions)]
        made._cache = None
        return made

    def record(self, index: int) -> tuple[CocoFile, ImageRecord]:
        """The file that picture `index` is annotated in, and its record there."""
        return self._index.record(index)

    def path(self, index: int) -> Path:
        """File of picture `index`."""
        file, record = self.record(index)
        return file.image_path(record)

    def image_id(self, index: int) -> int | str:
        """Id of picture `index`; made unique with the file's name where several files share ids."""
        return self._index.image_id(index)

    def group(self, index: int) -> str | None:
        """Patient, study or sequence of picture `index`; None where the file names none."""
        return self.record(index)[1].group

    def truth(self, index: int, table: LabelTable) -> Truth:
        """What is annotated on picture `index`, in original pixels and the labels of one head."""
        file, record = self.record(index)
        semantic = None
        if has_pixel_labels(file, record):
            labels = pixel_labels(file, record, self.categories)
            view = table.apply(Target(semantic=torch.from_numpy(labels)))
            assert view.semantic is not None
            semantic = view.semantic.numpy()
        return annotated_truth(file, record, self.image_id(index), table.mapping, semantic)

    def image_labels(self, index: int, table: LabelTable) -> tuple[int, ...] | None:
        """Labels of picture `index` as a whole, as one head sees them; None: not annotated."""
        file, record = self.record(index)
        return mapped_labels(file, record, table.mapping)

    def annotates(self, task: Task) -> bool:
        """Whether any of the files annotates what `task` needs; fields of the user's own count."""
        return _covers({each for file in self.files for each in file.annotated}, task)

    @staticmethod
    def file_annotates(file: CocoFile, task: Task) -> bool:
        """Whether one file annotates what `task` needs; fields of the user's own count."""
        return _covers(set(file.annotated), task)

    def counts(self) -> dict[str, int]:
        """Objects per category name, crowds left out."""
        found = sum(file.object_counts() for file in self.files)
        return dict(zip(self.categories.names, np.asarray(found).tolist(), strict=True))

    @property
    def keeps_pictures(self) -> bool:
        """Whether pictures that were read once come from memory, within one process."""
        return self._cache is not None

    def _decoded(self, index: int, scale: float) -> DecodedPicture:
        kept = None if self._cache is None else self._cache.get(index, scale)
        if kept is not None:
            return kept
        file, record = self.record(index)
        try:
            decoded = self._decode(file, record, scale)
        except DataError as error:
            path = str(file.image_path(record))
            raise PictureError(str(error), self.image_id(index), path) from None
        if self._cache is not None:
            self._cache.add(index, scale, decoded)
        return decoded

    def _decode(self, file: CocoFile, record: ImageRecord, scale: float) -> DecodedPicture:
        image = self._picture(file, record)
        preparation = replace(self.preparation, scale=self.preparation.scale * scale)
        original = (record.height, record.width)
        semantic = None
        if "semantic" in self.fields and has_pixel_labels(file, record):
            labels = pixel_labels(file, record, self.categories)
            semantic = resize_labels(encode_labels(labels), preparation.input_size(original))
        where = str(file.image_path(record))
        return DecodedPicture(preparation.pixels(image, where), semantic, original)

    def _picture(self, file: CocoFile, record: ImageRecord) -> NDArray[Any]:
        image = self.preparation.read(file.image_path(record))
        _require_size(file, record, (int(image.shape[0]), int(image.shape[1])))
        return image


def _pixels(sample: Sample) -> NDArray[np.float32]:
    """`(h, w, C)` of a sample."""
    return np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())


def _covers(present: set[str], task: Task) -> bool:
    """Whether these kinds of annotations hold what a task needs."""
    sources = {
        "boxes": {"boxes"},
        "labels": {"boxes"},
        "semantic": {"semantic", "masks"},
        "image_labels": {"image"},
    }
    return all(sources.get(name, present) & present for name in task.target_fields)


def _unannotated(
    looked_for: Sequence[Collection[str]], categories: CategoryMap
) -> tuple[tuple[int, ...], ...]:
    """Per file: indices of the categories that were not looked for."""
    return tuple(
        tuple(i for i, name in enumerate(categories.names) if name not in names)
        for names in map(set, looked_for)
    )


def _require_size(file: CocoFile, record: ImageRecord, size: tuple[int, int]) -> None:
    if size != (record.height, record.width):
        raise DataError(
            f"{file.image_path(record)} is {size[1]} x {size[0]} (width x height, upright), but "
            f"image {record.id!r} of {file.path} says {record.width} x {record.height}; "
            "repair the file (resnet-tasks data check)"
        )
