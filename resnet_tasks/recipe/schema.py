"""The typed, frozen description of one run.

Numbers live here; the wiring lives in `assemble`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from resnet_tasks.files.safe_names import with_head_names
from resnet_tasks.recipe.presets import PRESETS, expand_preset

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Window = Annotated[int, Field(ge=64, multiple_of=32)]
Overlap = Annotated[float, Field(ge=0, le=0.9)]
Blocks = Annotated[int, Field(ge=1, le=4096)]
Annotates = Literal["boxes", "masks", "semantic", "image"]


class _RecipeModel(BaseModel):
    """Unknown keys are errors; nothing changes after validation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class SourceRecipe(_RecipeModel):
    """One COCO file and where its images lie."""

    annotations: str = Field(description="COCO JSON, relative to data.root")
    images: str | None = Field(
        None, description="Folder of the images; default: the file's own folder"
    )
    annotated: tuple[Annotates, ...] | None = Field(
        None,
        description="What the file annotates; default: what its `info` says, else what it holds",
    )
    allow_outside: bool = Field(
        False,
        description=(
            "Accept file names that are absolute or hold `..`; they can name any file of the "
            "machine"
        ),
    )
    categories: tuple[str, ...] | None = Field(
        None,
        description=(
            "Categories that were annotated wherever they appear; default: those that the file "
            "lists. Of others it says nothing: its background is no example against them"
        ),
    )
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="data.train: how often each image comes per epoch, on average"
    )


class FoldsRecipe(_RecipeModel):
    """Cross-validation: train without one fold of data.train, judge on it in place of data.val."""

    count: Annotated[int, Field(ge=2)] = Field(description="Folds that data.train is divided into")
    held_out: Annotated[int, Field(ge=0)] = Field(description="The one to judge on, from 0")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Of the division")
    digest: str | None = Field(
        None, description="Of the division; a run keeps it and refuses another one"
    )

    @model_validator(mode="after")
    def _check_held_out_fold(self) -> FoldsRecipe:
        if self.held_out >= self.count:
            raise ValueError(
                f"held_out is {self.held_out}, but {self.count} folds are numbered "
                f"0 to {self.count - 1}"
            )
        return self


class ResizeRecipe(_RecipeModel):
    """The box that every image is brought to, before augmentation."""

    height: Annotated[int, Field(ge=32)]
    width: Annotated[int, Field(ge=32)]
    keep_ratio: bool = Field(True, description="Fit inside the box; false stretches to it exactly")


class TilesRecipe(_RecipeModel):
    """Tiles of images as samples of training; prediction goes in windows of the same size."""

    height: Window = Field(description="Of a tile, pixels of the stored image")
    width: Window
    overlap: Overlap = Field(0.25, description="Least share of a tile that its neighbor shows")
    min_visible: Fraction = Field(
        0.3, description="Share of its box from which on a cut object counts; below it is ignored"
    )
    empty: Annotated[float, Field(ge=0)] | None = Field(
        0.1,
        description="Tiles without objects per epoch, for each one with objects; null: all of them",
    )


class IntensityRecipe(_RecipeModel):
    """How stored values become 0..1. 8-bit images need none."""

    type: Literal["auto", "window", "percentile"] = Field(
        "auto",
        description="auto: by the type's range; window: level and width; percentile: per image",
    )
    level: float | None = None
    width: Positive | None = None
    low: Annotated[float, Field(ge=0, lt=100)] = 0.5
    high: Annotated[float, Field(gt=0, le=100)] = 99.5
    per_channel: bool = Field(
        False, description="type=percentile: of each channel by itself, not of all together"
    )

    @model_validator(mode="after")
    def _check_type_values(self) -> IntensityRecipe:
        if self.type == "window" and (self.level is None or self.width is None):
            raise ValueError("a window needs both level and width")
        owners = {"window": ("level", "width"), "percentile": ("low", "high", "per_channel")}
        for owner, names in owners.items():
            # A resolved recipe states every default.
            stated = [n for n in names if getattr(self, n) != type(self).model_fields[n].default]
            if stated and self.type != owner:
                raise ValueError(
                    f"{stated[0]} goes with type: {owner}, but the type is {self.type}; set type: "
                    f"{owner}, or leave {stated[0]} out"
                )
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must lie below high ({self.high})")
        return self


class NormalizeRecipe(_RecipeModel):
    """Constants for normalization, one per channel, on the 0..1 scale after the intensity step."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    std: Annotated[tuple[Positive, ...], Field(min_length=1)]


class CopyPasteRecipe(_RecipeModel):
    """Objects of other training images pasted in; needs masks."""

    p: Fraction = Field(0.5, description="Share of the images that get objects of another one")
    share: Fraction = Field(0.5, description="Of that one's objects, those that are taken")
    min_visible: Fraction = Field(
        0.3, description="An object of which less is left becomes an ignore region"
    )


class DataRecipe(_RecipeModel):
    """Where images and annotations come from."""

    root: str = Field(
        description="Folder below --data-root, $RESNET_TASKS_DATA or ./data; or an absolute path"
    )
    train: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)]
    val: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)]
    test: tuple[SourceRecipe, ...] = ()
    folds: FoldsRecipe | None = Field(
        None,
        description=(
            "Hold a fold of data.train out and judge on it: whole groups, classes alike; data.val "
            "is not read then"
        ),
    )
    resize: ResizeRecipe | None = None
    scales: tuple[Annotated[float, Field(ge=0.1, le=4)], ...] = Field(
        (), description="Training batches at these sizes relative to resize, one drawn per batch"
    )
    tiles: TilesRecipe | None = Field(
        None, description="Learn from tiles of the images, which are too big or too detailed"
    )
    intensity: IntensityRecipe = IntensityRecipe()
    channels: Annotated[int, Field(ge=1, le=64)] = 3
    normalize: Literal["weights", "data"] | NormalizeRecipe = Field(
        "weights",
        description=(
            "weights: constants of the weights; data: of data.train, measured when training "
            "starts; or mean and std"
        ),
    )
    repeat_factor: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description=(
            "Share of training images below which a class is rare: those that show it come "
            "sqrt(repeat_factor / share) times per epoch (LVIS: 0.001); default: all come once"
        ),
    )
    copy_paste: CopyPasteRecipe | None = Field(
        None,
        description="Paste objects of other images into training images, after augmentation",
    )
    bad_images: Literal["stop", "skip"] = Field(
        "stop",
        description=(
            "A training image that cannot be read: stop, or leave it out and list it in "
            "bad_images.jsonl; evaluation always stops"
        ),
    )
    bad_images_limit: Annotated[float, Field(gt=0, le=1)] = Field(
        0.01, description="bad_images=skip: share of the training images that may be so"
    )
    cache: bool | Literal["auto"] = Field(
        "auto", description="Keep resized images in memory; auto: where 1 GB holds them"
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    max_pixels: Annotated[int, Field(ge=1)] = Field(
        178_956_970,
        description="Larger images are refused before they are decoded (decompression bombs)",
    )
    allow_leaks: bool = Field(
        False,
        description=(
            "Accept images, and groups (patients, studies, sequences), that are trained on and "
            "judged on as well"
        ),
    )

    @model_validator(mode="after")
    def _check_tiles_and_pasting(self) -> DataRecipe:
        if self.copy_paste is not None and self.tiles is not None:
            raise ValueError(
                "copy_paste works on whole images, tiles cuts them up; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _check_source_weights(self) -> DataRecipe:
        for split in ("val", "test"):
            for i, source in enumerate(getattr(self, split)):
                if source.weight != 1:
                    raise ValueError(
                        f"{split}[{i}].weight is {source.weight}, but every image is judged "
                        "once; weights are for data.train"
                    )
        return self

    @model_validator(mode="after")
    def _check_tiles_and_resize(self) -> DataRecipe:
        if self.tiles is not None and self.resize is not None:
            raise ValueError(
                "tiles are cut from the images as they are stored, but resize is set too; leave "
                "one of them out"
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


class BackboneRecipe(_RecipeModel):
    """A ResNet and its weights."""

    name: str = Field("resnet18", description="See `resnet-tasks backbones`; resnet: see layers")
    layers: Annotated[tuple[Blocks, ...], Field(min_length=4, max_length=4)] | None = Field(
        None, description="name: resnet: blocks of the stages C2..C5, such as [3, 4, 6, 3]"
    )
    block: Literal["basic", "bottleneck"] = Field(
        "bottleneck", description="layers: two 3x3 convolutions, or 1x1, 3x3, 1x1"
    )
    weights: str = Field(
        "imagenet",
        description=(
            "none, imagenet, timm:TAG, torchvision:ENUM, hf-hub:REPO, URL#sha256=…, a file, or a "
            "run folder (RUN, RUN@best)"
        ),
    )
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = Field(
        0, description="0 none, 1 the stem, 2..5 through C2..C5"
    )
    norm: Literal["train", "frozen", "sync", "group"] = Field(
        "train",
        description=(
            "Batch norms: learn, keep statistics and scale, share statistics between processes, "
            "or replace by GroupNorm"
        ),
    )
    output_stride: Literal[8, 16, 32] = Field(
        32, description="Stride of C5; below 32 the last stages are dilated"
    )
    drop_path: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Stochastic depth: how often the last block is skipped in training"
    )
    gradient_checkpointing: bool = Field(
        False, description="Less memory for one more forward of the stages, the same gradients"
    )
    accept_license: bool = Field(False, description="Welcome weights for non-commercial use")

    @model_validator(mode="before")
    @classmethod
    def _set_name_for_layers(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("layers"), (list, tuple)):
            return value
        # A recipe is read strictly as JSON, where a list is a tuple; from here on it is Python.
        return {"name": "resnet", **value, "layers": tuple(value["layers"])}

    @model_validator(mode="after")
    def _check_layers_and_name(self) -> BackboneRecipe:
        if self.layers is not None and self.name != "resnet":
            raise ValueError(
                f"layers describe a ResNet of your own depth, but name is {self.name!r}; leave one "
                "of the two out"
            )
        if self.layers is None and self.name == "resnet":
            raise ValueError(
                "name: resnet needs layers, such as [3, 4, 6, 3]; or name a variant such as "
                "resnet50"
            )
        if self.layers is None and "block" in self.model_fields_set and self.block != "bottleneck":
            raise ValueError(
                f"block: {self.block} goes with layers; {self.name} has its own kind of block"
            )
        return self

    @field_validator("weights")
    @classmethod
    def _check_weights_source(cls, value: str) -> str:
        if value == "unloaded":
            raise ValueError("'unloaded' is for callers that load a state dict next; write none")
        return value


class PyramidRecipe(_RecipeModel):
    """A feature pyramid P2..P6 over C2..C5 that heads share."""

    channels: Annotated[int, Field(ge=1)] = Field(256, description="Of every level")


class ExtendRecipe(_RecipeModel):
    """A finished run whose backbone and heads are taken over; the recipe names the new heads."""

    run: str = Field(description="A run folder: RUN (its last checkpoint) or RUN@best")
    freeze: tuple[str, ...] | None = Field(
        None,
        description=(
            "Parts of the run that stay as they are, of backbone, pyramid and its heads; default: "
            "all of them"
        ),
    )
    heads: tuple[str, ...] = Field(
        (), description="Heads that came from the run; set when training starts"
    )


class ModelWeightsRecipe(_RecipeModel):
    """Weights of a whole pretrained model, and the head that takes its head's."""

    source: str
    head: str | None = Field(None, description="Default: the only head that fits")


