"""Backbone, shared pyramid and heads, with the weights that they start from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from resnet_tasks.recipe.schema.base import Channels, RecipeModel

Blocks = Annotated[int, Field(ge=1, le=512)]
Options = Annotated[
    dict[str, Any],
    # YAML reads a key with nothing but comments below it as null.
    BeforeValidator(lambda value: {} if value is None else value),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "null"}]}),
]
"""Options that the class of their owner validates later."""


class BackboneRecipe(RecipeModel):
    """A ResNet and its weights.

    Attributes:
        name: Variant of ResNet, see `resnet-tasks backbones`; or `resnet`, with `layers`.
        layers: Number of blocks of the stages C2..C5 for `name: resnet`, such as [3, 4, 6, 3], at
            most 512 in all. None: those of the variant.
        block: Kind of block for `layers`: `basic` is 3x3, 3x3; `bottleneck` is 1x1, 3x3, 1x1.
        weights: Source of the weights: none, imagenet, timm:TAG, torchvision:ENUM, hf-hub:REPO,
            URL#sha256=…, a file, or a run folder (RUN, RUN@best).
        frozen_stages: Number of frozen stages: 0 none, 1 the stem, 2..5 the stem and the stages
            through C2..C5.
        norm: Treatment of batch norms: `train` them, `frozen` statistics and scales, `sync`
            statistics between processes, or `group` norms instead.
        output_stride: Stride of C5, pixels; below 32, the last stages are dilated.
        contract_dilation: Whether the first block of a dilated stage has the dilation of the stage
            before it (torchvision, timm), or that of the stage (segmentation_models_pytorch).
        drop_path: Probability of skipping the last block in training (stochastic depth); earlier
            blocks have lower ones.
        gradient_checkpointing: Whether to save memory by a second forward pass through the stages;
            the gradients stay the same.
        accept_license: Whether to accept weights whose license allows only non-commercial use.
    """

    name: str = "resnet18"
    layers: Annotated[tuple[Blocks, ...], Field(min_length=4, max_length=4)] | None = None
    block: Literal["basic", "bottleneck"] = "bottleneck"
    weights: str = "imagenet"
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    norm: Literal["train", "frozen", "sync", "group"] = "train"
    output_stride: Literal[8, 16, 32] = 32
    contract_dilation: bool = True
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_checkpointing: bool = False
    accept_license: bool = False

    @model_validator(mode="before")
    @classmethod
    def _set_name_for_layers(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("layers"), (list, tuple)):
            return value
        # A recipe is parsed strictly as JSON, where a list is accepted as a tuple. The result of a
        # before-validator counts as Python, where it is not.
        return {"name": "resnet", **value, "layers": tuple(value["layers"])}

    @model_validator(mode="after")
    def _check_layers_and_name(self) -> BackboneRecipe:
        if self.layers is not None and self.name != "resnet":
            raise ValueError(
                f"layers describe a custom ResNet, but name is {self.name!r}; remove one of the two"
            )
        if self.layers is None and self.name == "resnet":
            raise ValueError(
                "name: resnet needs layers, such as [3, 4, 6, 3]; or name a variant such as "
                "resnet50"
            )
        if self.layers is None and "block" in self.model_fields_set and self.block != "bottleneck":
            raise ValueError(
                f"block: {self.block} applies only to layers; {self.name} has a fixed kind of block"
            )
        return self

    @field_validator("weights")
    @classmethod
    def _check_weights_source(cls, value: str) -> str:
        if value == "unloaded":
            raise ValueError("'unloaded' is for callers that load a state dict next; write none")
        return value


class PyramidRecipe(RecipeModel):
    """A feature pyramid P2..P6 or P2..P7 over C2..C5 that heads share.

    Attributes:
        channels: Number of channels of every level.
        extra_levels: Levels above P5. `pooled`: P6 without weights (faster_rcnn, mask_rcnn);
            `convolved`: P6 and P7, convolutions of P5 (fcos, retinanet); `convolved_c5`: P6 and P7,
            convolutions of C5 (retinanet with the same option).
    """

    channels: Channels = 256
    extra_levels: Literal["pooled", "convolved", "convolved_c5"] = "pooled"


class ExtendRecipe(RecipeModel):
    """A finished run whose backbone and heads are reused; the recipe lists the new heads.

    Attributes:
        run: Run folder: RUN (its last checkpoint) or RUN@best.
        freeze: Parts of the run that stay frozen: backbone, pyramid, or names of its heads. None:
            all of them.
        heads: Heads that come from the run; set when training starts.
    """

    run: str
    freeze: tuple[str, ...] | None = None
    heads: tuple[str, ...] = ()


class ModelWeightsRecipe(RecipeModel):
    """Weights of a whole pretrained model, and the head that they are loaded into.

    Attributes:
        source: Source of the weights: torchvision:ENUM, hf-hub:REPO, URL#sha256=…, a file, or a
            folder.
        head: Head to load the weights into. None: the only head that fits.
    """

    source: str
    head: str | None = None


class HeadRecipe(RecipeModel):
    """One named head.

    Attributes:
        type: Type of the head, see `resnet-tasks heads`.
        loss_weight: Factor of the head's losses in the total loss.
        lr_scale: Learning rate of the head, relative to `training.learning_rate`.
        classes: Categories of the dataset that the head predicts. None: things for boxes, all
            categories for pixels and for whole images.
        others: Treatment of annotations of categories that are not in `classes`: `ignore` them in
            loss and evaluation, or treat them as `background`.
        background: Whether a semantic head gets a first class `background` for unlabeled pixels.
        options: Options of the head's type, see `resnet-tasks heads TYPE`. None: the defaults.
    """

    type: str
    loss_weight: Annotated[float, Field(ge=0)] = 1.0
    lr_scale: Annotated[float, Field(ge=0)] = 1.0
    classes: tuple[str, ...] | None = None
    others: Literal["ignore", "background"] = "ignore"
    background: bool = False
    options: Options = Field({})


class CombinerRecipe(RecipeModel):
    """One named combiner: type, options, and a line `ROLE: HEAD` for every head that it reads.

    Attributes:
        type: Type of the combiner, see `resnet-tasks combiners`.
        options: Options of the combiner's type, see `resnet-tasks combiners TYPE`. None: the
            defaults.
    """

    model_config = ConfigDict(extra="allow")

    type: str
    options: Options = Field({})

    @model_validator(mode="after")
    def _check_roles(self) -> CombinerRecipe:
        for role, head in (self.model_extra or {}).items():
            if not isinstance(head, str):
                raise ValueError(f"{role} must be the name of a head, got {head!r}")
        return self

    @property
    def roles(self) -> dict[str, str]:
        """Role -> name of the head in that role."""
        return dict(self.model_extra or {})
