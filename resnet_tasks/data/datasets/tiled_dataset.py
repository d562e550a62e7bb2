"""Dataset of tiles of large images for training.

Symbols: `P` images, `T` tiles, `N` objects of an image, `t` tiles of an image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from resnet_tasks.data.augmentation.transforms import decode_labels, encode_labels
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.masks import decode_mask_in_tile
from resnet_tasks.data.coco.pixel_labels import has_map, sort_by_descending_area
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.data.coco.semantic_maps import read_map_values, values_to_labels
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.ground_truth import list_boxed
from resnet_tasks.data.datasets.samples import as_tensor
from resnet_tasks.data.datasets.targets import build_masks
from resnet_tasks.data.images.image_cache import fits_in_memory
from resnet_tasks.data.images.intensity import resize_pixels
from resnet_tasks.data.images.preprocessing import PreparedImage
from resnet_tasks.data.images.windows import Tile, WindowGrid
from resnet_tasks.data.sampling.sample_keys import Key, unpack_key
from resnet_tasks.errors import DataError, ImageError
from resnet_tasks.structures.evaluation import BACKGROUND, UNLABELED
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.label_maps import resize_labels
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.targets import Target

LAST_KEPT = 2
"""Number of most recently decoded images in memory if not all of them fit."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tiling:
    """Division of images into tiles, and the treatment of objects at tile borders.

    Attributes:
        windows: Size and overlap of the tiles.
        min_visible: Minimum fraction of a box inside the tile for the object to be positive. Below
            it, the object is an ignore region, neither positive nor negative.
        empty: Number of tiles without annotations in an epoch for each tile with annotations; None:
            all of them.
    """

    windows: WindowGrid
    min_visible: float = 0.3
    empty: float | None = 0.1


