"""What a user asked for as weights, the way messages name it."""

from __future__ import annotations

from dataclasses import dataclass

BACKBONE_KEY = "backbone.weights"
MODEL_KEY = "model_weights"


@dataclass(frozen=True)
class WeightsRequest:
    """A key of the recipe and what stands there; as text the opening of a message.

    Attributes:
        spec: What the user wrote.
        key: Where: `backbone.weights`, or `model_weights` for a backbone with its heads.
    """

    spec: str
    key: str = BACKBONE_KEY

    def __str__(self) -> str:
        return f"{self.key}: {self.spec!r}"

    @property
    def remedy(self) -> str:
        """What always works."""
        if self.key == BACKBONE_KEY:
            return (
                f"give a file on this machine with {self.key}=PATH, or start from random weights "
                f"with {self.key}=none"
            )
        return f"give a file on this machine with {self.key}=PATH, or leave {self.key} out"
