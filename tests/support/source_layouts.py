"""Tiny datasets in the layouts of labeling tools, published datasets and users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from tests.support.dicom_files import write_dicom

XML = (
    "<annotation><size><width>32</width><height>24</height><depth>3</depth></size><object>"
    "<name>cell</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>14</xmax><ymax>12</ymax></bndbox>"
    "</object></annotation>"
)
CVAT = (
    '<annotations><version>1.1</version><image id="0" name="0.png" width="32" height="24">'
    '<box label="cell" occluded="0" xtl="3" ytl="3" xbr="14" ybr="12"/></image></annotations>'
)
KITTI = "Car 0 0 0 3 3 14 12 1 1 1 1 1 1 0\n"
CSV = "filename,width,height,class,xmin,ymin,xmax,ymax\n0.png,32,24,cell,3,3,14,12\n"


def draw(file: Path, values: Any = 120) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((24, 32), np.uint8)
    pixels[3:12, 3:14] = values
    Image.fromarray(pixels).save(file)


def write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


def coco(num_images: int = 1) -> str:
    return json.dumps(
        {
            "images": [
                {"id": i, "file_name": f"{i}.png", "width": 32, "height": 24}
                for i in range(num_images)
            ],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": [3, 3, 11, 9], "area": 99}
                for i in range(num_images)
            ],
            "categories": [{"id": 1, "name": "cell"}],
        }
    )


def labelme(name: str) -> str:
    shape = {"label": "cell", "shape_type": "rectangle", "points": [[3, 3], [14, 12]]}
    content = {"imagePath": name, "imageHeight": 24, "imageWidth": 32, "shapes": [shape]}
    return json.dumps(content)


def flat_voc(folder: Path) -> None:
    for i in range(5):
        draw(folder / "images" / f"{i}.png")
        write(folder / "annotations" / f"{i}.xml", XML)


def split_voc(folder: Path) -> None:
    for split in ("train", "valid"):
        draw(folder / split / "0.png")
        write(folder / split / "0.xml", XML)


def roboflow_coco(folder: Path) -> None:
    for split in ("train", "valid"):
        draw(folder / split / "0.png")
        write(folder / split / "_annotations.coco.json", coco())


def cvat_coco(folder: Path) -> None:
    for i in range(5):
        draw(folder / "images" / "default" / f"{i}.png")
    write(folder / "annotations" / "instances_default.json", coco(5))


def label_studio_coco(folder: Path) -> None:
    for i in range(5):
        draw(folder / "images" / f"{i}.png")
    write(folder / "result.json", coco(5))


def darknet(folder: Path) -> None:
    for i in range(5):
        draw(folder / "obj_train_data" / f"{i}.png")
        write(folder / "obj_train_data" / f"{i}.txt", "0 0.4 0.4 0.2 0.2\n")
    names = "\n".join(f"data/obj_train_data/{i}.png" for i in range(5))
    write(folder / "train.txt", names)
    write(folder / "obj.names", "cell\n")
    write(folder / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n")


def classes_txt(folder: Path) -> None:
    for i in range(5):
        draw(folder / "images" / f"{i}.png")
        write(folder / "labels" / f"{i}.txt", "0 0.4 0.4 0.2 0.2\n")
    write(folder / "classes.txt", "cell\n")


def labelme_folder(folder: Path) -> None:
    for i in range(5):
        draw(folder / f"{i}.png")
        write(folder / f"{i}.json", labelme(f"{i}.png"))


def cvat_xml(folder: Path) -> None:
    image = CVAT.partition("<image")[2].removesuffix("</annotations>")
    images = "".join(f"<image{image}".replace('"0.png"', f'"{i}.png"') for i in range(5))
    write(folder / "annotations.xml", f"<annotations><version>1.1</version>{images}</annotations>")
    for i in range(5):
        draw(folder / "images" / f"{i}.png")


def csv_table(folder: Path) -> None:
    rows = "".join(CSV.splitlines()[1].replace("0.png", f"{i}.png") + "\n" for i in range(9))
    write(folder / "boxes.csv", f"{CSV.splitlines()[0]}\n{rows}")
    for i in range(9):
        draw(folder / f"{i}.png")


def csv_above_images(folder: Path) -> None:
    csv_table(folder)
    (folder / "train").mkdir()
    for image in folder.glob("*.png"):
        image.rename(folder / "train" / image.name)


def roboflow_csv(folder: Path) -> None:
    for split in ("train", "valid"):
        draw(folder / split / f"{split}.png")
        write(folder / split / "_annotations.csv", CSV.replace("0.png", f"{split}.png"))


def kitti(folder: Path) -> None:
    for i in range(5):
        draw(folder / "training" / "image_2" / f"{i}.png")
        write(folder / "training" / "label_2" / f"{i}.txt", KITTI)


def mask_folders(folder: Path) -> None:
    for i in range(5):
        draw(folder / "images" / f"{i}.png")
        draw(folder / "masks" / f"{i}.png", 255)


def split_masks(folder: Path) -> None:
    for split in ("train", "valid"):
        draw(folder / split / "Images" / f"{split}.png")
        draw(folder / split / "mask" / f"{split}.png", 255)


def index_masks(folder: Path) -> None:
    """Masks of three values: no binary masks, and without names of classes no label maps."""
    draw(folder / "train" / "images" / "0.png")
    draw(folder / "train" / "masks" / "0.png", np.arange(9)[:, None] % 3)


def label_maps(folder: Path) -> None:
    draw(folder / "train" / "0.png")
    draw(folder / "trainannot" / "0.png", 1)


def volumes(folder: Path) -> None:
    for i in range(2):
        for kind in ("imagesTr", "labelsTr"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            voxels = np.zeros((32, 24, 2), np.uint8)
            voxels[3:14, 3:12] = 1
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / kind / f"{i}.nii.gz")
    labels = {"background": 0, "liver": 1}
    write(folder / "dataset.json", json.dumps({"labels": labels, "file_ending": ".nii.gz"}))


def named_volumes(folder: Path) -> None:
    volumes(folder)
    (folder / "dataset.json").unlink()


def dicom(folder: Path) -> None:
    folder.mkdir()
    write_dicom(folder / "a", np.arange(48, dtype=np.uint16).reshape(6, 8))


def nothing(folder: Path) -> None:
    draw(folder / "0.png")
    write(folder / "settings.json", "{}")
    write(folder / "notes.txt", "abc")
    write(folder / "sizes.csv", "name,size\na,1\n")
    write(folder / "page.xml", "<html/>")