class TiledDataset(Dataset[Sample]):
    """Dataset whose samples are tiles of the images of another dataset.

    The tiles of an image are a function of its size. A tile is nonempty if it has an object that is
    sufficiently visible, or a pixel of a semantic map with a category (other than one named
    `background`). It occurs once per epoch, or as often as its image. The number of empty tiles is
    limited by `Tiling.empty`. The empty tiles of an epoch are drawn together with its order
    (`sample_epoch_order`), a function of (seed, epoch).

    Args:
        images: Dataset of the images, without resize.
        tiling: Division of the images into tiles.
        cache: Whether to keep decoded images in memory: True, False or "auto" (if they take at most
            1 GB). Otherwise only the most recent ones are kept. Parts of memory-mapped files need
            no cache.

    Attributes:
        images: Dataset of the images.
        tiling: Division of the images into tiles.
        preparation: Preparation of the images.
        max_unreadable_images: Maximum number of unreadable images.
        epoch_sampler: Sampler of the batches of the training epochs.
        num_empty: Number of tiles without annotations.

    Raises:
        DataError: If the images are resized, a semantic map cannot be read, or all tiles are empty.
    """

    def __init__(self, images: CocoDataset, tiling: Tiling, *, cache: bool | str = "auto") -> None:
        if images.preparation.resize is not None:
            raise DataError(
                "tiles are cut from the images as they are stored, but the images are resized; "
                "remove either the tiles or the resizing"
            )
        self.images = images
        self.tiling = tiling
        self.preparation = images.preparation
        self.max_unreadable_images = images.max_unreadable_images
        sizes = [self._get_size(index) for index in range(len(images))]
        self._ends = np.cumsum([len(self._make_tiles(size)) for size in sizes], dtype=np.int64)
        image_sizes = np.asarray(sizes, np.int64).reshape(-1, 2)
        fits = cache == "auto" and fits_in_memory(image_sizes, images.preparation)
        self._keeps_all = fits or cache is True
        self._opened_images: OrderedDict[int, PreparedImage] = OrderedDict()
        self._maps: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._limits: dict[int, tuple[Any, Any]] = {}
        self.num_empty = 0
        self.epoch_sampler = replace(images.epoch_sampler, repeats=self._compute_repeats())

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: Key) -> Sample:
        epoch, position, scale, visit = unpack_key(key)
        index, _ = self.locate(position)
        try:
            sample = self._load_sample(position, scale)
        except DataError as error:
            image_id, path = self.images.image_id(index), str(self.images.path(index))
            raise ImageError(str(error), image_id, path) from None
        return self.images.augmentation(sample, epoch, visit)

    def _load_sample(self, position: int, scale: float) -> Sample:
        index, tile = self.locate(position)
        file, record = self.images.image_index.record(index)
        size = (max(1, round(tile.height * scale)), max(1, round(tile.width * scale)))
        factor = (size[0] / tile.height, size[1] / tile.width)
        geometry = Geometry(
            (record.height, record.width),
            size,
            factor,
            (-tile.top * factor[0], -tile.left * factor[1]),
        )
        values = resize_pixels(self._prepare_image(index).read_original_values(tile), size)
        return Sample(
            as_tensor(values),
            geometry,
            self.sample_id(position),
            record.file_name,
            self._build_target(file, record, index, tile, geometry),
        )

    def locate(self, position: int) -> tuple[int, Tile]:
        """Return the index of the image of a tile, and the tile in it."""
        index = int(np.searchsorted(self._ends, position, side="right"))
        first = int(self._ends[index - 1]) if index else 0
        return index, self._make_tiles(self._get_size(index))[position - first]

    def sample_id(self, position: int) -> str:
        """Return the id of a tile: the id of its image and the position of its top left corner."""
        index, tile = self.locate(position)
        return f"{self.images.image_id(index)}@{tile.left},{tile.top}"

    def describe(self) -> str:
        """Describe the number of tiles."""
        windows, total, repeats = self.tiling.windows, len(self), self.epoch_sampler.repeats
        come = total if repeats is None else round(float(repeats.sum()))
        return (
            f"{total} tiles of {windows.width} x {windows.height} (width x height), "
            f"{self.num_empty} of them empty; {come} per epoch"
        )

    # --- selection of the tiles

    def _get_size(self, index: int) -> tuple[int, int]:
        _, record = self.images.image_index.record(index)
        return (record.height, record.width)

    def _make_tiles(self, size: tuple[int, int]) -> list[Tile]:
        return self.tiling.windows.make_tiles(size)

    def _compute_repeats(self) -> NDArray[np.float64] | None:
        """Return how often each tile occurs in an epoch, or None if each occurs once.

        Raises:
            DataError: If all tiles are empty.
        """
        own = self.images.epoch_sampler.repeats
        counts = np.diff(self._ends, prepend=0)
        repeats = np.repeat(np.ones(len(counts)) if own is None else own, counts)
        if self.tiling.empty is None:
            return None if own is None else repeats
        full = np.concatenate([self._find_nonempty_tiles(index) for index in range(len(counts))])
        self.num_empty = int((~full).sum())
        if not full.any():
            raise DataError(
                f"none of the {len(full)} tiles of {self.images.files[0].path} contains an object "
                f"whose box is at least {self.tiling.min_visible:.0%} visible; set "
                "data.tiles.empty to null to train on all of them"
            )
        if self.num_empty:
            # Scale the repeats of empty tiles so that they sum to `empty` times those of the
            # others.
            share = self.tiling.empty * repeats[full].sum() / repeats[~full].sum()
            repeats[~full] *= min(1.0, share)
        # Sampling requires repeats above 0. With `empty` = 0, this value is low enough that empty
        # tiles are practically never drawn.
        repeats = np.maximum(repeats, 1e-12)
        return None if own is None and not self.num_empty else repeats

    def _find_nonempty_tiles(self, index: int) -> NDArray[np.bool_]:
        """Return `(t,)` bool, whether each tile of an image has annotations to learn from."""
        file, record = self.images.image_index.record(index)
        tiles = self._make_tiles((record.height, record.width))
        is_nonempty = np.zeros(len(tiles), np.bool_)
        if has_map(file, record):
            try:
                for i, tile in enumerate(tiles):
                    labels = self._read_map_labels(file, record, index, tile)
                    present_labels = [label for label in np.unique(labels).tolist() if label >= 0]
                    is_nonempty[i] = any(
                        file.categories.names[label] != BACKGROUND for label in present_labels
                    )
            except DataError:
                if not self.max_unreadable_images:
                    raise
                is_nonempty[:] = True  # the error is reported when a tile is loaded
        boxes = _make_boxes(
            [annotation for annotation in list_boxed(file, record) if not annotation.is_crowd]
        )
        if len(boxes):
            for i, tile in enumerate(tiles):
                _, share = clip_boxes_to_tile(boxes, tile)
                is_nonempty[i] |= bool(((share > 0) & (share >= self.tiling.min_visible)).any())
        return is_nonempty

    # --- targets of the tiles

    def _build_target(
        self, file: CocoFile, record: ImageRecord, index: int, tile: Tile, geometry: Geometry
    ) -> Target:
        fields: dict[str, Any] = {}
        requested_fields = self.images.fields
        if "boxes" in requested_fields and "boxes" in file.annotated:
            fields = self._build_objects(file, record, tile, geometry)
        if "semantic" in requested_fields:
            labels = self._build_semantic(file, record, index, tile)
            if labels is not None:
                resized_labels = resize_labels(encode_labels(labels), geometry.input_size)
                fields["semantic"] = torch.from_numpy(decode_labels(resized_labels))
        if unknown := self.images.unannotated[self.images.image_index.locate(index)[0]]:
            fields["unannotated"] = torch.tensor(unknown)
        return Target(**fields)

    def _build_objects(
        self, file: CocoFile, record: ImageRecord, tile: Tile, geometry: Geometry
    ) -> dict[str, Any]:
        """Return the boxes, labels, ignore flags and masks of the objects in a tile."""
        annotations = list_boxed(file, record)
        cut, share = clip_boxes_to_tile(_make_boxes(annotations), tile)
        visible_indices = np.flatnonzero(share > 0)
        visible_annotations = [annotations[i] for i in visible_indices]
        crowd = np.asarray([annotation.is_crowd for annotation in visible_annotations], np.bool_)
        boxes = geometry.boxes_to_input(torch.from_numpy(cut[visible_indices]).float())
        fields: dict[str, Any] = {
            "boxes": boxes,
            "labels": torch.tensor(
                [annotation.category for annotation in visible_annotations], dtype=torch.int64
            ),
            "ignore": torch.from_numpy(crowd | (share[visible_indices] < self.tiling.min_visible)),
        }
        if "masks" in self.images.fields and "masks" in file.annotated:
            fields["masks"] = build_masks(visible_annotations, record, geometry.input_size, tile)
        return fields

    def _build_semantic(
        self, file: CocoFile, record: ImageRecord, index: int, tile: Tile
    ) -> NDArray[np.int64] | None:
        """Return `(tile.height, tile.width)` category indices, or None without pixel labels."""
        if has_map(file, record):
            return self._read_map_labels(file, record, index, tile)
        if "masks" not in file.annotated:
            return None
        labels = np.full(tile.size, UNLABELED, np.int64)
        for annotation in sort_by_descending_area(file.annotations[record.id]):
            if annotation.segmentation is None:
                continue
            if (
                annotation.bbox is None
                or clip_boxes_to_tile(_make_boxes([annotation]), _expand_tile(tile))[1][0] > 0
            ):
                # Only masks whose box overlaps the tile are decoded.
                mask = decode_mask_in_tile(
                    annotation.segmentation, record.height, record.width, tile
                )
                labels[mask] = annotation.category
        return labels

    def _read_map_labels(
        self, file: CocoFile, record: ImageRecord, index: int, tile: Tile
    ) -> NDArray[np.int64]:
        path = file.sem_seg_path(record)
        assert path is not None
        values = self._maps.get(index)
        if values is None:
            limit = self.images.preparation.max_pixels
            values = read_map_values(path, (record.height, record.width), limit)
            _cache_value(self._maps, index, values, keep_all=self._keeps_all)
        return values_to_labels(values[tile.rows, tile.columns], path, self.images.categories)

    # --- images

    def _prepare_image(self, index: int) -> PreparedImage:
        prepared_image = self._opened_images.get(index)
        if prepared_image is None:
            prepared_image = self.images.prepare_image(index)
            if index in self._limits:
                prepared_image = replace(prepared_image, known_limits=self._limits[index])
            elif prepared_image.limits is not None:
                self._limits[index] = prepared_image.limits
            _cache_value(self._opened_images, index, prepared_image, keep_all=self._keeps_all)
        return prepared_image


