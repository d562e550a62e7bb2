from pathlib import Path

import numpy as np

from tests.support.tiny_sources import image, indices


def write(folder: Path) -> Path:
    labels = np.arange(96).repeat(64).reshape(96, 64).T // 8  # 12 stripes, the last one void
    for split, names in {"train": ("a", "b"), "val": ("c",)}.items():
        for seed, name in enumerate(names):
            image(folder / f"{split}/{name}.png", seed=seed)
            indices(folder / f"{split}annot/{name}.png", labels)
    return folder
