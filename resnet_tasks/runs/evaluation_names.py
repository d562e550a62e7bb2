"""Names of the folders below `evaluations/`, and the split that a name refers to."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from resnet_tasks.assemble.split_files import Split
from resnet_tasks.files.digests import compute_sha256


def build_evaluation_name(
    split: Split, annotations: Path | None, checkpoint: str, suffix: str
) -> str:
    """Return the name of the folder of an evaluation.

    Args:
        split: Split of the recipe.
        annotations: Path of a COCO file that is evaluated instead of the split.
        checkpoint: `last` or `best`.
        suffix: Suffix of the inference options, `InferenceOptions.suffix`; empty or beginning with
            `-`.
    """
    name: str = split
    if annotations is not None:
        name = f"file-{annotations.stem}-{compute_sha256(annotations)[:8]}"
    if checkpoint != "last":
        name = f"{name}-{checkpoint}"
    return f"{name}{suffix}"


def parse_evaluated_split(name: str) -> Split | None:
    """Return the split that an evaluation folder is named after, or None for a file."""
    first_word = name.partition("-")[0]
    return next((split for split in get_args(Split) if split == first_word), None)
