"""Printing of the summary of a converted dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

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
        typer.echo(f"{split.split}: {Count(split.images):image}; objects: {objects}{maps}")
    if card.num_skipped:
        descriptions = {skipped.description for split in card.splits for skipped in split.skipped}
        number = Count(card.num_skipped)
        noun = f"{number:file}" if descriptions == {"file"} else f"{number:object}"
        typer.echo(f"skipped: {noun}, listed in the data card")
    for split in card.splits:
        for description, count in split.changed.items():
            typer.echo(f"{split.split}: {description} ({Count(count):object})")
    for warning in card.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"written to {folder}; data card: {folder / 'data_card.md'}")
