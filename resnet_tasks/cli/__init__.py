"""The command line: verbs only, a module per family of them.

Heavy modules are imported inside the verb, so that help and lists come at once.
"""

from resnet_tasks.cli import calibrate as calibrating
from resnet_tasks.cli import components as parts
from resnet_tasks.cli import data, recipes, sharing
from resnet_tasks.cli import evaluate as judging
from resnet_tasks.cli import explain as explaining
from resnet_tasks.cli import export as exporting
from resnet_tasks.cli import predict as predicting
from resnet_tasks.cli import report as reporting
from resnet_tasks.cli import train as training
from resnet_tasks.cli.app import app

__all__ = [
    "app",
    "calibrating",
    "data",
    "explaining",
    "exporting",
    "judging",
    "parts",
    "predicting",
    "recipes",
    "reporting",
    "sharing",
    "training",
]
