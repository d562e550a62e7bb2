"""As in kvasir-seg.zip: masks as JPEG of three channels, boxes of all images in one JSON."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.tiny_sources import image, text

OPTIONS = {"val_fraction": 0.3}


def write(folder: Path) -> Path:
    boxes = {}
    for seed, name in enumerate(
        ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "cju0q")
    ):
        image(folder / f"images/{name}.jpg", seed=seed)
        mask = np.zeros((64, 96, 3), dtype=np.uint8)
        mask[8:40, 12:50] = 255
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / f"masks/{name}.jpg")
        box = {"label": "polyp", "xmin": 12, "ymin": 8, "xmax": 50, "ymax": 40}
        boxes[name] = {"height": 64, "width": 96, "bbox": [box]}
    text(folder / "kavsir_bboxes.json", json.dumps(boxes))
    return folder
