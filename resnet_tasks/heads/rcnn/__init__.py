"""Faster R-CNN on a feature pyramid."""

from resnet_tasks.heads.faster_rcnn.head import (
    FasterRCNN,
    FasterRCNNOptions,
    split_torchvision_state_dict,
)

__all__ = ["FasterRCNN", "FasterRCNNOptions", "split_torchvision_state_dict"]
