"""Graph of a whole model: pixels in, outputs of all heads out.

Shapes: `B` images, `C` channels, `H, W` padded batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from resnet_tasks.errors import HeadError
from resnet_tasks.export.faster_rcnn_graph import compute_detector_outputs
from resnet_tasks.exported.manifest import PixelRange
from resnet_tasks.heads.base import HEADS, Head
from resnet_tasks.heads.classifier import Classifier
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.semantic_head import SemanticHead
from resnet_tasks.layers.folded_norms import fold_permanently
from resnet_tasks.model import TaskModel

Outputs = Callable[[Head, Mapping[str, Tensor], Tensor], dict[str, Tensor]]


class ExportGraph(nn.Module):
    """Traceable module with normalization, backbone, pyramid and all heads of a model.

    Args:
        model: Model in evaluation mode; it is copied.
        pixels: Range of the input values.

    Attributes:
        output_names: `head.field`, in the order of the outputs of `forward`; empty before the first
            call.

    Raises:
        HeadError: If a head cannot be exported.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: TaskModel, pixels: PixelRange) -> None:
        super().__init__()
        # Every filter becomes a constant of the graph, which int8 quantization needs as well.
        self.model = copy.deepcopy(model).cpu()
        fold_permanently(self.model)
        self.pixels = pixels
        self._outputs = {
            name: _select_outputs(name, head) for name, head in self.model.named_heads.items()
        }
        mean, std = self.model.mean.double(), self.model.std.double()
        span = pixels.high - pixels.low
        # Fold (x - low) / span and (... - mean) / std into one multiplication and one addition.
        self.register_buffer("scale", (1 / (std * span)).float()[:, None, None])
        self.register_buffer("shift", (-(pixels.low / span + mean) / std).float()[:, None, None])
        self.output_names: tuple[str, ...] = ()

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of all heads.

        Args:
            images: `(B, C, H, W)` float32, in the range of `pixels`; H and W multiples of 32.
            sizes: `(B, 2)` int64, (height, width) of each image inside the padded batch.
        """
        features = self.model.compute_features(self._normalize(images, sizes))
        named_outputs = {
            f"{name}.{field}": value
            for name, outputs in self._outputs.items()
            for field, value in outputs(self.model.named_heads[name], features, sizes).items()
        }
        self.output_names = tuple(named_outputs)
        return tuple(named_outputs.values())

    def _normalize(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Normalize like `TaskModel.normalize`: padding is 0 after normalization."""
        if self.pixels.clip:
            images = images.clamp(self.pixels.low, self.pixels.high)
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        inside = (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
        return (images * self.scale + self.shift) * inside[:, None].to(images.dtype)


def _select_outputs(name: str, head: Head) -> Outputs:
    """Return the function that computes the outputs of a head.

    Raises:
        HeadError: If the head cannot be exported.
    """
    outputs = _OUTPUTS.get(type(head))
    if outputs is None and isinstance(head, SemanticHead):
        outputs = _compute_logits
    if outputs is None:
        supported = ", ".join(
            head_name for head_name in HEADS if _is_exportable(HEADS.get(head_name))
        )
        raise HeadError(
            f"head {name} is a {type(head).__name__}, which cannot be exported; the heads that can "
            f"are {supported} and subclasses of SemanticHead; predict with the run folder instead"
        )
    return outputs


def _is_exportable(kind: type[Head]) -> bool:
    return kind in _OUTPUTS or issubclass(kind, SemanticHead)


def _compute_detections(
    head: Head, features: Mapping[str, Tensor], sizes: Tensor
) -> dict[str, Tensor]:
    assert isinstance(head, FasterRCNN)
    return compute_detector_outputs(head, features, sizes)


def _compute_logits(head: Head, features: Mapping[str, Tensor], _: Tensor) -> dict[str, Tensor]:
    """Return `logits` `(B, K, H, W)`; their argmax along K is the label map at input size."""
    return {"logits": head(features)["logits"]}


def _compute_probs(head: Head, features: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
    """Return `probs` `(B, K)` float32."""
    assert isinstance(head, Classifier)
    pooled = head.pool_logits(head(features)["logits"], sizes)
    return {"probs": pooled.sigmoid() if head.options.multi_label else pooled.softmax(dim=1)}


# Looked up by exact type, because a subclass may compute other outputs.
_OUTPUTS: dict[type[Head], Outputs] = {FasterRCNN: _compute_detections, Classifier: _compute_probs}
