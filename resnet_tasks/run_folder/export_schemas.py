"""Schema of `export.json`; see `schemas`."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class ExportedHeadEntry(Struct):
    """Head in `export.json`."""

    type: str
    task: str
    classes: list[str]
    category_ids: list[int]
    score_threshold: float | None = None


class ExportedCombinerEntry(Struct):
    """Combiner in `export.json`."""

    type: str
    roles: dict[str, str]
    options: dict[str, Any]
    classes: list[str]
    category_ids: list[int]


class ExportedPixels(Struct):
    """Range of pixel values in `export.json`."""

    low: float
    high: float
    clip: bool = False


class ExportedInput(Struct):
    """Input of the graph in `export.json`."""

    channels: int
    multiple: int
    pixels: ExportedPixels
    normalization: dict[str, list[float]]


class ExportedPreparation(Struct):
    """Preparation of images in `export.json`."""

    resize: dict[str, Any] | None
    intensity: dict[str, Any]
    max_pixels: int | None


class ExportedWindows(Struct):
    """Sliding windows in `export.json`."""

    height: int
    width: int
    overlap: float
    nms_iou: float


class ExportedCategory(Struct):
    """Category in `export.json`."""

    id: int
    name: str


class Export(Struct):
    """Content of `export.json`; `int8` holds the metrics of a quantized model, otherwise False."""

    format: str
    int8: bool | dict[str, Any]
    precision: str
    input: ExportedInput
    preparation: ExportedPreparation
    heads: dict[str, ExportedHeadEntry]
    categories: list[ExportedCategory]
    windows: ExportedWindows | None
    combine: dict[str, ExportedCombinerEntry]
    plugins: list[str] = []
