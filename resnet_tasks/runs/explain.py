"""Explanations of a run's predictions, drawn over the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.datasets.samples import make_sample
from resnet_tasks.data.images.find_images import find_images, make_output_names
from resnet_tasks.errors import DataError
from resnet_tasks.files.atomic import make_folder, write_json
from resnet_tasks.inference.grad_cam import Explanation, ExplanationQuery, Method, explain
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.visualization.colors import Color, build_palette
from resnet_tasks.visualization.explanations import ExplanationCaption, draw_explanation
from resnet_tasks.visualization.thumbnails import to_canvas, write_image

STRONGEST_PREDICTION = ExplanationQuery()
"""Query for the strongest prediction of a head."""


@dataclass(frozen=True)
class ExplanationRequest:
    """Explanation to compute for every image.

    Attributes:
        head: Name of the head; None: every head.
        level: Feature level that the heat map is computed on, `C1` to `C5`; None: the coarsest one
            that the head uses.
        query: Prediction to explain: of a class, in a box, or the strongest one.
        method: `gradcam`, `hirescam`, or None for the method that suits the query.
        checkpoint: `last` or `best`.
    """

    head: str | None = None
    level: str | None = None
    query: ExplanationQuery = STRONGEST_PREDICTION
    method: Method | None = None
    checkpoint: str = "last"


def explain_image(
    run: Run, image: NDArray[np.generic] | Path, request: ExplanationRequest
) -> list[Explanation]:
    """Return the explanations of one image, one per requested head.

    Args:
        run: Run whose model is explained.
        image: Path or array of the image; see `Run.predict`.
        request: Head, level, query and method.

    Raises:
        HeadError: If head, level or class do not exist.
        DataError: If no head has a prediction that matches the query.
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
        except DataError as error:  # another head may match the query
            problems.append(f"head {head}: {error}")
    if not explanations:
        raise DataError(f"{name}: {'; '.join(problems)}")
    return explanations


def explain_paths(
    run: Run, paths: Sequence[Path], request: ExplanationRequest, *, out: Path, console: Console
) -> tuple[Path, list[str]]:
    """Explain images: write one drawing per image and head, and a JSON list of the drawings.

    Args:
        run: Run whose model is explained.
        paths: Images or folders of images.
        request: Head, level, query and method.
        out: Folder that is created; it receives `<name>-<head>.png` and `explanations.json`.
        console: Console for progress.

    Returns:
        `out`, and one sentence per image without a prediction that matches the query.

    Raises:
        DataError: If an image cannot be read, or no image has a prediction that matches the query.
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
                caption = _build_caption(explanation, run.labels.class_colors)
                canvas = to_canvas(image, run.preparation)
                write_image(
                    drawing, draw_explanation(canvas, explanation.heat, caption, explanation.box)
                )
                entries.append(_explanation_to_json(file, drawing, explanation))
            advance()
    if not entries:
        raise DataError(empty[0])
    write_json(out / "explanations.json", entries)
    return out, empty


def _build_caption(explanation: Explanation, colors: Mapping[str, Color]) -> ExplanationCaption:
    logit = f"logit {explanation.evidence:.2f}"
    score = logit if explanation.score is None else f"score {explanation.score:.2f}, {logit}"
    setting = f"head {explanation.head}, level {explanation.level}, {explanation.method}"
    lines = [score, setting]
    if not explanation.heat.any():
        lines.append("No location of this level supports the prediction.")
    (color,) = build_palette((explanation.class_name,), colors)
    return ExplanationCaption(explanation.class_name, color, lines)


def _explanation_to_json(file: Path, drawing: Path, explanation: Explanation) -> dict[str, object]:
    return {
        "image": str(file),
        "drawing": drawing.name,
        "head": explanation.head,
        "level": explanation.level,
        "method": explanation.method,
        "class": explanation.class_name,
        "box_xyxy": explanation.box,
        "score": None if explanation.score is None else round(explanation.score, 6),
        "evidence_logit": round(explanation.evidence, 6),
        "strongest_place_xy": [
            int(coordinate)
            for coordinate in np.unravel_index(
                int(explanation.heat.argmax()), explanation.heat.shape
            )[::-1]
        ],
    }
