from pathlib import Path

import numpy as np

from tests.support.tiny_sources import image, indices, text


def write(folder: Path) -> Path:
    for split, names in {"train": ("a", "b"), "val": ("c",)}.items():
        for seed, name in enumerate(names):
            image(folder / f"stage1_train/{name}/images/{name}.png", seed=seed)
            for number, column in enumerate((4, 50)):
                mask = np.zeros((64, 96))
                mask[8:30, column : column + 20] = 255
                indices(folder / f"stage1_train/{name}/masks/{number}.png", mask)
        text(folder / f"{split}.txt", "\n".join(names))
    return folder
