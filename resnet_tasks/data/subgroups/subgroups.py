"""Subgroup of every image, by an attribute of its record or measured on the image.

`evaluate --by`, `data stats --by` and `data split --by` use the same function, so that a subgroup
has the same meaning in all of them.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.subgroups.measured import (
    Advance,
    split_by_brightness,
    split_by_color,
    split_by_size,
)
from resnet_tasks.errors import DataError, format_allowed, limit_path, shorten_name
from resnet_tasks.number_formats import Count
from resnet_tasks.registry import suggest_nearest

UNKNOWN = "unknown"
"""Subgroup of the images without a value."""
MAX_SUBGROUPS = 50
"""Maximum number of subgroups: more values identify images instead of dividing them."""
MAX_SUGGESTED = 200
"""Maximum number of characters of a key that a message contains in full."""
MEASURED = {
    "image:size": "thirds of the images by their number of pixels",
    "image:brightness": "thirds of the images by their mean brightness",
    "image:color": "color or gray images",
}
"""Keys that are measured on the images -> their description."""
RECORD_PREFIX = "record:"
"""Prefix of a key of the image records that is also the short name of a measured key."""

_READ_PIXELS = {"image:brightness": split_by_brightness, "image:color": split_by_color}
_FIELDS = ("group", "height", "width", "file_name")
"""Keys of image records that are fields of `ImageRecord`."""


@dataclass(frozen=True)
class Subgroups:
    """Division of images into subgroups.

    Attributes:
        key: Key of the image records, or key in `MEASURED`.
        values: `(N,)` subgroup of every image, in the order of the files and their images.
        notes: Sentences on the limits of measured subgroups and on images without a value.
    """

    key: str
    values: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def count_images(self) -> dict[str, int]:
        """Return subgroup -> number of images: the most frequent first, `UNKNOWN` last."""
        counts = Counter(self.values).most_common()
        return dict(sorted(counts, key=lambda pair: (pair[0] == UNKNOWN, -pair[1], pair[0])))


def find_subgroups(
    files: Sequence[CocoFile],
    key: str,
    *,
    max_pixels: int | None = None,
    advance: Advance | None = None,
) -> Subgroups:
    """Return the subgroup of every image.

    Args:
        files: COCO files with the images.
        key: Key of the image records, in which dots separate the keys of nested objects
            (`attributes.weather`), or key in `MEASURED`. `size`, `brightness` and `color` are short
            names of the measured keys if no record has a key of that name.
        max_pixels: Maximum number of pixels per image that is read.
        advance: Progress callback of reading images.

    Raises:
        DataError: If no image has the key, its values are not plain values or are too many, the key
            is ambiguous, or an image cannot be read.
    """
    records = [record for file in files for record in file.images]
    source = ", ".join(str(file.path) for file in files)
    key = _resolve_key(key, records, source)
    if key == "image:size":
        return _describe_measured(key, *split_by_size(_stack_sizes(files)))
    if key in _READ_PIXELS:
        paths = [file.image_path(record) for file in files for record in file.images]
        _require_images(paths, key, source)
        return _describe_measured(key, *_READ_PIXELS[key](paths, max_pixels, advance))
    name = key.removeprefix(RECORD_PREFIX)
    values = [_format_value(get_attribute(record, name), record, name) for record in records]
    known = [value for value in values if value is not None]
    if not known:
        raise _build_unknown_key_error(name, records, source)
    num_values = len(set(known))
    if num_values > MAX_SUBGROUPS:
        raise DataError(
            f"{source}: the key {name!r} has {num_values} different values in "
            f"{Count(len(records)):image}, more than {MAX_SUBGROUPS}; choose a key with few "
            "values, such as the scanner or the weather"
        )
    missing = len(values) - len(known)
    note = f"{Count(missing):image has} no {name!r}: subgroup {UNKNOWN!r}"
    subgroups = tuple(UNKNOWN if value is None else value for value in values)
    return Subgroups(name, subgroups, (note,) if missing else ())


def get_attribute(record: ImageRecord, key: str) -> Any:
    """Return the value of a key of an image record; None if it is missing.

    Args:
        record: Image record.
        key: Key, in which dots separate the keys of nested objects. A key that contains dots itself
            has precedence.
    """
    if key in _FIELDS:
        return getattr(record, key)
    value: Any = record.extra
    if key in value:
        return value[key]
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def format_measured_keys() -> str:
    """Return the measured keys with their descriptions, for a message."""
    return ", ".join(f"{name} ({description})" for name, description in MEASURED.items())


def _resolve_key(key: str, records: Sequence[ImageRecord], source: str) -> str:
    """Return the full name of a measured key, and any other key unchanged.

    Raises:
        DataError: If a short name of a measured key is also a key of the records.
    """
    full_name = f"image:{key}"
    if full_name not in MEASURED:
        if key.startswith("image:") and key not in MEASURED:
            raise DataError(
                f"the key {key!r} is unknown; allowed: {format_measured_keys()}"
                f"{suggest_nearest(key, MEASURED)}"
            )
        return key
    num_records = sum(get_attribute(record, key) is not None for record in records)
    if num_records:
        raise DataError(
            f"{source}: {key!r} is ambiguous, because {Count(num_records):image record has} a key "
            f"of that name; pass {full_name} ({MEASURED[full_name]}) or {RECORD_PREFIX}{key}"
        )
    return full_name


def _stack_sizes(files: Sequence[CocoFile]) -> Any:
    return np.concatenate([file.images.sizes for file in files])


def _describe_measured(key: str, values: list[str], description: str) -> Subgroups:
    return Subgroups(key, tuple(values), (f"{key}: {description}",))


def _require_images(paths: Sequence[Path], key: str, source: str) -> None:
    """Check that the images exist.

    Raises:
        DataError: If images are missing.
    """
    missing = [path for path in paths if not os.path.isfile(path)]  # noqa: PTH113 - fast
    if missing:
        raise DataError(
            f"{source}: {key} reads the images, but {len(missing)} of {len(paths)} are missing, "
            f"the first is {limit_path(missing[0])}; set the image folder with --images"
        )


def _format_value(value: Any, record: ImageRecord, key: str) -> str | None:
    """Return a value as the name of a subgroup; None if there is no value.

    Raises:
        DataError: If it is a list or an object.
    """
    if isinstance(value, Mapping):
        nested = [f"{key}.{name}" for name in value]
        raise DataError(
            f"the key {key!r} of image {record.id!r} is an object; pass one of its keys: "
            f"{format_allowed(map(shorten_name, nested))}"
        )
    if isinstance(value, list | tuple):
        raise DataError(
            f"the key {key!r} of image {record.id!r} is a list; subgroups need text, a number, "
            "true or false in every image record"
        )
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    is_whole = isinstance(value, float) and value.is_integer()
    return (str(int(value)) if is_whole else str(value)).strip() or None


def _build_unknown_key_error(key: str, records: Sequence[ImageRecord], source: str) -> DataError:
    keys = list_attributes(records)
    # A longer key is not a misspelled one, and too long for a message.
    known = [name for name in (*keys, *MEASURED) if len(name) <= MAX_SUGGESTED]
    return DataError(
        f"{source}: no image record has the key {shorten_name(key, MAX_SUGGESTED)!r}; keys of the "
        f"records: {format_allowed(map(shorten_name, keys))}; measured on the images: "
        f"{', '.join(MEASURED)}"
        f"{suggest_nearest(key, known)}"
    )


def list_attributes(records: Sequence[ImageRecord]) -> list[str]:
    """Return the keys of image records by which images can be divided, the most frequent first."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(_iter_keys(record.extra))
        counts.update(name for name in _FIELDS if getattr(record, name) is not None)
    return [key for key, _ in counts.most_common()]


def _iter_keys(value: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, nested in value.items():
        if isinstance(nested, Mapping):
            keys += _iter_keys(nested, f"{prefix}{name}.")
        elif isinstance(nested, str | int | float):
            keys.append(f"{prefix}{name}")
    return keys
