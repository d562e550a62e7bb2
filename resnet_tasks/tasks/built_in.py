"""Modules of the built-in tasks, which register themselves at import; add new modules here."""

from __future__ import annotations

from resnet_tasks.tasks.classification import task as classification
from resnet_tasks.tasks.detection import task as detection
from resnet_tasks.tasks.instance_segmentation import task as instance_segmentation
from resnet_tasks.tasks.semantic_segmentation import task as semantic_segmentation

BUILT_IN_TASKS = (classification, detection, instance_segmentation, semantic_segmentation)
