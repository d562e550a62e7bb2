"""What one written split holds, what was left out of it, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_tools.source_folder import count_unused


@dataclass(frozen=True)
class SkippedObject:
    """One object or file of the source that is not in the output.

    Attributes:
        file: The source file that holds it.
        what: Which object.
        why: What is wrong with it.
    """

    file: str
    what: str
    why: str


@dataclass(frozen=True)
class SplitSummary:
    """What one written split holds.

    Attributes:
        split: Its name.
        images: Number of pictures.
        objects: Number of objects by class name.
        pixels: Number of labelled pixels by class name; empty without semantic maps.
        skipped: What was left out, and why.
        changed: Objects that are not what the source says -> their number.
        notes: What a reader of results must know about it.
        warnings: Faults that the source may have; printed as well.
        pictures: The files that its pictures were taken from; no two splits may share one.
    """

    split: str
    images: int
    objects: dict[str, int]
    pixels: dict[str, int] = field(default_factory=dict)
    skipped: tuple[SkippedObject, ...] = ()
    changed: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    pictures: frozenset[Path] = field(default=frozenset(), repr=False, compare=False)


def with_unused(
    summaries: Sequence[SplitSummary], source: Path, images: str, why: str
) -> tuple[SplitSummary, ...]:
    """The summaries of all splits; pictures that none of them has count as left out.

    Args:
        summaries: As the writers gave them.
        source: Folder of the data set.
        images: Folder of the pictures below it, where `{split}` may stand for the split; what lies
            in a folder of several splits is told with the last of them.
        why: They are left out.
    """
    used = [picture for each in summaries for picture in each.pictures]
    last = {source / images.format(split=each.split): i for i, each in enumerate(summaries)}
    counted = list(summaries)
    for folder, place in last.items():
        if number := count_unused(folder, used):
            what = "1 picture" if number == 1 else f"{number} pictures"
            skipped = (*counted[place].skipped, SkippedObject(folder.name, what, why))
            counted[place] = replace(counted[place], skipped=skipped)
    return tuple(counted)
