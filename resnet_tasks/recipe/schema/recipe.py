"""Typed, frozen description of one run.

The recipe holds the numbers; `assemble` builds the objects.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from resnet_tasks.best_metric import BEST_FORM, split_best_metric
from resnet_tasks.files.safe_names import with_head_names
from resnet_tasks.recipe.presets import PRESETS, expand_preset
from resnet_tasks.recipe.schema.base import RecipeModel
from resnet_tasks.recipe.schema.data import DataRecipe
from resnet_tasks.recipe.schema.evaluation import EvaluationRecipe, SlidingRecipe
from resnet_tasks.recipe.schema.model import (
    BackboneRecipe,
    CombinerRecipe,
    ExtendRecipe,
    HeadRecipe,
    ModelWeightsRecipe,
    PyramidRecipe,
)
from resnet_tasks.recipe.schema.training import TrainingRecipe, format_unfreeze_step


def _allow_preset_name(schema: dict[str, Any]) -> None:
    """Allow the name of a preset instead of the list in the JSON schema, for editors."""
    steps = {key: schema.pop(key) for key in ("type", "items") if key in schema}
    schema["anyOf"] = [steps, {"type": "string", "enum": list(PRESETS)}]


class Recipe(RecipeModel):
    """One run: data, a backbone, one or more named heads, training and evaluation.

    Attributes:
        name: Name of the run; set from the file name if it is missing.
        plugins: Python files or modules with custom heads. They are executed, with the user's
            consent.
        data: Images, annotations, and their preparation for training.
        backbone: ResNet and its weights.
        model_weights: Weights of backbone and head of a pretrained model: torchvision:ENUM of a
            detector, hf-hub:REPO, URL#sha256=…, a file, or a folder. They need `backbone.weights:
            none`. None: none.
        pyramid: One shared pyramid for all heads that read P2..P6 or P3..P7 (faster_rcnn, fcos,
            fpn), instead of one per head; {} for the defaults. None: no shared pyramid.
        heads: Heads by name.
        combine: Predictions made from those of several heads, by name. Each is evaluated, drawn and
            written like that of a head.
        extend: Finished run whose backbone, pyramid and heads are reused; the heads of the recipe
            are added. None: a new model.
        augment: Transforms of albumentations by name, in order, see `resnet-tasks augmentations`;
            or a preset: medical_microscopy, radiology, driving.
        training: Settings of the training loop.
        evaluation: Metrics, best checkpoint, and confidence intervals.
    """

    name: str = Field("run", pattern=r"^[^\x00-\x1f\x7f]+$")
    plugins: tuple[str, ...] = ()
    data: DataRecipe
    backbone: BackboneRecipe = BackboneRecipe()
    model_weights: str | ModelWeightsRecipe | None = None
    pyramid: PyramidRecipe | None = None
    heads: Annotated[
        dict[str, HeadRecipe],
        Field(min_length=1, max_length=64),
        AfterValidator(with_head_names),
    ]
    combine: Annotated[
        dict[str, CombinerRecipe], Field(max_length=64), AfterValidator(with_head_names)
    ] = Field({})
    extend: ExtendRecipe | None = None
    augment: tuple[dict[str, dict[str, Any] | None], ...] = Field(
        (), max_length=1000, json_schema_extra=_allow_preset_name
    )
    training: TrainingRecipe = TrainingRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()

    @field_validator("augment", mode="before")
    @classmethod
    def _expand_presets(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            data = info.data.get("data")
            return expand_preset(value, data.channels if isinstance(data, DataRecipe) else 3)
        # The result of a before-validator counts as Python, where a list is not accepted as a
        # tuple, as it is in JSON.
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _check_best_head(self) -> Recipe:
        best, names = self.evaluation.best, [*self.heads, *self.combine]
        for metric in () if best is None else split_best_metric(best):
            if metric.split("/")[0] not in names:
                raise ValueError(
                    f"evaluation.best is {best!r}, but the heads are {', '.join(names)}; "
                    f"write {BEST_FORM}"
                )
        return self

    @model_validator(mode="after")
    def _check_combined_names(self) -> Recipe:
        shared = [name for name in self.combine if name in self.heads]
        if shared:
            raise ValueError(
                f"combine.{shared[0]} has the name of a head; rename it, because each needs a name "
                "of its own"
            )
        return self

    @model_validator(mode="after")
    def _check_unfreezing(self) -> Recipe:
        steps, frozen = self.training.unfreeze, self.backbone.frozen_stages
        if steps and steps[0].frozen_stages >= frozen:
            raise ValueError(
                f"training.unfreeze: {format_unfreeze_step(steps[0])} unfreezes nothing, "
                f"because backbone.frozen_stages is {frozen}; start with more frozen stages, or "
                "remove it"
            )
        return self

    @property
    def sliding(self) -> SlidingRecipe | None:
        """Sliding windows for prediction; None if images are predicted whole."""
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
                "model_weights include those of the backbone, but backbone.weights is "
                f"{self.backbone.weights!r}; write backbone.weights: none, or remove "
                "model_weights"
            )
        head = None if isinstance(self.model_weights, str) else self.model_weights.head
        if head is not None and head not in self.heads:
            raise ValueError(
                f"model_weights.head is {head!r}, but the heads are {', '.join(self.heads)}"
            )
        return self
