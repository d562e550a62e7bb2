"""Finder of the images of a folder by their names, and of pairs of an image and its label image."""

from __future__ import annotations

from pathlib import Path

from data_tools.reading.name_lists import normalize_name, read_names
from data_tools.reading.source_folder import IMAGE_SUFFIXES, is_image
from resnet_tasks.errors import DataError


class ImageIndex:
    """Images of a folder by their names without suffix.

    Args:
        folder: Folder of the images; its subfolders are not searched.

    Attributes:
        folder: Folder of the images.
        by_name: Name without suffix, in the Unicode form NFC -> path of the image, in the order of
            names.

    Raises:
        DataError: If two images have the same name without suffix.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_name: dict[str, Path] = {}
        for file in filter(is_image, sorted(folder.iterdir())):
            if (first_file := self.by_name.setdefault(normalize_name(file.stem), file)) != file:
                raise DataError(
                    f"{first_file} and {file} have the same name, so it is unclear which of them "
                    "the labels of that name describe; keep one of them"
                )

    @property
    def files(self) -> list[Path]:
        """Paths of the images, in the order of names."""
        return list(self.by_name.values())

    def find(self, name: str, listed_in: Path) -> Path:
        """Return the image with the given name, whatever its suffix.

        Args:
            name: Name of the image, without suffix.
            listed_in: File or folder that lists the name, for the error message.

        Raises:
            DataError: If there is no such image.
        """
        if (image := self.by_name.get(normalize_name(name))) is None:
            raise DataError(
                f"{listed_in} lists {name!r}, but {self.folder} has no such image (any of "
                f"{', '.join(IMAGE_SUFFIXES)}); add it or remove the name from the list"
            )
        return image


def pair_images(
    images: Path, labels: Path, *, ending: str = "", list_file: Path | None = None
) -> list[tuple[Path, Path]]:
    """Return the images of a folder with their label images.

    Args:
        images: Folder of the images.
        labels: Folder of the label images.
        ending: Text that the name of a label image adds to the name of its image.
        list_file: List of the names of the images; default: all images of the folder.

    Raises:
        DataError: If an image or a label image is missing, or two have the same name.
    """
    image_index, label_index = ImageIndex(images), ImageIndex(labels)
    by_name = image_index.by_name
    names = list(by_name) if list_file is None else read_names(list_file, by_name)
    listed_in = list_file or images
    return [
        (image_index.find(name, listed_in), label_index.find(f"{name}{ending}", listed_in))
        for name in names
    ]
