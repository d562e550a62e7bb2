"""Where a run's curves go: TensorBoard, and Weights & Biases or MLflow where the recipe names them.

Trackers are dispensable: one that fails is told once and left out, and none is waited for while
training. W&B and MLflow work in a thread of their own, through accelerate's classes for them.
"""

from __future__ import annotations

import json
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

from resnet_tasks.errors import RecipeError
from resnet_tasks.files.atomic import write_json
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.path_removal import make_portable
from resnet_tasks.recipe.schema.training import TrainingRecipe

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
"""Trackers that are not installed with this package, and what brings them."""
PROJECT = "resnet-tasks"
"""W&B project and MLflow experiment; `WANDB_PROJECT` and `MLFLOW_EXPERIMENT_NAME` go before."""
IDS = "trackers.json"
"""File of a run folder: the ids that a resumed run goes on under."""
TIMEOUT_SECONDS = 60.0
"""Seconds that a tracker has to start, and at the end to send what is left."""

PrintLine = Callable[[str], None]
Values = Mapping[str, float]


def require_trackers(names: Sequence[str]) -> None:
    """Does nothing where all trackers are installed.

    Raises:
        RecipeError: If one is not.
    """
    for name in names:
        if name not in PACKAGES:
            continue
        spec = find_spec(PACKAGES[name])
        # A folder `wandb` or `mlflow` beside a script looks like a package without a file.
        if spec is None or spec.origin is None:
            raise RecipeError(
                f"training.trackers: {name} is not installed; `pip install {PACKAGES[name]}`, or "
                "take it out of training.trackers"
            )


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Attributes:
        folder: The run folder.
        name: For people.
        config: The recipe as plain values, without paths of this machine.
        update: The first step to come.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    update: int

    @classmethod
    def from_folder(cls, folder: Path, options: TrainingRecipe, update: int) -> TrackedRun:
        """The run in a folder; of one that was started from Python only its options are known."""
        if not (folder / "recipe.yaml").is_file():
            return cls(folder, folder.name, {"training": options.model_dump(mode="json")}, update)
        recipe = make_portable(load_recipe(folder / "recipe.yaml")).model_copy(
            update={"plugins": ()}
        )
        short = recipe.name.replace("/", "-")
        name = folder.name if folder.name.startswith(short) else f"{short}/{folder.name}"
        return cls(folder, name, recipe.model_dump(mode="json"), update)

    def find_id(self, tracker: str) -> str | None:
        """The id that this run has there already."""
        with suppress(OSError, ValueError, AttributeError):
            tracker_id = json.loads((self.folder / IDS).read_text(encoding="utf-8")).get(tracker)
            return tracker_id if isinstance(tracker_id, str) else None
        return None

    def save_id(self, tracker: str, value: str) -> None:
        """Keeps the id for a resumed run."""
        ids: dict[str, str] = {}
        with suppress(OSError, ValueError):
            ids = json.loads((self.folder / IDS).read_text(encoding="utf-8"))
        write_json(self.folder / IDS, {**ids, tracker: value})


class Tracker(Protocol):
    """One place where curves go; any of its methods may fail."""

    def plot(self, values: Values, update: int) -> None:
        """Points of several curves at one step."""
        ...

    def close(self) -> None:
        """Sends what is left."""
        ...