class HeadRecipe(_RecipeModel):
    """One named head."""

    type: str
    loss_weight: Annotated[float, Field(ge=0)] = 1.0
    lr_scale: Annotated[float, Field(ge=0)] = Field(
        1.0, description="The head's learning rate, relative to training.learning_rate"
    )
    classes: tuple[str, ...] | None = Field(
        None,
        description=(
            "Subset of the data set's categories; default: things for boxes, all for pixels and "
            "for whole images"
        ),
    )
    others: Literal["ignore", "background"] = "ignore"
    background: bool = Field(
        False, description="Semantic heads: a class of that name first, for unlabeled pixels"
    )
    options: dict[str, Any] = {}


class UnfreezeRecipe(_RecipeModel):
    """From when on fewer stages of the backbone are frozen."""

    epoch: Annotated[int, Field(ge=1)] = Field(description="Epochs that are trained before it")
    frozen_stages: Annotated[int, Field(ge=0, le=4)] = Field(
        description="backbone.frozen_stages from then on"
    )


class TrainingRecipe(_RecipeModel):
    """The loop's numbers; usable from Python without any other part of a recipe."""

    epochs: Annotated[int, Field(ge=1)] = 30
    batch_size: Annotated[int, Field(ge=1)] = 8
    accumulation: Annotated[int, Field(ge=1)] = Field(1, description="Batches per optimizer step")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    backbone_lr_scale: Annotated[float, Field(ge=0)] = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Each stage of the backbone learns at this times the rate of the one after it",
    )
    unfreeze: tuple[UnfreezeRecipe, ...] = Field(
        (), description="Stages of the backbone that join later, by epoch"
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Fraction = 0.9
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    steps: tuple[Fraction, ...] = Field(
        (0.67, 0.92), description="schedule=steps: fractions of the run at which the rate falls"
    )
    step_factor: Positive = 0.1
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Fraction of the run")
    clip_norm: Positive | None = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Decay of the averaged weights; 0: none"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    evaluate_every: Annotated[int, Field(ge=0)] = Field(
        1, description="Epochs between evaluations; 0: at the end only"
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Evaluations without a better evaluation.best that end the run early"
    )
    checkpoint_minutes: Positive = 10.0
    device: str = "auto"
    deterministic: bool = True
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        ("tensorboard",),
        description="Where curves go beside log.jsonl; wandb and mlflow are installed apart",
    )
    balancing: str = Field(
        "fixed",
        description=(
            "How the heads' losses are weighed, on top of loss_weight: fixed; uncertainty (Kendall "
            "et al. 2018, learned); dwa (Liu et al. 2019, by how fast each falls)"
        ),
    )
    log_gradient_conflict: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "Updates between looks at the cosines between the heads' gradients on the last shared "
            "stage; 0: never"
        ),
    )
    non_finite: Literal["stop", "skip"] = Field(
        "stop",
        description=(
            "A loss or gradient that is not finite: stop, or leave the step out (at most 1 % of "
            "the steps); either way it is kept for `resnet-tasks replay`"
        ),
    )

    @model_validator(mode="after")
    def _check_patience(self) -> TrainingRecipe:
        if self.patience is not None and self.evaluate_every == 0:
            raise ValueError(
                f"patience is {self.patience}, but evaluate_every is 0, so that there is a single "
                "evaluation at the end; set evaluate_every to 1 or more, or leave patience out"
            )
        return self

    @model_validator(mode="after")
    def _check_unfreeze_order(self) -> TrainingRecipe:
        for before, after in pairwise(self.unfreeze):
            if after.epoch <= before.epoch or after.frozen_stages >= before.frozen_stages:
                raise ValueError(
                    f"unfreeze: {_format_unfreeze_step(after)} follows "
                    f"{_format_unfreeze_step(before)}; epochs must rise and "
                    "frozen_stages fall from entry to entry"
                )
        if self.unfreeze and self.unfreeze[-1].epoch >= self.epochs:
            raise ValueError(
                f"unfreeze: {_format_unfreeze_step(self.unfreeze[-1])} is never reached in "
                f"{self.epochs} epochs; "
                "train longer, or take it out"
            )
        return self


def _format_unfreeze_step(entry: UnfreezeRecipe) -> str:
    return f"{{epoch: {entry.epoch}, frozen_stages: {entry.frozen_stages}}}"


class SlidingRecipe(_RecipeModel):
    """Windows in which big images are predicted."""

    height: Window = Field(description="Of a window, pixels of the image after data.resize")
    width: Window
    overlap: Overlap = Field(0.25, description="Least share of a window that its neighbor shows")
    nms_iou: Fraction = Field(
        0.5, description="Boxes of two windows that overlap more are one object"
    )


class EvaluationRecipe(_RecipeModel):
    """Which number chooses the best checkpoint, and how numbers are made."""

    best: str | None = Field(None, description="head/metric; default: the first head's main metric")
    batch_size: Annotated[int, Field(ge=1)] | None = None
    backend: Literal["hotcoco", "pycocotools"] = "hotcoco"
    resamples: Annotated[int, Field(ge=0)] = Field(
        1000, description="Resampled data sets behind every 95 % interval; 0: no intervals"
    )
    sliding: SlidingRecipe | None = Field(
        None, description="Predict window by window, in evaluation and predict alike"
    )
    extra: dict[str, dict[str, dict[str, Any] | None]] = Field(
        {},
        description=(
            "Head -> further evaluators, each with its options: froc or kitti for boxes, surface "
            "for pixels"
        ),
    )


