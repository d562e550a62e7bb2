"""Small annotated sources of every format, with their converter and a kind of damage."""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.converters.binary_masks import ImageMaskFolders, MaskRule, convert_binary_masks
from data_tools.converters.cityscapes import convert_cityscapes
from data_tools.converters.color_maps import convert_color_maps
from data_tools.converters.csv.convert import convert_csv_boxes
from data_tools.converters.cvat.convert import convert_cvat
from data_tools.converters.image_folders import convert_image_folders
from data_tools.converters.instance_masks import convert_instance_masks
from data_tools.converters.kitti import convert_kitti
from data_tools.converters.label_maps import convert_label_maps
from data_tools.converters.labelme import convert_labelme
from data_tools.converters.native_coco import convert_coco
from data_tools.converters.nuimages import convert_nuimages
from data_tools.converters.scalabel.convert import convert_scalabel
from data_tools.converters.voc import convert_voc
from data_tools.converters.yolo import convert_yolo
from resnet_tasks.errors import DataError
from tests.support.damage import (
    WORDS,
    Damage,
    damaged_json,
    damaged_png,
    damaged_words,
    damaged_xml,
)


def png(file: Path, values: Any = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((30, 40)) if values is None else np.asarray(values)
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    return file


def text(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


def labelme(root: Path) -> Path:
    png(root / "a.png")
    stream = io.BytesIO()
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(stream, "PNG")
    mask = base64.b64encode(stream.getvalue()).decode()
    points = {
        "polygon": [[1, 2], [9, 2], [9, 8]],
        "rectangle": [[1, 2], [9, 8]],
        "circle": [[9, 9], [9, 12]],
        "mask": [[3, 4], [6, 7]],
        "point": [[1, 1]],
    }
    shapes = [
        {
            "label": "car",
            "points": each,
            "shape_type": kind,
            "group_id": kind == "mask",
            "mask": mask,
        }
        for kind, each in points.items()
    ]
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 30, "imageWidth": 40}
    (root / "a.json").write_text(json.dumps(content))
    return root / "a.json"


def cvat(root: Path) -> Path:
    png(root / "images/a.png")
    shapes = (
        '<box label="car" xtl="1" ytl="2" xbr="9" ybr="8" occluded="1" rotation="30"/>'
        '<polygon label="car" points="1,2;9,2;9,8"/><polyline label="car" points="1,2;3,4"/>'
        '<mask label="car" rle="3, 5, 1" left="2" top="2" width="3" height="3"/>'
        '<ellipse label="car" cx="9" cy="9" rx="3" ry="4"/>'
    )
    (root / "annotations.xml").write_text(
        "<annotations><version>1.1</version><meta><task><labels><label><name>car</name></label>"
        '</labels></task></meta><image id="0" name="a.png" subset="train" width="40" height="30">'
        f"{shapes}</image></annotations>"
    )
    return root / "annotations.xml"


def cvat_video(root: Path) -> Path:
    for number in range(2):
        png(root / f"images/frame_{number:06d}.png")
    (root / "annotations.xml").write_text(
        "<annotations><version>1.1</version><meta><task><name>t</name><size>2</size><labels><label>"
        "<name>car</name></label></labels><original_size><width>40</width><height>30</height>"
        '</original_size></task></meta><track id="0" label="car"><box frame="0" xtl="1" ytl="2" '
        'xbr="9" ybr="8" outside="0"/><box frame="1" xtl="1" ytl="2" xbr="9" ybr="8" outside="1"/>'
        "</track></annotations>"
    )
    return root / "annotations.xml"


def voc(root: Path) -> Path:
    png(root / "JPEGImages/a.png")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("a\n")
    (root / "Annotations").mkdir()
    file = root / "Annotations/a.xml"
    file.write_text(
        "<annotation><size><width>40</width><height>30</height></size><object><name>car</name>"
        "<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax>"
        "</bndbox></object></annotation>"
    )
    return file


def yolo(root: Path) -> Path:
    png(root / "images/a.png")
    (root / "data.yaml").write_text("train: images\nnames: [car, bus]\n")
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.2\n1 0.1 0.1 0.3 0.1 0.3 0.4\n")
    return root / "labels/a.txt"


def yolo_yaml(root: Path) -> Path:
    yolo(root)
    text = "path: . # root\ntrain: images\nval: [ images ]\nnc: 2\nnames:\n  0: car\n  1: bus\n"
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


def coco(root: Path) -> Path:
    png(root / "a.png")
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 8, 6], "area": 48}
    annotation |= {"iscrowd": 0, "segmentation": [[1, 2, 9, 2, 9, 8]], "occluded": 1}
    lengths = {"segmentation": {"size": [30, 40], "counts": [600, 100, 500]}, "id": 2}
    image = {"id": 1, "file_name": "a.png", "height": 30, "width": 40, "group": "p"}
    content = {
        "info": {"annotated": ["boxes", "masks"]},
        "images": [image],
        "annotations": [annotation, annotation | lengths],
        "categories": [{"id": 1, "name": "car"}],
    }
    (root / "train.json").write_text(json.dumps(content))
    return root / "train.json"


