"""int8: an exported graph calibrated on training images, and its metrics before and after."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from resnet_tasks.errors import RunError
from resnet_tasks.evaluation.evaluate import Evaluation, evaluate
from resnet_tasks.exported.engines import import_extra
from resnet_tasks.exported.exported_model import ExportedModel
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.samples import Batch, Sample

Feed = dict[str, NDArray[Any]]


def quantize(graph: Path, images: Iterable[Feed], number: int) -> None:
    """Brings a graph file's convolutions and products to int8, in place.

    Args:
        graph: `.xml`, with its `.bin` beside it.
        images: What the graph takes: `images` and `sizes`, one image each; they are gone
            through several times.
        number: How many there are.

    Raises:
        RunError: If `nncf` is not installed or cannot quantize the graph.
    """
    # Its import asks torch for a compiler, which warns where there is no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    nncf = import_extra("nncf")
    nncf.set_log_level(logging.ERROR)
    openvino = import_extra("openvino")
    data = nncf.Dataset(images)
    model = openvino.Core().read_model(str(graph))
    try:
        quantized = nncf.quantize(
            model, data, subset_size=number, preset=nncf.QuantizationPreset.MIXED
        )
    except Exception as error:  # nncf's errors have no common base
        raise RunError(
            f"nncf cannot quantize {graph.name} ({type(error).__name__}: {error}); export without "
            "--int8"
        ) from error
    del model  # its weights are read from the file that is written now
    partial = graph.with_name(f"int8-{graph.name}")
    openvino.save_model(quantized, str(partial), compress_to_fp16=False)
    partial.with_suffix(".bin").replace(graph.with_suffix(".bin"))
    partial.replace(graph)


class EngineModel(TaskModel):
    """A model whose predictions an exported graph makes; it is judged as the model itself.

    Args:
        model: Gives heads and label tables; shares its parts.
        exported: Predicts.
    """

    exported: ExportedModel

    def __init__(self, model: TaskModel, exported: ExportedModel) -> None:
        self.__dict__.update(vars(model))
        self.__dict__["exported"] = exported

    def predict(self, batch: Batch, *, precision: str = "fp32") -> dict[str, list[Any]]:  # noqa: ARG002
        """Predictions of every head, by the engine in its own precision."""
        images = self.exported.manifest.pixels.scale_from_unit(
            np.ascontiguousarray(batch.images.numpy())
        )
        sizes = np.asarray([geometry.input_size for geometry in batch.geometries], np.int64)
        predictions = self.exported.decode_outputs(
            self.exported.engine.run(images, sizes), batch.geometries
        )
        return {
            name: [image_predictions[name] for image_predictions in predictions]
            for name in self.named_heads
        }


def evaluate_export(
    model: TaskModel,
    exported: ExportedModel,
    dataset: Dataset[Sample],
    *,
    on_image: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Metrics of an exported model, by the evaluators of the model's heads, without intervals."""
    return evaluate(
        EngineModel(model, exported),
        dataset,
        batch_size=1,
        precision="fp32",
        bootstrap=None,
        on_image=lambda *_: on_image(),
    )
