"""Annotation files with random damage: every one is read or refused with a sentence."""

import base64
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from data_tools.binary_masks import Folders, MaskRule, convert_binary_masks
from data_tools.cvat import convert_cvat
from data_tools.labelme import convert_labelme
from data_tools.native_coco import convert_coco
from data_tools.voc import convert_voc
from data_tools.yolo import convert_yolo
from resnet_tasks.errors import ResnetTasksError

WORDS = ("", "x", "-1", "0.5", "1e999", "nan", "9" * 30, "9" * 5000, "\x00", "../a", "/", "a" * 300)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 10**400, float("nan"), float("inf"), "", "x", "\x00", "../../etc"),
    *([], [[]], [1, 2], {}, {"a": 1}, "a" * 300),
)
BYTES = (b"<", b'"', b"{", b"]", b"\x00", b"\xff\xfe", b"-", b"9" * 400, b",", b"\n", b"&a;")


def damaged_text(data: bytes, draw: random.Random) -> bytes:
    """Bytes cut out, put in or moved."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(found) + 1)
        stop = min(len(found), start + draw.randrange(10))
        other = draw.randrange(len(found) + 1)
        found[start:stop] = draw.choice((b"", *BYTES, bytes(found[other : other + 20])))
    return bytes(found)


def damaged_words(data: bytes, draw: random.Random) -> bytes:
    """One word of a text replaced."""
    words = data.decode().split(" ")
    words[draw.randrange(len(words))] = draw.choice((*WORDS, "\n", "7", "1"))
    return " ".join(words).encode()


def damaged_json(data: bytes, draw: random.Random) -> bytes:
    """One or two values replaced or taken out."""
    content = json.loads(data)
    for _ in range(draw.randint(1, 2)):
        places: list[tuple[Any, Any]] = []
        left = [content]
        while left:
            node = left.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node))
            places += [(node, key) for key in keys]
            left += [node[key] for key in keys if isinstance(node[key], dict | list)]
        if places:
            node, key = draw.choice(places)
            if draw.random() < 0.2:
                del node[key]
            else:
                node[key] = deepcopy(draw.choice(VALUES))
    return json.dumps(content).encode()


def damaged_xml(data: bytes, draw: random.Random) -> bytes:
    """One or two attributes, texts or tags replaced or taken out."""
    root = ElementTree.fromstring(data)
    for _ in range(draw.randint(1, 2)):
        element = draw.choice(list(root.iter()))
        word = draw.choice([word for word in WORDS if "\x00" not in word])
        if element.attrib and draw.random() < 0.7:
            key = draw.choice(list(element.attrib))
            if draw.random() < 0.2:
                del element.attrib[key]
            else:
                element.set(key, word)
        elif draw.random() < 0.7:
            element.text = word
        elif draw.random() < 0.5:
            element.tag = draw.choice(("box", "mask", "polygon", "image", "track", "object"))
        else:
            element.clear()
    return ElementTree.tostring(root)


def png(file: Path, size: tuple[int, int] = (30, 40)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(size, dtype=np.uint8)).save(file)


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
    folders = {"train": Folders("images", "masks")}
    rule = MaskRule(boxes="boxes.json")
    return convert_binary_masks(source, out, category="polyp", folders=folders, masks=rule)


Damage = Callable[[bytes, random.Random], bytes]
CASES: dict[str, tuple[Callable[[Path], Path], Callable[..., object], Damage]] = {
    "labelme": (labelme, convert_labelme, damaged_json),
    "cvat": (cvat, convert_cvat, damaged_xml),
    "cvat_video": (cvat_video, convert_cvat, damaged_xml),
    "voc": (voc, convert_voc, damaged_xml),
    "yolo": (yolo, convert_yolo, damaged_words),
    "yolo_yaml": (yolo_yaml, convert_yolo, damaged_words),
    "coco": (coco, convert_coco, damaged_json),
    "kvasir": (kvasir, convert_kvasir, damaged_json),
}


def outcomes(name: str, folder: Path, count: int) -> Counter[str]:
    """How often damaged files are accepted and refused; all else is raised."""
    build, convert, damage = CASES[name]
    source, out = folder / "in", folder / "out"
    source.mkdir()
    file = build(source)
    good = file.read_bytes()
    found: Counter[str] = Counter()
    draw = random.Random(f"{name} 0")
    for number in range(count):
        file.write_bytes((damaged_text if number % 4 == 0 else damage)(good, draw))
        try:
            convert(source, out)
            found["accepted"] += 1
        except ResnetTasksError:
            found["refused"] += 1
        shutil.rmtree(out, ignore_errors=True)
    return found


@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    found = outcomes(name, tmp_path, 120)
    assert min(found["accepted"], found["refused"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_damaged_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outcomes(name, tmp_path, 20_000)
    with capsys.disabled():
        print(f"\n{name}: {found['accepted']} accepted, {found['refused']} refused")