def kvasir(root: Path) -> Path:
    png(root / "images/a.png")
    png(root / "masks/a.png")
    box = {"label": "polyp", "xmin": 1, "ymin": 2, "xmax": 9, "ymax": 8}
    content = {"a": {"height": 30, "width": 40, "bbox": [box]}}
    (root / "boxes.json").write_text(json.dumps(content))
    return root / "boxes.json"


def convert_kvasir(source: Path, out: Path) -> object:
    folders = {"train": ImageMaskFolders("images", "masks")}
    rule = MaskRule(boxes="boxes.json")
    return convert_binary_masks(source, out, category="polyp", folders=folders, masks=rule)


KITTI = """\
Car 0.00 1 2.13 8.22 5.25 39.59 28.19 1.59 1.72 3.86 -11.46 2.22 18.60 1.58
DontCare -1 -1 -10 2.5 20 20 30 -1 -1 -1 -1000 -1000 -1000 -10
"""


def kitti(root: Path) -> Path:
    for name in ("000000", "000001"):
        png(root / f"training/image_2/{name}.png")
        text(root / f"training/label_2/{name}.txt", KITTI)
    text(root / "ImageSets/train.txt", "000000\n")
    text(root / "ImageSets/val.txt", "000001\n")
    text(root / "kit/train_mapping.txt", "2011_09_26 d1 0000000005\n2011_09_26 d2 0000000104\n")
    text(root / "kit/train_rand.txt", "2,1")
    return root / "training/label_2/000000.txt"


def kitti_list(root: Path) -> Path:
    return kitti(root).parents[2] / "ImageSets/train.txt"


def kitti_drives(root: Path) -> Path:
    return kitti(root).parents[2] / "kit/train_mapping.txt"


def kitti_numbers(root: Path) -> Path:
    return kitti(root).parents[2] / "kit/train_rand.txt"


def scalabel(root: Path) -> Path:
    png(root / "images/100k/train/a.png")
    path = {"vertices": [[1, 2], [9, 2], [12, 5], [9, 8]], "types": "LCCL", "closed": True}
    labels = [
        {"id": "1", "category": "car", "box2d": {"x1": 1, "y1": 2.5, "x2": 9, "y2": 8}},
        {"id": "2", "category": "person", "attributes": {"crowd": False}, "poly2d": [path]},
    ]
    frame = {"name": "a.png", "attributes": {"weather": "clear"}, "labels": labels}
    return text(root / "labels/det_20/det_train.json", json.dumps({"frames": [frame]}))


def scalabel_lanes(root: Path) -> Path:
    scalabel(root)
    path = {"vertices": [[1, 2], [9, 2], [12, 5], [9, 8]], "types": "LCCL", "closed": False}
    labels = [
        {"category": "single white", "attributes": {"laneDirection": "parallel"}, "poly2d": [path]},
        {"category": "lane", "attributes": {"laneTypes": "crosswalk"}, "poly2d": [path, path]},
    ]
    return text(root / "lanes_train.json", json.dumps([{"name": "a.png", "labels": labels}]))


