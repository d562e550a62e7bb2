"""Converter for Cityscapes: polygons, later ones over earlier ones, as masks and label maps.

    ROOT/leftImg8bit/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png        images
    ROOT/gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_polygons.json        objects, back to front

A file has `imgHeight`, `imgWidth` and `objects`, each with `label`, `polygon` and sometimes
`deleted` (Cordts et al., CVPR 2016). Labels and rasterization follow cityscapesScripts,
`helpers/labels.py` and `preparation/json2labelImg.py`: later objects are drawn over earlier ones.
The labels of test are not public: its files contain no objects, so test is not converted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data_tools.reading.image_io import measure_stated_size
from data_tools.reading.source_folder import require_parts
from data_tools.shapes.outlines import is_point
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary, add_unused_images
from resnet_tasks.data.images.find_images import is_system_path
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import read_json

SPLITS = ("train", "val")
IMAGES = "leftImg8bit"
STUFF = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky"),
)
THINGS = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
"""Classes of objects. The 19 evaluated classes are `STUFF`, then `THINGS`, in order of their train
ids."""
NOT_EVALUATED = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic"),
    *("ground", "parking", "rail track", "guard rail", "bridge", "tunnel", "polegroup"),
    *("caravan", "trailer"),
)
"""Labels whose pixels are void."""
TRANSPARENT_LABEL = "license plate"
"""Label that is not drawn; the object below it stays visible (id -1 in cityscapesScripts)."""
GROUP = "group"
MAX_REACH = 10
"""Maximum absolute coordinate, in multiples of the longer side of the image; a point beyond it is a
mistake."""


@dataclass(frozen=True)
class CityObject:
    """One object of a file.

    Attributes:
        label: Class of the object, without the suffix `group`.
        is_group: Whether the polygon outlines several objects of the class together.
        polygon: Flat `[x0, y0, x1, y1, ...]` in pixels.
    """

    label: str
    is_group: bool
    polygon: tuple[float, ...]


def convert_cityscapes(
    source: Path,
    out: Path,
    *,
    labels: Literal["gtFine", "gtCoarse"] = "gtFine",
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert train and val to COCO JSON with masks, boxes and label maps.

    A mask is the visible part of a polygon that later objects do not cover. Groups (`cargroup`)
    become crowd objects, and classes that are not evaluated become void pixels. The group of an
    image is its city.

    Args:
        source: Folder that contains `leftImg8bit` and `gtFine` or `gtCoarse`.
        out: Folder for the JSON files and `semantic/`.
        labels: Annotations to read.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a folder, file, object or label is missing or invalid; the message names it.
    """
    require_parts(source, (IMAGES, labels))
    ending = f"_{labels}_polygons.json"
    files = {
        split: split_files
        for split in SPLITS
        if (split_files := _list_label_files(source / labels / split, ending))
    }
    if not files:
        raise DataError(
            f"{source / labels} contains neither train/CITY/*{ending} nor such a file for val; "
            f"pass the folder that leftImg8bit and {labels} were unpacked to"
        )
    categories = [CategorySpec(name, isthing=False) for name in STUFF] + [
        *map(CategorySpec, THINGS)
    ]
    dataset = DatasetWriter(
        out,
        categories,
        annotated=("boxes", "masks", "semantic"),
        description=f"Converted from Cityscapes ({labels}), {{split}}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )

    def add_image(writer: CocoWriter, file: Path) -> None:
        city = file.parent.name
        name = file.name.removesuffix(ending) + "_leftImg8bit.png"
        _add_image(writer, source / IMAGES / writer.split / city / name, file, city)

    summaries = dataset.write(track_splits(files, progress), add_image)
    return add_unused_images(
        summaries, source, f"{IMAGES}/{{split}}", f"they have no {labels} polygons"
    )


def _list_label_files(folder: Path, ending: str) -> list[Path]:
    files = sorted(folder.glob(f"*/*{ending}"))
    return [file for file in files if not is_system_path(file, folder)]


def read_city_file(file: Path) -> tuple[tuple[int, int], list[CityObject]]:
    """Return the (height, width) and the objects of a file, without deleted objects.

    Raises:
        DataError: If it is not a Cityscapes file, or an object has an invalid label or polygon.
    """
    raw = read_json(file)
    document: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
    height, width = document.get("imgHeight"), document.get("imgWidth")
    objects = document.get("objects")
    if not (type(height) is int and type(width) is int and isinstance(objects, list)):
        raise DataError(f"{file} needs whole numbers imgHeight and imgWidth and a list of objects")
    reach = MAX_REACH * max(height, width)
    parsed = [
        _parse_object(raw_object, f"{file}, object {i}", reach)
        for i, raw_object in enumerate(objects)
    ]
    return (height, width), [city_object for city_object in parsed if city_object is not None]


def _parse_object(raw: Any, location: str, reach: float) -> CityObject | None:
    if not isinstance(raw, dict):
        raise DataError(f"{location} is {raw!r:.60}; it must be an object with label and polygon")
    if raw.get("deleted"):
        return None
    label = raw.get("label")
    known_labels = (*STUFF, *THINGS, *NOT_EVALUATED, TRANSPARENT_LABEL)
    is_group = isinstance(label, str) and label not in known_labels and label.endswith(GROUP)
    name = str(label).removesuffix(GROUP) if is_group else label
    if name not in known_labels:
        raise DataError(
            f"{location} has the label {label!r:.60}; Cityscapes has {', '.join(known_labels)}"
        )
    polygon = raw.get("polygon")
    if (
        not isinstance(polygon, list)
        or not all(map(is_point, polygon))
        or any(abs(value) > reach for point in polygon for value in point)
    ):
        raise DataError(f"{location} ({label}) needs a polygon of points [x, y] near its image")
    return CityObject(str(name), is_group, tuple(float(v) for point in polygon for v in point))


def _add_image(writer: CocoWriter, image: Path, file: Path, city: str) -> None:
    size, objects = read_city_file(file)
    measure_stated_size(image, size, f"{file} describes an image of size")
    image_id = writer.add_image(image, size=size, group=city)
    object_map = render_object_map(objects, size)
    names = (*STUFF, *THINGS)
    # Number of an object in the map -> category id; entry 0 is for pixels without any object.
    ids = [
        names.index(city_object.label) + 1 if city_object.label in names else writer.void
        for city_object in objects
    ]
    writer.add_semantic(image_id, np.asarray([writer.void, *ids], dtype=np.int64)[object_map])
    visible = np.bincount(object_map.ravel(), minlength=len(objects) + 1)
    for number, city_object in enumerate(objects, start=1):
        if city_object.label not in THINGS:
            continue
        if visible[number]:
            writer.add_mask(
                image_id, city_object.label, object_map == number, iscrowd=city_object.is_group
            )
        else:
            description = f"{city_object.label} (drawn as number {number})"
            writer.report.skip(file.name, description, "it is fully hidden behind other objects")


def render_object_map(objects: list[CityObject], size: tuple[int, int]) -> NDArray[np.int32]:
    """Return the (height, width) numbers, from 1, of the objects visible at the pixels; 0: none."""
    canvas = Image.new("I", (size[1], size[0]), 0)
    pen = ImageDraw.Draw(canvas)
    for number, city_object in enumerate(objects, start=1):
        if city_object.label != TRANSPARENT_LABEL and len(city_object.polygon) >= 4:
            pen.polygon(city_object.polygon, fill=number)
    return np.asarray(canvas, dtype=np.int32)
