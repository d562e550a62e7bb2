"""Printing of the summary of a converted dataset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.data.statistics.class_counts import format_counts
from resnet_tasks.number_formats import Count

if TYPE_CHECKING:
    from data_tools.writing.data_card import DataCard


def print_card(card: DataCard, folder: Path, *, counts: bool = True) -> None:
    """Print the contents of a converted dataset, its warnings, and its folder.

    Args:
        card: Data card of the dataset.
        folder: Path of the dataset.
        counts: Whether to print the number of images and objects of every split.
    """
    for split in card.splits if counts else ():
        # A class that occurs only in label maps is not listed with 0 objects.
        num_objects = {name: n for name, n in split.objects.items() if n or not split.pixels}
        objects = format_counts(num_objects)
        maps = f"; label maps of {Count(len(split.pixels)):class}" if split.pixels else ""
        echo(f"{split.split}: {Count(split.images):image}; objects: {objects}{maps}")
    if card.num_skipped:
        echo(f"skipped: {_count_skipped(card)}, listed in the data card")
    for split in card.splits:
        for description, count in split.changed.items():
            # Sentences on COCO files contain the number.
            has_number = f": {Count(count):annotation} " in description
            number = "" if has_number else f" ({Count(count):object})"
            echo(f"{split.split}: {description}{number}")
    for warning in card.warnings:
        echo(f"warning: {warning}", err=True)
    echo(f"written to {folder}; data card: {folder / 'data_card.md'}")


def _count_skipped(card: DataCard) -> str:
    """Return the numbers of skipped files, images, masks and objects."""
    counts = Counter[str]()
    for skipped in (skipped for split in card.splits for skipped in split.skipped):
        number, _, noun = skipped.description.partition(" ")
        digits = number.replace(",", "")
        if noun in ("image", "images") and digits.isdecimal():
            counts["image"] += int(digits)
        elif skipped.description == "file":
            counts["file"] += 1
        else:
            counts["mask" if skipped.description.startswith("mask of ") else "object"] += 1
    return ", ".join(f"{Count(count):{noun}}" for noun, count in counts.items())
