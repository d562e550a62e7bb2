"""Command line: one module per group of related commands.

Heavy modules are imported inside the commands, so that help and listings appear immediately.
"""

from resnet_tasks.cli import (
    calibrate,
    data,
    data_inspection,
    evaluate,
    explain,
    export,
    listings,
    predict,
    recipes,
    report,
    sharing,
    train,
)
from resnet_tasks.cli.app import app

__all__ = [
    "app",
    "calibrate",
    "data",
    "data_inspection",
    "evaluate",
    "explain",
    "export",
    "listings",
    "predict",
    "recipes",
    "report",
    "sharing",
    "train",
]
