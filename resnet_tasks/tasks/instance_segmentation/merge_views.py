"""Fusion of the instances of several views of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.run_lengths import vote_pixels
from resnet_tasks.tasks.detection.merge_views import fuse_with_members


def fuse_instances(views: Sequence[InstanceSegmentation]) -> InstanceSegmentation:
    """Fuse instances of several views: boxes and scores as `fuse_detections`, masks by vote.

    A pixel belongs to the mask of an object if instances with at least half of the summed scores of
    the object contain it.

    Args:
        views: Instances of the same image, one or more views.

    Returns:
        Instances sorted by descending score; at most as many as the view with the most instances
        has.
    """
    detections, members = fuse_with_members(views)
    masks = [mask for view in views for mask in view.segmentations]
    scores = np.concatenate([as_array(view.scores) for view in views]).astype(np.float64)
    segmentations = tuple(
        vote_pixels([masks[i] for i in group], scores[group].tolist()) for group in members
    )
    return InstanceSegmentation(
        detections.boxes, detections.scores, detections.labels, segmentations
    )
