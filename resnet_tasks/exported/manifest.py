"""Manifest `export.json`: everything besides the graph that prediction with an export needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.intensity import Intensity, Resize
from resnet_tasks.data.images.preprocessing import Preparation, to_unit_range
from resnet_tasks.errors import RunError, format_allowed, format_list
from resnet_tasks.files.atomic import write_json
from resnet_tasks.files.safe_names import require_class_names, require_head_names
from resnet_tasks.number_formats import Count
from resnet_tasks.run_folder.files import EXPORT
from resnet_tasks.run_folder.read import make_damage_error, read_object
from resnet_tasks.structures.evaluation import BACKGROUND

FILE = "export.json"
GRAPHS = {"onnx": "model.onnx", "openvino": "model.xml"}
"""Format -> name of the graph file."""


@dataclass(frozen=True)
class PixelRange:
    """Range of the pixel values that an exported graph takes; the graph itself maps it to 0..1.

    Attributes:
        low: Value that is mapped to 0.
        high: Value that is mapped to 1.
        clip: Whether values outside the range are allowed and clipped by the graph.
    """

    low: float
    high: float
    clip: bool = False

    @classmethod
    def from_preparation(cls, preparation: Preparation) -> PixelRange:
        """Return the range that moves as much of the intensity step as possible into the graph.

        The graph takes 8-bit values if the step divides by the range of the type, and stored values
        if the step is a window and images are not resized. In all other cases the step runs outside
        the graph, which then takes 0..1.
        """
        step = preparation.intensity
        if step.type == "auto":
            return cls(0.0, 255.0)
        if step.type == "window" and preparation.resize is None:
            assert step.level is not None
            assert step.width is not None
            return cls(step.level - step.width / 2, step.level + step.width / 2, clip=True)
        return cls(0.0, 1.0)

    def scale_from_unit(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale values in 0..1 to the range that the graph takes."""
        scaled: NDArray[np.float32] = values * np.float32(self.high - self.low) + np.float32(
            self.low
        )
        return scaled

    def convert(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Convert the pixels of an `InputImage` to float32 in the range that the graph takes."""
        if pixels.dtype == np.uint8 and (self.low, self.high) == (0.0, 255.0):
            return pixels.astype(np.float32)
        return self.scale_from_unit(to_unit_range(pixels))


@dataclass(frozen=True)
class ExportedHead:
    """Description of a head's outputs.

    Attributes:
        type: Head type in recipes.
        task: Name of the head's task, which declares its outputs.
        classes: Class names, in label order.
        category_ids: Category id of every label.
        score_threshold: Minimum score of detections; None for heads without detections.
    """

    type: str
    task: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    score_threshold: float | None = None


@dataclass(frozen=True)
class ExportedCombiner:
    """Combiner of the predictions of several heads.

    Attributes:
        type: Combiner type in recipes.
        roles: Role -> name of the head in that role.
        options: Options of the combiner.
        classes: Class names of the combined prediction, in label order.
        category_ids: Category id of every label.
    """

    type: str
    roles: Mapping[str, str]
    options: Mapping[str, Any]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """Contents of `export.json`.

    Attributes:
        format: `onnx` or `openvino`.
        heads: Head name -> description of its outputs; outputs are named `head.field`.
        categories: Categories of the dataset in COCO format.
        preparation: Preparation of images outside the graph.
        pixels: Range of the pixel values that the graph takes.
        normalization: `mean` and `std` per channel on the 0..1 scale; applied inside the graph.
        multiple: Number that height and width of the graph's input are multiples of.
        precision: Default precision of the engine: `auto` (bf16 if hardware and engine support it)
            or `fp32`.
        is_int8: Whether weights and activations are quantized.
        windows: Sliding windows of the recipe: `height`, `width`, `overlap` and `nms_iou`; None:
            whole images.
        combine: Name -> combiner of the predictions of several heads.
        plugins: Files of the export and modules that register its tasks and combiners; empty if all
            of them are built in.
        metadata: Source run, versions, tolerance, comparison and metrics, for information only.
    """

    format: Literal["onnx", "openvino"]
    heads: Mapping[str, ExportedHead]
    categories: tuple[Mapping[str, Any], ...]
    preparation: Preparation
    pixels: PixelRange
    normalization: Mapping[str, tuple[float, ...]]
    multiple: int = 32
    precision: str = "auto"
    is_int8: bool = False
    windows: Mapping[str, Any] | None = None
    combine: Mapping[str, ExportedCombiner] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def graph(self) -> str:
        """Name of the graph file."""
        return GRAPHS[self.format]

    def write(self, folder: Path) -> None:
        """Write `export.json` into `folder`."""
        prepared = self.preparation
        value = {
            "format": self.format,
            "graph": self.graph,
            "int8": self.is_int8,
            "precision": self.precision,
            "input": {
                "images": "(B, C, H, W) float32, RGB order, padded right and bottom",
                "sizes": "(B, 2) int64: (height, width) of every image inside the padding",
                "channels": prepared.channels,
                "multiple": self.multiple,
                "pixels": asdict(self.pixels),
                "normalization": {
                    name: list(numbers) for name, numbers in self.normalization.items()
                },
            },
            "preparation": {
                "resize": None if prepared.resize is None else asdict(prepared.resize),
                "intensity": asdict(prepared.intensity),
                "max_pixels": prepared.max_pixels,
            },
            "heads": {name: asdict(head) for name, head in self.heads.items()},
            "categories": list(self.categories),
            "windows": self.windows,
            "combine": {name: asdict(combiner) for name, combiner in self.combine.items()},
            "plugins": list(self.plugins),
            **self.metadata,
        }
        write_json(folder / FILE, EXPORT.add_version(value))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read `export.json` from `folder`.

        Raises:
            RunError: If the folder holds no export, a damaged or newer one, or one with invalid
                names or category ids.
        """
        path = folder / FILE
        if not path.exists():
            raise RunError(
                f"{folder} is not an exported model: it has no {FILE}; create one with "
                "`resnet-tasks export RUN`"
            )
        value = read_object(path, EXPORT)
        try:
            _require_names(value, path)
            _require_category_ids(value, path)
            return _manifest_from_json(value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise make_damage_error(path, EXPORT, repr(error)) from None


def _require_names(value: Mapping[str, Any], path: Path) -> None:
    """Check that names do not lead to files outside the export and its results."""
    require_head_names(value["heads"], f"{path}: heads", RunError)
    require_head_names(value["combine"], f"{path}: combine", RunError)
    for name, head in {**value["heads"], **value["combine"]}.items():
        require_class_names(head["classes"], f"{path}: heads.{name}.classes", RunError)
    expected = GRAPHS.get(value["format"])
    if expected is not None and value.get("graph", expected) != expected:
        raise RunError(
            f"{path}: the graph of an {value['format']} export is {expected}, got "
            f"{value['graph']!r}; export the run again"
        )


def _require_category_ids(value: Mapping[str, Any], path: Path) -> None:
    """Check that the labels of each head and combiner have different categories of the dataset.

    Raises:
        RunError: If a label has none, an unknown one, or that of another label.
    """
    known_ids = {category["id"] for category in value["categories"]}
    for key in ("heads", "combine"):
        for name, head in value[key].items():
            location, ids, classes = (
                f"{path}: {key}.{name}.category_ids",
                head["category_ids"],
                head["classes"],
            )
            if len(ids) != len(classes):
                raise RunError(
                    f"{location} has {Count(len(ids)):id} for {Count(len(classes)):class}; export "
                    "the run again"
                )
            # Classes that are not categories of the dataset have the id 0.
            pairs = zip(ids, classes, strict=True)
            category_ids = [
                category_id
                for category_id, class_name in pairs
                if category_id != 0 or (key == "heads" and class_name != BACKGROUND)
            ]
            _require_known_ids(category_ids, known_ids, location)


def _require_known_ids(ids: Sequence[int], known_ids: Set[int], location: str) -> None:
    unknown = [i for i in ids if i not in known_ids]
    if unknown:
        raise RunError(
            f"{location} has {format_list(unknown)}, but the category ids of the dataset are "
            f"{format_allowed(sorted(known_ids))}; export the run again"
        )
    repeated = [i for i, count in Counter(ids).items() if count > 1]
    if repeated:
        raise RunError(
            f"{location} has {format_list(repeated)} more than once, but every class has its own "
            "category; export the run again"
        )


def _with_tuples(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a head or combiner, with tuples instead of lists."""
    return {**value, **{name: tuple(value[name]) for name in ("classes", "category_ids")}}


def _manifest_from_json(value: Mapping[str, Any]) -> Manifest:
    input_spec, steps = value["input"], value["preparation"]
    if value["format"] not in GRAPHS:
        raise ValueError(f"format {value['format']!r}")
    preparation = Preparation(
        input_spec["channels"],
        None if steps["resize"] is None else Resize(**steps["resize"]),
        Intensity(**steps["intensity"]),
        max_pixels=steps["max_pixels"],
    )
    heads = {name: ExportedHead(**_with_tuples(head)) for name, head in value["heads"].items()}
    known_keys = ("layout", "format", "graph", "int8", "precision", "input", "preparation", "heads")
    return Manifest(
        format=value["format"],
        heads=heads,
        categories=tuple(value["categories"]),
        preparation=preparation,
        pixels=PixelRange(**input_spec["pixels"]),
        normalization={
            name: tuple(numbers) for name, numbers in input_spec["normalization"].items()
        },
        multiple=input_spec["multiple"],
        precision=value["precision"],
        is_int8=bool(value["int8"]),
        windows=value["windows"],
        combine={
            name: ExportedCombiner(**_with_tuples(combiner))
            for name, combiner in value["combine"].items()
        },
        plugins=tuple(value.get("plugins", ())),
        metadata={
            key: extra
            for key, extra in value.items()
            if key not in (*known_keys, "categories", "windows", "combine", "plugins")
        },
    )
