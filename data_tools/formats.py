"""Registry of the formats that can be converted to COCO."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import DataclassSchema

from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.docstrings import (
    add_descriptions,
    get_first_sentence,
    get_introduction,
    parse_descriptions,
)
from resnet_tasks.errors import DataError
from resnet_tasks.json_schema import JsonSchema, Schema
from resnet_tasks.number_formats import Count
from resnet_tasks.option_help import OptionHelp, list_options
from resnet_tasks.options import describe_problem
from resnet_tasks.registry import Registry, suggest_nearest

Converter = Callable[..., tuple[SplitSummary, ...]]
"""Function `(source, out, *, progress, **options)`, or `(out, *, ...)` for formats without a
source."""

COPY_IMAGES = "copy_images"
"""Name of the option that copies the images instead of referring to them. It is set when the source
is an archive. A format without this option must write its images itself."""


class _DescribedSchema(GenerateJsonSchema):
    """Generator of JSON schemas whose dataclasses are described by their docstrings."""

    def dataclass_schema(self, schema: DataclassSchema) -> JsonSchemaValue:
        """Generate the schema of a dataclass."""
        generated = super().dataclass_schema(schema)
        add_descriptions(generated, schema["cls"])
        return generated


@dataclass(frozen=True)
class Format:
    """One format of annotated sources.

    Attributes:
        name: Name of the format on the command line.
        entry_point: `module:function` of the converter. It is imported on first use: listing the
            formats costs nothing, and a format may need libraries that others do not.
        title: One-line description for lists of formats.
        needs_source: Whether the converter reads a source; the synthetic cells need none.
        verified: Whether the converter has run on files as their publisher distributes them. The
            data cards of other formats state that it has not.
    """

    name: str
    entry_point: str
    title: str
    needs_source: bool = True
    verified: bool = False

    @property
    def convert(self) -> Converter:
        """Converter function; its keyword arguments are the options of the format."""
        module, _, function = self.entry_point.partition(":")
        converter: Converter = getattr(import_module(module), function)
        return converter

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options, without those that all formats share."""
        return tuple(
            name
            for name, parameter in inspect.signature(self.convert).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "progress"
        )

    @property
    def notes(self) -> str:
        """Description of the conversion, one line per paragraph."""
        return get_introduction(self.convert.__doc__)

    def describe_options(self, defaults: Mapping[str, Any] | None = None) -> list[OptionHelp]:
        """Describe the options, with the texts from the docstring of the converter.

        Args:
            defaults: Name of an option -> default that replaces that of the converter.
        """
        hints = get_type_hints(self.convert)
        parameters = inspect.signature(self.convert).parameters
        descriptions = parse_descriptions(self.convert.__doc__)
        defaults = defaults or {}
        schema: Schema = {"properties": {}, "required": [], "$defs": {}}
        for option in self.options:
            adapter = TypeAdapter(hints.get(option, Any))
            node = adapter.json_schema(schema_generator=_DescribedSchema)
            schema["$defs"].update(node.pop("$defs", {}))
            default = parameters[option].default
            if option in defaults:
                node["default"] = defaults[option]
            elif default is inspect.Parameter.empty:
                schema["required"].append(option)
            else:
                node["default"] = adapter.dump_python(default, mode="json")
            schema["properties"][option] = {**node, "description": descriptions.get(option, "")}
        return list_options(JsonSchema(schema))

    def require_options(self, options: Mapping[str, Any]) -> None:
        """Check that all options without a default are set.

        Raises:
            DataError: If some are not.
        """
        parameters = inspect.signature(self.convert).parameters
        missing = [
            name
            for name in self.options
            if parameters[name].default is inspect.Parameter.empty and name not in options
        ]
        if missing:
            raise DataError(
                f"the format {self.name!r} needs {Count(len(missing)):option}: "
                f"{', '.join(missing)}; set "
                f"{' '.join(f'{name}=VALUE' for name in missing)} (docs/formats.md)"
            )

    def _list_keys(self, key: str) -> list[str]:
        """Return the keys of a section in an option of free names, such as `folders.train`."""
        parts = key.split(".")
        names = (entry.name.split(".") for entry in self.describe_options())
        return [
            name[-1]
            for name in names
            if len(name) == len(parts) + 1
            and all(part in (place, "NAME") for part, place in zip(name, parts, strict=False))
        ]

    def _describe_problem(self, option: str, value: Any, problem: ErrorDetails) -> str:
        key = ".".join(map(str, (option, *problem["loc"])))
        subject = f"option {key} of the format {self.name!r}"
        entry = next((entry for entry in self.describe_options() if entry.name == key), None)
        if entry is None and (keys := self._list_keys(key)):
            return (
                f"{subject}: got {problem['input']!r}; allowed is a section with the keys "
                f"{', '.join(keys)}"
            )
        if entry is None or problem["type"] in ("missing", "unexpected_keyword_argument"):
            return describe_problem(problem, (), subject=subject)
        got = problem["input"] if problem["loc"] else value
        meaning = get_first_sentence(entry.description).rstrip(".")
        return f"{subject}: got {got!r}; allowed is {entry.allowed} ({meaning})"

    def validate_options(self, options: Mapping[str, Any], location: str = "") -> dict[str, Any]:
        """Return the options with the types that the converter expects, such as tuples for lists.

        Args:
            options: Name of each option -> value as parsed from YAML.
            location: Origin of the options, named at the start of an error message.

        Raises:
            DataError: If the format has no such option, or a value has the wrong type.
        """
        hints = get_type_hints(self.convert)
        prefix = f"{location}: " if location else ""
        checked = {}
        for option, value in options.items():
            if option not in self.options:
                hint = suggest_nearest(option, self.options)
                raise DataError(
                    f"{prefix}the format {self.name!r} has no option {option!r}; it has "
                    f"{', '.join(self.options)}{hint}"
                )
            try:
                checked[option] = TypeAdapter(hints[option]).validate_python(value)
            except ValidationError as error:
                raise DataError(
                    f"{prefix}{self._describe_problem(option, value, error.errors()[0])}"
                ) from None
        return checked


