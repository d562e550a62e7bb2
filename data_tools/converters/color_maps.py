"""Converter for images with color-coded label maps, as CamVid was published: one color per class.

    ROOT/IMAGES/NAME.png              images (option `images`)
    ROOT/MAPS/NAME_L.png              label maps in RGB (options `maps`, `ending`)
    ROOT/label_colors.txt             `R G B name`, one class per line (option `colors`)
    ROOT/train.txt, val.txt           names of a split, one per line

Folders with `{split}` in their names need no lists. Without folders or lists of splits, all images
form the split `train`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.converters.label_maps import add_image_with_map
from data_tools.reading.image_index import pair_images
from data_tools.reading.source_folder import SPLITS, find_split_lists, read_lines, require_parts
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.semantic_maps import choose_void_value
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.images.channels import convert_channels
from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.data.images.image_damage import describe_read_error
from resnet_tasks.data.images.image_files import DAMAGE
from resnet_tasks.data.images.label_files import require_lossless, require_single_image
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

BYTE = re.compile("[0-9]{1,3}")
COLORS = "label_colors.txt"
SHOWN = 6

Rgb = tuple[int, int, int]
Pairs = list[tuple[Path, Path]]
"""Images with their label maps."""


@dataclass(frozen=True)
class ColorTable:
    """Mapping from colors to categories.

    Attributes:
        categories: Categories in order of their ids.
        codes: (N,) int64 colors as R * 65536 + G * 256 + B, ascending.
        ids: (N,) int64 category ids of the colors; the void value for void colors.
        names: (N,) class names in the table, for messages.
    """

    categories: tuple[CategorySpec, ...]
    codes: NDArray[np.int64]
    ids: NDArray[np.int64]
    names: tuple[str, ...]


def convert_color_maps(  # noqa: PLR0913 - each is an option of the format
    source: Path,
    out: Path,
    *,
    images: str,
    maps: str,
    ending: str = "",
    colors: str = COLORS,
    merge: Mapping[str, str] | None = None,
    void: Sequence[str] = ("Void",),
    things: Sequence[str] = (),
    boxes: bool = False,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert every split to COCO JSON with label maps.

    Args:
        source: Folder that all other paths are relative to.
        out: Folder for the JSON files and `semantic/`.
        images: Folder of the images; `{split}` is replaced by the split.
        maps: Folder of the label maps; `{split}` is replaced by the split.
        ending: Suffix that the stem of a map adds to the stem of its image.
        colors: Name of the text file of colors.
        merge: Class of the table -> class of the output; if given, all other classes are void.
        void: Classes whose pixels are ignored in training and evaluation.
        things: Classes of the output that consist of countable objects.
        boxes: Whether to also add a box around every connected component of a thing class.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a folder, table, list or file is missing or invalid, or a map has a color that
            is not in the table; the message names the file and the color.
    """
    require_parts(source, (colors,))
    table = read_colors(source / colors, merge, void, things)
    pairs = _list_pairs(source, images, maps, ending)
    dataset = DatasetWriter(
        out,
        table.categories,
        annotated=("boxes", "semantic") if boxes else ("semantic",),
        description="Converted from color-coded maps, {split}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )

    def add_image(writer: CocoWriter, pair: tuple[Path, Path]) -> None:
        image, label_map = pair
        ids = colors_to_ids(read_color_map(label_map), table, label_map)
        add_image_with_map(writer, image, ids, box_categories=table.categories if boxes else ())

    return dataset.write(track_splits(pairs, progress), add_image)


def read_colors(
    file: Path,
    merge: Mapping[str, str] | None = None,
    void: Sequence[str] = (),
    things: Sequence[str] = (),
) -> ColorTable:
    """Read a table of colors.

    Args:
        file: Path of the text file, `R G B name` per line.
        merge: Class of the table -> class of the output; None if they are the same.
        void: Classes that are void.
        things: Classes of the output that consist of countable objects.

    Raises:
        DataError: If a line is not a color and a name, a name or color is repeated, or the options
            name an unknown class.
    """
    colors_by_name: dict[str, Rgb] = {}
    for number, line in enumerate(read_lines(file), start=1):
        fields = re.split(r"[\s,]+", line.strip(), maxsplit=3)
        if not line.strip():
            continue
        rgb = tuple(int(text) for text in fields[:3] if BYTE.fullmatch(text))
        if len(fields) != 4 or len(rgb) != 3 or max(rgb) > 255:
            raise DataError(f"{file}, line {number} is {line!r:.60}; expected R G B name")
        name = fields[3].strip()
        if name in colors_by_name or rgb in colors_by_name.values():
            raise DataError(f"{file}, line {number}: {line!r:.60} repeats an earlier name or color")
        colors_by_name[name] = (rgb[0], rgb[1], rgb[2])
    for name in (*void, *(merge or {})):
        if name not in colors_by_name and name not in ("Void", *(merge or {}).values()):
            raise DataError(f"{file} has no class {name!r}; it has {', '.join(colors_by_name)}")
    target = {
        name: (merge or {}).get(name, name if merge is None else "") for name in colors_by_name
    }
    kept_names = [name for name in target.values() if name and name not in void]
    order = list(dict.fromkeys([*(merge or {}).values(), *kept_names])) if merge else kept_names
    unknown = [name for name in things if name not in order]
    if unknown or not order:
        raise DataError(f"{file}: the things {unknown} are not among {', '.join(order) or 'none'}")
    void_id = choose_void_value(len(order))
    position = {name: index for index, name in enumerate(order, start=1)}
    rows = sorted(
        (r << 16 | g << 8 | b, position.get(target[name], void_id), name)
        for name, (r, g, b) in colors_by_name.items()
    )
    return ColorTable(
        tuple(CategorySpec(name, isthing=name in things) for name in order),
        np.asarray([row[0] for row in rows], np.int64),
        np.asarray([row[1] for row in rows], np.int64),
        tuple(row[2] for row in rows),
    )


def read_color_map(file: Path) -> NDArray[np.uint8]:
    """Return the (height, width, 3) uint8 RGB colors of a map, with a palette resolved.

    Raises:
        DataError: If the file is missing, lossy or not an image, has more than 8 bits per channel,
            or contains several images.
    """
    try:
        require_lossless(file, "label map")
        label_image = decode_image(file)
    except FileNotFoundError:
        raise DataError(f"the label map {file} is missing") from None
    except DAMAGE as error:
        reason = describe_read_error(error, file)
        raise DataError(f"the label map {file} cannot be read ({reason}); replace it") from error
    require_single_image(file, "label map", label_image.pages)
    if label_image.pixels.dtype != np.uint8 or label_image.layout == "bands":
        raise DataError(
            f"the label map {file} has {Count(label_image.pixels.shape[2]):channel} of "
            f"{label_image.pixels.dtype}; colors need 8-bit RGB"
        )
    return convert_channels(label_image, 3, file)


def colors_to_ids(pixels: NDArray[np.uint8], table: ColorTable, file: Path) -> NDArray[np.int64]:
    """Convert the colors of a map to category ids.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        table: Table of colors.
        file: Path of the map, for error messages.

    Returns:
        (height, width) int64 category ids.

    Raises:
        DataError: If a color is not in the table; the message names the file, the colors and the
            pixels.
    """
    # One integer per color makes the lookup a binary search in the sorted codes.
    wide = pixels.astype(np.int64)
    codes = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    positions = np.minimum(np.searchsorted(table.codes, codes), len(table.codes) - 1)
    is_unknown = table.codes[positions] != codes
    if is_unknown.any():
        values, first, counts = np.unique(codes[is_unknown], return_index=True, return_counts=True)
        y, x = np.argwhere(is_unknown)[first[0]]
        color_text = ", ".join(
            f"({v >> 16}, {v >> 8 & 255}, {v & 255}) in {Count(n):pixel}"
            for v, n in zip(values[:SHOWN].tolist(), counts[:SHOWN].tolist(), strict=True)
        )
        raise DataError(
            f"the label map {file} has {Count(len(values)):color} outside the table of classes: "
            f"{color_text}; the first one at x {x}, y {y}: correct the map (was it resized, or "
            "ever saved as JPEG?), or add the color to the table"
        )
    ids: NDArray[np.int64] = table.ids[positions]
    return ids


def _list_pairs(source: Path, images: str, maps: str, ending: str) -> dict[str, Pairs]:
    if ("{split}" in images) != ("{split}" in maps):
        raise DataError(
            f"images={images} and maps={maps} must both contain {{split}}, or neither of them"
        )
    if "{split}" in images:
        candidate_folders = {split: source / images.format(split=split) for split in SPLITS}
        folders = {split: folder for split, folder in candidate_folders.items() if folder.is_dir()}
        if not folders:
            require_parts(source, (images.format(split="train"), maps.format(split="train")))
        return {
            split: _match_pairs(folder, source / maps.format(split=split), ending)
            for split, folder in folders.items()
        }
    require_parts(source, (images, maps))
    lists: Mapping[str, Path | None] = find_split_lists(source) or {"train": None}
    return {
        split: _match_pairs(source / images, source / maps, ending, file)
        for split, file in lists.items()
    }


def _match_pairs(images: Path, maps: Path, ending: str, list_file: Path | None = None) -> Pairs:
    require_parts(images, ())
    require_parts(maps, ())
    return pair_images(images, maps, ending=ending, list_file=list_file)
