"""What of a run is sent to others: enough to predict and evaluate, and nothing of this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from resnet_tasks.errors import HubError, RunError
from resnet_tasks.recipe.load import recipe_to_yaml
from resnet_tasks.recipe.portable import portable
from resnet_tasks.recipe.schema import Recipe
from resnet_tasks.report.collect import RunView
from resnet_tasks.training.checkpoint import weights_file
from resnet_tasks.training.inference import CALIBRATION_FILE
from resnet_tasks.training.operating_points import FILE as OPERATING_POINT_FILE

CARD = "README.md"
NAMES = (
    "recipe.yaml",
    "classes.json",
    "log.jsonl",
    "report.html",
    CARD,
    CALIBRATION_FILE,
    OPERATING_POINT_FILE,
)
PATTERNS = (
    r"checkpoints/(last|best)/model\.safetensors",
    r"evaluations/[\w.+-]+/metrics\.json",
    r"plugins/[\w.+-]+\.py",
)
"""What a shared run consists of; nothing else is brought here."""
TEXTS = (".yaml", ".json", ".jsonl", ".py", ".md")
_PATH_IN_TEXT = re.compile(r"(?<![\w:/.-])(?:[A-Za-z]:[\\/]|~?/)[^\s'\",;()]+")


@dataclass(frozen=True)
class Item:
    """One file of a shared run.

    Attributes:
        name: Path in the repository, with slashes.
        content: A file of the run as it is, or what is made of one.
    """

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """In bytes."""
        held = self.content
        return held.stat().st_size if isinstance(held, Path) else len(held)


def belongs(name: str) -> bool:
    """Whether a file of that name is part of a shared run."""
    return name in NAMES or any(re.fullmatch(pattern, name) for pattern in PATTERNS)


def collect(view: RunView, *, best: bool = True, report: bool = False) -> list[Item]:
    """The files of a run that others need; its card is made apart.

    Pictures, predictions, per-picture details, optimizer state and curves stay here. Absolute paths
    in what is sent become bare names.

    Args:
        view: The run.
        best: With the best checkpoint too, where there is one.
        report: With `report.html`, which holds pictures of the data.

    Raises:
        RunError: If there is no checkpoint yet, or no report where it is asked for.
    """
    folder = view.folder
    recipe = shared_recipe(view)
    items = [
        Item("recipe.yaml", recipe_to_yaml(recipe).encode()),
        Item("classes.json", folder / "classes.json"),
        Item("log.jsonl", _beginning(folder)),
        *(
            Item(name, _cleaned(folder / name))
            for name in (CALIBRATION_FILE, OPERATING_POINT_FILE)
            if (folder / name).is_file()
        ),
        *(
            Item(f"evaluations/{each.name}/metrics.json", _cleaned(each.folder / "metrics.json"))
            for each in view.evaluations
        ),
        *(Item(name, folder / name) for name in recipe.plugins if name.endswith(".py")),
    ]
    items += _checkpoints(folder, best=best)
    if report:
        page = folder / "report.html"
        if not page.is_file():
            raise RunError(f"{page} is not there; make it with `resnet-tasks report {folder}`")
        items.append(Item("report.html", page))
    return items


def shared_recipe(view: RunView) -> Recipe:
    """The run's recipe for others, its plugins by their place in the run.

    Raises:
        RunError: If a plugin lies outside the run.
    """
    recipe, folder = portable(view.recipe), view.folder.resolve()
    for each in recipe.plugins:
        if each.endswith(".py") and not Path(each).resolve().is_relative_to(folder):
            raise RunError(
                f"{view.folder / 'recipe.yaml'} names the plugin {each}, which lies outside the "
                "run; put it into the folder plugins of the run and name it there"
            )
    plugins = tuple(
        Path(each).relative_to(folder).as_posix() if each.endswith(".py") else each
        for each in recipe.plugins
    )
    return recipe.model_copy(update={"plugins": plugins})


def without_paths(value: Any) -> Any:
    """A JSON value whose texts and keys name files of this machine by their names alone."""
    if isinstance(value, dict):
        names = _distinct([str(without_paths(key)) for key in value])
        return dict(zip(names, map(without_paths, value.values()), strict=True))
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    if not isinstance(value, str):
        return value
    if PurePosixPath(value).is_absolute() or PureWindowsPath(value).drive:
        return PureWindowsPath(value).name
    return _PATH_IN_TEXT.sub(lambda found: PureWindowsPath(found[0]).name, value)


def _distinct(names: list[str]) -> list[str]:
    """The same names, numbered where two are alike."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return made


def _cleaned(file: Path) -> bytes:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}); make it again") from None
    return (json.dumps(without_paths(value), indent=2, ensure_ascii=False) + "\n").encode()


def _beginning(folder: Path) -> bytes:
    """The log's first start, which says under which licence the first weights came."""
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if isinstance(event, dict) and event.get("event") == "start" and "weights" in event:
            return (json.dumps(without_paths(event)) + "\n").encode()
    return b""


def _checkpoints(folder: Path, *, best: bool) -> Iterator[Item]:
    """The weights that predict: averaged ones, where there are any, are the only ones sent."""
    for name in ("last", "best") if best else ("last",):
        place = folder / "checkpoints" / name
        if name == "last" or place.is_dir():
            yield Item(f"checkpoints/{name}/model.safetensors", weights_file(place))


def require_no_places(items: Sequence[Item], view: RunView) -> None:
    """Refuses texts that tell where things lie on this machine; `report.html` is not looked at.

    Raises:
        HubError: With the file and the folder.
    """
    places = {str(view.folder.resolve().parent), str(Path.home()), view.recipe.data.root}
    known = [each for each in places if PurePosixPath(each).is_absolute() and len(each) > 1]
    for item in items:
        if not item.name.endswith(TEXTS):
            continue
        held = item.content
        text = (held.read_bytes() if isinstance(held, Path) else held).decode(errors="replace")
        for place in known:
            if re.search(rf"{re.escape(place)}(?![\w-])", text):
                raise HubError(
                    f"{item.name} of {view.folder} names the folder {place} of this machine, which "
                    "others should not see; take it out of that file"
                )