def clip_boxes_to_tile(boxes: Floats, tile: Tile) -> tuple[Floats, Floats]:
    """Clip boxes to a tile and compute their visible fractions.

    Args:
        boxes: `(N, 4)` float64 xyxy, pixels of the image.
        tile: Tile of the image.

    Returns:
        `(N, 4)` boxes clipped to the tile, xyxy in pixels of the image, and the `(N,)` fraction of
        each box's area inside the tile, 0..1.
    """
    x1, y1, x2, y2 = tile.box
    cut = np.clip(boxes, (x1, y1, x1, y1), (x2, y2, x2, y2))
    left = (cut[:, 2:] - cut[:, :2]).prod(axis=1)
    return cut, left / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-12)


def _expand_tile(tile: Tile) -> Tile:
    """Expand a tile by two pixels, since rounding may move mask pixels outside their box."""
    return Tile(tile.top - 2, tile.left - 2, tile.height + 4, tile.width + 4)


def _make_boxes(annotations: Sequence[Annotation]) -> Floats:
    """Return the boxes of annotations, `(N, 4)` xyxy in pixels of the image."""
    xywh = np.asarray([annotation.bbox for annotation in annotations], np.float64).reshape(-1, 4)
    return np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1)


def _cache_value(cache: OrderedDict[int, Any], index: int, value: Any, *, keep_all: bool) -> None:
    """Keep a value, and remove the oldest ones unless all are kept."""
    cache[index] = value
    while len(cache) > LAST_KEPT and not keep_all:
        cache.popitem(last=False)
