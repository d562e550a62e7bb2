"""One pretrained ResNet, many heads, one recipe.

The public names are imported on first use, so that `import resnet_tasks` is fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Albumentations asks a server for its newest version at import unless this variable is set.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

if TYPE_CHECKING:
    from resnet_tasks.backbone.resnet import ResNet
    from resnet_tasks.evaluation.evaluate import evaluate
    from resnet_tasks.heads.base import HEADS, Head, HeadOptions, register_head
    from resnet_tasks.model import TaskModel
    from resnet_tasks.recipe.load import load_recipe
    from resnet_tasks.recipe.schema.recipe import Recipe
    from resnet_tasks.recipe.schema.training import TrainingRecipe
    from resnet_tasks.runs.run import load
    from resnet_tasks.structures.geometry import Geometry
    from resnet_tasks.structures.samples import Sample
    from resnet_tasks.structures.targets import Target
    from resnet_tasks.training.finetune import finetune

_HOMES = {
    "HEADS": "resnet_tasks.heads.base",
    "Geometry": "resnet_tasks.structures.geometry",
    "Head": "resnet_tasks.heads.base",
    "HeadOptions": "resnet_tasks.heads.base",
    "Recipe": "resnet_tasks.recipe.schema.recipe",
    "ResNet": "resnet_tasks.backbone.resnet",
    "Sample": "resnet_tasks.structures.samples",
    "Target": "resnet_tasks.structures.targets",
    "TaskModel": "resnet_tasks.model",
    "TrainingRecipe": "resnet_tasks.recipe.schema.training",
    "evaluate": "resnet_tasks.evaluation.evaluate",
    "finetune": "resnet_tasks.training.finetune",
    "load": "resnet_tasks.runs.run",
    "load_recipe": "resnet_tasks.recipe.load",
    "register_head": "resnet_tasks.heads.base",
}

__all__ = [
    "HEADS",
    "Geometry",
    "Head",
    "HeadOptions",
    "Recipe",
    "ResNet",
    "Sample",
    "Target",
    "TaskModel",
    "TrainingRecipe",
    "evaluate",
    "finetune",
    "load",
    "load_recipe",
    "register_head",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'resnet_tasks' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
