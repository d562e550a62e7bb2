"""Prediction on a Ray cluster: the units of a stream, spread over actors by Ray Data.

Every actor runs `predict_units`, the code of a single process, and writes maps and drawings into
the output folder itself; results come back batch by batch, in any order, to the journal. So run
folder, images and output folder must lie on a disk that all machines share.
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
from resnet_tasks.errors import DataError, ResnetTasksError, RunError
from resnet_tasks.inference.streaming.sources import Source, Unit
from resnet_tasks.inference.streaming.stream import DoneBatches, StreamOptions, predict_units
from resnet_tasks.inference.streaming.stream_journal import BatchResult
from resnet_tasks.inference.streaming.stream_predictor import StreamPredictor

LOCAL = "local"
"""In the place of an address: a cluster of this machine alone, for as long as it takes."""
AT_ONCE = 8
"""Units that an actor takes at a time."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would report to its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # warns of a change that does not concern us
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}

_RAISED = re.compile(r"^\s*((?:\w+\.)*\w+(?:Error|Exception)): (.+)$", re.MULTILINE)
"""A line of a traceback that names what was raised."""

MakePredictor = Callable[[], StreamPredictor]


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster, existing or of this machine.

    Attributes:
        address: `local`, `auto`, `HOST:PORT` or `ray://HOST:PORT`.
        actors: Processes that predict; None: one per GPU, without GPUs one per machine.
    """

    address: str
    actors: int | None = None

    def create_runner(
        self, make: MakePredictor, out: Path, options: StreamOptions
    ) -> Callable[[Sequence[Unit], DoneBatches], Generator[BatchResult]]:
        """What predicts on the cluster in the place of `predict_units`.

        Args:
            make: Makes the predictor, in every actor; is pickled.
            out: The output folder.
            options: What is written.

        Raises:
            DataError: If Ray is not installed.
        """
        _import_ray()  # before anything is read

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
        """Ray, connected to the cluster.

        Raises:
            RunError: If there is none at the address.
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
                reason = (str(error).splitlines() or ["no reason"])[0]
                raise RunError(
                    f"--ray {self.address}: no Ray cluster answers there ({reason}); start one "
                    "with `ray start --head`, or give --ray local"
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
    """An actor: predicts units with a predictor of its own.

    Args:
        make: Makes the predictor.
        out: Output folder, on a shared disk.
        options: What is written.
    """

    def __init__(self, make: MakePredictor, out: Path, options: StreamOptions) -> None:
        self._predictor = make()
        self._out = out
        self._options = options

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        """The lines of the journal, one by one.

        Args:
            batch: `unit` -> packed units.
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
    """A result whose files are named as they were asked for, not by their absolute paths."""
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
    """A unit as text, with its batches that are done."""
    sources = [[str(source.path.absolute()), source.name] for source in unit.sources]
    return json.dumps({"number": unit.number, "sources": sources, "done": list(done_batches)})


def _unpack_unit(text: str) -> tuple[Unit, list[int]]:
    value = json.loads(text)
    sources = tuple(Source(Path(path), name) for path, name in value["sources"])
    return Unit(value["number"], sources), value["done"]


def _import_ray() -> Any:
    """The package, which says nothing and tells nobody.

    Raises:
        DataError: If it is not installed.
    """
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
    """How many actors there shall be, and what each takes of the cluster.

    Raises:
        RunError: If more are asked for than there are processors.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cores = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if gpus:
        return requested or gpus, {"num_gpus": min(1.0, gpus / (requested or gpus)), "num_cpus": 1}
    actors = requested or len(cores)
    if not cores or actors > sum(cores):
        raise RunError(f"--actors {actors}: the cluster has {sum(cores)} processors; ask for fewer")
    per_node = -(-actors // len(cores))
    return actors, {"num_cpus": max(1, min(cores) // per_node)}


@contextmanager
def _unwrap_ray_errors() -> Iterator[None]:
    """An error of an actor as what it was there, or as one sentence.

    Raises:
        ResnetTasksError: If something went wrong.
    """
    try:
        yield
    except import_module("ray.exceptions").RayError as error:
        raise _parse_traceback(str(error)) from None


def _parse_traceback(text: str) -> ResnetTasksError:
    """What a traceback of an actor, as Ray hands it over, says: its first cause."""
    exceptions = [(match[1], match[2]) for match in _RAISED.finditer(text)]
    for name, message in exceptions:
        kind = getattr(errors, name.rpartition(".")[2], None)
        if name.startswith(errors.__name__) and kind is not None:
            translated: ResnetTasksError = kind(message)
            return translated
    causes = [f"{name}: {message}" for name, message in exceptions if not name.startswith("ray.")]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = (causes or lines or ["no reason is known"])[0]
    return RunError(
        f"prediction on the cluster failed ({reason}); what is done stays, the same command goes "
        "on with it"
    )
