"""Outputs of a torch model, for predictors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from resnet_tasks.data.datasets.samples import as_tensor
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime.devices import resolve_precision
from resnet_tasks.structures.input_images import HeadInfo, InputImage
from resnet_tasks.structures.samples import Sample, collate
from resnet_tasks.structures.tasks import Outputs


@dataclass(frozen=True)
class TorchOutputs:
    """Outputs of a torch model.

    Attributes:
        model: Model on its device; its mode is restored after each call.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        category_ids: Head name -> category id of every label, for written results.
    """

    model: TaskModel
    precision: str = "auto"
    category_ids: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def heads(self) -> dict[str, HeadInfo]:
        """Head name -> description."""
        return {
            name: HeadInfo(
                head.task,
                head.classes,
                tuple(self.category_ids.get(name, ())),
                self.model.label_tables[name],
            )
            for name, head in self.model.named_heads.items()
        }

    def outputs(self, images: Sequence[InputImage]) -> dict[str, Outputs]:
        """Compute the outputs of every head, as tensors on the model's device."""
        samples = [Sample(as_tensor(image.pixels), image.geometry, 0) for image in images]
        precision = resolve_precision(self.precision, self.model.device)
        return {**self.model.compute_outputs(collate(samples), precision=precision)}
