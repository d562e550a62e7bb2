"""A whole model as one graph: plain pixels in, what every head finds out.

Shapes: `B` pictures, `C` channels, `H, W` padded batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from resnet_tasks.errors import HeadError
from resnet_tasks.export.detector import detector_outputs
from resnet_tasks.exported.manifest import PixelRange
from resnet_tasks.heads.base import HEADS, Head
from resnet_tasks.heads.classifier import Classifier
from resnet_tasks.heads.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic import SemanticHead
from resnet_tasks.layers.folded_norms import fold_for_good
from resnet_tasks.model import TaskModel

Outputs = Callable[[Head, Mapping[str, Tensor], Tensor], dict[str, Tensor]]


class ExportGraph(nn.Module):
    """What is traced: normalisation, backbone, pyramid and all heads of a model.

    Args:
        model: In evaluation mode; is copied.
        pixels: The values that go in.

    Attributes:
        output_names: `head.field`, in the order of what `forward` returns.

    Raises:
        HeadError: If a head cannot be exported.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: TaskModel, pixels: PixelRange) -> None:
        super().__init__()
        # In int8 too, every filter is then a constant of the graph.
        self.model = copy.deepcopy(model).cpu()
        fold_for_good(self.model)
        self.pixels = pixels
        self._outputs = {
            name: _outputs_of(name, head) for name, head in self.model.named_heads.items()
        }
        mean, std = self.model.mean.double(), self.model.std.double()
        span = pixels.high - pixels.low
        # (x - low) / span, then (.. - mean) / std, as one multiplication and one addition.
        self.register_buffer("scale", (1 / (std * span)).float()[:, None, None])
        self.register_buffer("shift", (-(pixels.low / span + mean) / std).float()[:, None, None])
        self.output_names: tuple[str, ...] = ()

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Outputs of all heads.

        Args:
            images: `(B, C, H, W)` float32, in the range of `pixels`; H and W multiples of 32.
            sizes: `(B, 2)` int64, (height, width) of each picture inside the padded batch.
        """
        features = self.model.features(self._normalised(images, sizes))
        named = {
            f"{name}.{field}": value
            for name, outputs in self._outputs.items()
            for field, value in outputs(self.model.named_heads[name], features, sizes).items()
        }
        self.output_names = tuple(named)
        return tuple(named.values())

    def _normalised(self, images: Tensor, sizes: Tensor) -> Tensor:
        """As `TaskModel.normalise`: padding is 0 behind it."""
        if self.pixels.clip:
            images = images.clamp(self.pixels.low, self.pixels.high)
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        inside = (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
        return (images * self.scale + self.shift) * inside[:, None].to(images.dtype)


def _outputs_of(name: str, head: Head) -> Outputs:
    """How the outputs of a head are made.

    Raises:
        HeadError: If nobody knows.
    """
    made = _OUTPUTS.get(type(head))
    if made is None and isinstance(head, SemanticHead):
        made = _logits
    if made is None:
        known = ", ".join(each for each in HEADS if _is_known(HEADS.get(each)))
        raise HeadError(
            f"head {name} is a {type(head).__name__}, which cannot be exported; the heads that can "
            f"are {known} and subclasses of SemanticHead; predict with the run folder instead"
        )
    return made


def _is_known(kind: type[Head]) -> bool:
    return kind in _OUTPUTS or issubclass(kind, SemanticHead)


def _detections(head: Head, features: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
    assert isinstance(head, FasterRCNN)
    return detector_outputs(head, features, sizes)


def _logits(head: Head, features: Mapping[str, Tensor], _: Tensor) -> dict[str, Tensor]:
    """`(B, K, H, W)`: their greatest along K is the map at the size of the input."""
    return {"logits": head(features)["logits"]}


def _probs(head: Head, features: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
    """`(B, K)` float32."""
    assert isinstance(head, Classifier)
    pooled = head.pooled(head(features)["logits"], sizes)
    return {"probs": pooled.sigmoid() if head.options.multi_label else pooled.softmax(dim=1)}


# By exact type: a subclass may give more, or something else.
_OUTPUTS: dict[type[Head], Outputs] = {FasterRCNN: _detections, Classifier: _probs}