FORMATS: Registry[Format] = Registry("format", group="resnet_tasks.formats")
"""Name -> format; an entry point of the group must call `register_format`."""


def register_format(
    name: str, entry_point: str, title: str, *, needs_source: bool = True, verified: bool = False
) -> None:
    """Register a format; see `Format` for the arguments.

    Raises:
        ResnetTasksError: If the name belongs to another format.
    """
    FORMATS.register(name)(Format(name, entry_point, title, needs_source, verified))


# One statement per format. `verified` formats have been converted from a publisher's own files.
register_format(
    "cells",
    "data_tools.converters.synthetic:make_cells",
    "synthetic microscope scenes, drawn by this package",
    needs_source=False,
    verified=True,
)
register_format(
    "csv-boxes",
    "data_tools.converters.csv.convert:convert_csv_boxes",
    "CSV tables of boxes on DICOM files or images (VinDr-CXR, RSNA)",
)
register_format(
    "cityscapes",
    "data_tools.converters.cityscapes:convert_cityscapes",
    "Cityscapes: polygons as instances and as pixels of 19 classes",
)
register_format(
    "color-maps",
    "data_tools.converters.color_maps:convert_color_maps",
    "images with color-coded label maps and a color table (CamVid as published)",
)
register_format(
    "dicom",
    "data_tools.converters.dicom.convert:convert_dicom",
    "DICOM files and series, as images of full bit depth without annotations",
    verified=True,
)
register_format(
    "image-folders",
    "data_tools.converters.image_folders:convert_image_folders",
    "one folder of images per class",
)
register_format(
    "instance-masks",
    "data_tools.converters.instance_masks:convert_instance_masks",
    "one folder per image with one mask PNG per object (Data Science Bowl 2018)",
    verified=True,
)
register_format(
    "kitti",
    "data_tools.converters.kitti:convert_kitti",
    "KITTI's 2-D objects: one text file of boxes per image",
)
register_format(
    "label-maps",
    "data_tools.converters.label_maps:convert_label_maps",
    "images with class-index PNGs (CamVid as laid out for SegNet)",
    verified=True,
)
register_format(
    "nifti",
    "data_tools.converters.nifti.convert:convert_nifti",
    "NIfTI volumes with label volumes, as 2-D slices (Medical Segmentation Decathlon, nnU-Net)",
)
register_format(
    "nuimages",
    "data_tools.converters.nuimages:convert_nuimages",
    "nuImages: tables of objects and surfaces with masks",
)
register_format(
    "scalabel",
    "data_tools.converters.scalabel.convert:convert_scalabel",
    "Scalabel's JSON (BDD100K): boxes, polygons, drivable area, lanes",
)
register_format(
    "voc",
    "data_tools.converters.voc:convert_voc",
    "Pascal VOC: one XML of boxes per image",
    verified=True,
)
register_format(
    "yolo",
    "data_tools.converters.yolo:convert_yolo",
    "YOLO: data.yaml, and a text file of boxes or polygons per image",
)
register_format(
    "labelme",
    "data_tools.converters.labelme:convert_labelme",
    "LabelMe: one JSON of drawn shapes per image",
)
register_format(
    "cvat",
    "data_tools.converters.cvat.convert:convert_cvat",
    "CVAT for images 1.1, CVAT for video 1.1: one XML",
)
register_format(
    "binary-masks",
    "data_tools.converters.binary_masks:convert_binary_masks",
    "images with one binary mask each (Kvasir-SEG, ISIC 2018 task 1)",
)
register_format(
    "coco",
    "data_tools.converters.native_coco:convert_coco",
    "COCO files from other sources: checked and repaired, with their images located",
    verified=True,
)
