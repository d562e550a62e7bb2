"""The weights that a user requests, in the form that error messages quote."""

from __future__ import annotations

from dataclasses import dataclass

BACKBONE_KEY = "backbone.weights"
MODEL_KEY = "model_weights"


@dataclass(frozen=True)
class WeightsRequest:
    """A recipe key and its value; `str()` gives the prefix of error messages.

    Attributes:
        spec: Value that the user wrote.
        key: Recipe key: `backbone.weights`, or `model_weights` for a backbone with its heads.
    """

    spec: str
    key: str = BACKBONE_KEY

    def __str__(self) -> str:
        return f"{self.key}: {self.spec!r}"

    @property
    def remedy(self) -> str:
        """Suggestion for error messages that works for every kind of failure."""
        if self.key == BACKBONE_KEY:
            return (
                f"set a file on this machine with {self.key}=PATH, or start from random weights "
                f"with {self.key}=none"
            )
        return f"set a file on this machine with {self.key}=PATH, or omit {self.key}"
