"""Backbone, shared pyramid and heads, with the weights that they start from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from resnet_tasks.recipe.schema.base import RecipeModel

Blocks = Annotated[int, Field(ge=1, le=4096)]


class BackboneRecipe(RecipeModel):
    """A ResNet and its weights."""

    name: str = Field("resnet18", description="See `resnet-tasks backbones`; resnet: see layers")
    layers: Annotated[tuple[Blocks, ...], Field(min_length=4, max_length=4)] | None = Field(
        None, description="name: resnet: blocks of the stages C2..C5, such as [3, 4, 6, 3]"
    )
    block: Literal["basic", "bottleneck"] = Field(
        "bottleneck", description="With layers: basic is 3x3, 3x3; bottleneck is 1x1, 3x3, 1x1"
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
            "Batch norms: train them, freeze statistics and scale, share statistics between "
            "processes, or replace them with GroupNorm"
        ),
    )
    output_stride: Literal[8, 16, 32] = Field(
        32, description="Stride of C5; below 32 the last stages are dilated"
    )
    drop_path: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Stochastic depth: probability of skipping the last block in training"
    )
    gradient_checkpointing: bool = Field(
        False, description="Save memory by a second forward of the stages; same gradients"
    )
    accept_license: bool = Field(
        False, description="Accept weights that allow only non-commercial use"
    )

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
    """A feature pyramid P2..P6 or P2..P7 over C2..C5 that heads share."""

    channels: Annotated[int, Field(ge=1)] = Field(256, description="Channels of every level")
    extra_levels: Literal["pooled", "convolved"] = Field(
        "pooled",
        description=(
            "Levels above P5: pooled is one, P6 (faster_rcnn, mask_rcnn); convolved are two, P6 "
            "and P7, with weights (RetinaNet, FCOS)"
        ),
    )


class ExtendRecipe(RecipeModel):
    """A finished run whose backbone and heads are reused; the recipe lists the new heads."""

    run: str = Field(description="A run folder: RUN (its last checkpoint) or RUN@best")
    freeze: tuple[str, ...] | None = Field(
        None,
        description=(
            "Parts of the run that stay frozen, out of backbone, pyramid and its heads; default: "
            "all of them"
        ),
    )
    heads: tuple[str, ...] = Field(
        (), description="Heads that come from the run; set when training starts"
    )


class ModelWeightsRecipe(RecipeModel):
    """Weights of a whole pretrained model, and the head that they are loaded into."""

    source: str
    head: str | None = Field(None, description="Head to load; default: the only head that fits")


class HeadRecipe(RecipeModel):
    """One named head."""

    type: str
    loss_weight: Annotated[float, Field(ge=0)] = 1.0
    lr_scale: Annotated[float, Field(ge=0)] = Field(
        1.0, description="The head's learning rate, relative to training.learning_rate"
    )
    classes: tuple[str, ...] | None = Field(
        None,
        description=(
            "Subset of the dataset's categories; default: things for boxes, all for pixels and "
            "for whole images"
        ),
    )
    others: Literal["ignore", "background"] = "ignore"
    background: bool = Field(
        False, description="Semantic heads: add a first class with this name for unlabeled pixels"
    )
    options: dict[str, Any] = Field({})


class CombinerRecipe(RecipeModel):
    """One named combiner: type, options, and a line `ROLE: HEAD` for every head that it reads."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Name of the combiner")
    options: dict[str, Any] = Field({})

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
