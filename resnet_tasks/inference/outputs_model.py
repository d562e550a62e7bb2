"""Interface of models that compute the declared outputs of heads, and its calibrated form.

`TorchOutputs` implements it for a torch model, `exported.exported_model` for an exported graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from resnet_tasks.structures.input_images import HeadInfo, InputImage
from resnet_tasks.structures.tasks import Outputs


class OutputsModel(Protocol):
    """Model that computes the declared outputs of its heads; see `Task.outputs`."""

    @property
    def heads(self) -> Mapping[str, HeadInfo]:
        """Head name -> description."""
        ...

    def outputs(self, images: Sequence[InputImage]) -> dict[str, Outputs]:
        """Compute the outputs of every head for a batch of images.

        Returns:
            Head name -> output name -> array with the images along the first axis, in pixels of
            the padded batch.
        """
        ...


@dataclass(frozen=True)
class CalibratedOutputs:
    """Model whose outputs are calibrated.

    Attributes:
        model: Model whose outputs are calibrated.
        scalings: Head name -> function that calibrates the outputs of that head.
    """

    model: OutputsModel
    scalings: Mapping[str, Callable[[Outputs], Outputs]]

    @property
    def heads(self) -> Mapping[str, HeadInfo]:
        """Head name -> description."""
        return self.model.heads

    def outputs(self, images: Sequence[InputImage]) -> dict[str, Outputs]:
        """Compute the calibrated outputs of every head."""
        outputs_by_head: dict[str, Any] = self.model.outputs(images)
        return {
            name: self.scalings[name](outputs) if name in self.scalings else outputs
            for name, outputs in outputs_by_head.items()
        }