class Trackers:
    """All trackers of a run; one that fails is told once and left out from there on.

    Args:
        names: Of `training.trackers`.
        run: What they are told.
        print_line: Takes a line for people.
    """

    def __init__(self, names: Sequence[str], run: TrackedRun, print_line: PrintLine) -> None:
        self._print_line = print_line
        self._open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                self._open[name] = _MAKERS[name](run)
            except Exception as error:  # noqa: BLE001 - no tracker stops a run, whatever this is
                self._disable(name, error)

    def plot(self, values: Mapping[str, float | None], update: int) -> None:
        """Points of several curves at one step; undefined values are left out."""
        points = {name: value for name, value in values.items() if value is not None}
        for name, tracker in list(self._open.items()):
            try:
                tracker.plot(points, update)
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(name, error)

    def close(self) -> None:
        """Sends what is left."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.close()
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(name, error)
        self._open.clear()

    def _disable(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self._print_line(f"warning: {name} has failed and is left out from here on ({reason})")


class TensorBoardTracker:
    """Event files in the run's own folder.

    Args:
        run: What a killed sitting wrote from its `update` on is hidden.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._writer: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.update)

    def plot(self, values: Values, update: int) -> None:
        """Points of several curves at one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)

    def close(self) -> None:
        """Writes what is left."""
        with suppress(OSError):  # its last points; the log has them
            self._writer.close()


class TrackingService(Protocol):
    """A tracker that may be far away; all of its methods are called in one thread."""

    def start(self) -> str:
        """Opens or goes on with a run there; its id."""
        ...

    def log(self, values: Values, update: int) -> None:
        """Points of several curves at one step."""
        ...

    def finish(self) -> None:
        """Sends what is left."""
        ...


class BackgroundTracker:
    """A service in a thread of its own, so that a slow network costs no training time.

    Args:
        name: Of the tracker.
        service: What works there.
        run: Keeps its id.

    Raises:
        Exception: What the service raises when it starts.
        TimeoutError: If it has not started within `PATIENCE`.
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
            except Exception as error:  # noqa: BLE001 - is told in the main thread
                self._error = error
            self._started.set()

        self._thread = Thread(target=run_service, name=name, daemon=True)
        self._thread.start()
        if not self._started.wait(TIMEOUT_SECONDS):
            raise TimeoutError(f"it has not answered for {TIMEOUT_SECONDS:.0f} s")
        self._raise_pending_error()

    def plot(self, values: Values, update: int) -> None:
        """Points of several curves at one step; an error may be one of earlier points."""
        self._raise_pending_error()
        self._points.put((values, update))

    def close(self) -> None:
        """Sends what is left, as far as there is time."""
        self._points.put(None)
        self._thread.join(TIMEOUT_SECONDS)
        self._raise_pending_error()
        if self._thread.is_alive():
            raise TimeoutError(f"its last points were not sent within {TIMEOUT_SECONDS:.0f} s")

    def _raise_pending_error(self) -> None:
        if self._error is not None:
            raise self._error


class WandbService:
    """A run at Weights & Biases; `WANDB_MODE=offline` keeps it in the run folder."""

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
        """Opens the run, or goes on with it."""
        self._tracker.start()
        self._tracker.store_init_configuration(self._run.config)
        return str(self._tracker.tracker.id)

    def log(self, values: Values, update: int) -> None:
        """Points at one step; those that a killed sitting has sent already are the same."""
        if update >= self._tracker.tracker.step:
            self._tracker.log(dict(values), step=update)

    def finish(self) -> None:
        """Sends what is left."""
        self._tracker.finish()


class MlflowService:
    """A run of MLflow, where `MLFLOW_TRACKING_URI` says; else in the working directory."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        # Its own reports of use; a recipe that names a tracker has asked for the run's curves only.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        run_id = run.find_id("mlflow")
        self._tracker = MLflowTracker(PROJECT, run_id=run_id, run_name=run.name)

    def start(self) -> str:
        """Opens the run, or goes on with it."""
        self._tracker.start()
        self._tracker.store_init_configuration(_flatten(self._run.config))
        return str(self._tracker.tracker.info.run_id)

    def log(self, values: Values, update: int) -> None:
        """Points at one step, under names that it takes."""
        sanitized = {sub(r"[^\w\-. /]", "_", name): value for name, value in values.items()}
        self._tracker.log(sanitized, step=update)

    def finish(self) -> None:
        """Sends what is left."""
        self._tracker.finish()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
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
