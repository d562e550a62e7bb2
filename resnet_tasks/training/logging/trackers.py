"""Trackers of a run's curves: TensorBoard, Weights & Biases and MLflow (`training.trackers`).

A tracker must never harm a run: if it fails, that is reported once and the tracker is disabled, and
training never waits for it. W&B and MLflow run in separate threads, through accelerate's classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from re import sub
from threading import Event, Thread
from typing import Any, Protocol

from accelerate.tracking import MLflowTracker, WandBTracker
from torch.utils.tensorboard import SummaryWriter

from resnet_tasks.errors import RecipeError, get_first_line
from resnet_tasks.files.atomic import write_json
from resnet_tasks.foreign_text import escape_controls
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.path_removal import make_portable
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder.files import TRACKERS
from resnet_tasks.run_folder.read import read_object

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
"""Tracker that is not installed with this package -> name of its package."""
PROJECT = "resnet-tasks"
"""W&B project and MLflow experiment, unless `WANDB_PROJECT` or `MLFLOW_EXPERIMENT_NAME` is set."""
IDS = "trackers.json"
"""File of the run folder with the trackers' run ids, under which a resumed run continues."""
TIMEOUT_SECONDS = 60.0
"""Timeout in seconds for the start of a tracker, and for sending the remaining points at the end.
"""

PrintLine = Callable[[str], None]
Values = Mapping[str, float]


def require_trackers(names: Sequence[str]) -> None:
    """Require that all trackers are installed.

    Raises:
        RecipeError: If one is not installed.
    """
    for name in names:
        if name not in PACKAGES:
            continue
        spec = find_spec(PACKAGES[name])
        # A folder `wandb` or `mlflow` next to a script looks like a namespace package, which has no
        # origin. wandb itself creates such a folder.
        if spec is None or spec.origin is None:
            raise RecipeError(
                f"training.trackers: {name} is not installed; run `pip install {PACKAGES[name]}`, "
                "or remove it from training.trackers"
            )


@dataclass(frozen=True)
class TrackedRun:
    """Description of a run for trackers.

    Attributes:
        folder: Path of the run folder.
        name: Name of the run in the tracker.
        config: Recipe as JSON-compatible values, without paths of this machine.
        update: Index of the next step.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    update: int

    @classmethod
    def from_folder(cls, folder: Path, options: TrainingRecipe, update: int) -> TrackedRun:
        """Describe the run in a folder; a run without a recipe has only its training options.

        Args:
            folder: Path of the run folder.
            options: Training options, for a run that was started without a recipe.
            update: Index of the next step.
        """
        if not (folder / "recipe.yaml").is_file():
            config: dict[str, Any] = {"training": options.model_dump(mode="json")}
            return cls(folder, escape_controls(folder.name), config, update)
        recipe = make_portable(load_recipe(folder / "recipe.yaml"))
        short = recipe.name.replace("/", "-")
        name = folder.name if folder.name.startswith(short) else f"{short}/{folder.name}"
        config = {**recipe.model_dump(mode="json"), "plugins": []}
        return cls(folder, escape_controls(name), config, update)  # W&B prints the name itself

    def find_id(self, tracker: str) -> str | None:
        """Return the id that this run already has in a tracker; None without one."""
        tracker_id = self._read_ids().get(tracker)
        return tracker_id if isinstance(tracker_id, str) else None

    def save_id(self, tracker: str, value: str) -> None:
        """Save the id of this run in a tracker, for when the run is resumed."""
        ids = TRACKERS.add_version({**self._read_ids(), tracker: value})
        write_json(self.folder / IDS, ids)

    def _read_ids(self) -> dict[str, object]:
        path = self.folder / IDS
        return read_object(path, TRACKERS) if path.exists() else {}


class Tracker(Protocol):
    """Receiver of a run's curves; any of its methods may raise."""

    def plot(self, values: Values, update: int) -> None:
        """Add a point at one step to several curves."""
        ...

    def close(self) -> None:
        """Send the remaining points."""
        ...


