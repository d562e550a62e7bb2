"""Auxiliary classifier on a level of the backbone, which only the loss uses.

Source: Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network, CVPR 2017, section 3.3 (a second
loss on C4 with the weight 0.4). The layers are those of torchvision's `FCNHead` without
its dropout, after Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation,
CVPR 2015.

Shape glossary: `B` batch size, `K` classes, `H, W` cells of the level.
"""

from __future__ import annotations

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from torch import Tensor, nn

from resnet_tasks.layers.folded_norms import fold_norms
from resnet_tasks.layers.segmentation.single_value_norms import accept_single_values


class AuxiliaryBranch(nn.Module):
    """A 3x3 convolution to a quarter of the channels, and a classifier.

    Args:
        channels: Channels of the level.
        num_classes: Number of classes K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        hidden = max(1, channels // 4)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        fold_norms(self.layers)
        accept_single_values(self.layers)
        initialize_decoder(self.layers)
        self.classifier = nn.Conv2d(hidden, num_classes, 1)
        initialize_head(self.classifier)

    def forward(self, features: Tensor) -> Tensor:
        """Map `(B, channels, H, W)` to logits `(B, K, H, W)`."""
        logits: Tensor = self.classifier(self.layers(features))
        return logits
