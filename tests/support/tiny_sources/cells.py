from pathlib import Path

OPTIONS = {"train": 2, "val": 1, "size": (96, 128)}


def write(folder: Path) -> None:
    """Nothing is read: the scenes are drawn."""
