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
from resnet_tasks.recipe.path_removal import make_portable
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.report.run_view import RunView
from resnet_tasks.runs.checkpoint import find_weights_file
from resnet_tasks.runs.inference_options import CALIBRATION_FILE
from resnet_tasks.runs.operating_points import FILE as OPERATING_POINT_FILE

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
class SharedFile:
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
        content = self.content
        return content.stat().st_size if isinstance(content, Path) else len(content)


def is_shared_file(name: str) -> bool:
    """Whether a file of that name is part of a shared run."""
    return name in NAMES or any(re.fullmatch(pattern, name) for pattern in PATTERNS)


def collect_files(view: RunView, *, best: bool = True, report: bool = False) -> list[SharedFile]:
    """The files of a run that others need; its card is made apart.

    Images, predictions, per-image details, optimizer state and curves stay here. Absolute paths
    in what is sent become bare names.

    Args:
        view: The run.
        best: With the best checkpoint too, where there is one.
        report: With `report.html`, which holds images of the data.

    Raises:
        RunError: If there is no checkpoint yet, or no report where it is asked for.
    """
    folder = view.folder
    recipe = build_shared_recipe(view)
    files = [
        SharedFile("recipe.yaml", recipe_to_yaml(recipe).encode()),
        SharedFile("classes.json", folder / "classes.json"),
        SharedFile("log.jsonl", _read_log_start(folder)),
        *(
            SharedFile(name, _read_without_paths(folder / name))
            for name in (CALIBRATION_FILE, OPERATING_POINT_FILE)
            if (folder / name).is_file()
        ),
        *(
            SharedFile(
                f"evaluations/{evaluation.name}/metrics.json",
                _read_without_paths(evaluation.folder / "metrics.json"),
            )
            for evaluation in view.evaluations
        ),
        *(SharedFile(name, folder / name) for name in recipe.plugins if name.endswith(".py")),
    ]
    files += _iter_checkpoint_files(folder, best=best)
    if report:
        page = folder / "report.html"
        if not page.is_file():
            raise RunError(f"{page} is not there; make it with `resnet-tasks report {folder}`")
        files.append(SharedFile("report.html", page))
    return files


def build_shared_recipe(view: RunView) -> Recipe:
    """The run's recipe for others, its plugins by their place in the run.

    Raises:
        RunError: If a plugin lies outside the run.
    """
    recipe, folder = make_portable(view.recipe), view.folder.resolve()
    for plugin in recipe.plugins:
        if plugin.endswith(".py") and not Path(plugin).resolve().is_relative_to(folder):
            raise RunError(
                f"{view.folder / 'recipe.yaml'} names the plugin {plugin}, which lies outside the "
                "run; put it into the folder plugins of the run and name it there"
            )
    plugins = tuple(
        Path(plugin).relative_to(folder).as_posix() if plugin.endswith(".py") else plugin
        for plugin in recipe.plugins
    )
    return recipe.model_copy(update={"plugins": plugins})


def strip_paths(value: Any) -> Any:
    """A JSON value whose texts and keys name files of this machine by their names alone."""
    if isinstance(value, dict):
        names = _number_duplicates([str(strip_paths(key)) for key in value])
        return dict(zip(names, map(strip_paths, value.values()), strict=True))
    if isinstance(value, list):
        return [strip_paths(child) for child in value]
    if not isinstance(value, str):
        return value
    if PurePosixPath(value).is_absolute() or PureWindowsPath(value).drive:
        return PureWindowsPath(value).name
    return _PATH_IN_TEXT.sub(lambda match: PureWindowsPath(match[0]).name, value)


def _number_duplicates(names: list[str]) -> list[str]:
    """The same names, numbered where two are alike."""
    counts: dict[str, int] = {}
    unique_names = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique_names.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return unique_names


def _read_without_paths(file: Path) -> bytes:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}); make it again") from None
    return (json.dumps(strip_paths(value), indent=2, ensure_ascii=False) + "\n").encode()


def _read_log_start(folder: Path) -> bytes:
    """The log's first start, which says under which license the first weights came."""
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if isinstance(event, dict) and event.get("event") == "start" and "weights" in event:
            return (json.dumps(strip_paths(event)) + "\n").encode()
    return b""


def _iter_checkpoint_files(folder: Path, *, best: bool) -> Iterator[SharedFile]:
    """The weights that predict: averaged ones, where there are any, are the only ones sent."""
    for name in ("last", "best") if best else ("last",):
        checkpoint = folder / "checkpoints" / name
        if name == "last" or checkpoint.is_dir():
            yield SharedFile(f"checkpoints/{name}/model.safetensors", find_weights_file(checkpoint))


def require_no_local_paths(files: Sequence[SharedFile], view: RunView) -> None:
    """Refuses texts that tell where things lie on this machine; `report.html` is not looked at.

    Raises:
        HubError: With the file and the folder.
    """
    candidates = {str(view.folder.resolve().parent), str(Path.home()), view.recipe.data.root}
    local_paths = [
        candidate
        for candidate in candidates
        if PurePosixPath(candidate).is_absolute() and len(candidate) > 1
    ]
    for file in files:
        if not file.name.endswith(TEXTS):
            continue
        content = file.content
        text = (content.read_bytes() if isinstance(content, Path) else content).decode(
            errors="replace"
        )
        for local_path in local_paths:
            if re.search(rf"{re.escape(local_path)}(?![\w-])", text):
                raise HubError(
                    f"{file.name} of {view.folder} names the folder {local_path} of this machine, "
                    "which "
                    "others should not see; take it out of that file"
                )
