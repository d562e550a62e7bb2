"""Summary of one written split: its content, and its skipped objects with reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_tools.reading.source_folder import count_unused
from resnet_tasks.errors import format_list
from resnet_tasks.number_formats import Count


@dataclass(frozen=True)
class SkippedObject:
    """One object or file of the source that is not in the output.

    Attributes:
        file: Source file that contains the object.
        description: Description of the object.
        reason: Reason why the object is not in the output.
    """

    file: str
    description: str
    reason: str


@dataclass(frozen=True)
class SplitSummary:
    """Summary of one written split.

    Attributes:
        split: Name of the split.
        images: Number of images.
        objects: Number of objects by class name.
        pixels: Number of labeled pixels by class name; empty without label maps.
        skipped: Objects that are not in the output, with reasons.
        changed: Description of a change -> number of objects that differ from the source.
        notes: Facts about the split that a reader of results must know.
        warnings: Possible faults of the source, which are also printed.
        image_paths: Source files of the images; no two splits may share one.
    """

    split: str
    images: int
    objects: dict[str, int]
    pixels: dict[str, int] = field(default_factory=dict)
    skipped: tuple[SkippedObject, ...] = ()
    changed: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    image_paths: frozenset[Path] = field(default=frozenset(), repr=False, compare=False)


def describe_ignored_classes(names: Sequence[object]) -> list[str]:
    """Return a warning on the classes whose objects are all crowds, if there are any."""
    if not names:
        return []
    warning = (
        f"all objects of {format_list(names)} are marked as ignored (`difficult`, crowd or group), "
        "so training does not learn them; remove the mark in the source if they are single objects"
    )
    return [warning]


def add_unused_images(
    summaries: Sequence[SplitSummary], source: Path, images: str, reason: str
) -> tuple[SplitSummary, ...]:
    """Return the summaries with images that no split uses listed as skipped.

    Args:
        summaries: Summaries returned by the writers.
        source: Folder of the dataset.
        images: Folder of the images, relative to the source; `{split}` is replaced by the split.
            Unused images in a folder of several splits are listed under the last of them.
        reason: Reason why these images are skipped.
    """
    used_paths = [image for summary in summaries for image in summary.image_paths]
    last = {source / images.format(split=summary.split): i for i, summary in enumerate(summaries)}
    updated_summaries = list(summaries)
    for folder, index in last.items():
        if number := count_unused(folder, used_paths):
            description = f"{Count(number):image}"
            skipped = (
                *updated_summaries[index].skipped,
                SkippedObject(folder.name, description, reason),
            )
            updated_summaries[index] = replace(updated_summaries[index], skipped=skipped)
    return tuple(updated_summaries)
