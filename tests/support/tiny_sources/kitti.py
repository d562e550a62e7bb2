from pathlib import Path

from tests.support.tiny_sources import image, text

# Fields as in the readme of the object development kit; the first line is its own example.
LABELS = """\
Car 0.00 1 2.13 8.22 15.25 39.59 38.19 1.59 1.72 3.86 -11.46 2.22 18.60 1.58
Pedestrian 0.31 0 0.15 50.76 9.08 64.76 63.37 1.87 0.64 0.65 -3.21 1.97 11.22 -0.13
Van 0.00 3 -1.72 70.62 12.16 97.39 31.61 2.12 1.86 4.41 3.34 1.93 17.73 -1.54
DontCare -1 -1 -10 2.5 40 20 60 -1 -1 -1 -1000 -1000 -1000 -10
"""


def write(folder: Path) -> Path:
    for seed, name in enumerate(("000000", "000001", "000002")):
        image(folder / f"training/image_2/{name}.png", seed=seed)
        text(folder / f"training/label_2/{name}.txt", LABELS)
    text(folder / "ImageSets/train.txt", "000000\n000002\n")
    text(folder / "ImageSets/val.txt", "000001\n")
    return folder
