"""The command line: verbs only, a module per family of them.

Heavy modules are imported inside the verb, so that help and lists come at once.
"""

from resnet_tasks.cli import (
    data,
    explaining,
    exporting,
    judging,
    parts,
    recipes,
    reporting,
    sharing,
    training,
)
from resnet_tasks.cli.app import app

__all__ = [
    "app",
    "data",
    "explaining",
    "exporting",
    "judging",
    "parts",
    "recipes",
    "reporting",
    "sharing",
    "training",
]
