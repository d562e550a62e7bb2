"""From COCO files to other formats: which splits, under which names, and what could not be kept."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_tools.formats import Format
from data_tools.reading.source_folder import find_coco_splits
from data_tools.writing.data_card import DataCard, DatasetProvenance
from data_tools.writing.output_folder import CARD, create_output_folder
from data_tools.writing.progress import Progress
from data_tools.writing.split_summary import SkippedObject, SplitSummary
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.errors import DataError
from resnet_tasks.registry import Registry

ImageMode = Literal["copy", "link", "none"]
"""What becomes of the images."""


def assign_flat_names(images: Sequence[ImageRecord]) -> Iterator[tuple[ImageRecord, str]]:
    """Every image with a file name that is unique without its suffix and has no folder.

    Labels go by the name without suffix; YOLO replaces `images` in paths, and VOC has one folder.
    """
    # An id may be a text, which could lead out of the folder.
    stems = Counter(Path(record.file_name).stem for record in images)
    used_stems: set[str] = set()
    for number, record in enumerate(images, start=1):
        path = Path(record.file_name)
        stem = path.stem
        if stems[stem] > 1:
            stem = "_".join((*path.parts[:-1], stem, path.suffix[1:]))
        while stem in used_stems:
            stem = f"{stem}_{record.id if isinstance(record.id, int) else number}"
        used_stems.add(stem)
        yield record, f"{stem}{path.suffix}"


@dataclass
class SplitExport:
    """What one exported split holds.

    Attributes:
        split: Its name.
        classes: Names in order.
        images: Number of images.
        objects: Number of objects by class name.
        changed: Objects that are not quite what they were -> their number.
        skipped: What is not in the output, and why.
    """

    split: str
    classes: tuple[str, ...]
    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    skipped: list[SkippedObject] = field(default_factory=list)

    def count_object(self, annotation: Annotation) -> None:
        """Counts an object that was written."""
        self.objects[self.classes[annotation.category]] += 1

    def count_change(self, description: str) -> None:
        """Counts an object that was changed."""
        self.changed[description] += 1

    def skip_object(self, record: ImageRecord, annotation: Annotation, reason: str) -> None:
        """Counts an object that the format cannot hold."""
        description = f"{self.classes[annotation.category]} (annotation {annotation.id})"
        self.skipped.append(SkippedObject(record.file_name, description, reason))

    def summarize(self) -> SplitSummary:
        """As the data card takes it."""
        objects = {name: self.objects[name] for name in self.classes}
        return SplitSummary(self.split, self.images, objects, {}, tuple(self.skipped), self.changed)


EXPORTS: Registry[Format] = Registry("export format", group="resnet_tasks.exports")
"""Name -> format; `convert` of these takes (splits, out)."""

for _name, _entry_point, _title in (
    (
        "yolo",
        "data_tools.exporters.yolo:export_yolo",
        "data.yaml, and a text file of boxes or polygons per image",
    ),
    ("voc", "data_tools.exporters.voc:export_voc", "Pascal VOC: one XML of boxes per image"),
):
    EXPORTS.register(_name)(Format(_name, _entry_point, _title))


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
    """Writes COCO data in another format, with a card that lists what could not be kept.

    Args:
        format_name: Key of `EXPORTS`.
        source: A COCO file, or a folder with `train.json`, `val.json`, `test.json`.
        out: Folder for the result; appears when complete.
        images_root: Folder of the images; default: what the files say.
        overwrite: Replace an earlier result in `out`.
        progress: Called with (done, total) after each image.
        **options: Options of the format.

    Returns:
        The card, which is also `out/data_card.md`.

    Raises:
        DataError: If an option, a file or an image is wrong.
        ResnetTasksError: If there is no such format.
    """
    format_ = EXPORTS.get(format_name)
    validated_options = format_.validate_options(options, "options")
    splits = {
        name: read_coco(file, images_root=images_root)
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
        card = DataCard(out.name, origin, str(source.resolve()), summaries, verified=True)
        (folder / CARD).write_text(card.to_markdown(), encoding="utf-8")
    return card


def copy_or_link_image(image: Path, target: Path, images: ImageMode) -> None:
    """Copies an image or links to it.

    Raises:
        DataError: If it is missing.
    """
    if images == "none":
        return
    if not image.is_file():
        raise DataError(
            f"the image {image} is missing; name the folder of the images (--images), or "
            "write labels only (images=none)"
        )
    if images == "link":
        target.symlink_to(os.path.abspath(image))  # noqa: PTH100 - links are kept
    else:
        shutil.copyfile(image, target)


def _require_same_classes(splits: Mapping[str, CocoFile]) -> None:
    (name, first), *remaining_splits = splits.items()
    for other_name, coco in remaining_splits:
        if coco.categories.index_table != first.categories.index_table or (
            coco.categories.names != first.categories.names
        ):
            raise DataError(
                f"{first.path} and {coco.path} have different categories, so their classes cannot "
                f"be numbered alike; export {name} and {other_name} apart"
            )
