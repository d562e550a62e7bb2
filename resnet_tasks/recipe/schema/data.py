"""Sources of images and annotations, and conversion of images to training samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from resnet_tasks.recipe.schema.base import Fraction, Overlap, Positive, RecipeModel, Window

Annotates = Literal["boxes", "masks", "semantic", "image"]


class SourceRecipe(RecipeModel):
    """One COCO file and the folder of its images."""

    annotations: str = Field(description="COCO JSON, relative to data.root")
    images: str | None = Field(
        None, description="Folder of the images; default: the file's own folder"
    )
    annotated: tuple[Annotates, ...] | None = Field(
        None,
        description="What the file annotates; default: as its `info` states, else what it contains",
    )
    allow_outside: bool = Field(
        False,
        description=(
            "Accept file names that are absolute or contain `..`; they can refer to any file on "
            "the machine"
        ),
    )
    categories: tuple[str, ...] | None = Field(
        None,
        description=(
            "Categories that were annotated wherever they appear; default: those that the file "
            "lists. The background of the file is not used as a negative example for other ones"
        ),
    )
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="data.train: how often each image comes per epoch, on average"
    )


class FoldsRecipe(RecipeModel):
    """Cross-validation: one fold of data.train is held out and evaluated instead of data.val."""

    count: Annotated[int, Field(ge=2)] = Field(description="Folds that data.train is divided into")
    held_out: Annotated[int, Field(ge=0)] = Field(description="Fold to evaluate on, from 0")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seed of the division")
    digest: str | None = Field(
        None, description="Digest of the division; a run records it and refuses another one"
    )

    @model_validator(mode="after")
    def _check_held_out_fold(self) -> FoldsRecipe:
        if self.held_out >= self.count:
            raise ValueError(
                f"held_out is {self.held_out}, but {self.count} folds are numbered "
                f"0 to {self.count - 1}"
            )
        return self


class ResizeRecipe(RecipeModel):
    """Size of the box that every image is resized to, before augmentation."""

    height: Annotated[int, Field(ge=32)]
    width: Annotated[int, Field(ge=32)]
    keep_ratio: bool = Field(True, description="Fit inside the box; false stretches to it exactly")


class TilesRecipe(RecipeModel):
    """Tiles of images as training samples; prediction uses sliding windows of the same size."""

    height: Window = Field(description="Height of a tile, pixels of the stored image")
    width: Window
    overlap: Overlap = Field(0.25, description="Minimum share of a tile that its neighbor overlaps")
    min_visible: Fraction = Field(
        0.3, description="Share of its box from which a cut object counts; below, it is ignored"
    )
    empty: Annotated[float, Field(ge=0)] | None = Field(
        0.1,
        description="Tiles without objects per epoch, for each one with objects; null: all of them",
    )


class IntensityRecipe(RecipeModel):
    """Conversion of stored values to 0..1; 8-bit images need no settings."""

    type: Literal["auto", "window", "percentile"] = Field(
        "auto",
        description="auto: by the type's range; window: level and width; percentile: per image",
    )
    level: float | None = None
    width: Positive | None = None
    low: Annotated[float, Field(ge=0, lt=100)] = 0.5
    high: Annotated[float, Field(gt=0, le=100)] = 99.5
    per_channel: bool = Field(
        False, description="type=percentile: for each channel separately, not for all together"
    )

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
    """Normalization constants, one per channel, on the 0..1 scale after the intensity step."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    std: Annotated[tuple[Positive, ...], Field(min_length=1)]


class CopyPasteRecipe(RecipeModel):
    """Objects of other training images that are pasted into an image; needs masks."""

    p: Fraction = Field(0.5, description="Share of the images that get objects of another image")
    fraction: Fraction = Field(
        0.5, description="Fraction of the other image's objects that are pasted"
    )
    min_visible: Fraction = Field(
        0.3, description="An object with a smaller visible share becomes an ignore region"
    )


class DataRecipe(RecipeModel):
    """Images, annotations, and their preparation for training."""

    root: str = Field(
        description="Folder below --data-root, $RESNET_TASKS_DATA or ./data; or an absolute path"
    )
    train: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)]
    val: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)]
    test: tuple[SourceRecipe, ...] = ()
    folds: FoldsRecipe | None = Field(
        None,
        description=(
            "Hold out a fold of data.train and evaluate on it: groups stay together, classes are "
            "balanced; data.val is not read then"
        ),
    )
    resize: ResizeRecipe | None = None
    scales: tuple[Annotated[float, Field(ge=0.1, le=4)], ...] = Field(
        (), description="Training batches at these sizes relative to resize, one drawn per batch"
    )
    tiles: TilesRecipe | None = Field(
        None, description="Train on tiles of images that are too large or too detailed"
    )
    intensity: IntensityRecipe = IntensityRecipe()
    channels: Annotated[int, Field(ge=1, le=64)] = 3
    normalize: Literal["weights", "data"] | NormalizeRecipe = Field(
        "weights",
        description=(
            "weights: constants of the weights; data: those of data.train, measured when training "
            "starts; or mean and std"
        ),
    )
    repeat_factor: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description=(
            "Share of training images below which a class is rare: images that show it come "
            "sqrt(repeat_factor / share) times per epoch (LVIS: 0.001); default: all come once"
        ),
    )
    copy_paste: CopyPasteRecipe | None = Field(
        None,
        description="Paste objects of other images into training images, after augmentation",
    )
    unreadable_images: Literal["stop", "skip"] = Field(
        "stop",
        description=(
            "A training image that cannot be read: stop, or skip it and list it in "
            "unreadable_images.jsonl; evaluation always stops"
        ),
    )
    unreadable_images_limit: Annotated[float, Field(gt=0, le=1)] = Field(
        0.01,
        description="unreadable_images=skip: share of the training images that may be unreadable",
    )
    cache: bool | Literal["auto"] = Field(
        "auto", description="Keep resized images in memory; auto: if they fit in 1 GB"
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    max_pixels: Annotated[int, Field(ge=1)] = Field(
        178_956_970,
        description="Larger images are refused before they are decoded (decompression bombs)",
    )
    allow_leaks: bool = Field(
        False,
        description=(
            "Accept images, and groups (patients, studies, sequences), that are used for both "
            "training and evaluation"
        ),
    )

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
                        f"normalize.{name} has {count} value(s) for channels={self.channels}; give "
                        "one per channel"
                    )
        return self
