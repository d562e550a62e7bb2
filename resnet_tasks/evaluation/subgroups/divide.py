"""Division of evaluated images into subgroups, by image id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.subgroups.measured import Advance
from resnet_tasks.data.subgroups.subgroups import find_subgroups


@dataclass(frozen=True)
class ImageDivision:
    """Subgroup of every image by one key.

    Attributes:
        key: Key by which the images are divided.
        subgroups: Image id -> subgroup.
        notes: Sentences on how the images were divided.
    """

    key: str
    subgroups: Mapping[int | str, str]
    notes: tuple[str, ...] = ()


def divide_images(
    files: Sequence[CocoFile],
    image_ids: Sequence[int | str],
    keys: Sequence[str],
    *,
    max_pixels: int | None = None,
    advance: Advance | None = None,
) -> tuple[ImageDivision, ...]:
    """Return the subgroup of every image, by each key.

    Args:
        files: COCO files with the images.
        image_ids: Ids of the images in the evaluation, in the order of the files and their images.
        keys: Keys of the image records, or measured keys; see `find_subgroups`.
        max_pixels: Maximum number of pixels per image that is read.
        advance: Progress callback of reading images.

    Raises:
        DataError: If a key does not divide the images, or an image cannot be read.
    """
    divisions = {}
    for key in keys:
        subgroups = find_subgroups(files, key, max_pixels=max_pixels, advance=advance)
        by_image = dict(zip(image_ids, subgroups.values, strict=True))
        divisions[subgroups.key] = ImageDivision(subgroups.key, by_image, subgroups.notes)
    return tuple(divisions.values())
