"""As the publisher's README and files have it: images in folders by set and cell type, COCO files
whose `file_name` names no folder, polygons without crowds; ids that start anywhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.tiny_sources import text

IMAGES = {
    "train": ("A172_Phase_C7_1_02d16h00m_2.tif", "BV2_Phase_B4_2_00d00h00m_3.tif"),
    "val": ("A172_Phase_A7_1_00d00h00m_1.tif",),
    "test": ("SKOV3_Phase_F4_2_02d12h00m_1.tif",),
}


def write(folder: Path) -> Path:
    for split, names in IMAGES.items():
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"supercategory": "cell", "id": 1, "name": "cell"}],
            "info": {"description": "LIVECell 2021", "version": "1.0", "year": 2021},
            "licenses": [{"id": 1, "name": "Attribution-NonCommercial 4.0 International License"}],
        }
        for number, name in enumerate(names):
            image_id = 742297 + number
            part = "test" if split == "test" else "train_val"
            file = folder / f"images/livecell_{part}_images/{name.split('_')[0]}/{name}"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).normal(128, 12, (64, 96))
            Image.fromarray(noise.astype(np.uint8)).save(file)
            size = {"height": 64, "width": 96}
            content["images"].append({"id": image_id, "file_name": name, **size})
            for place in (10, 50):
                polygon = [place, 12.5, place + 21.25, 12.5, place + 21.25, 30, place, 30]
                content["annotations"].append(
                    {
                        "id": 742300 + len(content["annotations"]),
                        "image_id": image_id,
                        "category_id": 1,
                        "segmentation": [polygon],
                        "area": 371.875,
                        "bbox": [place, 12.5, 21.25, 17.5],
                        "iscrowd": 0,
                    }
                )
        text(folder / f"annotations/LIVECell/livecell_coco_{split}.json", json.dumps(content))
    return folder
