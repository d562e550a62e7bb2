"""Quantization to int8: calibration of a graph on training images, and metrics before and after."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.stored_images import read_stored_image
from resnet_tasks.errors import RunError, get_first_line
from resnet_tasks.evaluation.evaluate import Evaluation, evaluate
from resnet_tasks.evaluation.evaluators import name_main_metric
from resnet_tasks.evaluation.metric_tables import metric_to_json
from resnet_tasks.export.model_comparison import Image
from resnet_tasks.exported.engines import get_openvino_core, import_extra
from resnet_tasks.exported.exported_model import ExportedModel, collate_images
from resnet_tasks.exported.manifest import Manifest
from resnet_tasks.inference.predictor import FileHandle, WholeImagePredictor
from resnet_tasks.inference.torch_outputs import TorchOutputs
from resnet_tasks.model import TaskModel
from resnet_tasks.number_formats import Count
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.structures.input_images import HeadInfo, InputImage
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.tasks import Outputs

Feed = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Int8Options:
    """Options of int8 quantization.

    Attributes:
        calibration: Maximum number of training images to calibrate on.
        evaluation: Maximum number of val images to evaluate on before and after; None: all.
        max_drop: Maximum drop of the main metric of each head, absolute.
    """

    calibration: int = 300
    evaluation: int | None = None
    max_drop: float = 0.01


def quantize(graph: Path, images: Iterable[Feed], number: int) -> None:
    """Quantize the convolutions and matrix products of a graph file to int8, in place.

    Args:
        graph: Path of the `.xml` file, with its `.bin` file next to it.
        images: Inputs of the graph, `images` and `sizes`, one image each; iterated several times.
        number: Number of inputs.

    Raises:
        RunError: If `nncf` is not installed or cannot quantize the graph.
    """
    # Importing nncf makes torch look for a compiler, which warns on machines without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    nncf = import_extra("nncf")
    nncf.set_log_level(logging.ERROR)
    openvino = import_extra("openvino")
    data = nncf.Dataset(images)
    model = get_openvino_core().read_model(str(graph))
    try:
        quantized = nncf.quantize(
            model,
            data,
            subset_size=number,
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=_find_float_operations(model), validate=False),
        )
    except Exception as error:  # nncf's errors have no common base
        raise RunError(
            f"nncf cannot quantize {graph.name} ({type(error).__name__}: {get_first_line(error)}); "
            "export without --int8"
        ) from error
    del model  # it maps the weights file, which is replaced below
    partial = graph.with_name(f"int8-{graph.name}")
    openvino.save_model(quantized, str(partial), compress_to_fp16=False)
    partial.with_suffix(".bin").replace(graph.with_suffix(".bin"))
    partial.replace(graph)


def _find_float_operations(model: Any) -> list[str]:
    """Return the names of the operations that stay in float32.

    These are matrix products without constant weights, and selections of rows, which compute
    nothing: nncf fails on rows of a layer's weights, such as those of one class per object.
    """
    return [
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "Gather"
        or (
            operation.get_type_name() == "MatMul"
            and not any(_is_constant(value.get_node()) for value in operation.input_values())
        )
    ]


def _is_constant(node: Any) -> bool:
    """Return whether a node of a graph is a constant, or one converted to another type."""
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


@dataclass(frozen=True)
class _LabeledExport:
    """Exported model with the label tables of the model that it was exported from.

    Attributes:
        exported: Exported model.
        heads: Head name -> description, with its label table.
    """

    exported: ExportedModel
    heads: Mapping[str, HeadInfo]

    def outputs(self, images: Sequence[InputImage]) -> dict[str, Outputs]:
        """Compute the outputs of the exported graph."""
        return self.exported.outputs(images)


def evaluate_export(
    model: TaskModel,
    exported: ExportedModel,
    dataset: Dataset[Sample],
    *,
    on_image: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate an exported model with the evaluators of the model's heads, without intervals."""
    return evaluate(
        WholeImagePredictor(_LabeledExport(exported, TorchOutputs(model).heads)),
        dataset,
        batch_size=1,
        bootstrap=None,
        on_image=lambda *_: on_image(),
    )


def build_feed(manifest: Manifest, images: Sequence[Image]) -> Feed:
    """Return the inputs of the exported graph for stored images."""
    inputs = [FileHandle(image, manifest.preparation, name).read() for name, image in images]
    pixels = [manifest.pixels.convert(image.pixels) for image in inputs]
    batched_images, sizes = collate_images(pixels, manifest.multiple)
    return {"images": batched_images, "sizes": sizes}


def quantize_and_evaluate(
    run: Run,
    model: TaskModel,
    manifest: Manifest,
    folder: Path,
    options: Int8Options,
    data_root: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Quantize the graph in `folder` and return its metrics before and after.

    Raises:
        RunError: If a main metric drops by more than `options.max_drop`.
    """
    train = _sample_evenly(run.load_dataset("train", data_root=data_root), options.calibration)
    val = _sample_evenly(run.load_dataset("val", data_root=data_root), options.evaluation)

    def measure_metrics(text: str) -> dict[str, Metric]:
        manifest.write(folder)
        exported = ExportedModel.open(folder)
        with track_progress(console, text, len(val)) as advance:
            return evaluate_export(model, exported, val, on_image=advance).metrics

    before = measure_metrics("Evaluating before int8")
    console.print(f"calibrating on {Count(len(train)):training image}")
    quantize(folder / manifest.graph, _CalibrationFeed(manifest, train), len(train))
    after = measure_metrics("Evaluating int8")
    main = {name_main_metric(name, head) for name, head in model.named_heads.items()}
    fallen = {
        name: (before[name].value, after[name].value)
        for name in sorted(main & before.keys())
        if (before[name].value or 0) - (after[name].value or 0) > options.max_drop
    }
    if fallen:
        listed = ", ".join(
            f"{name} from {a or 0:.4f} to {b or 0:.4f}" for name, (a, b) in fallen.items()
        )
        raise RunError(
            f"int8 loses too much on {Count(len(val)):val image}: {listed}, allowed is a drop of "
            f"{options.max_drop:g}; nothing was written: calibrate on more images "
            "(--calibrate-on), allow more (--max-drop), or export without --int8"
        )
    return {
        "calibrated_on": len(train),
        "judged_on": len(val),
        "main": sorted(main & before.keys()),
        "before": {name: metric_to_json(metric) for name, metric in before.items()},
        "after": {name: metric_to_json(metric) for name, metric in after.items()},
    }


@dataclass(frozen=True)
class _CalibrationFeed:
    """Re-iterable sequence of graph inputs, one training image each."""

    manifest: Manifest
    images: CocoDataset

    def __iter__(self) -> Iterator[Feed]:
        for i in range(len(self.images)):
            record = self.images.image_index.record(i)
            pixels = read_stored_image(self.images.preparation, *record)
            yield build_feed(self.manifest, [(str(self.images.path(i)), pixels)])


def _sample_evenly(dataset: CocoDataset, number: int | None) -> CocoDataset:
    """Return the dataset reduced to at most `number` images, evenly spaced."""
    if number is None or number >= len(dataset):
        return dataset
    return dataset.select(np.linspace(0, len(dataset) - 1, number).astype(int).tolist())
