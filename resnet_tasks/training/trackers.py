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
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.portable import portable
from resnet_tasks.recipe.schema import TrainingRecipe
from resnet_tasks.whole_files import write_json

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
"""Trackers that are not installed with this package, and what brings them."""
PROJECT = "resnet-tasks"
"""W&B project and MLflow experiment; `WANDB_PROJECT` and `MLFLOW_EXPERIMENT_NAME` go before."""
IDS = "trackers.json"
"""File of a run folder: the ids that a resumed run goes on under."""
PATIENCE = 60.0
"""Seconds that a tracker has to start, and at the end to send what is left."""

Say = Callable[[str], None]
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
    def of(cls, folder: Path, options: TrainingRecipe, update: int) -> TrackedRun:
        """The run in a folder; of one that was started from Python only its options are known."""
        if not (folder / "recipe.yaml").is_file():
            return cls(folder, folder.name, {"training": options.model_dump(mode="json")}, update)
        recipe = portable(load_recipe(folder / "recipe.yaml")).model_copy(update={"plugins": ()})
        short = recipe.name.replace("/", "-")
        name = folder.name if folder.name.startswith(short) else f"{short}/{folder.name}"
        return cls(folder, name, recipe.model_dump(mode="json"), update)

    def id_of(self, tracker: str) -> str | None:
        """The id that this run has there already."""
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads((self.folder / IDS).read_text(encoding="utf-8")).get(tracker)
            return found if isinstance(found, str) else None
        return None

    def keep_id(self, tracker: str, value: str) -> None:
        """Keeps the id for a resumed run."""
        known: dict[str, str] = {}
        with suppress(OSError, ValueError):
            known = json.loads((self.folder / IDS).read_text(encoding="utf-8"))
        write_json(self.folder / IDS, {**known, tracker: value})


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
        say: Takes a line for people.
    """

    def __init__(self, names: Sequence[str], run: TrackedRun, say: Say) -> None:
        self._say = say
        self._open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                self._open[name] = _MAKERS[name](run)
            except Exception as error:  # noqa: BLE001 - no tracker stops a run, whatever this is
                self._lose(name, error)

    def plot(self, values: Mapping[str, float | None], update: int) -> None:
        """Points of several curves at one step; undefined values are left out."""
        known = {name: value for name, value in values.items() if value is not None}
        for name, tracker in list(self._open.items()):
            try:
                tracker.plot(known, update)
            except Exception as error:  # noqa: BLE001 - as above
                self._lose(name, error)

    def close(self) -> None:
        """Sends what is left."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.close()
            except Exception as error:  # noqa: BLE001 - as above
                self._lose(name, error)
        self._open.clear()

    def _lose(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self._say(f"warning: {name} has failed and is left out from here on ({reason})")


class TensorBoard:
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


class Service(Protocol):
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


class InBackground:
    """A service in a thread of its own, so that a slow network costs no training time.

    Args:
        name: Of the tracker.
        service: What works there.
        run: Keeps its id.

    Raises:
        Exception: What the service raises when it starts.
        TimeoutError: If it has not started within `PATIENCE`.
    """

    def __init__(self, name: str, service: Service, run: TrackedRun) -> None:
        self._service = service
        self._points: SimpleQueue[tuple[Values, int] | None] = SimpleQueue()
        self._error: Exception | None = None
        self._started = Event()

        def work() -> None:
            try:
                run.keep_id(name, service.start())
                self._started.set()
                while (point := self._points.get()) is not None:
                    service.log(*point)
                service.finish()
            except Exception as error:  # noqa: BLE001 - is told in the main thread
                self._error = error
            self._started.set()

        self._thread = Thread(target=work, name=name, daemon=True)
        self._thread.start()
        if not self._started.wait(PATIENCE):
            raise TimeoutError(f"it has not answered for {PATIENCE:.0f} s")
        self._raise()

    def plot(self, values: Values, update: int) -> None:
        """Points of several curves at one step; an error may be one of earlier points."""
        self._raise()
        self._points.put((values, update))

    def close(self) -> None:
        """Sends what is left, as far as there is time."""
        self._points.put(None)
        self._thread.join(PATIENCE)
        self._raise()
        if self._thread.is_alive():
            raise TimeoutError(f"its last points were not sent within {PATIENCE:.0f} s")

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class WandB:
    """A run at Weights & Biases; `WANDB_MODE=offline` keeps it in the run folder."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._tracker = WandBTracker(
            os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            dir=str(run.folder),
            id=run.id_of("wandb"),
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


class MLflow:
    """A run of MLflow, where `MLFLOW_TRACKING_URI` says; else in the working directory."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        # Its own reports of use; a recipe that names a tracker has asked for the run's curves only.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        known = run.id_of("mlflow")
        self._tracker = MLflowTracker(PROJECT, run_id=known, run_name=run.name)

    def start(self) -> str:
        """Opens the run, or goes on with it."""
        self._tracker.start()
        self._tracker.store_init_configuration(_flat(self._run.config))
        return str(self._tracker.tracker.info.run_id)

    def log(self, values: Values, update: int) -> None:
        """Points at one step, under names that it takes."""
        named = {sub(r"[^\w\-. /]", "_", name): value for name, value in values.items()}
        self._tracker.log(named, step=update)

    def finish(self) -> None:
        """Sends what is left."""
        self._tracker.finish()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


_MAKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": lambda run: InBackground("wandb", WandB(run), run),
    "mlflow": lambda run: InBackground("mlflow", MLflow(run), run),
}