def _allow_preset_name(schema: dict[str, Any]) -> None:
    """Lets editors accept a preset's name in place of the list."""
    steps = {key: schema.pop(key) for key in ("type", "items") if key in schema}
    schema["anyOf"] = [steps, {"type": "string", "enum": list(PRESETS)}]


class Recipe(_RecipeModel):
    """One run: data, one backbone, one or more named heads, and how to train and judge them."""

    name: str = Field("run", pattern=r"^[^\x00-\x1f\x7f]+$", description="Set from the file's name")
    plugins: tuple[str, ...] = Field(
        (), description="Python files or modules with heads of your own; they are executed"
    )
    data: DataRecipe
    backbone: BackboneRecipe = BackboneRecipe()
    model_weights: str | ModelWeightsRecipe | None = Field(
        None,
        description=(
            "Backbone and head of a pretrained model: torchvision:ENUM of a detector, hf-hub:REPO, "
            "URL#sha256=…, a file, or a folder; backbone.weights is none then"
        ),
    )
    pyramid: PyramidRecipe | None = Field(
        None,
        description=(
            "One pyramid for all heads that read P2..P6 (faster_rcnn, fpn), in the place of one in "
            "each; {} for its defaults"
        ),
    )
    heads: Annotated[dict[str, HeadRecipe], Field(min_length=1), AfterValidator(with_head_names)]
    extend: ExtendRecipe | None = Field(
        None, description="Add the heads to a finished run; backbone and pyramid are its own"
    )
    augment: tuple[dict[str, dict[str, Any] | None], ...] = Field(
        (),
        description=(
            "Albumentations by name, in order; or a preset: medical_microscopy, radiology, driving"
        ),
        json_schema_extra=_allow_preset_name,
    )
    training: TrainingRecipe = TrainingRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()

    @field_validator("augment", mode="before")
    @classmethod
    def _expand_presets(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            data = info.data.get("data")
            return expand_preset(value, data.channels if isinstance(data, DataRecipe) else 3)
        # What comes from a before-validator is no longer JSON, whose lists stand for tuples.
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _check_best_head(self) -> Recipe:
        best = self.evaluation.best
        if best is not None and best.split("/")[0] not in self.heads:
            raise ValueError(
                f"evaluation.best is {best!r}, but the heads are {', '.join(self.heads)}; "
                "write head/metric"
            )
        return self

    @model_validator(mode="after")
    def _check_unfreezing(self) -> Recipe:
        steps, frozen = self.training.unfreeze, self.backbone.frozen_stages
        if steps and steps[0].frozen_stages >= frozen:
            raise ValueError(
                f"training.unfreeze: {_format_unfreeze_step(steps[0])} frees nothing, for "
                "backbone.frozen_stages "
                f"is {frozen}; begin with more frozen stages, or take it out"
            )
        return self

    @property
    def sliding(self) -> SlidingRecipe | None:
        """The windows that images are predicted in; None: they are predicted whole."""
        tiles = self.data.tiles
        if self.evaluation.sliding is not None or tiles is None:
            return self.evaluation.sliding
        return SlidingRecipe(height=tiles.height, width=tiles.width, overlap=tiles.overlap)

    @model_validator(mode="after")
    def _check_model_weights(self) -> Recipe:
        if self.model_weights is None:
            return self
        if self.backbone.weights != "none":
            raise ValueError(
                f"model_weights bring those of the backbone too, but backbone.weights is "
                f"{self.backbone.weights!r}; write backbone.weights: none, or leave model_weights "
                "out"
            )
        head = None if isinstance(self.model_weights, str) else self.model_weights.head
        if head is not None and head not in self.heads:
            raise ValueError(
                f"model_weights.head is {head!r}, but the heads are {', '.join(self.heads)}"
            )
        return self
