"""Interface through which a head reads whole models of other libraries (`model_weights`).

A head states how its tensors are found in such a model, which options the model needs, and which
rows of its predictor belong to the classes of the head. `model_weights/` does the rest: it finds
and checks the file, fills the backbone and the head, and reports what was filled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class FilledHead(Protocol):
    """Part of a head that is read here; `Head` has it."""

    classes: tuple[str, ...]
    options: Any

    @classmethod
    def parse_options(cls, options: Any) -> Any:
        """Validate options; None gives the defaults."""


@dataclass(frozen=True)
class ForeignModel:
    """Tensors of a whole model, split into backbone and head.

    Attributes:
        kind: Library and model, for error messages.
        backbone: Tensors under the names of a backbone.
        head: Tensors under the names of the head.
        predictor: Prefixes of the names of the tensors that depend on the classes.
        extras: Prefixes of tensors that only other heads have, such as mask branches.
    """

    kind: str
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    predictor: tuple[str, ...]
    extras: tuple[str, ...] = ()


class ForeignWeights:
    """Way in which a head reads models of other libraries; this base class reads none.

    Attributes:
        source: Model and library, such as "a Faster R-CNN of torchvision"; "" if there is none.
        pyramid: Prefix of the names of the head's own pyramid, whose tensors fill a shared pyramid;
            "" if it has none.
        mismatch_hint: End of the sentence about a model with an architecture that no options of
            the head give.
    """

    source: str = ""
    pyramid: str = ""
    mismatch_hint: str = ""

    def split(self, tensors: Mapping[str, Tensor]) -> ForeignModel | None:  # noqa: ARG002
        """Split the tensors of a model; None if it is no model that the head can read.

        Args:
            tensors: Tensors of the file, without prefixes that all names share.
        """
        return None

    def infer_options(self, head: FilledHead, tensors: Mapping[str, Tensor]) -> dict[str, Any]:  # noqa: ARG002
        """Infer options from the shapes of tensors: name -> value that the model needs.

        Args:
            head: Head that is filled.
            tensors: Tensors under the names of the head.
        """
        return {}

    def select_predictor_rows(
        self,
        head: FilledHead,  # noqa: ARG002
        model: ForeignModel,  # noqa: ARG002
        name: str,
    ) -> tuple[dict[str, Tensor] | None, list[str]]:
        """Select the tensors that depend on the classes, for the classes of a head.

        Args:
            head: Head that is filled.
            model: Result of `split`.
            name: Name of the head in the recipe, for the notes.

        Returns:
            Tensors under the head's names, or None if they keep their random initialization; and
            notes for the user.
        """
        return None, [f"heads.{name}: the head's predictor starts from random weights"]

    def check_configuration(self, configuration: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """Return the problem of a model's `config.json` that its tensors do not reveal, or None."""
        return None


def format_names(names: Sequence[str]) -> str:
    """Join names for a note; after five they end with dots."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
