"""Files of run folders, predictions and exports."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from resnet_tasks.backbone.weights_folders import read_license
from resnet_tasks.errors import DataError, HubError, RecipeError, RunError
from resnet_tasks.inference.streaming.stream_journal import BatchResult, FrameResult, StreamJournal
from resnet_tasks.report.run_view import read_run
from resnet_tasks.run_folder.checkpoint import save_checkpoint
from resnet_tasks.sharing.contents import collect_files
from resnet_tasks.sharing.model_card import CardOptions, build_model_card
from tests.fuzz.forms import damage_json_text, damage_lines, damage_safetensors, damage_zip
from tests.fuzz.target import Read, Target
from tests.report.conftest import write_run
from tests.support.damage import Damage, damaged_yaml
from tests.support.run_files import EXAMPLES

DAMAGE: dict[str, Damage] = {
    "json": damage_json_text,
    "json lines": damage_lines,
    "npz": damage_zip,
    "safetensors": damage_safetensors,
    "torch": damage_zip,
    "yaml": damaged_yaml,
}


def _prepare(
    folder: Path,
    name: str,
    write: Callable[[Path], object],
    read: Callable[[Path], object],
) -> Read:
    run = _write(folder, write)

    def read_content(content: bytes) -> object:
        (run / name).write_bytes(content)
        return read(run)

    return read_content


def _write(folder: Path, write: Callable[[Path], object]) -> Path:
    run = folder / "run"
    if write is not write_described_run:
        run.mkdir()
    write(run)
    return run


def _take_seed(name: str, write: Callable[[Path], object]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        run = _write(Path(folder), write)
        content = (run / name).read_bytes()
        return {Path(name).name: content.replace(folder.encode(), b"/home/user")}


def write_described_run(run: Path) -> None:
    """Write a run with a checkpoint, and an evaluation in full."""
    write_run(run.parent, ("car", "person"))
    save_checkpoint(run / "checkpoints/last", model={"heads.objects.a.weight": torch.ones(2)})


def _read_log(run: Path) -> None:
    read_run(run)
    read_license(run)


def _describe(run: Path) -> None:
    """Read a run as the report, the model card and `push` do."""
    view = read_run(run)
    build_model_card(view, "owner/name", CardOptions())
    collect_files(view)


DESCRIBED = {
    "recipe.yaml": _describe,
    "classes.json": _describe,
    "log.jsonl": _read_log,
    "evaluations/val/metrics.json": _describe,
    "evaluations/val/details.json": _describe,
}
"""Files that the report and the model card describe, with the function that reads all of a run."""


def _prepare_stream(folder: Path) -> Read:
    """Resume a prediction and finish it; it writes nothing outside of its folder."""
    out = folder / "out"

    def read(content: bytes) -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / "stream.json").write_text('{"version": 1, "digest": "x"}')
        (out / "stream.jsonl").write_bytes(content)
        journal = StreamJournal(out, {"digest": "x"})
        try:
            journal.find_first_reason()
            journal.finish([{"id": 1, "name": "car"}])
        finally:
            journal.close()
            assert list(folder.iterdir()) == [out]
        json.loads((out / "images.json").read_text())

    return read


def _write_stream() -> dict[str, bytes]:
    entry = {"category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}
    image = FrameResult("a.png", size=(4, 6), entries={"objects": [entry]})
    frame = FrameResult("b.mov", frame=3, seconds=0.5, size=(4, 6), entries={"objects": []})
    bad = FrameResult("c.png", reason="it is damaged")
    batches = (
        BatchResult(0, 0, (image, bad)),
        BatchResult(1, 0, (frame,), is_last=False),
        BatchResult(1, 1, (), note="it is truncated", video="b.mov"),
    )
    return {"stream.jsonl": "".join(f"{batch.to_line()}\n" for batch in batches).encode()}


def _list_targets() -> list[Target]:
    errors = (RunError, RecipeError, DataError, HubError)
    found = []
    for file, name, *functions in EXAMPLES:
        write, read = (write_described_run, DESCRIBED[name]) if name in DESCRIBED else functions
        found.append(
            Target(
                f"run_{Path(name).name.replace('.', '_')}",
                partial(_prepare, name=name, write=write, read=read),
                partial(_take_seed, name, write),
                DAMAGE[file.kind],
                errors,
            )
        )
    stream = Target("finished_stream_jsonl", _prepare_stream, _write_stream, damage_lines, errors)
    return [*found, stream]


RUN_FILES = _list_targets()
