"""Files of a shared run: enough to predict and evaluate, without traces of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from resnet_tasks.errors import HubError, RunError, format_list
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.files.safe_names import is_machine_path, remove_folders
from resnet_tasks.recipe.load import recipe_to_yaml
from resnet_tasks.recipe.path_removal import make_portable
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.report.run_view import RunView
from resnet_tasks.run_folder.checkpoint import find_weights_file, require_weights_version
from resnet_tasks.run_folder.files import CALIBRATION, METRICS, OPERATING_POINT, RunFile
from resnet_tasks.run_folder.log import find_first_start
from resnet_tasks.run_folder.read import read_object

CARD = "README.md"
NAMES = (
    "recipe.yaml",
    "classes.json",
    "log.jsonl",
    "report.html",
    CARD,
    CALIBRATION.name,
    OPERATING_POINT.name,
)
PATTERNS = (
    r"checkpoints/(last|best)/model\.safetensors",
    r"evaluations/[\w.+-]+/metrics\.json",
    r"plugins/[\w.+-]+\.py",
)
"""Patterns of further file names of a shared run; `pull` downloads no other files."""
SOURCES = (
    *NAMES,
    "checkpoints",
    "checkpoints/*",
    "checkpoints/*/*.safetensors",
    "evaluations",
    "evaluations/*",
    "evaluations/*/metrics.json",
    "plugins",
    "plugins/*",
)
"""Patterns of the files of a run from which shared files are made, and of their folders."""
TEXTS = (".yaml", ".json", ".jsonl", ".py", ".md")


@dataclass(frozen=True)
class SharedFile:
    """One file of a shared run.

    Attributes:
        name: Path in the repository, with forward slashes.
        content: Path of an unchanged file of the run, or bytes derived from one.
    """

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """Size in bytes."""
        content = self.content
        return content.stat().st_size if isinstance(content, Path) else len(content)


def is_shared_file(name: str) -> bool:
    """Return whether a file of that name is part of a shared run."""
    return name in NAMES or any(re.fullmatch(pattern, name) for pattern in PATTERNS)


def collect_files(view: RunView, *, best: bool = True, report: bool = False) -> list[SharedFile]:
    """Collect the files of a run to share, except for its model card.

    Images, predictions, per-image details, optimizer state and curves are not shared. Absolute
    paths in the shared files are reduced to file names.

    Args:
        view: Contents of the run folder.
        best: Whether to include the best checkpoint, if there is one.
        report: Whether to include `report.html`, which embeds images of the dataset.

    Raises:
        RunError: If there is no checkpoint yet, no report although it is requested, or a file that
            is shared is a link out of the run folder.
    """
    folder = view.folder
    _require_no_outward_links(folder)
    recipe = build_shared_recipe(view)
    files = [
        SharedFile("recipe.yaml", recipe_to_yaml(recipe).encode()),
        SharedFile("classes.json", folder / "classes.json"),
        SharedFile("log.jsonl", _read_log_start(folder)),
        *(
            SharedFile(file.name, _read_without_paths(folder / file.name, file))
            for file in (CALIBRATION, OPERATING_POINT)
            if (folder / file.name).exists()
        ),
        *(
            SharedFile(
                f"evaluations/{evaluation.name}/metrics.json",
                _read_without_paths(evaluation.folder / "metrics.json", METRICS),
            )
            for evaluation in view.evaluations
        ),
        *(SharedFile(name, folder / name) for name in recipe.plugins if name.endswith(".py")),
    ]
    files += _iter_checkpoint_files(folder, best=best)
    if report:
        page = folder / "report.html"
        if not page.is_file():
            raise RunError(f"{page} does not exist; create it with `resnet-tasks report {folder}`")
        files.append(SharedFile("report.html", page))
    return files


def _require_no_outward_links(folder: Path) -> None:
    """Require that no file to share is a link to a file outside the run, such as `/etc/passwd`.

    Raises:
        RunError: If one is; the message names the links and their targets.
    """
    root = Path(os.path.realpath(folder))
    links = []
    for path in sorted(path for pattern in SOURCES for path in folder.glob(pattern)):
        target = Path(os.path.realpath(path))
        if path.is_symlink() and not target.is_relative_to(root):
            links.append(f"{path.relative_to(folder)} -> {target}")
    if links:
        raise RunError(
            f"{folder} contains links that lead out of the run: {format_list(links)}; nothing is "
            "sent: replace each link by a copy of its target, or remove it"
        )


def build_shared_recipe(view: RunView) -> Recipe:
    """Return the run's recipe without local paths; plugin paths become relative to the run folder.

    Raises:
        RunError: If a plugin lies outside the run folder.
    """
    recipe, folder = make_portable(view.recipe), view.folder.resolve()
    for plugin in recipe.plugins:
        if plugin.endswith(".py") and not Path(plugin).resolve().is_relative_to(folder):
            raise RunError(
                f"{view.folder / 'recipe.yaml'} names the plugin {plugin}, which lies outside the "
                "run; move it into the folder plugins of the run and update recipe.yaml"
            )
    plugins = tuple(
        Path(plugin).relative_to(folder).as_posix() if plugin.endswith(".py") else plugin
        for plugin in recipe.plugins
    )
    return replace_settings(recipe, {"plugins": plugins})


def strip_paths(value: Any) -> Any:
    """Return a JSON value in which absolute paths in strings and keys are reduced to file names."""
    if isinstance(value, dict):
        names = _number_duplicates([str(strip_paths(key)) for key in value])
        return dict(zip(names, map(strip_paths, value.values()), strict=True))
    if isinstance(value, list):
        return [strip_paths(child) for child in value]
    if not isinstance(value, str):
        return value
    return remove_folders(value)


def _number_duplicates(names: list[str]) -> list[str]:
    """Return the names with a number appended to repeated ones."""
    counts: dict[str, int] = {}
    unique_names = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique_names.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return unique_names


def _read_without_paths(path: Path, file: RunFile) -> bytes:
    value = strip_paths(read_object(path, file))
    return (encode_json(value, indent=2, ensure_ascii=False) + "\n").encode()


def _read_log_start(folder: Path) -> bytes:
    """Return the first start event of the log, which records the license of the initial weights."""
    start = find_first_start(folder / "log.jsonl")
    return b"" if start is None else (encode_json(strip_paths(start)) + "\n").encode()


def _iter_checkpoint_files(folder: Path, *, best: bool) -> Iterator[SharedFile]:
    """Yield the weights file of each checkpoint: only the averaged weights if they exist."""
    for name in ("last", "best") if best else ("last",):
        checkpoint = folder / "checkpoints" / name
        if name == "last" or checkpoint.is_dir():
            weights = find_weights_file(checkpoint)
            require_weights_version(weights)
            yield SharedFile(f"checkpoints/{name}/model.safetensors", weights)


def require_no_local_paths(files: Sequence[SharedFile], view: RunView) -> None:
    """Check that no text file names folders of this machine; `report.html` is not checked.

    Raises:
        HubError: If a file does; the message names the file and the folder.
    """
    candidates = (str(view.folder.resolve().parent), str(Path.home()), view.recipe.data.root)
    patterns = {path: _compile_path(path) for path in candidates if _is_local_folder(path)}
    for file in files:
        if not file.name.endswith(TEXTS):
            continue
        content = file.content
        text = (content.read_bytes() if isinstance(content, Path) else content).decode(
            errors="replace"
        )
        for local_path, pattern in patterns.items():
            if pattern.search(text):
                raise HubError(
                    f"{file.name} of {view.folder} contains the local path {local_path}, "
                    "which should not be shared; remove it from that file"
                )


def _is_local_folder(path: str) -> bool:
    """Return whether a path names a folder of this machine, and not just a root or a drive."""
    windows_path = PureWindowsPath(path)
    is_share = windows_path.drive.startswith("\\\\")
    return is_machine_path(path) and (is_share or windows_path.name != "")


def _compile_path(path: str) -> re.Pattern[str]:
    """Return a pattern that finds a path and all paths below it, with either kind of separator."""
    # In JSON, YAML and Python a backslash is often written twice.
    parts = re.split(r"[\\/]+", path.rstrip("\\/"))
    is_windows = PureWindowsPath(path).drive and not path.startswith("/")
    return re.compile(
        r"[\\/]+".join(map(re.escape, parts)) + r"(?![\w-])", re.IGNORECASE if is_windows else 0
    )
