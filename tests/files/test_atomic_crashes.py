"""Atomic writers that crash at every step, and several that write the same result at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.crashing import KINDS, list_names

Outcomes = Mapping[str, Sequence[Mapping[str, Any]]]
STEPS = {"text": 3, "columns": 3, "folder": 8, "new-folder": 4, "set": 12, "checkpoint": 8}
"""Kind -> least number of steps, so that none goes unnoticed."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of writer."""
    return str(request.param)


@pytest.fixture(scope="module")
def outcomes(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Return the outcomes of all crashes of a writer."""
    command = [sys.executable, "-m", "tests.support.crashing", kind, tmp_path_factory.mktemp(kind)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    outcomes: Outcomes = json.loads(result.stdout)
    return outcomes


def is_old(kind: str, outcome: Mapping[str, Any]) -> bool:
    """Return whether the earlier result is there."""
    return bool(outcome["content"] == ("o" if KINDS[kind][2] else None))


@pytest.mark.parametrize("mode", ["kill", "interrupt", "full", "denied", "limit"])
def test_the_result_is_the_earlier_or_the_new_one(outcomes: Outcomes, kind: str, mode: str) -> None:
    *crashed, last = outcomes[mode]
    if mode == "limit":
        assert is_old(kind, last)
        return
    assert len(crashed) >= STEPS[kind]
    assert last["error"] == ""
    assert last["content"] == "n"
    missing = [outcome for outcome in crashed if not is_old(kind, outcome)]
    moment = [outcome for outcome in missing if outcome["content"] is None]
    assert all(outcome["content"] == "n" for outcome in missing if outcome not in moment)
    # Only a folder without a known earlier name has a moment, between two renames, with neither.
    assert len(moment) == (kind == "folder" and mode == "kill")
    assert all(outcome["names"][0].endswith((".partial", ".previous")) for outcome in moment)


@pytest.mark.parametrize("mode", ["kill", "interrupt", "full", "denied", "limit"])
def test_the_next_write_leaves_nothing_else(outcomes: Outcomes, mode: str) -> None:
    for outcome in outcomes[mode]:
        assert outcome["next_names"] == ["result"]
        assert outcome["next_content"] in ("x", "n")


@pytest.mark.parametrize("mode", ["interrupt", "full", "denied", "limit"])
def test_an_exception_leaves_nothing_else(outcomes: Outcomes, kind: str, mode: str) -> None:
    for outcome in outcomes[mode]:
        if is_old(kind, outcome):
            assert outcome["error"]
            assert outcome["names"] == (["result"] if KINDS[kind][2] else [])
        assert not any(name.endswith(".partial") for name in outcome["names"])


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("full", "No space left on device"),
        ("denied", "Permission denied"),
        ("limit", "File too large"),
    ],
)
def test_what_cannot_be_written_is_named(
    outcomes: Outcomes, kind: str, mode: str, reason: str
) -> None:
    errors = [outcome["error"] for outcome in outcomes[mode] if outcome["error"]]
    assert errors
    assert all(reason in error for error in errors)
    if kind in ("text", "checkpoint"):
        assert all(error.startswith("RunError: ") for error in errors)
        assert all("result cannot be " in error for error in errors)
    if kind == "checkpoint":
        hint = "; the previous checkpoint is kept: resume from it with --resume"
        assert all(error.endswith(hint) for error in errors)
    if kind.endswith("folder") and mode != "limit":
        created = [error for error in errors if error.startswith("RunError: folder ")]
        assert all("result cannot be created" in error for error in created)
        assert created


WRITER = """
import sys
from pathlib import Path
from tests.support.crashing import KINDS
kind, path, letter = sys.argv[1:]
for _ in range(60):
    KINDS[kind][0](Path(path), letter)
"""


@pytest.mark.parametrize("kind", ["text", "columns", "folder"])
def test_several_writers_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "result"
    write, read, _ = KINDS[kind]
    write(path, "s")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, kind, path, letter], stderr=subprocess.PIPE)
        for letter in "abc"
    ]
    contents = set()
    while any(writer.poll() is None for writer in writers):
        if kind != "folder":  # its two files are not read at once
            contents.add(read(path))
    assert [writer.communicate()[1] for writer in writers] == [b""] * 3
    assert {writer.returncode for writer in writers} == {0}
    assert read(path) in "abc"
    assert contents <= set("sabc")
    assert list_names(tmp_path) == ["result"]
