"""Images and objects by subgroup of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.splits.splitting import count_objects_per_image
from resnet_tasks.data.subgroups.subgroups import Subgroups
from resnet_tasks.runtime.console import Console, Text


def count_subgroups(coco: CocoFile, subgroups: Subgroups) -> dict[str, dict[str, Any]]:
    """Count the images and objects of every subgroup.

    Args:
        coco: COCO file with the images.
        subgroups: Subgroup of every image of the file.

    Returns:
        Subgroup -> `images`: number of images; `objects`: class name -> number of objects and image
        labels, without crowds. The most frequent subgroup comes first.
    """
    counts = count_objects_per_image([coco], coco.categories)
    values = np.asarray(subgroups.values)
    return {
        name: {
            "images": number,
            "objects": dict(
                zip(
                    coco.categories.names,
                    counts[values == name].sum(axis=0).astype(int).tolist(),
                    strict=True,
                )
            ),
        }
        for name, number in subgroups.count_images().items()
    }


def print_subgroups(
    coco: CocoFile, divisions: Sequence[Subgroups], console: Console
) -> dict[str, dict[str, dict[str, Any]]]:
    """Print a table of images and objects for each division of the images.

    Args:
        coco: COCO file with the images.
        divisions: Subgroups of the images by different keys.
        console: Console to print to.

    Returns:
        Key -> result of `count_subgroups`.
    """
    all_counts = {}
    for subgroups in divisions:
        counts = all_counts[subgroups.key] = count_subgroups(coco, subgroups)
        table = Table(title=f"images by {subgroups.key}", title_justify="left")
        table.add_column("subgroup", overflow="fold")
        for name in ("images", "share", "objects", "per image"):
            table.add_column(name, justify="right")
        for name, numbers in counts.items():
            images, objects = numbers["images"], sum(numbers["objects"].values())
            # `Text`, because a name may look like markup.
            table.add_row(
                Text(name),
                str(images),
                f"{images / len(subgroups.values):.1%}",
                str(objects),
                f"{objects / images:.2f}",
            )
        console.print(table)
        for note in subgroups.notes:
            console.print(f"note: {note}", markup=False, soft_wrap=True)
    return all_counts
