"""Prediction on a Ray cluster: Ray Data distributes the units of a stream over actors.

Every actor runs `predict_units`, the same code as a single process, and writes maps and drawings to
the output folder itself. Results return to the journal batch by batch, in any order. The run
folder, images and output folder must therefore lie on a disk that all machines share.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks import errors
from resnet_tasks.errors import DataError, ResnetTasksError, RunError, get_first_line
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.inference.streaming.sources import Source, Unit
from resnet_tasks.inference.streaming.stream import DoneBatches, StreamOptions, predict_units
from resnet_tasks.inference.streaming.stream_journal import BatchResult
from resnet_tasks.inference.streaming.stream_predictor import StreamPredictor

LOCAL = "local"
"""Address of a temporary cluster on this machine only."""
AT_ONCE = 8
"""Maximum number of units that an actor receives at a time."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage reports to Ray's developers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a warning that is irrelevant here
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}

_RAISED = re.compile(r"^\s*((?:\w+\.)*\w+(?:Error|Exception)): (.+)$", re.MULTILINE)
"""Line of a traceback that names the raised exception."""

MakePredictor = Callable[[], StreamPredictor]


@dataclass(frozen=True)
class RayCluster:
    """Ray cluster, either existing or started on this machine.

    Attributes:
        address: `local`, `auto`, `HOST:PORT` or `ray://HOST:PORT`.
        actors: Number of prediction processes; None: one per GPU, or one per machine without GPUs.
    """

    address: str
    actors: int | None = None

    def create_runner(
        self, make: MakePredictor, out: Path, options: StreamOptions
    ) -> Callable[[Sequence[Unit], DoneBatches], Generator[BatchResult]]:
        """Create the function that predicts on the cluster, to be used instead of `predict_units`.

        Args:
            make: Picklable function that creates the predictor in every actor.
            out: Path of the output folder.
            options: Output options.

        Raises:
            DataError: If Ray is not installed.
        """
        _import_ray()  # fail before any image is read

        def run(units: Sequence[Unit], done_batches: DoneBatches) -> Generator[BatchResult]:
            if units:
                yield from self._run_units(units, done_batches, (make, out.absolute(), options))

        return run

    def _run_units(
        self,
        units: Sequence[Unit],
        done_batches: DoneBatches,
        worker_args: tuple[MakePredictor, Path, StreamOptions],
    ) -> Generator[BatchResult]:
        requested_paths = {
            str(s.path.absolute()): str(s.path) for unit in units for s in unit.sources
        }
        with self._connect() as ray, _unwrap_ray_errors():
            actors, resources = _allocate_actors(ray, self.actors)
            data = import_module("ray.data")
            batches_by_unit: dict[int, list[int]] = {}
            for unit, batch in sorted(done_batches):
                batches_by_unit.setdefault(unit, []).append(batch)
            records = [
                {"unit": _pack_unit(pending_unit, batches_by_unit.get(pending_unit.number, ()))}
                for pending_unit in units
            ]
            blocks = min(len(records), 8 * actors)
            results = data.from_items(records, override_num_blocks=blocks).map_batches(
                RayWorker,
                fn_constructor_args=worker_args,
                batch_size=max(1, min(AT_ONCE, len(records) // (2 * actors))),
                batch_format="numpy",
                concurrency=actors,
                **resources,
            )
            for row in results.iter_rows():
                yield _restore_paths(BatchResult.from_line(row["line"]), requested_paths)

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        """Connect to the cluster, and disconnect on exit.

        Raises:
            RunError: If no cluster responds at the address.
        """
        ray = _import_ray()
        has_begun = not ray.is_initialized()
        if has_begun:
            try:
                ray.init(
                    address=self.address,
                    include_dashboard=False if self.address == LOCAL else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise RunError(
                    f"--ray {self.address}: no Ray cluster responds at this address "
                    f"({get_first_line(error)}); start one with `ray start --head`, or use --ray "
                    "local"
                ) from None
        context = import_module("ray.data").DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            yield ray
        finally:
            if has_begun:
                ray.shutdown()


class RayWorker:
    """Ray actor that predicts units with its own predictor.

    Args:
        make: Function that creates the predictor.
        out: Path of the output folder, on a shared disk.
        options: Output options.
    """

    def __init__(self, make: MakePredictor, out: Path, options: StreamOptions) -> None:
        self._predictor = make()
        self._out = out
        self._options = options

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Predict units and yield their journal lines, one by one.

        Args:
            batch: `unit` -> array of packed units.
        """
        unpacked = [_unpack_unit(str(text)) for text in batch["unit"]]
        done_batches = frozenset(
            (unit.number, batch_number) for unit, batches in unpacked for batch_number in batches
        )
        results = predict_units(
            [unit for unit, _ in unpacked],
            self._predictor,
            self._out,
            self._options,
            done_batches=done_batches,
        )
        for result in results:
            yield {"line": np.array([result.to_line()], dtype=object)}


def _restore_paths(result: BatchResult, requested_paths: Mapping[str, str]) -> BatchResult:
    """Replace the absolute paths in a result by the paths that the user gave."""
    frames = tuple(
        replace(
            frame,
            file_name=requested_paths[frame.file_name],
            reason=frame.reason.replace(frame.file_name, requested_paths[frame.file_name]),
        )
        for frame in result.frames
    )
    if not result.video:
        return replace(result, frames=frames)
    video = requested_paths[result.video]
    note = result.note.replace(result.video, video)
    return replace(result, frames=frames, video=video, note=note)


def _pack_unit(unit: Unit, done_batches: Sequence[int]) -> str:
    """Serialize a unit and the numbers of its finished batches as JSON."""
    sources = [[str(source.path.absolute()), source.name] for source in unit.sources]
    return encode_json({"number": unit.number, "sources": sources, "done": list(done_batches)})


def _unpack_unit(text: str) -> tuple[Unit, list[int]]:
    value = json.loads(text)
    sources = tuple(Source(Path(path), name) for path, name in value["sources"])
    return Unit(value["number"], sources), value["done"]


def _import_ray() -> Any:
    """Import Ray without log output and usage reports.

    Raises:
        DataError: If Ray is not installed.
    """
    # Ray reads these variables on import.
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import_module("ray.data")
        return import_module("ray")
    except ImportError as error:
        raise DataError(
            f'--ray needs Ray Data ({error}); install it with pip install "resnet-tasks[scale]"'
        ) from None


def _allocate_actors(ray: Any, requested: int | None) -> tuple[int, dict[str, float]]:
    """Return the number of actors, and the cluster resources that each actor uses.

    Raises:
        RunError: If more actors are requested than there are processors.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cores = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if gpus:
        return requested or gpus, {"num_gpus": min(1.0, gpus / (requested or gpus)), "num_cpus": 1}
    actors = requested or len(cores)
    if not cores or actors > sum(cores):
        raise RunError(
            f"--actors {actors}: the cluster has only {sum(cores)} processors; request fewer actors"
        )
    per_node = -(-actors // len(cores))
    return actors, {"num_cpus": max(1, min(cores) // per_node)}


@contextmanager
def _unwrap_ray_errors() -> Iterator[None]:
    """Convert the error of an actor to the exception type that it had there, or to a `RunError`.

    Raises:
        ResnetTasksError: If an actor failed.
    """
    try:
        yield
    except import_module("ray.exceptions").RayError as error:
        raise _parse_traceback(str(error)) from None


def _parse_traceback(text: str) -> ResnetTasksError:
    """Parse the traceback of an actor, as Ray reports it, and return its first cause."""
    exceptions = [(match[1], match[2]) for match in _RAISED.finditer(text)]
    for name, message in exceptions:
        kind = getattr(errors, name.rpartition(".")[2], None)
        if name.startswith(errors.__name__) and kind is not None:
            translated: ResnetTasksError = kind(message)
            return translated
    causes = [f"{name}: {message}" for name, message in exceptions if not name.startswith("ray.")]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = (causes or lines or ["the reason is unknown"])[0]
    return RunError(
        f"prediction on the cluster failed ({reason}); finished images are kept: run the same "
        "command again to resume"
    )
