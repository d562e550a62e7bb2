"""Explanations of a run's predictions, drawn over the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from resnet_tasks.data.datasets.samples import make_sample
from resnet_tasks.data.images.find_images import find_images, make_output_names
from resnet_tasks.errors import DataError
from resnet_tasks.files.atomic import make_folder, write_json
from resnet_tasks.inference.grad_cam import Explanation, ExplanationQuery, Method, explain
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.visualization.drawing import draw_heat
from resnet_tasks.visualization.thumbnails import to_canvas, write_image

STRONGEST_PREDICTION = ExplanationQuery()
"""The strongest prediction of a head."""


@dataclass(frozen=True)
class ExplanationRequest:
    """What is to be explained of every image.

    Attributes:
        head: Its name; None: every head.
        level: `C1` to `C5`.
        query: A class, a box, or the strongest prediction.
        method: `gradcam`, `hirescam`, or None for what suits the question.
        checkpoint: `last` or `best`.
    """

    head: str | None = None
    level: str = "C5"
    query: ExplanationQuery = STRONGEST_PREDICTION
    method: Method | None = None
    checkpoint: str = "last"


def explain_image(
    run: Run, image: NDArray[np.generic] | Path, request: ExplanationRequest
) -> list[Explanation]:
    """Explanations of one image, one per head that is asked.

    Args:
        run: Whose model is asked.
        image: As `Run.predict` takes it.
        request: What is asked.

    Raises:
        HeadError: If head, level or class do not exist.
        DataError: If nothing of what was asked is found, by any head.
    """
    preparation = run.preparation
    name = str(image) if isinstance(image, Path) else "the image"
    pixels = preparation.read(image) if isinstance(image, Path) else image
    sample = make_sample(preparation, pixels, name=name)
    model = run.load_model(request.checkpoint)
    heads = list(model.named_heads) if request.head is None else [request.head]
    explanations, problems = [], []
    for head in heads:
        try:
            explanations.append(
                explain(
                    model,
                    sample,
                    head=head,
                    level=request.level,
                    query=request.query,
                    method=request.method,
                )
            )
        except DataError as error:  # another head may see something
            problems.append(f"head {head}: {error}")
    if not explanations:
        raise DataError(f"{name}: {'; '.join(problems)}")
    return explanations


def explain_paths(
    run: Run, paths: Sequence[Path], request: ExplanationRequest, *, out: Path, console: Console
) -> tuple[Path, list[str]]:
    """Explains files and folders into `out`: a drawing per image and head, and a list of them.

    Args:
        run: Whose model is asked.
        paths: Images or folders of images.
        request: What is asked.
        out: Is made; gets `<name>-<head>.png` and `explanations.json`.
        console: For progress.

    Returns:
        `out`, and a sentence per image in which nothing of what was asked was found.

    Raises:
        DataError: If an image cannot be read, or none holds what was asked.
    """
    files = find_images(paths)
    make_folder(out)
    entries, empty = [], []
    with track_progress(console, "Explaining", len(files)) as advance:
        for file, name in zip(files, make_output_names(files), strict=True):
            image = run.preparation.read(file)
            try:
                explanations = explain_image(run, file, request)
            except DataError as error:
                empty.append(str(error))
                explanations = []
            for explanation in explanations:
                drawing = out / f"{name}-{explanation.head}.png"
                canvas = to_canvas(image, run.preparation)
                write_image(drawing, draw_heat(canvas, explanation.heat, explanation.box))
                entries.append(_explanation_to_json(file, drawing, explanation))
            advance()
    if not entries:
        raise DataError(empty[0])
    write_json(out / "explanations.json", entries)
    return out, empty


def _explanation_to_json(file: Path, drawing: Path, explanation: Explanation) -> dict[str, object]:
    return {
        "image": str(file),
        "drawing": drawing.name,
        "head": explanation.head,
        "level": explanation.level,
        "method": explanation.method,
        "class": explanation.class_name,
        "box_xyxy": explanation.box,
        "evidence_logit": round(explanation.evidence, 6),
        "strongest_place_xy": [
            int(coordinate)
            for coordinate in np.unravel_index(
                int(explanation.heat.argmax()), explanation.heat.shape
            )[::-1]
        ],
    }
