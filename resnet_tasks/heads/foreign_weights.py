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
    """Part of the interface of `Head` that reading foreign weights needs."""

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


@dataclass(frozen=True)
class ForeignEncoder:
    """Encoder of a whole model, as its configuration states it.

    Attributes:
        name: Name in the other library.
        variant: Name of the backbone that computes the same; "" if there is none.
        problem: Reason why no backbone of this package computes the same; "" if one may.
        depth: Number of the coarsest level that the model reads, 5 for C5.
        output_stride: Stride of the encoder's last level, if it had five; below 32, the last stages
            are dilated.
        contract_dilation: Whether the first block of a dilated stage has the dilation of the stage
            before it, as in torchvision and timm.
    """

    name: str
    variant: str
    problem: str = ""
    depth: int = 5
    output_stride: int = 32
    contract_dilation: bool = True


class ForeignWeights:
    """Reader of models of other libraries for a head; this base class reads none.

    Attributes:
        source: Model and library, such as "a Faster R-CNN of torchvision"; "" if there is none.
        pyramid: Prefix of the names of the head's own pyramid, whose tensors fill a shared pyramid;
            "" if it has none.
        configured_options: Options of the head that `config.json` reveals and the tensors do not.
        mismatch_hint: Text appended to the error about a model whose architecture the head cannot
            have with any options.
    """

    source: str = ""
    pyramid: str = ""
    configured_options: tuple[str, ...] = ()
    mismatch_hint: str = ""

    def split(self, tensors: Mapping[str, Tensor]) -> ForeignModel | None:  # noqa: ARG002
        """Split the tensors of a model; return None if the head cannot read such a model.

        Args:
            tensors: Tensors of the file, without prefixes that all names share.
        """
        return None

    def infer_options(self, head: FilledHead, tensors: Mapping[str, Tensor]) -> dict[str, Any]:  # noqa: ARG002
        """Infer the options that the model needs from the shapes of its tensors: name -> value.

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

    def read_configured_options(self, configuration: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return the options that a model's `config.json` states: name -> value."""
        return {}

    def read_encoder(self, configuration: Mapping[str, Any]) -> ForeignEncoder | None:  # noqa: ARG002
        """Return the encoder that a model's `config.json` states; None if it states none."""
        return None

    def check_configuration(self, configuration: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """Return a problem that a model's `config.json` reveals and its tensors do not, or None.

        The text continues a sentence whose subject is the file.
        """
        return None


def format_names(names: Sequence[str]) -> str:
    """Join the first five names for a note, with an ellipsis if there are more."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
