"""Reader of the stored images of COCO files, which checks their size and prepares them."""

from __future__ import annotations

import shlex
from typing import Any

from numpy.typing import NDArray

from resnet_tasks.data.augmentation.transforms import encode_labels
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.pixel_labels import has_pixel_labels, read_pixel_labels
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.images.image_cache import DecodedImage
from resnet_tasks.data.images.image_files import explain_swapped_size
from resnet_tasks.data.images.preprocessing import Preparation, PreparedImage
from resnet_tasks.errors import DataError
from resnet_tasks.structures.label_maps import resize_labels


def open_stored_image(
    preparation: Preparation, file: CocoFile, record: ImageRecord
) -> PreparedImage:
    """Open an image for reading parts of it.

    Args:
        preparation: Steps from the stored image to a sample.
        file: COCO file that lists the image.
        record: Record of the image in that file.

    Raises:
        DataError: If the image cannot be read or has a size other than in the file.
    """
    prepared_image = preparation.open_image(file.image_path(record))
    _require_size(file, record, prepared_image.original_size)
    return prepared_image


def read_stored_image(
    preparation: Preparation, file: CocoFile, record: ImageRecord
) -> NDArray[Any]:
    """Read an image as stored, `(h, w, C)` at full precision, upright.

    Args:
        preparation: Steps from the stored image to a sample.
        file: COCO file that lists the image.
        record: Record of the image in that file.

    Raises:
        DataError: If the image cannot be read or has a size other than in the file.
    """
    image = preparation.read(file.image_path(record))
    _require_size(file, record, (int(image.shape[0]), int(image.shape[1])))
    return image


def decode_stored_image(
    preparation: Preparation,
    file: CocoFile,
    record: ImageRecord,
    categories: CategoryMap | None,
) -> DecodedImage:
    """Read and prepare an image and its semantic labels.

    Args:
        preparation: Steps from the stored image to a sample.
        file: COCO file that lists the image.
        record: Record of the image in that file.
        categories: Categories of the semantic labels; None skips the labels.

    Raises:
        DataError: If the image cannot be read or has a size other than in the file.
    """
    image = read_stored_image(preparation, file, record)
    original = (record.height, record.width)
    semantic = None
    if categories is not None and has_pixel_labels(file, record):
        labels = read_pixel_labels(file, record, categories)
        semantic = resize_labels(encode_labels(labels), preparation.compute_input_size(original))
    image_name = str(file.image_path(record))
    return DecodedImage(preparation.prepare_pixels(image, image_name), semantic, original)


def _require_size(file: CocoFile, record: ImageRecord, size: tuple[int, int]) -> None:
    stated = (record.height, record.width)
    if size != stated:
        path = file.image_path(record)
        remedy = explain_swapped_size(path, size, stated) or (
            "correct the record if its annotations fit the image as it is, otherwise replace the "
            "image"
        )
        raise DataError(
            f"{path} is {size[1]} x {size[0]} (width x height, upright), but image {record.id!r} "
            f"of {file.path} says {record.width} x {record.height}: {remedy}; "
            f"`resnet-tasks data check {shlex.quote(str(file.path))} --read-images` lists all "
            "images with another size"
        )
