"""Files of exported graphs: ONNX, and its conversion to OpenVINO."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch

from resnet_tasks.errors import RunError, get_first_line
from resnet_tasks.export.graph import ExportGraph
from resnet_tasks.exported.engines import get_openvino_core, import_extra

OPSET = 18
"""ONNX opset version; RoiAlign supports the required box coordinates from opset 16 on."""
TRACED_SIZE = (96, 128)
"""(height, width) of the traced images, pixels; the graph accepts any multiple of 32."""
OTHER_SIZE = (160, 192)
"""(height, width) of images that show which axes of the outputs follow the size of the images."""


def write_onnx(graph: ExportGraph, channels: int, path: Path) -> None:
    """Write a model as ONNX with dynamic batch size, height and width.

    The model is traced, because torch's default exporter cannot handle the data-dependent number of
    boxes per level.

    Args:
        graph: Graph of the model, in evaluation mode.
        channels: Number of channels of the images.
        path: Path of the ONNX file.

    Raises:
        RunError: If `onnx` is not installed, or torch cannot write the graph.
    """
    checker = import_extra("onnx").checker
    images = torch.rand(2, channels, *TRACED_SIZE)
    sizes = torch.tensor([TRACED_SIZE, (TRACED_SIZE[0] - 9, TRACED_SIZE[1] - 17)])
    # Tracing warns about shapes that become constant; the comparison detects wrong ones. An export
    # that fails prints the whole graph, which hides the reason.
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        other_outputs = graph(torch.rand(2, channels, *OTHER_SIZE), torch.tensor([OTHER_SIZE] * 2))
        outputs = graph(images, sizes)
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
                    "images": {0: "batch", 2: "height", 3: "width"},
                    "sizes": {0: "batch"},
                    **{
                        name: _find_free_axes(name, output, other)
                        for name, output, other in zip(
                            graph.output_names, outputs, other_outputs, strict=True
                        )
                    },
                },
            )
        except (torch.onnx.OnnxExporterError, RuntimeError, TypeError) as error:
            raise RunError(
                f"torch {torch.__version__} cannot write this model as ONNX: "
                f"{get_first_line(error)}; "
                "`resnet_tasks.testing.head_contract.check_head` finds the head"
            ) from error
    checker.check_model(str(path))


def _find_free_axes(name: str, output: torch.Tensor, other: torch.Tensor) -> dict[int, str]:
    """Return axis -> name for the batch axis and all axes whose length differs between outputs."""
    pairs = enumerate(zip(output.shape, other.shape, strict=True))
    names = {2: "height", 3: "width"} if output.shape[2:] == TRACED_SIZE else {}
    free = {
        axis: names.get(axis, f"{name}_axis_{axis}")
        for axis, (length, other_length) in pairs
        if length != other_length
    }
    return {0: "batch", **free}


def write_openvino(onnx_file: Path, path: Path) -> None:
    """Convert an ONNX file to OpenVINO's `.xml` and `.bin` with float32 weights.

    Raises:
        RunError: If `openvino` is not installed.
    """
    openvino = import_extra("openvino")
    model = get_openvino_core().read_model(str(onnx_file))
    openvino.save_model(model, str(path), compress_to_fp16=False)
