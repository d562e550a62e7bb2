"""Exported Faster R-CNN and U-Net: OpenVINO against the peers in eager mode, int8 against bf16.

    python -m benchmarks exported_inference                # ResNet-50 and ResNet-34, 1 x 480x640

Ours is the graph that `resnet-tasks export --format openvino` makes, in the engine's own precision
(bf16 where there are units for it), from pixels to boxes in pixels of the images, or to logits at
full size; the peers are torchvision's and segmentation_models.pytorch's models as they are built
(fp32, channels first), with the same weights. Then the same graph in int8 against itself before.

In the same script the engine's results in fp32 are compared with the peer's; in bf16, whose
rounding changes which of many nearly equal random boxes come out, U-Net's logits alone. Weights are
random, and int8 is calibrated on noise: what it costs a trained model's metric is judged by
`resnet-tasks export --int8`, which refuses more than a point.
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
from resnet_tasks.exported.decode_outputs import decode
from resnet_tasks.exported.engines import open_engine, select_head_outputs
from resnet_tasks.exported.manifest import ExportedHead, PixelRange
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime.devices import resolve_precision
from resnet_tasks.structures.predictions import Detections
from resnet_tasks.structures.samples import Batch

CPU = torch.device("cpu")
DETECTOR_GOAL, PIXELS_GOAL, INT8_GOAL = 5.0, 5.5, 1.3
NUM_CALIBRATION_IMAGES = 2
"""Images that int8 is calibrated on; speed does not depend on them."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class ExportComparison:
    """A model that is exported, and the peer with the same weights.

    Attributes:
        work: What is done, at which size.
        head: Its only one.
        model: In evaluation mode.
        peer: Name and version.
        theirs: The peer's forward in fp32.
        postprocess: Outputs of the head in the graph -> what `theirs` gives.
        check: (results of ours, of the peer, precision) -> how near they are; raises `DataError`.
        goal: Times faster, at least.
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
    """Measures, prints and returns the numbers.

    Raises:
        DataError: If the graphs' results and the peers' do not agree.
        RunError: If a package of the extra `export` is missing.
    """
    parser = make_image_parser("exported_inference", __doc__, size=(480, 640), batch=1)
    parser.add_argument("--detector", default="resnet50", help="its backbone; '' for none")
    parser.add_argument("--unet", default="resnet34", help="its backbone; '' for none")
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
        postprocess=lambda outputs: decode(head, outputs, batch.geometries),
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
    """The graph against the peer, then int8 against the graph."""
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
    """OpenVINO's files of a model: with weights in float32, and quantized."""
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
    """What a graph takes of a batch: those images, or all."""
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
