"""JSON schemas of albumentations' transforms, described by the docstrings of albumentations."""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from types import SimpleNamespace
from typing import Any, get_type_hints

import albumentations
from pydantic import PydanticSchemaGenerationError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from resnet_tasks.data.augmentation.transforms import get_transform_class
from resnet_tasks.docstrings import get_descriptions, get_introduction

_ABSTRACT = ("BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D")
"""Base classes of transforms, which change nothing."""


def list_transforms() -> list[str]:
    """List the names of all transforms that a recipe can use."""
    return sorted(
        name
        for name, candidate in vars(albumentations).items()
        if inspect.isclass(candidate)
        and issubclass(candidate, albumentations.BasicTransform)
        and name not in _ABSTRACT
    )


def build_transform_schemas() -> dict[str, dict[str, Any]]:
    """Build the JSON schema of the parameters of each transform, by name."""
    return {name: build_transform_schema(name) for name in list_transforms()}


def build_transform_schema(name: str) -> dict[str, Any]:
    """Build the JSON schema of the parameters of one transform.

    Args:
        name: Name of a transform, one of `list_transforms`.
    """
    transform_class = get_transform_class(name)
    # Some transforms are replaced by faster or exact subclasses, whose docstrings are about the
    # difference.
    documented = getattr(albumentations, name)
    # A subclass that takes its parameters as **kwargs has the signature of its base.
    descriptions = get_descriptions(documented)
    parameters = inspect.signature(documented).parameters
    hints = _get_hints(documented)
    properties: dict[str, Any] = {}
    for parameter in parameters.values():
        node = _build_type_schema(hints.get(parameter.name))
        node["description"] = descriptions.get(parameter.name) or (
            "Probability of applying the transform."
            if parameter.name == "p"
            else f"See albumentations.{name}."
        )
        if parameter.default is not inspect.Parameter.empty:
            node["default"] = _to_json(parameter.default)
        properties[parameter.name] = node
    assert set(inspect.signature(transform_class).parameters) <= {*parameters, "args", "kwargs"}
    return {
        "type": "object",
        "description": get_introduction(documented.__doc__),
        "properties": properties,
        "required": [
            parameter.name
            for parameter in parameters.values()
            if parameter.default is inspect.Parameter.empty
        ],
        "additionalProperties": False,
    }


def _get_hints(transform_class: type) -> dict[str, Any]:
    """Return the types of the parameters that can be evaluated."""
    module = vars(sys.modules[transform_class.__module__])
    hints: dict[str, Any] = {}
    for parameter in inspect.signature(transform_class).parameters.values():
        holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
        # A type may be imported for type checkers only.
        with contextlib.suppress(NameError):
            hints |= get_type_hints(holder, globalns=module)
    return hints


def _build_type_schema(hint: Any) -> dict[str, Any]:
    """Return the schema of a type; an empty one for types that YAML cannot express."""
    if hint is None:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(TypeAdapter(hint).json_schema())
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError):
        return {}


def _to_json(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_to_json(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
