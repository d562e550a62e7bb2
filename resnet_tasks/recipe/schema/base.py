"""Base model of all sections of a recipe, and number types that sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from resnet_tasks.options import DescribedModel

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Window = Annotated[int, Field(ge=64, multiple_of=32)]
Overlap = Annotated[float, Field(ge=0, le=0.9)]


class RecipeModel(DescribedModel):
    """Base of all sections: unknown keys are errors, and nothing changes after validation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )
