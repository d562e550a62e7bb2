"""Exported Faster R-CNN and U-Net: OpenVINO against the peers in eager mode, int8 against bf16.

    python -m benchmarks exported_inference                # ResNet-50 and ResNet-34, 1 x 480x640

Ours is the graph that `resnet-tasks export --format openvino` writes, in the precision that the
engine chooses (bf16 if the hardware supports it), from pixels to boxes in pixels of the images, or
to logits at full size. The peers are the models of torchvision and segmentation_models.pytorch with
their defaults (fp32, channels-first) and the same weights. Then the same graph in int8 is compared
with itself before quantization.

In fp32 the engine's results are compared with the peer's. In bf16, whose rounding changes the
selection among many nearly equal random boxes, only U-Net's logits are compared. Weights are random
and int8 is calibrated on noise. The effect of int8 on the metric of a trained model is measured by
`resnet-tasks export --int8`, which refuses a loss of more than a point.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.harness import detectors
from benchmarks.harness import segmenters as pixels
from benchmarks.harness.model_pairs import make_image_parser, measure_pairs, parse_options
from benchmarks.harness.side_by_side import (
    BenchmarkPair,
    Work,
    generate_street_batch,
    get_tolerance,
    require_close,
)
from resnet_tasks.export.graph import ExportGraph
from resnet_tasks.export.quantization import Feed, quantize
from resnet_tasks.export.write_graphs import write_onnx, write_openvino
from resnet_tasks.exported.engines import open_engine, select_head_outputs
from resnet_tasks.exported.manifest import ExportedHead, PixelRange
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime.devices import resolve_precision
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.samples import Batch
from resnet_tasks.structures.tasks import get_task

CPU = torch.device("cpu")
DETECTOR_GOAL, PIXELS_GOAL, INT8_GOAL = 5.0, 5.5, 1.3
NUM_CALIBRATION_IMAGES = 2
"""Number of images for the calibration of int8, which does not affect the speed."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class ExportComparison:
    """A model to export, and the peer with the same weights.

    Attributes:
        work: Description of the work with its size.
        head: Name of the model's only head.
        model: Model in evaluation mode.
        peer: Name and version of the peer.
        theirs: Forward pass of the peer in fp32.
        postprocess: Function from the head's outputs in the graph to the form of the peer's output.
        check: Function from our output, the peer's output and the precision to a description of the
            difference; it raises `DataError` if they differ too much.
        goal: Minimum speedup.
    """

    work: str
    head: str
    model: TaskModel
    peer: str
    theirs: Work
    postprocess: Callable[[Arrays], Any]
    check: Callable[[Any, Any, str], str]
    goal: float


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmark, print the numbers and return the report.

    Raises:
        DataError: If the results of the graphs and of the peers do not agree.
        RunError: If a package of the extra `export` is missing.
    """
    parser = make_image_parser("exported_inference", __doc__, size=(480, 640), batch=1)
    parser.add_argument(
        "--detector", default="resnet50", help="backbone of the detector; '' for none"
    )
    parser.add_argument("--unet", default="resnet34", help="backbone of the U-Net; '' for none")
    options = parse_options(parser, argv, detector="resnet18", unet="resnet18")
    return measure_pairs(_build_pairs(options), options, CPU)


def _build_pairs(options: argparse.Namespace) -> Iterator[BenchmarkPair]:
    batch = generate_street_batch(tuple(options.size), options.batch)
    shape = f"{options.batch} x {options.size[0]}x{options.size[1]}"
    makers = {_build_detector: options.detector, _build_unet: options.unet}
    for make, backbone in makers.items():
        if backbone:
            with tempfile.TemporaryDirectory() as folder:
                yield from _build_export_pairs(make(backbone, batch, shape), batch, Path(folder))


def _build_detector(backbone: str, batch: Batch, shape: str) -> ExportComparison:
    model = detectors.build_our_detector(backbone, batch).eval()
    height, width = batch.padded_size
    theirs = detectors.build_peer_detector(backbone, model, min_size=height, max_size=width).eval()
    classes = model.named_heads["boxes"].classes
    head = ExportedHead("faster_rcnn", "detection", classes, tuple(range(1, len(classes) + 1)))

    def check(our_output: Any, peer_output: Any, precision: str) -> str:
        if precision != "fp32":
            return ""
        return detectors.require_same_detections(
            lambda: _as_tensors(our_output), lambda: peer_output
        )

    return ExportComparison(
        work=f"Faster R-CNN {backbone} inference, {shape}",
        head="boxes",
        model=model,
        peer=detectors.PEER,
        theirs=detectors.make_peer_forward(theirs, batch, "fp32"),
        postprocess=lambda outputs: get_task(head.task).decode(outputs, batch.geometries),
        check=check,
        goal=DETECTOR_GOAL,
    )


def _as_tensors(detections: Sequence[Any]) -> list[Detections]:
    fields = ("boxes", "scores", "labels")
    return [
        Detections(
            *(torch.from_numpy(np.asarray(getattr(image_detections, field))) for field in fields)
        )
        for image_detections in detections
    ]


def _build_unet(backbone: str, batch: Batch, shape: str) -> ExportComparison:
    model = pixels.build_our_net("unet", backbone).eval()
    theirs = pixels.build_peer_net("unet", backbone, model).eval()

    def check(our_output: NDArray[np.float32], peer_output: Tensor, precision: str) -> str:
        tolerance = get_tolerance(precision)
        name = f"exported logits in {precision}"
        ours = torch.from_numpy(our_output)
        return f"logits {require_close(name, ours, peer_output, tolerance):.1g} apart"

    return ExportComparison(
        work=f"U-Net {backbone} inference, {shape}",
        head="scene",
        model=model,
        peer=pixels.PEER,
        theirs=pixels.make_peer_forward(theirs, model, batch, "fp32"),
        postprocess=lambda outputs: outputs["logits"],
        check=check,
        goal=PIXELS_GOAL,
    )


def _build_export_pairs(
    exported: ExportComparison, batch: Batch, folder: Path
) -> Iterator[BenchmarkPair]:
    """Yield the pair of graph and peer, then the pair of int8 graph and graph."""
    full, small = _export_graphs(exported.model, batch.padded_size, folder)
    auto = resolve_precision("auto", CPU)
    peer_output = exported.theirs()
    exact = _make_forward(exported, full, "fp32", batch)
    agreements = [f"in fp32 {exported.check(exact(), peer_output, 'fp32')}"]
    ours = _make_forward(exported, full, "auto", batch)
    auto_agreement = exported.check(ours(), peer_output, auto)
    if auto_agreement and auto != "fp32":
        agreements.append(f"in {auto} {auto_agreement}")
    yield BenchmarkPair(
        f"{exported.work}, OpenVINO {auto}, the peer fp32",
        "as it comes",
        f"{exported.peer} eager",
        ours,
        exported.theirs,
        exported.goal,
        agreement=", ".join(agreements),
    )
    yield BenchmarkPair(
        f"{exported.work}, OpenVINO int8",
        "as it comes",
        f"OpenVINO {auto} of the same model",
        _make_forward(exported, small, "auto", batch),
        ours,
        INT8_GOAL,
        agreement="the same graph, quantized; random weights: no metric",
    )


def _export_graphs(model: TaskModel, size: tuple[int, int], folder: Path) -> tuple[Path, Path]:
    """Write a model as two OpenVINO files: with float32 weights, and quantized."""
    onnx_path, full, small = (folder / name for name in ("model.onnx", "model.xml", "int8.xml"))
    write_onnx(ExportGraph(model, PixelRange(0.0, 1.0)).eval(), 3, onnx_path)
    for path in (full, small):
        write_openvino(onnx_path, path)
    calibration_batch = generate_street_batch(size, NUM_CALIBRATION_IMAGES)
    quantize(
        small,
        [_build_feed(calibration_batch, i) for i in range(NUM_CALIBRATION_IMAGES)],
        NUM_CALIBRATION_IMAGES,
    )
    return full, small


def _build_feed(batch: Batch, *indices: int) -> Feed:
    """Build the inputs of a graph from the images of a batch at `indices`, or from all images."""
    selected = list(indices or range(len(batch)))
    return {
        "images": np.ascontiguousarray(batch.images[selected].numpy()),
        "sizes": np.asarray([batch.geometries[i].input_size for i in selected], np.int64),
    }


def _make_forward(exported: ExportComparison, graph: Path, precision: str, batch: Batch) -> Work:
    engine = open_engine(graph, precision=precision, threads=torch.get_num_threads())
    feed = _build_feed(batch)
    return lambda: exported.postprocess(
        select_head_outputs(engine.run(feed["images"], feed["sizes"]), exported.head)
    )