def cityscapes(root: Path) -> Path:
    png(root / "leftImg8bit/train/aachen/aachen_0_0_leftImg8bit.png")
    objects = [
        {"label": "road", "polygon": [[0, 0], [39, 0], [39, 29], [0, 29]]},
        {"label": "cargroup", "polygon": [[1, 2], [9, 2], [9, 8]], "deleted": 0},
        {"label": "person", "polygon": [[11, 2], [19, 2], [19, 8]]},
    ]
    content = {"imgHeight": 30, "imgWidth": 40, "objects": objects}
    file = root / "gtFine/train/aachen/aachen_0_0_gtFine_polygons.json"
    return text(file, json.dumps(content))


def nuimages(root: Path) -> Path:
    png(root / "samples/CAM_FRONT/a.png")
    frame = {"token": "f", "sample_token": "m", "fileformat": "png", "width": 40, "height": 30}
    frame |= {"filename": "samples/CAM_FRONT/a.png", "is_key_frame": True}
    pixels = np.asfortranarray(np.eye(30, 40), dtype=np.uint8)
    lengths = base64.b64encode(coco_mask.encode(pixels)["counts"]).decode()
    mask = {"size": [30, 40], "counts": lengths}
    owner = {"sample_data_token": "f", "mask": mask}
    box = {"attribute_tokens": ["a"], "bbox": [3, 2, 9, 12]}
    tables: dict[str, list[dict[str, Any]]] = {
        "log": [{"token": "g", "logfile": "n003"}],
        "sample": [{"token": "m", "log_token": "g"}],
        "sample_data": [frame],
        "category": [
            {"token": "c", "name": "vehicle.car"},
            {"token": "d", "name": "flat.driveable_surface"},
        ],
        "attribute": [{"token": "a", "name": "vehicle.parked"}],
        "object_ann": [{"token": "o", "category_token": "c", **owner, **box}],
        "surface_ann": [{"token": "u", "category_token": "d", **owner}],
    }
    for name, rows in tables.items():
        text(root / f"v1.0-train/{name}.json", json.dumps(rows))
    return root / "v1.0-train/object_ann.json"


def nuimages_frames(root: Path) -> Path:
    return nuimages(root).with_name("sample_data.json")


def nuimages_surfaces(root: Path) -> Path:
    return nuimages(root).with_name("surface_ann.json")


def colors(root: Path) -> Path:
    png(root / "images/a.png")
    png(root / "maps/a_L.png", np.full((30, 40, 3), (128, 0, 0)))
    text(root / "train.txt", "a\n")
    return text(root / "label_colors.txt", "128 0 0 Road\n0 128 0\tCar\n0 0 0 Void\n")


def color_map(root: Path) -> Path:
    return colors(root).with_name("maps") / "a_L.png"


def index_map(root: Path) -> Path:
    png(root / "train/a.png")
    text(root / "train.txt", "SegNet/train/a.png SegNet/trainannot/a.png\n")
    return png(root / "trainannot/a.png", np.eye(30, 40))


def index_list(root: Path) -> Path:
    return index_map(root).parents[1] / "train.txt"


def binary_mask(root: Path) -> Path:
    png(root / "images/a.png")
    return png(root / "masks/a.png", np.eye(30, 40) * 255)


def instance_mask(root: Path) -> Path:
    png(root / "stage1_train/a/images/a.png")
    text(root / "train.txt", "a\n")
    return png(root / "stage1_train/a/masks/1.png", np.eye(30, 40) * 255)


def instance_list(root: Path) -> Path:
    return instance_mask(root).parents[3] / "train.txt"


def classed_image(root: Path) -> Path:
    png(root / "cat/a.png")
    return png(root / "dog/b.png")


def box_table(root: Path) -> Path:
    for name in "ab":
        png(root / f"train/{name}.png")
    header = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max"
    rows = "a,R1,mass,3,4,20,14\na,R2,mass,3.5,4,21,15\nb,R1,No finding,,,,\n"
    return text(root / "annotations_train.csv", f"{header}\n{rows}")


