"""Results of the experiments in one JSON file, which is tracked and from which the docs are filled.

The file has no paths of the machine. `runs` maps a key such as `bccd_boxes/fcos/seed-0` to the
result of a training, `costs` maps `bccd_boxes/fcos` to time and memory. Both contain the digest of
the settings they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from benchmarks.harness.experiments.plan import EXPERIMENTS, PlannedRun
from benchmarks.harness.experiments.tables import fill_page
from resnet_tasks.errors import DataError
from resnet_tasks.files.atomic import write_json, write_text

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "experiments.json"
PAGE = ROOT / "docs" / "choose_a_head.md"
FORMAT = 1
LOCK_SECONDS = 60
Section = Literal["runs", "costs"]


class ResultsFile:
    """JSON file with the results, and the docs page that shows them.

    Args:
        path: Path of the JSON file, which need not exist.
        page: Page to fill after each change; None: no page.
        lock: File that several processes lock while they change the results.
    """

    def __init__(self, path: Path, page: Path | None, lock: Path) -> None:
        self.path = path
        self._page = page
        self._lock = lock

    def read(self) -> dict[str, Any]:
        """Return the content of the file; without a file, no results.

        Raises:
            DataError: If the file is not one of this format.
        """
        return read_results(self.path)

    def has(self, section: Section, key: str, digest: str) -> bool:
        """Return whether the file has the result of a key with these settings."""
        entry = self.read()[section].get(key)
        return entry is not None and entry["digest"] == digest

    def add(self, section: Section, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Add results to the file, and fill the page.

        Entries of the same key are replaced. Results that another process has added since stay.
        """
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock, timeout=LOCK_SECONDS):
            content = self.read()
            content[section].update(entries)
            content[section] = dict(sorted(content[section].items(), key=_find_position))
            write_json(self.path, content)
            if self._page is not None:
                fill_tracked_page(self._page, content)


def fill_tracked_page(page: Path, content: Mapping[str, Any]) -> None:
    """Put the tables of results into a docs page.

    Raises:
        DataError: If the page has no marks to fill between.
    """
    write_text(page, fill_page(page.read_text(encoding="utf-8"), content))


def read_results(path: Path = RESULTS) -> dict[str, Any]:
    """Return the content of a results file; without a file, no results.

    Raises:
        DataError: If the file is not one of this format.
    """
    if not path.exists():
        return {"format": FORMAT, "runs": {}, "costs": {}}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        is_known = content["format"] == FORMAT and {"runs", "costs"} <= content.keys()
    except (ValueError, TypeError, KeyError):
        is_known = False
    if not is_known:
        raise DataError(
            f"{path} is not a results file of format {FORMAT}; pass another --results, or restore "
            "the file"
        )
    return content


def _find_position(item: tuple[str, Any]) -> tuple[int, str]:
    """Return the sort key of an entry: the order of the plan, then the seed."""
    names = [experiment.name for experiment in EXPERIMENTS]
    name = "/".join(item[0].split("/")[:2])
    return names.index(name) if name in names else len(names), item[0]


def describe_state(planned: PlannedRun, content: Mapping[str, Any]) -> str:
    """Describe the state of a planned run for `--list`."""
    entry = content["runs"].get(planned.key)
    if entry is None:
        return "not yet measured"
    return "measured" if entry["digest"] == planned.digest else "measured with other settings"
