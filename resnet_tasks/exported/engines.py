"""Engines that run exported graphs without torch: ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError, RunError

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Format -> package that runs it."""
PRECISIONS = ("auto", "fp32")

Arrays = dict[str, NDArray[Any]]


class Engine(Protocol):
    """Graph that is ready to run."""

    def run(self, images: NDArray[np.float32], sizes: NDArray[np.int64]) -> Arrays:
        """Return the outputs of a batch, keyed by name.

        Args:
            images: `(B, C, H, W)` float32, padded on the right and at the bottom.
            sizes: `(B, 2)` int64, (height, width) of every image inside the padding.
        """
        ...


def import_extra(name: str) -> Any:
    """Import a package of the extra `export`, with its telemetry turned off.

    Raises:
        RunError: If the package is not installed.
    """
    # OpenVINO and NNCF send usage statistics at import unless this package cannot be imported.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)
    try:
        return import_module(name)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != name.split(".", maxsplit=1)[0]:
            raise
        raise RunError(
            f"the package {name} is required but not installed; install it with: pip "
            "install 'resnet-tasks[export]'"
        ) from None


def open_engine(graph: Path, *, precision: str = "auto", threads: int = 0) -> Engine:
    """Load a graph file into its engine on the CPU.

    Args:
        graph: Path of the graph; `.onnx` runs on ONNX Runtime, `.xml` on OpenVINO.
        precision: `fp32`, or `auto` for the precision that the engine considers fastest on the
            hardware (bf16 in OpenVINO on CPUs that support it). Quantized parts are int8 with
            either.
        threads: Maximum number of threads; 0: `OMP_NUM_THREADS`, else one per core.

    Raises:
        DataError: If the precision is unknown.
        RunError: If the graph is missing or damaged, or its engine is not installed.
    """
    if precision not in PRECISIONS:
        raise DataError(f"precision {precision!r} is unknown; allowed: {', '.join(PRECISIONS)}")
    if not graph.is_file():
        raise RunError(f"{graph} does not exist; export the run again")
    omp_num_threads = os.environ.get("OMP_NUM_THREADS", "")
    threads = threads or (int(omp_num_threads) if omp_num_threads.isdigit() else 0)
    try:
        if graph.suffix == ".onnx":
            return OnnxEngine(graph, threads)
        return OpenVinoEngine(graph, precision, threads)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(f"{graph} cannot be loaded ({reason[-1]}); export the run again") from None


class OnnxEngine:
    """ONNX Runtime on the CPU; it computes in float32 (and int8)."""

    def __init__(self, graph: Path, threads: int = 0) -> None:
        runtime = import_extra("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # hides warnings about its own optimizations
        try:
            self._session = runtime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001  # its errors have no common base
            raise RuntimeError(str(error)) from None
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, images: NDArray[np.float32], sizes: NDArray[np.int64]) -> Arrays:
        """Return the outputs of a batch, keyed by name."""
        outputs = self._session.run(None, {"images": images, "sizes": sizes})
        return dict(zip(self._names, outputs, strict=True))


class OpenVinoEngine:
    """OpenVINO on the CPU."""

    def __init__(self, graph: Path | Any, precision: str = "auto", threads: int = 0) -> None:
        openvino = import_extra("openvino")
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if precision == "fp32":
            config["INFERENCE_PRECISION_HINT"] = "f32"
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        model = str(graph) if isinstance(graph, Path) else graph
        self._compiled = openvino.Core().compile_model(model, "CPU", config)
        # An output may have several names: the one from export and others from the conversion.
        self._names = [tuple(output.get_names()) for output in self._compiled.outputs]

    def run(self, images: NDArray[np.float32], sizes: NDArray[np.int64]) -> Arrays:
        """Return the outputs of a batch, keyed by name."""
        outputs = self._compiled({"images": images, "sizes": sizes})
        return {name: outputs[i] for i, names in enumerate(self._names) for name in names}


def select_head_outputs(outputs: Mapping[str, NDArray[Any]], head: str) -> Arrays:
    """Return the outputs of one head, keyed by field; their names in the graph are `head.field`."""
    return {
        name.removeprefix(f"{head}."): array
        for name, array in outputs.items()
        if name.rpartition(".")[0] == head
    }