class Trackers:
    """All trackers of a run; one that fails is reported once and disabled.

    Args:
        names: Names from `training.trackers`.
        run: Description of the run.
        print_line: Function that prints a line on the console.
    """

    def __init__(self, names: Sequence[str], run: TrackedRun, print_line: PrintLine) -> None:
        self._print_line = print_line
        self._open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                self._open[name] = _MAKERS[name](run)
            except Exception as error:  # noqa: BLE001 - a tracker must never stop a run
                self._disable(name, error)

    def plot(self, values: Mapping[str, float | None], update: int) -> None:
        """Add a point at one step to several curves; undefined values are skipped."""
        points = {name: value for name, value in values.items() if value is not None}
        for name, tracker in list(self._open.items()):
            try:
                tracker.plot(points, update)
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(name, error)

    def close(self) -> None:
        """Send the remaining points."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.close()
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(name, error)
        self._open.clear()

    def _disable(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        reason = get_first_line(error)
        self._print_line(f"warning: {name} failed and is disabled for this run ({reason})")


class TensorBoardTracker:
    """TensorBoard event files in the run folder.

    Args:
        run: Description of the run; existing points from its `update` on are hidden, because a
            resumed run writes them again.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._writer: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.update)

    def plot(self, values: Values, update: int) -> None:
        """Add a point at one step to several curves."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)

    def close(self) -> None:
        """Write the remaining points."""
        with suppress(OSError):  # the points that are lost are also in the log
            self._writer.close()


class TrackingService(Protocol):
    """Tracker that may use the network; all of its methods are called in one thread."""

    def start(self) -> str:
        """Open or resume the run in the tracker, and return its id."""
        ...

    def log(self, values: Values, update: int) -> None:
        """Add a point at one step to several curves."""
        ...

    def finish(self) -> None:
        """Send the remaining points."""
        ...


class BackgroundTracker:
    """Tracking service in a separate thread, so that a slow network costs no training time.

    Args:
        name: Name of the tracker.
        service: Service that runs in the thread.
        run: Description of the run, which saves the service's run id.

    Raises:
        Exception: If the service raises it while it starts.
        TimeoutError: If the service has not started within `TIMEOUT_SECONDS`.
    """

    def __init__(self, name: str, service: TrackingService, run: TrackedRun) -> None:
        self._service = service
        self._points: SimpleQueue[tuple[Values, int] | None] = SimpleQueue()
        self._error: Exception | None = None
        self._started = Event()

        def run_service() -> None:
            try:
                run.save_id(name, service.start())
                self._started.set()
                while (point := self._points.get()) is not None:
                    service.log(*point)
                service.finish()
            except Exception as error:  # noqa: BLE001 - raised in the main thread
                self._error = error
            self._started.set()  # after a failed start too: the constructor waits for it

        self._thread = Thread(target=run_service, name=name, daemon=True)
        self._thread.start()
        if not self._started.wait(TIMEOUT_SECONDS):
            raise TimeoutError(f"no answer within {TIMEOUT_SECONDS:.0f} s")
        self._raise_pending_error()

    def plot(self, values: Values, update: int) -> None:
        """Queue a point at one step for several curves; raise a pending error of earlier points."""
        self._raise_pending_error()
        self._points.put((values, update))

    def close(self) -> None:
        """Send the remaining points within `TIMEOUT_SECONDS`.

        Raises:
            Exception: If the service has raised it.
            TimeoutError: If sending takes longer.
        """
        self._points.put(None)
        self._thread.join(TIMEOUT_SECONDS)
        self._raise_pending_error()
        if self._thread.is_alive():
            raise TimeoutError(f"the last points were not sent within {TIMEOUT_SECONDS:.0f} s")

    def _raise_pending_error(self) -> None:
        if self._error is not None:
            raise self._error


class WandbService:
    """Run in Weights & Biases; `WANDB_MODE=offline` stores it in the run folder only."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._tracker = WandBTracker(
            os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            dir=str(run.folder),
            id=run.find_id("wandb"),
            resume="allow",
        )

    def start(self) -> str:
        """Open or resume the run, store its recipe, and return its id."""
        self._tracker.start()
        self._tracker.store_init_configuration(self._run.config)
        return str(self._tracker.tracker.id)

    def log(self, values: Values, update: int) -> None:
        """Add points at one step, unless an interrupted run has sent that step before."""
        # W&B only accepts increasing steps. The skipped points would equal those it already has.
        if update >= self._tracker.tracker.step:
            self._tracker.log(dict(values), step=update)

    def finish(self) -> None:
        """Send the remaining points."""
        self._tracker.finish()


class MlflowService:
    """Run in MLflow, at `MLFLOW_TRACKING_URI` or by default in the working directory."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        # MLflow sends telemetry by default, but the user only asked for the run's curves.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        run_id = run.find_id("mlflow")
        self._tracker = MLflowTracker(PROJECT, run_id=run_id, run_name=run.name)

    def start(self) -> str:
        """Open or resume the run, store its recipe, and return its id."""
        self._tracker.start()
        self._tracker.store_init_configuration(_flatten(self._run.config))
        return str(self._tracker.tracker.info.run_id)

    def log(self, values: Values, update: int) -> None:
        """Add points at one step, under names with the characters that MLflow allows."""
        sanitized = {sub(r"[^\w\-. /]", "_", name): value for name, value in values.items()}
        self._tracker.log(sanitized, step=update)

    def finish(self) -> None:
        """Send the remaining points."""
        self._tracker.finish()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values as a flat mapping with dotted names."""
    flattened: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flattened |= _flatten(value, f"{prefix}{name}.")
        else:
            flattened[f"{prefix}{name}"] = value
    return flattened


_MAKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": lambda run: BackgroundTracker("wandb", WandbService(run), run),
    "mlflow": lambda run: BackgroundTracker("mlflow", MlflowService(run), run),
}
