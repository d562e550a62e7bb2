"""Sources of images and annotations, and conversion of images to training samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.schema.base import Fraction, Overlap, Positive, RecipeModel, Window

Annotates = Literal["boxes", "masks", "semantic", "image"]


class SourceRecipe(RecipeModel):
    """One COCO file and the folder of its images.

    Attributes:
        annotations: COCO JSON, relative to `data.root`.
        images: Folder of the images, relative to `data.root`. None: the folder of the file.
        annotated: Annotation types of the file. None: those that its `info` states, else those that
            it contains.
        allow_outside: Whether to accept file names that are absolute or contain `..`. They can
            refer to any file on the machine.
        categories: Categories that were annotated wherever they appear; the background of the file
            is no negative example for other categories. None: the categories that the file lists.
        weight: Average number of times that each image occurs per epoch, in `data.train` only.
    """

    annotations: str
    images: str | None = None
    annotated: tuple[Annotates, ...] | None = None
    allow_outside: bool = False
    categories: tuple[str, ...] | None = None
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0


class FoldsRecipe(RecipeModel):
    """Cross-validation: one fold of data.train is held out and evaluated instead of data.val.

    Attributes:
        count: Number of folds that `data.train` is divided into.
        held_out: Fold to evaluate on, counted from 0.
        seed: Seed of the division.
        digest: Digest of the division, recorded by a run, which rejects another division. None: not
            recorded yet.
    """

    count: Annotated[int, Field(ge=2, le=1000)]
    held_out: Annotated[int, Field(ge=0)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    digest: str | None = None

    @model_validator(mode="after")
    def _check_held_out_fold(self) -> FoldsRecipe:
        if self.held_out >= self.count:
            raise ValueError(
                f"held_out is {self.held_out}, but {self.count} folds are numbered "
                f"0 to {self.count - 1}"
            )
        return self


class ResizeRecipe(RecipeModel):
    """Size of the box that every image is resized to, before augmentation.

    Attributes:
        height: Height of the box, pixels.
        width: Width of the box, pixels.
        keep_ratio: Whether to fit the image inside the box. Otherwise it is stretched to the box.
    """

    height: Annotated[int, Field(ge=32, le=16_384)]
    width: Annotated[int, Field(ge=32, le=16_384)]
    keep_ratio: bool = True


class TilesRecipe(RecipeModel):
    """Tiles of images as training samples; prediction uses sliding windows of the same size.

    Attributes:
        height: Height of a tile, pixels of the stored image.
        width: Width of a tile, pixels of the stored image.
        overlap: Minimum fraction of a tile that its neighbor overlaps.
        min_visible: Minimum fraction of the box of a cut object that lies in the tile. Below it,
            the object becomes an ignore region.
        empty: Number of tiles without objects per epoch, for each tile with objects. None: all of
            them.
    """

    height: Window
    width: Window
    overlap: Overlap = 0.25
    min_visible: Fraction = 0.3
    empty: Annotated[float, Field(ge=0)] | None = 0.1


class IntensityRecipe(RecipeModel):
    """Conversion of stored values to 0..1; 8-bit images need no settings.

    Attributes:
        type: Range of stored values that becomes 0..1. `auto`: range of the data type; `window`:
            `level` and `width`; `percentile`: `low` and `high` of each image.
        level: Center of the window, stored values; required for `type: window`.
        width: Width of the window, stored values; required for `type: window`.
        low: Percentile that becomes 0, for `type: percentile`.
        high: Percentile that becomes 1, for `type: percentile`.
        per_channel: Whether to compute the percentiles for each channel separately, for `type:
            percentile`.
    """

    type: Literal["auto", "window", "percentile"] = "auto"
    level: float | None = None
    width: Positive | None = None
    low: Annotated[float, Field(ge=0, lt=100)] = 0.5
    high: Annotated[float, Field(gt=0, le=100)] = 99.5
    per_channel: bool = False

    @model_validator(mode="after")
    def _check_type_values(self) -> IntensityRecipe:
        if self.type == "window" and (self.level is None or self.width is None):
            raise ValueError("a window needs both level and width")
        owners = {"window": ("level", "width"), "percentile": ("low", "high", "per_channel")}
        for owner, names in owners.items():
            # A resolved recipe lists every default, so that only other values count as set.
            stated = [n for n in names if getattr(self, n) != type(self).model_fields[n].default]
            if stated and self.type != owner:
                raise ValueError(
                    f"{stated[0]} goes with type: {owner}, but the type is {self.type}; set type: "
                    f"{owner}, or remove {stated[0]}"
                )
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must lie below high ({self.high})")
        return self


class NormalizeRecipe(RecipeModel):
    """Normalization constants, one per channel, on the 0..1 scale after the intensity step.

    Attributes:
        mean: Mean of each channel, on the 0..1 scale.
        std: Standard deviation of each channel, on the 0..1 scale.
    """

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    std: Annotated[tuple[Positive, ...], Field(min_length=1)]


class CopyPasteRecipe(RecipeModel):
    """Objects of other training images that are pasted into an image; needs masks.

    Attributes:
        p: Probability that an image gets objects of another image.
        fraction: Fraction of the other image's objects that are pasted.
        min_visible: Minimum visible fraction of an object that others are pasted over. Below it,
            the object becomes an ignore region.
    """

    p: Fraction = 0.5
    fraction: Fraction = 0.5
    min_visible: Fraction = 0.3


class DataRecipe(RecipeModel):
    """Images, annotations, and their preparation for training.

    Attributes:
        root: Folder below --data-root, $RESNET_TASKS_DATA or ./data; or an absolute path.
        train: COCO files to train on.
        val: COCO files to evaluate on during training, and by `evaluate --split val`.
        test: COCO files for `evaluate --split test`.
        folds: Fold of `data.train` that is held out and evaluated instead of `data.val`. Groups
            stay together, and classes are balanced. None: no cross-validation.
        resize: Size that images are resized to before augmentation. None: images keep their size.
        scales: Sizes of training batches relative to `data.resize`, one drawn per batch.
        tiles: Tiles of images as training samples, for images that are too large or too detailed.
            None: whole images.
        intensity: Conversion of stored values to 0..1; 8-bit images need no settings.
        channels: Number of channels of the images.
        normalize: Normalization constants. `weights`: those of the pretrained weights; `data`:
            those of `data.train`, measured when training starts; or `mean` and `std`.
        repeat_factor: Fraction of training images below which a class is rare. Images that show a
            rare class occur sqrt(repeat_factor / fraction) times per epoch (LVIS: 0.001). None: all
            images occur once.
        copy_paste: Objects of other images that are pasted into training images, after
            augmentation. None: none.
        unreadable_images: Reaction to a training image that cannot be read: `stop`, or `skip` it
            and list it in unreadable_images.jsonl. Evaluation always stops.
        unreadable_images_limit: Maximum fraction of unreadable training images, for
            `unreadable_images: skip`.
        cache: Whether to keep resized images in memory; `auto`: if they fit in 1 GB.
        workers: Number of loader processes; 0: load in the training process; `auto`: chosen for the
            machine.
        max_pixels: Maximum number of pixels of an image. Larger images are rejected before they are
            decoded (decompression bombs).
        allow_leaks: Whether to accept images, and groups (patients, studies, sequences), that are
            used for both training and evaluation.
    """

    root: str
    train: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)]
    val: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)]
    test: tuple[SourceRecipe, ...] = ()
    folds: FoldsRecipe | None = None
    resize: ResizeRecipe | None = None
    scales: tuple[Annotated[float, Field(ge=0.1, le=4)], ...] = Field((), max_length=1000)
    tiles: TilesRecipe | None = None
    intensity: IntensityRecipe = IntensityRecipe()
    channels: Annotated[int, Field(ge=1, le=64)] = 3
    normalize: Literal["weights", "data"] | NormalizeRecipe = "weights"
    repeat_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    copy_paste: CopyPasteRecipe | None = None
    unreadable_images: Literal["stop", "skip"] = "stop"
    unreadable_images_limit: Annotated[float, Field(gt=0, le=1)] = 0.01
    cache: bool | Literal["auto"] = "auto"
    workers: Annotated[int, Field(ge=0, le=512)] | Literal["auto"] = "auto"
    max_pixels: Annotated[int, Field(ge=1)] = 178_956_970
    allow_leaks: bool = False

    @property
    def num_workers(self) -> int | None:
        """Number of loader processes; None: chosen for the machine."""
        return None if self.workers == "auto" else self.workers

    @model_validator(mode="after")
    def _check_tiles_and_pasting(self) -> DataRecipe:
        if self.copy_paste is not None and self.tiles is not None:
            raise ValueError(
                "copy_paste works on whole images, tiles cuts them up; remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _check_source_weights(self) -> DataRecipe:
        for split in ("val", "test"):
            for i, source in enumerate(getattr(self, split)):
                if source.weight != 1:
                    raise ValueError(
                        f"{split}[{i}].weight is {source.weight}, but every image is evaluated "
                        "once; weights are for data.train"
                    )
        return self

    @model_validator(mode="after")
    def _check_tiles_and_resize(self) -> DataRecipe:
        if self.tiles is not None and self.resize is not None:
            raise ValueError(
                "tiles are cut from the images as they are stored, but resize is also set; "
                "remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _check_normalization_channels(self) -> DataRecipe:
        if isinstance(self.normalize, NormalizeRecipe):
            for name in ("mean", "std"):
                count = len(getattr(self.normalize, name))
                if count != self.channels:
                    raise ValueError(
                        f"normalize.{name} has {Count(count):value} for channels={self.channels}; "
                        "give one per channel"
                    )
        return self
