"""Base model of all sections of a recipe, and number types that sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from resnet_tasks.options import DescribedModel

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Window = Annotated[int, Field(ge=64, le=16_384, multiple_of=32)]
Channels = Annotated[int, Field(ge=1, le=2048)]
"""Number of channels of a convolution, at most that of C5 in the largest ResNets."""
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
Number = Annotated[int, Field(ge=0, le=1_000_000)]
"""Number of repetitions; those that allow 0 mean none by it."""
PositiveNumber = Annotated[int, Field(ge=1, le=1_000_000)]
Overlap = Annotated[float, Field(ge=0, le=0.9)]


class RecipeModel(DescribedModel):
    """Base of all sections: unknown keys are errors, and nothing changes after validation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )
