"""Export of COCO files to other formats, with a data card that lists lost information."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.exporters.formats import EXPORTS
from data_tools.exporters.image_files import find_images_root
from data_tools.reading.coco_splits import find_coco_splits
from data_tools.writing.data_card import DataCard, DatasetProvenance
from data_tools.writing.output_folder import CARD, create_output_folder
from data_tools.writing.progress import Progress
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError


def export_coco(
    format_name: str,
    source: Path,
    out: Path,
    *,
    images_root: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> DataCard:
    """Export COCO data to another format, with a card that lists lost information.

    Args:
        format_name: Key of `EXPORTS`.
        source: Path of a COCO file, or of a folder with `train.json`, `val.json`, `test.json`.
        out: Path of the output folder; it appears when complete.
        images_root: Folder of the images; default: the folder that the COCO files state, else
            the only folder next to them that has the images.
        overwrite: Whether to replace an earlier result in `out`.
        progress: Function called with (done, total) after each image.
        **options: Options of the format.

    Returns:
        Data card, which is also written to `out/data_card.md`.

    Raises:
        DataError: If an option, a file or an image is invalid.
        ResnetTasksError: If there is no such format.
    """
    format_ = EXPORTS.get(format_name)
    validated_options = format_.validate_options(options)
    splits = {
        name: _read_split(name, file, images_root)
        for name, file in find_coco_splits(source).items()
    }
    _require_same_classes(splits)
    with create_output_folder(out, sources=(source,), overwrite=overwrite) as folder:
        summaries = format_.convert(splits, folder, progress=progress, **validated_options)
        notes = [
            f"{name}: {problem.message}"
            for name, coco in splits.items()
            for problem in coco.problems
            if problem.severity == "warning"
        ]
        origin = DatasetProvenance(f"{out.name}: exported as {format_name}", notes=tuple(notes))
        card = DataCard(out.name, origin, os.path.realpath(source), summaries, verified=True)
        (folder / CARD).write_text(card.to_markdown(), encoding="utf-8")
    return card


def _read_split(name: str, file: Path, images_root: Path | None) -> CocoFile:
    coco = read_coco(file, images_root=images_root)
    found_root = find_images_root(coco, name) if images_root is None else None
    return coco if found_root is None else read_coco(file, images_root=found_root)


def _require_same_classes(splits: Mapping[str, CocoFile]) -> None:
    (name, first), *remaining_splits = splits.items()
    for other_name, coco in remaining_splits:
        if coco.categories.index_table != first.categories.index_table or (
            coco.categories.names != first.categories.names
        ):
            raise DataError(
                f"{first.path} and {coco.path} have different categories, so their classes cannot "
                f"share one numbering; export {name} and {other_name} separately"
            )
