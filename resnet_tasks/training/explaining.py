"""Explanations of a run's predictions, drawn over the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from resnet_tasks.data.samples import sample_of
from resnet_tasks.drawing import draw_heat
from resnet_tasks.errors import DataError
from resnet_tasks.explain import Explanation, Method, Question, explain
from resnet_tasks.prediction_files import find_images, output_names, shown, write_picture
from resnet_tasks.progress import bar
from resnet_tasks.training.checkpoint import make_folder, write_json
from resnet_tasks.training.run import Run

STRONGEST = Question()
"""The strongest prediction of a head."""


@dataclass(frozen=True)
class Wanted:
    """What is to be explained of every picture.

    Attributes:
        head: Its name; None: every head.
        level: `C1` to `C5`.
        question: A class, a box, or the strongest prediction.
        method: `gradcam`, `hirescam`, or None for what suits the question.
        checkpoint: `last` or `best`.
    """

    head: str | None = None
    level: str = "C5"
    question: Question = STRONGEST
    method: Method | None = None
    checkpoint: str = "last"


def explain_image(run: Run, image: NDArray[np.generic] | Path, wanted: Wanted) -> list[Explanation]:
    """Explanations of one picture, one per head that is asked.

    Args:
        run: Whose model is asked.
        image: As `Run.predict` takes it.
        wanted: What is asked.

    Raises:
        HeadError: If head, level or class do not exist.
        DataError: If nothing of what was asked is found, by any head.
    """
    preparation = run.preparation
    name = str(image) if isinstance(image, Path) else "the picture"
    pixels = preparation.read(image) if isinstance(image, Path) else image
    sample = sample_of(preparation, pixels, name=name)
    model = run.model(wanted.checkpoint)
    heads = list(model.named_heads) if wanted.head is None else [wanted.head]
    found, problems = [], []
    for head in heads:
        try:
            found.append(
                explain(
                    model,
                    sample,
                    head=head,
                    level=wanted.level,
                    question=wanted.question,
                    method=wanted.method,
                )
            )
        except DataError as error:  # another head may see something
            problems.append(f"head {head}: {error}")
    if not found:
        raise DataError(f"{name}: {'; '.join(problems)}")
    return found


def explain_paths(
    run: Run, paths: Sequence[Path], wanted: Wanted, *, out: Path, console: Console
) -> tuple[Path, list[str]]:
    """Explains files and folders into `out`: a drawing per picture and head, and a list of them.

    Args:
        run: Whose model is asked.
        paths: Pictures or folders of pictures.
        wanted: What is asked.
        out: Is made; gets `<name>-<head>.png` and `explanations.json`.
        console: For progress.

    Returns:
        `out`, and a sentence per picture in which nothing of what was asked was found.

    Raises:
        DataError: If a picture cannot be read, or none holds what was asked.
    """
    files = find_images(paths)
    make_folder(out)
    entries, empty = [], []
    with bar(console, "Explaining", len(files)) as advance:
        for file, name in zip(files, output_names(files), strict=True):
            image = run.preparation.read(file)
            try:
                found = explain_image(run, file, wanted)
            except DataError as error:
                empty.append(str(error))
                found = []
            for each in found:
                drawing = out / f"{name}-{each.head}.png"
                picture = shown(image, run.preparation)
                write_picture(drawing, draw_heat(picture, each.heat, each.box))
                entries.append(_entry(file, drawing, each))
            advance()
    if not entries:
        raise DataError(empty[0])
    write_json(out / "explanations.json", entries)
    return out, empty


def _entry(file: Path, drawing: Path, found: Explanation) -> dict[str, object]:
    return {
        "picture": str(file),
        "drawing": drawing.name,
        "head": found.head,
        "level": found.level,
        "method": found.method,
        "class": found.class_name,
        "box_xyxy": found.box,
        "evidence_logit": round(found.evidence, 6),
        "strongest_place_xy": [
            int(each) for each in np.unravel_index(int(found.heat.argmax()), found.heat.shape)[::-1]
        ],
    }
