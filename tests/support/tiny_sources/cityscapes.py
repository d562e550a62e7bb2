import json
from pathlib import Path
from typing import Any

from tests.support.tiny_sources import image, text

SIZE = (64, 96)


def rectangle(label: str, x1: int, y1: int, x2: int, y2: int, **more: Any) -> dict[str, Any]:
    """An object of a file; corner pixels included, as cityscapesScripts draws them."""
    return {"label": label, "polygon": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]], **more}


OBJECTS = [
    rectangle("sky", 0, 0, 95, 30),
    rectangle("road", 0, 31, 95, 63),
    rectangle("car", 10, 20, 39, 49),
    rectangle("license plate", 20, 40, 25, 44),
    rectangle("persongroup", 30, 20, 59, 49),
    rectangle("out of roi", 0, 0, 95, 4),
    rectangle("bus", 70, 20, 80, 30, deleted=1),
]


def content(objects: list[dict[str, Any]]) -> str:
    """A polygon file; fields as cityscapesScripts writes them (`helpers/annotation.py`)."""
    return json.dumps({"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": objects})


def write(folder: Path) -> Path:
    places = {"train": ("aachen_000000_000019", "bochum_000000_000313")}
    for split, names in {**places, "val": ("frankfurt_000000_000294",)}.items():
        for seed, name in enumerate(names):
            city = name.split("_")[0]
            image(folder / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", SIZE, seed)
            text(folder / f"gtFine/{split}/{city}/{name}_gtFine_polygons.json", content(OBJECTS))
    return folder
