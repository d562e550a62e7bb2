"""Catalog of all variants: size, multiply-adds, and weight sets with accuracy and license."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

FILE = Path(__file__).with_name("catalog.json")
"""Written by `python -m resnet_tasks.backbone.build_catalog`; its first key cites the sources."""


@dataclass(frozen=True)
class WeightSet:
    """One value of `backbone.weights`.

    Attributes:
        spec: Value to write in a recipe, such as `timm:a1_in1k`.
        top1: ImageNet-1k validation accuracy, 0..1; None if the sources list no figure.
        image_size: Pixels per side at which `top1` was measured.
        license: License as stated by the publisher of the weights.
        is_default: Whether `imagenet` selects this weight set.
    """

    spec: str
    top1: float | None
    image_size: int | None
    license: str
    is_default: bool = False


@dataclass(frozen=True)
class Variant:
    """One named backbone.

    Attributes:
        name: Value of `backbone.name` in a recipe.
        parameters: Number of parameters of the backbone, without classifier.
        multiply_adds: Multiply-adds for one image of 3 x 224 x 224, without classifier. One
            multiplication with its addition counts once, as in papers that report it as FLOPs.
        weights: Published weight sets, the default first.
    """

    name: str
    parameters: int
    multiply_adds: int
    weights: tuple[WeightSet, ...]


def list_variants(pattern: str = "*") -> list[Variant]:
    """List all variants whose name matches a shell pattern.

    The figures come from `catalog.json`, so that neither torch nor timm is imported.
    """
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
    """Return whether the name of a license marks it as non-commercial."""
    license_terms = license_name.lower().replace(" ", "-").replace("_", "-").split("-")
    return "nc" in license_terms or "noncommercial" in "".join(license_terms)


def read_sources() -> dict[str, str]:
    """Read the citations of the catalog: kind of figure -> source."""
    citations: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))["sources"]
    return citations
