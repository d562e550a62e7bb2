"""JSON schemas of albumentations' transforms."""

from __future__ import annotations

import inspect
import json

import albumentations
import pytest

from resnet_tasks.data.augmentation.transform_schemas import (
    build_transform_schema,
    build_transform_schemas,
    list_transforms,
)
from resnet_tasks.data.augmentation.transforms import Augmentation


def test_every_parameter_has_a_description_and_its_default() -> None:
    schemas = build_transform_schemas()
    assert len(schemas) > 100
    assert "BasicTransform" not in schemas
    json.dumps(schemas)
    for name, schema in schemas.items():
        parameters = inspect.signature(getattr(albumentations, name)).parameters
        assert list(schema["properties"]) == list(parameters)
        assert schema["description"], name
        for parameter, node in schema["properties"].items():
            assert node["description"], f"{name}.{parameter}"
            is_required = parameters[parameter].default is inspect.Parameter.empty
            assert is_required == ("default" not in node) == (parameter in schema["required"])


@pytest.mark.parametrize("name", ["Affine", "ColorJitter", "RandomResizedCrop", "GaussNoise"])
def test_defaults_of_the_schema_are_accepted_by_the_transform(name: str) -> None:
    properties = build_transform_schema(name)["properties"]
    defaults = {key: node["default"] for key, node in properties.items() if "default" in node}
    required = {"size": [64, 64]} if name == "RandomResizedCrop" else {}
    Augmentation([{name: defaults | required}])


def test_types_choices_and_unusual_transforms() -> None:
    affine = build_transform_schema("Affine")["properties"]
    assert affine["rotate_method"]["enum"] == ["largest_box", "ellipse"]
    assert affine["fit_output"]["type"] == "boolean"
    assert {"name", "p"} <= set(build_transform_schema("Lambda")["properties"])
    assert "ColorJitter" in list_transforms()
