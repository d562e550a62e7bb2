"""Scalabel and BDD100K categories, and their conversion to classes, crowd objects or areas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data_tools.writing.coco_writer import CategorySpec

Semantic = Literal["none", "drivable", "lanes", "polygons"]

CLASSES = (
    *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    *("traffic light", "traffic sign"),
)
"""BDD100K's detection classes in their original order."""
RENAMED = {
    "bike": "bicycle",
    "caravan": "car",
    "motor": "motorcycle",
    "person": "pedestrian",
    "van": "car",
}
"""Older names -> classes, as in BDD100K's configuration (`name_mapping` of det.toml)."""
IGNORED = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
"""Categories whose objects become crowd objects (`ignore_mapping` of det.toml)."""
DRIVABLE = ("direct", "alternative")
LANES = (
    *("crosswalk", "double other", "double white", "double yellow"),
    *("road curb", "single other", "single white", "single yellow"),
)
AREAS = {"area/drivable": "direct", "area/alternative": "alternative"}
LANE_PREFIX = "lane/"
"""Start of the categories of lanes in the files of 2018 with one image each."""
OF_LANES = "lane"
OF_AREAS = "drivable area"
"""Categories in the files of 2018, which state the class of a lane or area in an attribute."""


@dataclass(frozen=True)
class ConversionPlan:
    """Mapping from categories to objects, crowd objects and label maps.

    Attributes:
        things: Classes of objects.
        stuff: Classes of the label maps.
        semantic: Kind of label from which the label maps are drawn.
        rename: Category -> category of which it is another name.
        ignore: Category -> class for which its objects are crowd objects.
        lane_width: Width of a drawn lane marking in pixels.
    """

    things: tuple[str, ...]
    stuff: tuple[str, ...]
    semantic: Semantic
    rename: Mapping[str, str]
    ignore: Mapping[str, str]
    lane_width: int

    @property
    def categories(self) -> list[CategorySpec]:
        """Categories of the COCO file: things, then the stuff classes that are not things."""
        things = [CategorySpec(name) for name in self.things]
        names = [name for name in self.stuff if name not in self.things]
        return things + [CategorySpec(name, isthing=False) for name in names]


def resolve_category(
    label: Mapping[str, Any], attributes: Mapping[str, Any], plan: ConversionPlan
) -> str:
    """Return the category of a label, renamed or taken from its attributes."""
    name = str(label["category"])
    if name == OF_AREAS:
        return str(attributes.get("areaType", name))
    if name == OF_LANES:
        return str(attributes.get("laneTypes", attributes.get("laneType", name)))
    return plan.rename.get(name, AREAS.get(name, name.removeprefix(LANE_PREFIX)))
