"""Tiles of big pictures as samples of training.

Shape glossary: `P` pictures, `T` tiles, `N` objects of a picture, `t` tiles of a picture.
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

from resnet_tasks.data.coco import Annotation, CocoFile, ImageRecord
from resnet_tasks.data.coco_masks import decode_mask_part
from resnet_tasks.data.dataset import CocoDataset
from resnet_tasks.data.picture_cache import fits_in_memory
from resnet_tasks.data.pixel_labels import drawn_in_order, has_map
from resnet_tasks.data.pixels import resize_labels, resize_pixels
from resnet_tasks.data.preparation import Preparation, PreparedPicture
from resnet_tasks.data.sample_keys import Key, parts_of
from resnet_tasks.data.samples import as_tensor
from resnet_tasks.data.semantic_maps import category_labels, read_values
from resnet_tasks.data.tiles import Tile, Windows
from resnet_tasks.data.transforms import decode_labels, encode_labels
from resnet_tasks.errors import DataError, PictureError
from resnet_tasks.metrics import BACKGROUND
from resnet_tasks.structures import UNLABELLED, Geometry, Sample, Target

LAST_KEPT = 2
"""Decoded pictures that are kept where not all of them can be."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """How pictures are cut into tiles, and what of an object counts.

    Attributes:
        windows: Size and overlap of the tiles.
        min_visible: Share of the area of its box from which on an object that a border cuts counts;
            below it is an ignore region, neither positive nor negative.
        empty: Tiles without anything annotated that come in an epoch, for each tile with something;
            None: all of them.
    """

    windows: Windows
    min_visible: float = 0.3
    empty: float | None = 0.1


class TiledDataset(Dataset[Sample]):
    """Tiles of the pictures of a data set; a sample is a tile.

    The tiles of a picture are a function of its size. Each tile with an object that counts, or with
    a pixel of a semantic map that has a category (other than one named `background`), comes once an
    epoch, or as often as its picture; the others are rationed. Which of them come in an epoch is
    drawn with the epoch's order (`loaders.epoch_order`), a function of (seed, epoch).

    Args:
        pictures: To be cut; without resize.
        cut: How.
        cache: Keep decoded pictures in memory: True, False or "auto" (where they take at most 1
            GB). Otherwise the last ones are kept; parts of mapped files need no keeping.

    Attributes:
        repeats: `(T,)` how often each tile comes in an epoch; None: once.

    Raises:
        DataError: If the pictures are resized, a semantic map cannot be read, or no tile holds
            anything.
    """

    repeats: NDArray[np.float64] | None

    def __init__(self, pictures: CocoDataset, cut: Cut, *, cache: bool | str = "auto") -> None:
        if pictures.preparation.resize is not None:
            raise DataError(
                "tiles are cut from the pictures as they are stored, but the pictures are resized; "
                "leave one of the two out"
            )
        self.pictures = pictures
        self.cut = cut
        sizes = [self._size(index) for index in range(len(pictures))]
        self._ends = np.cumsum([len(self._tiles(size)) for size in sizes], dtype=np.int64)
        stored = np.asarray(sizes, np.int64).reshape(-1, 2)
        fits = cache == "auto" and fits_in_memory(stored, pictures.preparation)
        self._keeps_all = fits or cache is True
        self._opened: OrderedDict[int, PreparedPicture] = OrderedDict()
        self._maps: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._limits: dict[int, tuple[Any, Any]] = {}
        self.num_empty = 0
        self.repeats = self._rationed()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: Key) -> Sample:
        epoch, position, scale, visit = parts_of(key)
        index, _ = self.place(position)
        try:
            sample = self._sample(position, scale)
        except DataError as error:
            image_id, path = self.pictures.image_id(index), str(self.pictures.path(index))
            raise PictureError(str(error), image_id, path) from None
        return self.pictures.finished(sample, index, epoch, visit)

    def _sample(self, position: int, scale: float) -> Sample:
        index, tile = self.place(position)
        file, record = self.pictures.record(index)
        size = (max(1, round(tile.height * scale)), max(1, round(tile.width * scale)))
        factor = (size[0] / tile.height, size[1] / tile.width)
        geometry = Geometry(
            (record.height, record.width),
            size,
            factor,
            (-tile.top * factor[0], -tile.left * factor[1]),
        )
        values = resize_pixels(self._picture(index).original_values(tile), size)
        return Sample(
            as_tensor(values),
            geometry,
            self.sample_id(position),
            record.file_name,
            self._target(file, record, index, tile, geometry),
        )

    @property
    def preparation(self) -> Preparation:
        """Of the pictures."""
        return self.pictures.preparation

    @property
    def bad_picture_limit(self) -> float | None:
        """Share of the pictures that may be unreadable; None: each is an error."""
        return self.pictures.bad_picture_limit

    @property
    def most_bad_pictures(self) -> int:
        """How many pictures may be unreadable."""
        return self.pictures.most_bad_pictures

    def batch_keys(
        self,
        epoch: int,
        number: int,
        positions: Sequence[int],
        visits: Sequence[int] | None = None,
    ) -> list[Key]:
        """Keys of one training batch; see `CocoDataset.batch_keys`."""
        return self.pictures.batch_keys(epoch, number, positions, visits)

    def place(self, position: int) -> tuple[int, Tile]:
        """Index of the picture that a tile is cut from, and where it lies there."""
        index = int(np.searchsorted(self._ends, position, side="right"))
        first = int(self._ends[index - 1]) if index else 0
        return index, self._tiles(self._size(index))[position - first]

    def sample_id(self, position: int) -> str:
        """Id of a tile: that of its picture, and where its top left corner lies."""
        index, tile = self.place(position)
        return f"{self.pictures.image_id(index)}@{tile.left},{tile.top}"

    def described(self) -> str:
        """How many tiles there are, in words."""
        windows, total = self.cut.windows, len(self)
        come = total if self.repeats is None else round(float(self.repeats.sum()))
        return (
            f"{total} tiles of {windows.width} x {windows.height} (width x height), "
            f"{self.num_empty} of them empty; {come} come in an epoch"
        )

    # --- which tiles

    def _size(self, index: int) -> tuple[int, int]:
        _, record = self.pictures.record(index)
        return (record.height, record.width)

    def _tiles(self, size: tuple[int, int]) -> list[Tile]:
        return self.cut.windows.over(size)

    def _rationed(self) -> NDArray[np.float64] | None:
        """How often each tile comes in an epoch.

        Raises:
            DataError: If none holds anything.
        """
        own = self.pictures.repeats
        counts = np.diff(self._ends, prepend=0)
        repeats = np.repeat(np.ones(len(counts)) if own is None else own, counts)
        if self.cut.empty is None:
            return None if own is None else repeats
        full = np.concatenate([self._shows(index) for index in range(len(counts))])
        self.num_empty = int((~full).sum())
        if not full.any():
            raise DataError(
                f"none of the {len(full)} tiles of {self.pictures.files[0].path} shows an object "
                f"of which {self.cut.min_visible:.0%} are visible; set data.tiles.empty to null "
                "to learn from all of them"
            )
        if self.num_empty:
            share = self.cut.empty * repeats[full].sum() / repeats[~full].sum()
            repeats[~full] *= min(1.0, share)
        # One that never comes cannot be drawn: its share is the smallest that counts as one.
        repeats = np.maximum(repeats, 1e-12)
        return None if own is None and not self.num_empty else repeats

    def _shows(self, index: int) -> NDArray[np.bool_]:
        """`(t,)` whether each tile of a picture shows something to learn."""
        file, record = self.pictures.record(index)
        tiles = self._tiles((record.height, record.width))
        shows = np.zeros(len(tiles), np.bool_)
        if has_map(file, record):
            try:
                for i, tile in enumerate(tiles):
                    labels = self._map_labels(file, record, index, tile)
                    kinds = [each for each in np.unique(labels).tolist() if each >= 0]
                    shows[i] = any(file.categories.names[each] != BACKGROUND for each in kinds)
            except DataError:
                if self.bad_picture_limit is None:
                    raise
                shows[:] = True  # that it cannot be read is told when it comes
        boxes = _boxes([each for each in _boxed(file, record) if not each.is_crowd])
        if len(boxes):
            for i, tile in enumerate(tiles):
                _, share = visible_parts(boxes, tile)
                shows[i] |= bool(((share > 0) & (share >= self.cut.min_visible)).any())
        return shows

    # --- what they show

    def _target(
        self, file: CocoFile, record: ImageRecord, index: int, tile: Tile, geometry: Geometry
    ) -> Target:
        fields: dict[str, Any] = {}
        wanted = self.pictures.fields
        if "boxes" in wanted and "boxes" in file.annotated:
            fields = self._objects(file, record, tile, geometry)
        if "semantic" in wanted:
            labels = self._semantic(file, record, index, tile)
            if labels is not None:
                shown = resize_labels(encode_labels(labels), geometry.input_size)
                fields["semantic"] = torch.from_numpy(decode_labels(shown))
        return Target(**fields)

    def _objects(
        self, file: CocoFile, record: ImageRecord, tile: Tile, geometry: Geometry
    ) -> dict[str, Any]:
        """Boxes, labels, flags and masks of what a tile shows."""
        annotations = _boxed(file, record)
        cut, share = visible_parts(_boxes(annotations), tile)
        shown = np.flatnonzero(share > 0)
        kept = [annotations[i] for i in shown]
        crowd = np.asarray([each.is_crowd for each in kept], np.bool_)
        boxes = geometry.boxes_to_input(torch.from_numpy(cut[shown]).float())
        fields: dict[str, Any] = {
            "boxes": boxes,
            "labels": torch.tensor([each.category for each in kept], dtype=torch.int64),
            "ignore": torch.from_numpy(crowd | (share[shown] < self.cut.min_visible)),
        }
        if "masks" in self.pictures.fields and "masks" in file.annotated:
            masks = [_mask(each, record, tile, geometry.input_size) for each in kept]
            empty = np.zeros((0, *geometry.input_size), np.bool_)
            fields["masks"] = torch.from_numpy(np.stack(masks) if masks else empty)
        return fields

    def _semantic(
        self, file: CocoFile, record: ImageRecord, index: int, tile: Tile
    ) -> NDArray[np.int64] | None:
        """`(tile.height, tile.width)` category indices; None where pixels are not annotated."""
        if has_map(file, record):
            return self._map_labels(file, record, index, tile)
        if "masks" not in file.annotated:
            return None
        labels = np.full(tile.size, UNLABELLED, np.int64)
        for each in drawn_in_order(file.annotations[record.id]):
            if each.segmentation is None:
                continue
            if each.bbox is None or visible_parts(_boxes([each]), _grown(tile))[1][0] > 0:
                mask = decode_mask_part(each.segmentation, record.height, record.width, tile)
                labels[mask] = each.category
        return labels

    def _map_labels(
        self, file: CocoFile, record: ImageRecord, index: int, tile: Tile
    ) -> NDArray[np.int64]:
        path = file.sem_seg_path(record)
        assert path is not None
        values = self._maps.get(index)
        if values is None:
            limit = self.pictures.preparation.max_pixels
            values = read_values(path, (record.height, record.width), limit)
            _keep(self._maps, index, values, all_of_them=self._keeps_all)
        return category_labels(values[tile.rows, tile.columns], path, self.pictures.categories)

    # --- pictures

    def _picture(self, index: int) -> PreparedPicture:
        opened = self._opened.get(index)
        if opened is None:
            opened = self.pictures.prepared(index)
            if index in self._limits:
                opened = replace(opened, known_limits=self._limits[index])
            elif opened.limits is not None:
                self._limits[index] = opened.limits
            _keep(self._opened, index, opened, all_of_them=self._keeps_all)
        return opened


def visible_parts(boxes: Floats, tile: Tile) -> tuple[Floats, Floats]:
    """What a tile shows of boxes.

    Args:
        boxes: `(N, 4)` xyxy, pixels of the picture.
        tile: A part of the picture.

    Returns:
        `(N, 4)` the boxes clipped to the tile, xyxy in pixels of the picture, and `(N,)` the share
        of each box's area that is left, 0..1.
    """
    x1, y1, x2, y2 = tile.box
    cut = np.clip(boxes, (x1, y1, x1, y1), (x2, y2, x2, y2))
    left = (cut[:, 2:] - cut[:, :2]).prod(axis=1)
    return cut, left / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-12)


def _grown(tile: Tile) -> Tile:
    """The tile and a rim of two pixels: masks may reach beyond their boxes by rounding."""
    return Tile(tile.top - 2, tile.left - 2, tile.height + 4, tile.width + 4)


def _boxed(file: CocoFile, record: ImageRecord) -> list[Annotation]:
    return [each for each in file.annotations[record.id] if each.bbox is not None]


def _boxes(annotations: Sequence[Annotation]) -> Floats:
    """`(N, 4)` xyxy, pixels of the picture."""
    xywh = np.asarray([each.bbox for each in annotations], np.float64).reshape(-1, 4)
    return np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1)


def _mask(
    annotation: Annotation, record: ImageRecord, tile: Tile, size: tuple[int, int]
) -> NDArray[np.bool_]:
    if annotation.segmentation is None:
        return np.zeros(size, np.bool_)
    shown = decode_mask_part(annotation.segmentation, record.height, record.width, tile)
    return np.asarray(resize_labels(shown.astype(np.uint8), size) > 0)


def _keep(kept: OrderedDict[int, Any], index: int, value: Any, *, all_of_them: bool) -> None:
    """Keeps a value, and the last ones before it unless there is room for all."""
    kept[index] = value
    while len(kept) > LAST_KEPT and not all_of_them:
        kept.popitem(last=False)
