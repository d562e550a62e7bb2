"""Engines that run exported graphs without torch: ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError, RunError

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Format -> package that runs it."""
PRECISIONS = ("auto", "fp32")
START_LENGTH = 4096
"""Number of bytes at the beginning of a graph of OpenVINO that contain its first element."""
MAX_REASON = 200
"""Maximum number of characters of an engine's error in a message."""
_ONNX_START = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed: ?)?")

Arrays = dict[str, NDArray[Any]]


class Engine(Protocol):
    """Graph that is ready to run.

    Attributes:
        outputs: Names of the outputs.
    """

    outputs: frozenset[str]

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


@cache
def get_openvino_core() -> Any:
    """Return the OpenVINO core of this process, which reads and compiles all graphs.

    There is only one, because the CPU plugin of a core sets the stack on which this thread handles
    signals, and restores the previous one at the end of the core. When two cores end in the order
    in which they began, that stack is freed memory, and the next signal (Ctrl-C, the end of a child
    process) would end the process with a segmentation fault.

    Raises:
        RunError: If `openvino` is not installed.
    """
    return import_extra("openvino").Core()


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
        problem = "is a folder in place of a file" if graph.is_dir() else "does not exist"
        raise RunError(f"{graph} {problem}; export the run again")
    omp_num_threads = os.environ.get("OMP_NUM_THREADS", "")
    threads = threads or (int(omp_num_threads) if omp_num_threads.isdigit() else 0)
    try:
        if graph.suffix == ".onnx":
            return OnnxEngine(graph, threads)
        return OpenVinoEngine(graph, precision, threads)
    except (RunError, ImportError):
        raise
    except Exception as error:  # noqa: BLE001 - the errors of both packages have no common base
        raise _make_graph_error(graph, "cannot be loaded", error) from None


def _make_graph_error(graph: Path, problem: str, error: Exception) -> RunError:
    """Return the error for a graph that an engine refuses, with the reason of the engine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("[ONNXRuntimeError]"):
        kept = (line for line in lines if not line.startswith("Please fix"))
        reason = _ONNX_START.sub("", " ".join(kept))
    else:  # OpenVINO lists places in its source code before the reason
        reason = lines[-1] if lines else type(error).__name__
    return RunError(f"{graph} {problem} ({reason[:MAX_REASON].rstrip('.')}); export the run again")


class OnnxEngine:
    """ONNX Runtime on the CPU; it computes in float32 (and int8)."""

    def __init__(self, graph: Path, threads: int = 0) -> None:
        runtime = import_extra("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # hides warnings about its own optimizations
        self._session = runtime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        self._graph = graph
        self._names = [output.name for output in self._session.get_outputs()]
        self.outputs = frozenset(self._names)

    def run(self, images: NDArray[np.float32], sizes: NDArray[np.int64]) -> Arrays:
        """Return the outputs of a batch, keyed by name.

        Raises:
            RunError: If the graph has other inputs, or fails.
        """
        try:
            outputs = self._session.run(None, {"images": images, "sizes": sizes})
        except Exception as error:  # noqa: BLE001
            raise _make_graph_error(self._graph, "cannot be run", error) from None
        return dict(zip(self._names, outputs, strict=True))


class OpenVinoEngine:
    """OpenVINO on the CPU."""

    def __init__(self, graph: Path | Any, precision: str = "auto", threads: int = 0) -> None:
        core = get_openvino_core()
        if isinstance(graph, Path) and b"<net" not in graph.read_bytes()[:START_LENGTH]:
            # Otherwise OpenVINO tries its readers of other formats, which print errors.
            raise RunError(
                f"{graph} cannot be loaded (it is no graph of OpenVINO); export the run again"
            )
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if precision == "fp32":
            config["INFERENCE_PRECISION_HINT"] = "f32"
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        model = str(graph) if isinstance(graph, Path) else graph
        self._compiled = core.compile_model(model, "CPU", config)
        # An output may have several names: the one from export and others from the conversion.
        self._names = [tuple(output.get_names()) for output in self._compiled.outputs]
        self.outputs = frozenset(name for names in self._names for name in names)
        self._graph = graph if isinstance(graph, Path) else Path("the graph")

    def run(self, images: NDArray[np.float32], sizes: NDArray[np.int64]) -> Arrays:
        """Return the outputs of a batch, keyed by name.

        Raises:
            RunError: If the graph has other inputs, or fails.
        """
        try:
            outputs = self._compiled({"images": images, "sizes": sizes})
        except Exception as error:  # noqa: BLE001
            raise _make_graph_error(self._graph, "cannot be run", error) from None
        return {name: outputs[i] for i, names in enumerate(self._names) for name in names}


def select_head_outputs(outputs: Mapping[str, NDArray[Any]], head: str) -> Arrays:
    """Return the outputs of one head, keyed by field; their names in the graph are `head.field`."""
    return {
        name.removeprefix(f"{head}."): array
        for name, array in outputs.items()
        if name.rpartition(".")[0] == head
    }
