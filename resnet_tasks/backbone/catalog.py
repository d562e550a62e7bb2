"""What is known of every variant: size, work, and the weight sets with accuracy and license."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

FILE = Path(__file__).with_name("catalog.json")
"""Made by `python -m resnet_tasks.backbone.build_catalog`; its head names the sources."""


@dataclass(frozen=True)
class WeightSet:
    """One choice of `backbone.weights`.

    Attributes:
        spec: As a recipe names it.
        top1: ImageNet-1k validation, 0..1; None where the sources have no figure.
        image_size: Pixels per side at which `top1` was measured.
        license: As stated by who publishes the weights.
        is_default: Whether `imagenet` stands for it.
    """

    spec: str
    top1: float | None
    image_size: int | None
    license: str
    is_default: bool = False


@dataclass(frozen=True)
class Variant:
    """One backbone by name.

    Attributes:
        name: As a recipe names it.
        parameters: Of the backbone, without classifier.
        multiply_adds: Of one image of 3 x 224 x 224, without classifier; a multiplication and
            its addition count once, as papers do that call them FLOPs.
        weights: The default first.
    """

    name: str
    parameters: int
    multiply_adds: int
    weights: tuple[WeightSet, ...]


def list_variants(pattern: str = "*") -> list[Variant]:
    """All variants whose name matches a shell pattern; read from a file, without torch."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return [
        Variant(
            name,
            record["parameters"],
            record["multiply_adds"],
            tuple(WeightSet(**weight_set) for weight_set in record["weights"]),
        )
        for name, record in content["variants"].items()
        if fnmatchcase(name, pattern)
    ]


def forbids_commercial_use(license_name: str) -> bool:
    """Whether a license is for non-commercial use, as far as its name says so."""
    words = license_name.lower().replace(" ", "-").replace("_", "-").split("-")
    return "nc" in words or "noncommercial" in "".join(words)


def read_sources() -> dict[str, str]:
    """Where the figures come from."""
    citations: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))["sources"]
    return citations
