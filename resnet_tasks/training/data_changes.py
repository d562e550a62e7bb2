"""Record of a run's training data, `data.json`, which a resumed run compares with the files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.datasets.data_fingerprint import FileFingerprint
from resnet_tasks.errors import FormatVersionError, RunError
from resnet_tasks.files.atomic import write_json
from resnet_tasks.files.regular_files import require_regular_file
from resnet_tasks.run_folder.files import DATA
from resnet_tasks.run_folder.read import read_object
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.training.logging.run_log import RunLog

FILE = "data.json"
ACCEPT = "--accept-changed-data"

Splits = Mapping[str, Sequence[CocoFile]]
"""Split -> annotation files."""
Fingerprints = dict[str, list[FileFingerprint]]


class DataRecord:
    """Record of the data of a run in its `data.json`.

    Args:
        run: Path of the run folder.
        splits: Annotation files of train and val.
        folder: Folder of the data.
        console: Console for progress and notes.
    """

    def __init__(self, run: Path, splits: Splits, folder: Path, console: Console) -> None:
        self._run = run
        self._splits = splits
        self._folder = folder
        self._console = console
        self._current: Fingerprints | None = None
        self._accepted: list[dict[str, Any]] = []  # entries of earlier resumes and of this one
        self._changes: list[str] = []

    def require_same(self, *, accept_changes: bool = False) -> None:
        """Require that the data of a resumed run is that which it was started with.

        A run without `data.json`, such as one of an earlier version, is accepted with a note.

        Args:
            accept_changes: Whether to continue with changed data.

        Raises:
            RunError: If the data has changed or `data.json` is damaged, unless `accept_changes`.
        """
        self._current = current = _compute_fingerprints(self._splits, self._folder, self._console)
        if not (self._run / FILE).exists():
            self._print(
                f"note: {self._run} has no {FILE}: it was removed, or an earlier version started "
                "the run; changes of the data up to now go unnoticed"
            )
            return
        recorded, self._accepted = _read(self._run, accept_changes=accept_changes)
        self._changes = (
            [f"{FILE} was damaged"]
            if recorded is None
            else _list_changes(recorded, current, self._splits)
        )
        if not self._changes:
            return
        description = "; ".join(self._changes)
        if not accept_changes:
            raise RunError(
                f"the data of the run {self._run} has changed since it was recorded: "
                f"{description}; restore the original files, or accept the changes: "
                f"{_format_command(self._run)}"
            )
        self._print(f"note: continuing with changed data ({ACCEPT}): {description}")

    def write(self) -> None:
        """Write `data.json`, and an event in `log.jsonl` if changes were accepted."""
        if self._changes:
            RunLog(self._run, self._console).log("data_changed", changes=self._changes)
            entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "changes": self._changes}
            self._accepted.append(entry)
        fingerprints = self._current or _compute_fingerprints(
            self._splits, self._folder, self._console
        )
        write_json(
            self._run / FILE,
            DATA.add_version(
                {
                    "splits": {
                        split: [fingerprint.to_json() for fingerprint in files]
                        for split, files in fingerprints.items()
                    },
                    "accepted_changes": self._accepted,
                }
            ),
        )

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


def _format_command(run: Path) -> str:
    return f"`resnet-tasks finetune --resume {run} {ACCEPT}`"


def _compute_fingerprints(splits: Splits, folder: Path, console: Console) -> Fingerprints:
    num_images = sum(len(file.images) for files in splits.values() for file in files)
    with track_progress(console, "Checking the data", num_images) as advance:
        compute = partial(FileFingerprint.from_file, folder=folder, advance=advance)
        return {split: [compute(file) for file in files] for split, files in splits.items()}


def _list_changes(recorded: Fingerprints, current: Fingerprints, splits: Splits) -> list[str]:
    changes = []
    for split, files in splits.items():
        before, now = recorded.get(split, []), current[split]
        if len(before) != len(now):
            changes.append(f"{split} had {len(before)} annotation files, now {len(now)}")
            continue
        for old, new, file in zip(before, now, files, strict=True):
            changes += old.describe_changes(new, file)
    return list(dict.fromkeys(changes))  # the folds of a file are parts of train and of val


def _is_readable_file(path: Path) -> bool:
    try:
        require_regular_file(path)
    except OSError:
        return False
    return True


def _read(run: Path, *, accept_changes: bool) -> tuple[Fingerprints | None, list[dict[str, Any]]]:
    """Return the recorded fingerprints and the accepted changes.

    Args:
        run: Path of the run folder.
        accept_changes: Whether to return None for a damaged file.

    Raises:
        RunError: If the file is damaged or of another format version, or is a folder, a pipe or
            unreadable.
    """
    path = run / FILE
    remedy = f"restore it from a copy, or accept the data as it is: {_format_command(run)}"
    if not _is_readable_file(path):  # a folder cannot be replaced by a new record
        remedy = f"restore it from a copy, or remove {path}, so that the data counts as unchanged"
        accept_changes = False
    try:
        contents = read_object(path, DATA, remedy)
    except RunError as error:
        if accept_changes and not isinstance(error, FormatVersionError):
            return None, []
        raise
    fingerprints = {
        split: [FileFingerprint(**file) for file in files]
        for split, files in contents["splits"].items()
    }
    return fingerprints, contents["accepted_changes"]
