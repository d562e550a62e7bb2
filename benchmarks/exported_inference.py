"""Exported Faster R-CNN and U-Net: OpenVINO against the peers in eager mode, int8 against bf16.

    python -m benchmarks exported_inference                # ResNet-50 and ResNet-34, 1 x 480x640

Ours is the graph that `resnet-tasks export --format openvino` makes, in the engine's own precision
(bf16 where there are units for it), from pixels to boxes in pixels of the pictures, or to logits at
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

from benchmarks import detectors, pixels
from benchmarks.model_pairs import measure, parsed, picture_parser
from benchmarks.side_by_side import Pair, Work, of_precision, require_close, street
from resnet_tasks.export.graph import ExportGraph
from resnet_tasks.export.quantizing import Feed, quantize
from resnet_tasks.export.writing import write_onnx, write_openvino
from resnet_tasks.exported.decoding import decode
from resnet_tasks.exported.engines import open_engine, outputs_of
from resnet_tasks.exported.manifest import ExportedHead, PixelRange
from resnet_tasks.model import TaskModel, resolve_precision
from resnet_tasks.structures import Batch, Detections

CPU = torch.device("cpu")
DETECTOR_GOAL, PIXELS_GOAL, INT8_GOAL = 5.0, 5.5, 1.3
CALIBRATED = 2
"""Pictures that int8 is calibrated on; speed does not depend on them."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model that is exported, and the peer with the same weights.

    Attributes:
        work: What is done, at which size.
        head: Its only one.
        model: In evaluation mode.
        peer: Name and version.
        theirs: The peer's forward in fp32.
        finished: Outputs of the head in the graph -> what `theirs` gives.
        check: (results of ours, of the peer, precision) -> how near they are; raises `DataError`.
        goal: Times faster, at least.
    """

    work: str
    head: str
    model: TaskModel
    peer: str
    theirs: Work
    finished: Callable[[Arrays], Any]
    check: Callable[[Any, Any, str], str]
    goal: float


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Measures, prints and returns the numbers.

    Raises:
        DataError: If the graphs' results and the peers' do not agree.
        RunError: If a package of the extra `export` is missing.
    """
    parser = picture_parser("exported_inference", __doc__, size=(480, 640), batch=1)
    parser.add_argument("--detector", default="resnet50", help="its backbone; '' for none")
    parser.add_argument("--unet", default="resnet34", help="its backbone; '' for none")
    options = parsed(parser, argv, detector="resnet18", unet="resnet18")
    return measure(_pairs(options), options, CPU)


def _pairs(options: argparse.Namespace) -> Iterator[Pair]:
    batch = street(tuple(options.size), options.batch)
    shape = f"{options.batch} x {options.size[0]}x{options.size[1]}"
    makers = {_detector: options.detector, _unet: options.unet}
    for make, backbone in makers.items():
        if backbone:
            with tempfile.TemporaryDirectory() as folder:
                yield from _pairs_of(make(backbone, batch, shape), batch, Path(folder))


def _detector(backbone: str, batch: Batch, shape: str) -> Exported:
    model = detectors.our_detector(backbone, batch).eval()
    height, width = batch.padded_size
    theirs = detectors.peers_detector(backbone, model, min_size=height, max_size=width).eval()
    classes = model.named_heads["boxes"].classes
    head = ExportedHead("faster_rcnn", "detection", classes, tuple(range(1, len(classes) + 1)))

    def check(mine: Any, yours: Any, precision: str) -> str:
        if precision != "fp32":
            return ""
        return detectors.require_same_detections(lambda: _as_tensors(mine), lambda: yours)

    return Exported(
        work=f"Faster R-CNN {backbone} inference, {shape}",
        head="boxes",
        model=model,
        peer=detectors.PEER,
        theirs=detectors.peers_forward(theirs, batch, "fp32"),
        finished=lambda outputs: decode(head, outputs, batch.geometries),
        check=check,
        goal=DETECTOR_GOAL,
    )


def _as_tensors(found: Sequence[Any]) -> list[Detections]:
    fields = ("boxes", "scores", "labels")
    return [
        Detections(*(torch.from_numpy(np.asarray(getattr(each, field))) for field in fields))
        for each in found
    ]


def _unet(backbone: str, batch: Batch, shape: str) -> Exported:
    model = pixels.our_net("unet", backbone).eval()
    theirs = pixels.peers_net("unet", backbone, model).eval()

    def check(mine: NDArray[np.float32], yours: Tensor, precision: str) -> str:
        allowed = of_precision(precision)
        name = f"exported logits in {precision}"
        return f"logits {require_close(name, torch.from_numpy(mine), yours, allowed):.1g} apart"

    return Exported(
        work=f"U-Net {backbone} inference, {shape}",
        head="scene",
        model=model,
        peer=pixels.PEER,
        theirs=pixels.peers_forward(theirs, model, batch, "fp32"),
        finished=lambda outputs: outputs["logits"],
        check=check,
        goal=PIXELS_GOAL,
    )


def _pairs_of(exported: Exported, batch: Batch, folder: Path) -> Iterator[Pair]:
    """The graph against the peer, then int8 against the graph."""
    full, small = _graphs(exported.model, batch.padded_size, folder)
    auto = resolve_precision("auto", CPU)
    yours = exported.theirs()
    exact = _forward(exported, full, "fp32", batch)
    told = [f"in fp32 {exported.check(exact(), yours, 'fp32')}"]
    ours = _forward(exported, full, "auto", batch)
    near = exported.check(ours(), yours, auto)
    if near and auto != "fp32":
        told.append(f"in {auto} {near}")
    yield Pair(
        f"{exported.work}, OpenVINO {auto}, the peer fp32",
        "as it comes",
        f"{exported.peer} eager",
        ours,
        exported.theirs,
        exported.goal,
        agreement=", ".join(told),
    )
    yield Pair(
        f"{exported.work}, OpenVINO int8",
        "as it comes",
        f"OpenVINO {auto} of the same model",
        _forward(exported, small, "auto", batch),
        ours,
        INT8_GOAL,
        agreement="the same graph, quantized; random weights: no metric",
    )


def _graphs(model: TaskModel, size: tuple[int, int], folder: Path) -> tuple[Path, Path]:
    """OpenVINO's files of a model: with weights in float32, and quantized."""
    traced, full, small = (folder / name for name in ("model.onnx", "model.xml", "int8.xml"))
    write_onnx(ExportGraph(model, PixelRange(0.0, 1.0)).eval(), 3, traced)
    for path in (full, small):
        write_openvino(traced, path)
    drawn = street(size, CALIBRATED)
    quantize(small, [_feed(drawn, i) for i in range(CALIBRATED)], CALIBRATED)
    return full, small


def _feed(batch: Batch, *which: int) -> Feed:
    """What a graph takes of a batch: those pictures, or all."""
    chosen = list(which or range(len(batch)))
    return {
        "images": np.ascontiguousarray(batch.images[chosen].numpy()),
        "sizes": np.asarray([batch.geometries[i].input_size for i in chosen], np.int64),
    }


def _forward(exported: Exported, graph: Path, precision: str, batch: Batch) -> Work:
    engine = open_engine(graph, precision=precision, threads=torch.get_num_threads())
    feed = _feed(batch)
    return lambda: exported.finished(
        outputs_of(engine.run(feed["images"], feed["sizes"]), exported.head)
    )
