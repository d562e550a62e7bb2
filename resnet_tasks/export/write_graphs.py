"""Graphs as files: ONNX, and OpenVINO's form of the same graph."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from resnet_tasks.errors import RunError
from resnet_tasks.export.graph import ExportGraph
from resnet_tasks.exported.engines import import_extra

OPSET = 18
"""Version of ONNX's operators; RoiAlign has the corners of boxes as we need them from 16 on."""
TRACED_SIZE = (96, 128)
"""Of the images that are traced; the graph takes any."""


def write_onnx(graph: ExportGraph, channels: int, path: Path) -> None:
    """Writes a model as ONNX with free numbers of images, rows and columns.

    It is traced: the exporter that is torch's default cannot follow how many boxes read a level.

    Args:
        graph: The model, in evaluation mode.
        channels: Of the images.
        path: The file.

    Raises:
        RunError: If `onnx` is not installed, or torch cannot write the graph.
    """
    checker = import_extra("onnx").checker
    images = torch.rand(2, channels, *TRACED_SIZE)
    sizes = torch.tensor([TRACED_SIZE, (TRACED_SIZE[0] - 9, TRACED_SIZE[1] - 17)])
    free = {0: "batch"}
    with torch.no_grad(), warnings.catch_warnings():
        # Of tracing: shapes that it holds constant are found out when the export is compared.
        warnings.simplefilter("ignore")
        graph(images, sizes)
        try:
            torch.onnx.export(
                graph,
                (images, sizes),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=["images", "sizes"],
                output_names=list(graph.output_names),
                dynamic_axes={
                    "images": {**free, 2: "height", 3: "width"},
                    "sizes": free,
                    **{
                        name: {**free, 2: "height", 3: "width"} if name.endswith("logits") else free
                        for name in graph.output_names
                    },
                },
            )
        except (torch.onnx.OnnxExporterError, RuntimeError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RunError(
                f"torch {torch.__version__} cannot write this model as ONNX: {reason}"
            ) from error
    checker.check_model(str(path))


def write_openvino(onnx_file: Path, path: Path) -> None:
    """Writes an ONNX file as OpenVINO's `.xml` and `.bin`, weights in float32.

    Raises:
        RunError: If `openvino` is not installed.
    """
    openvino = import_extra("openvino")
    model = openvino.Core().read_model(str(onnx_file))
    openvino.save_model(model, str(path), compress_to_fp16=False)
