"""As in the archives of task 1: ISIC_<7 digits>.jpg and ISIC_<7 digits>_segmentation.png."""

from pathlib import Path

import numpy as np

from tests.support.tiny_sources import image, indices, text


def write(folder: Path) -> Path:
    mask = np.zeros((64, 96))
    mask[10:50, 20:70] = 255
    names = {"Training": ("0000000", "0000001"), "Validation": ("0012255",), "Test": ("0012169",)}
    for split, numbers in names.items():
        images = folder / f"ISIC2018_Task1-2_{split}_Input"
        for seed, number in enumerate(numbers):
            image(images / f"ISIC_{number}.jpg", seed=seed)
            file = f"ISIC2018_Task1_{split}_GroundTruth/ISIC_{number}_segmentation.png"
            indices(folder / file, mask)
        text(images / "LICENSE.txt", "CC-BY-NC")
        text(images / "ATTRIBUTION.txt", "see the home page")
    return folder
