import json
from pathlib import Path
from typing import Any

from tests.support.tiny_sources import image, text

SIZE = (64, 96)


def frame(name: str, labels: list[dict[str, Any]] | None) -> dict[str, Any]:
    """As in BDD100K's detection labels of 2020."""
    attributes = {"weather": "clear", "scene": "city street", "timeofday": "daytime"}
    return {"name": name, "attributes": attributes, "timestamp": 10000, "labels": labels}


CAR = {
    "id": "1",
    "category": "car",
    "attributes": {"occluded": True, "truncated": False, "trafficLightColor": "NA"},
    "box2d": {"x1": 10.0, "y1": 20.0, "x2": 39.0, "y2": 44.0},
}
SIGN = {"id": "2", "category": "traffic sign", "box2d": {"x1": 70, "y1": 5, "x2": 77, "y2": 12}}
ROAD = {
    "id": "3",
    "category": "direct",
    "poly2d": [
        {"vertices": [[0, 64], [96, 64], [60, 40], [30, 40]], "types": "LLLL", "closed": True}
    ],
}
LANE = {"id": "4", "category": "alternative", "poly2d": ROAD["poly2d"]}


def write(folder: Path) -> Path:
    for split, names in {"train": ("a.jpg", "b.jpg"), "val": ("c.jpg",)}.items():
        for seed, name in enumerate(names):
            image(folder / f"images/100k/{split}/{name}", SIZE, seed)
        boxes = [frame(name, [CAR, SIGN]) for name in names]
        areas = [frame(name, [ROAD]) for name in names]
        text(folder / f"labels/det_20/det_{split}.json", json.dumps(boxes))
        text(folder / f"labels/drivable/polygons/drivable_{split}.json", json.dumps(areas))
    return folder