def voc_list(root: Path) -> Path:
    return voc(root).parents[1] / "ImageSets/Main/train.txt"


def damaged_rows(data: bytes, draw: random.Random) -> bytes:
    """One cell of a table replaced, or a row taken out."""
    rows = list(csv.reader(io.StringIO(data.decode())))
    row = draw.randrange(len(rows))
    if draw.random() < 0.2:
        del rows[row]
    else:
        rows[row][draw.randrange(len(rows[row]))] = draw.choice((*WORDS, "R1", "No finding", "b"))
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue().encode()


def damaged_lines(data: bytes, draw: random.Random) -> bytes:
    """A word replaced, at either side of any space or line end."""
    found = data.replace(b"\n", b" \n ").replace(b",", b" , ")
    return damaged_words(found, draw).replace(b" \n ", b"\n").replace(b" , ", b",")


def convert_kitti_drives(source: Path, out: Path) -> object:
    return convert_kitti(source, out, mapping=source / "kit")


def convert_lanes(source: Path, out: Path) -> object:
    files = ("labels/det_20/det_{split}.json", "lanes_{split}.json")
    return convert_scalabel(source, out, labels=files, semantic="lanes")


def convert_colors(source: Path, out: Path) -> object:
    return convert_color_maps(source, out, images="images", maps="maps", ending="_L")


def convert_images(source: Path, out: Path) -> None:
    """Bad images are left out and listed."""
    for summary in convert_image_folders(source, out):
        for each in summary.skipped:
            raise DataError(each.reason)


def convert_indices(source: Path, out: Path) -> object:
    classes = ("road", "car")
    return convert_label_maps(source, out, classes=classes, things=("car",), void=2, boxes=True)


whole_masks = partial(
    convert_binary_masks, category="lesion", folders={"train": ImageMaskFolders("images", "masks")}
)
Convert = Callable[..., object]
CASES: Mapping[str, tuple[Callable[[Path], Path], Convert, Damage]] = {
    "labelme": (labelme, convert_labelme, damaged_json),
    "cvat": (cvat, convert_cvat, damaged_xml),
    "cvat_video": (cvat_video, convert_cvat, damaged_xml),
    "voc": (voc, convert_voc, damaged_xml),
    "voc_list": (voc_list, convert_voc, damaged_lines),
    "yolo": (yolo, convert_yolo, damaged_words),
    "yolo_yaml": (yolo_yaml, convert_yolo, damaged_words),
    "coco": (coco, convert_coco, damaged_json),
    "kvasir": (kvasir, convert_kvasir, damaged_json),
    "kitti": (kitti, convert_kitti, damaged_lines),
    "kitti_list": (kitti_list, convert_kitti, damaged_lines),
    "kitti_drives": (kitti_drives, convert_kitti_drives, damaged_lines),
    "kitti_numbers": (kitti_numbers, convert_kitti_drives, damaged_lines),
    "scalabel": (scalabel, partial(convert_scalabel, masks=True), damaged_json),
    "scalabel_lanes": (scalabel_lanes, convert_lanes, damaged_json),
    "cityscapes": (cityscapes, convert_cityscapes, damaged_json),
    "nuimages": (nuimages, convert_nuimages, damaged_json),
    "nuimages_frames": (nuimages_frames, convert_nuimages, damaged_json),
    "nuimages_surfaces": (nuimages_surfaces, convert_nuimages, damaged_json),
    "colors": (colors, convert_colors, damaged_lines),
    "color_map": (color_map, convert_colors, damaged_png),
    "index_map": (index_map, convert_indices, damaged_png),
    "index_list": (index_list, convert_indices, damaged_lines),
    "binary_mask": (binary_mask, whole_masks, damaged_png),
    "instance_mask": (instance_mask, convert_instance_masks, damaged_png),
    "instance_list": (instance_list, convert_instance_masks, damaged_lines),
    "classed_image": (classed_image, convert_images, damaged_png),
    "box_table": (box_table, convert_csv_boxes, damaged_rows),
}
