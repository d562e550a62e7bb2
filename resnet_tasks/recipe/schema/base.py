"""The model that every section of a recipe derives from, and numbers that sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Window = Annotated[int, Field(ge=64, multiple_of=32)]
Overlap = Annotated[float, Field(ge=0, le=0.9)]


class RecipeModel(BaseModel):
    """Base of all sections: unknown keys are errors; nothing changes after validation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )
