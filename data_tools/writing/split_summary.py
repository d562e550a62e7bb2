"""What one written split holds, what was left out of it, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_tools.reading.source_folder import count_unused


@dataclass(frozen=True)
class SkippedObject:
    """One object or file of the source that is not in the output.

    Attributes:
        file: The source file that holds it.
        description: Which object.
        reason: What is wrong with it.
    """

    file: str
    description: str
    reason: str


@dataclass(frozen=True)
class SplitSummary:
    """What one written split holds.

    Attributes:
        split: Its name.
        images: Number of images.
        objects: Number of objects by class name.
        pixels: Number of labeled pixels by class name; empty without semantic maps.
        skipped: What was left out, and why.
        changed: Objects that are not what the source says -> their number.
        notes: What a reader of results must know about it.
        warnings: Faults that the source may have; printed as well.
        image_paths: The files that its images were taken from; no two splits may share one.
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


def add_unused_images(
    summaries: Sequence[SplitSummary], source: Path, images: str, reason: str
) -> tuple[SplitSummary, ...]:
    """The summaries of all splits; images that none of them has count as left out.

    Args:
        summaries: As the writers gave them.
        source: Folder of the data set.
        images: Folder of the images below it, where `{split}` may stand for the split; what lies
            in a folder of several splits is told with the last of them.
        reason: They are left out.
    """
    used_paths = [image for summary in summaries for image in summary.image_paths]
    last = {source / images.format(split=summary.split): i for i, summary in enumerate(summaries)}
    updated_summaries = list(summaries)
    for folder, index in last.items():
        if number := count_unused(folder, used_paths):
            description = "1 image" if number == 1 else f"{number} images"
            skipped = (
                *updated_summaries[index].skipped,
                SkippedObject(folder.name, description, reason),
            )
            updated_summaries[index] = replace(updated_summaries[index], skipped=skipped)
    return tuple(updated_summaries)
