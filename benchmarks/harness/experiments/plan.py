"""Plan of the experiments: which heads are trained on which data, with which settings.

An experiment is a shipped recipe with another head. Data, augmentation, optimizer, schedule, batch
size and number of images stay the same for all heads of a group, so that they are compared at equal
images seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_tasks.errors import DataError, format_allowed
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe

DETECTION = {"score_threshold": 0.001, "detections_per_image": 100}
"""AP uses the full curve, so that the default score thresholds of the one-stage detectors (0.05 and
0.2) would lower it; COCO's AP counts 100 detections per image."""
DENSE = {**DETECTION, "pyramid_channels": 128}
"""The base recipes set 128 channels for two CPU cores. The towers have as many channels as the
pyramid."""
ANCHOR_SIZES = tuple(
    tuple(side // 2 for side in sides)
    for sides in (
        (32, 40, 50),
        (64, 80, 101),
        (128, 161, 203),
        (256, 322, 406),
        (512, 645, 812),
    )
)
"""RetinaNet's default sizes, halved: its smallest anchors of 32 pixels are larger than most objects
of images with 240 to 352 lines, and the base recipes begin at 16 too."""
ATROUS_RATES = (3, 6, 9)
"""The backbone has stride 32; these rates have the field of view that 12, 24 and 36 have at stride
8, for which DeepLab was designed."""


@dataclass(frozen=True)
class ExperimentGroup:
    """Heads that are compared on the same data.

    Attributes:
        name: Name of the group.
        title: Description for tables.
        dataset: Name of the dataset, for `data prepare`.
        recipe: Name of the shipped recipe with all settings except those of the head.
        head: Name of the head in the recipe.
        metrics: Metrics of the table; the first one is the main metric.
        options: Type of the head -> options that differ from the defaults, in addition to those of
            the base recipe that `inherited` names.
        inherited: Options of the base recipe that every head of the group gets.
        own: Type of the head whose options are all those of the base recipe.
    """

    name: str
    title: str
    dataset: str
    recipe: str
    head: str
    metrics: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    inherited: tuple[str, ...] = ()
    own: str = ""


DETECTORS: Mapping[str, Mapping[str, Any]] = {
    "faster_rcnn": DETECTION,
    "fcos": DENSE,
    "retinanet": {**DENSE, "anchor_sizes": ANCHOR_SIZES},
}
SEGMENTERS: Mapping[str, Mapping[str, Any]] = {
    "unet": {},
    "fpn": {},
    "unetplusplus": {},
    "deeplabv3plus": {"atrous_rates": ATROUS_RATES},
    "pspnet": {},
    "upernet": {},
}
GROUPS = (
    ExperimentGroup(
        "bccd_boxes",
        "BCCD, boxes of blood cells",
        "bccd",
        "medical/bccd_faster_rcnn_resnet18",
        "cells",
        ("AP", "AP50"),
        DETECTORS,
        own="faster_rcnn",
    ),
    ExperimentGroup(
        "camvid_boxes",
        "CamVid, boxes of road users",
        "camvid",
        "driving/camvid_boxes_resnet18",
        "objects",
        ("AP", "AP50"),
        DETECTORS,
        own="faster_rcnn",
    ),
    ExperimentGroup(
        "camvid_pixels",
        "CamVid, pixels in 11 classes",
        "camvid",
        "driving/camvid_unet_resnet18",
        "scene",
        ("mIoU",),
        SEGMENTERS,
        inherited=("loss", "class_weights"),
        own="unet",
    ),
)


@dataclass(frozen=True)
class Experiment:
    """Training of one head.

    Attributes:
        group: Group of the experiment.
        head_type: Type of the head.
    """

    group: ExperimentGroup
    head_type: str

    @property
    def name(self) -> str:
        """Name of the experiment, such as `bccd_boxes/fcos`."""
        return f"{self.group.name}/{self.head_type}"


EXPERIMENTS = tuple(Experiment(group, head_type) for group in GROUPS for head_type in group.options)


@dataclass(frozen=True)
class PlannedRun:
    """Experiment with all its settings.

    Attributes:
        experiment: The experiment.
        recipe: Recipe of the run.
        settings: Settings that determine the result, without paths of this machine.
    """

    experiment: Experiment
    recipe: Recipe
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """Key of the run in the results: experiment and seed."""
        return f"{self.experiment.name}/seed-{self.recipe.training.seed}"

    @property
    def digest(self) -> str:
        """Digest of the settings, 16 hexadecimal digits."""
        return hashlib.sha256(encode_json(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder_name(self) -> str:
        """Name of the run folder; other settings have another one."""
        return f"{self.key.replace('/', '-')}-{self.digest}"


def plan_run(
    experiment: Experiment,
    *,
    weights: str,
    weights_digest: str,
    epochs_share: float,
    seed: int = 0,
) -> PlannedRun:
    """Build the recipe of an experiment.

    Args:
        experiment: The experiment.
        weights: Value of `backbone.weights`: path of a weights file, or `none`.
        weights_digest: SHA-256 of that file, which replaces its path in the settings.
        epochs_share: Share of the base recipe's epochs.
        seed: Value of `training.seed`.
    """
    group = experiment.group
    base = load_recipe(group.recipe)
    epochs = max(1, round(base.training.epochs * epochs_share))
    head = {"type": experiment.head_type, "options": make_head_options(experiment, base)}
    recipe = load_recipe(
        group.recipe,
        [
            f"name={experiment.name}",
            f"heads.{group.head}={json.dumps(head)}",
            f"backbone.weights={json.dumps(weights)}",
            "backbone.frozen_stages=0",
            f"training.epochs={epochs}",
            f"training.seed={seed}",
            "training.evaluate_every=0",
        ],
    )
    settings = json.loads(recipe.model_dump_json(exclude={"plugins"}))
    settings["backbone"]["weights"] = weights_digest
    return PlannedRun(experiment, recipe, settings)


def make_head_options(experiment: Experiment, base: Recipe) -> dict[str, Any]:
    """Return the options of an experiment's head: those of the base recipe, and its own."""
    group = experiment.group
    base_options = base.heads[group.head].options
    if experiment.head_type == group.own:
        inherited = dict(base_options)
    else:
        inherited = {key: base_options[key] for key in group.inherited}
    return {**inherited, **group.options[experiment.head_type]}


def select_experiments(names: Sequence[str]) -> list[Experiment]:
    """Return the experiments of the given names, groups or types of heads; all without names.

    Raises:
        DataError: If a name is unknown.
    """
    known = {
        name
        for experiment in EXPERIMENTS
        for name in (experiment.name, experiment.group.name, experiment.head_type)
    }
    unknown_names = sorted(set(names) - known)
    if unknown_names:
        raise DataError(
            f"--only: there is no experiment {unknown_names[0]!r}; allowed: "
            + format_allowed(sorted(known))
        )
    return [
        experiment
        for experiment in EXPERIMENTS
        if not names or {experiment.name, experiment.group.name, experiment.head_type} & set(names)
    ]
