"""Every file of a run folder: damage is one sentence, and newer versions are refused."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from resnet_tasks.errors import ResnetTasksError
from resnet_tasks.run_folder import checkpoint, read
from resnet_tasks.run_folder.files import RUN_FILES, RunFile
from tests.support.run_files import EXAMPLES, Example

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = ("infinite", "nested")
NESTED = b"[" * 101 + b"]" * 101
Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "zeros": lambda content: bytes(len(content)),
    "binary": lambda content: b"\x80\x02}q\x00(\xff\xfe\x00" * 9 + b"\n",
    "one byte of a pickle": lambda content: b"\x80",
    "list": lambda content: b"[1, 2]\n",
    "text": lambda content: b'"text"\n',
    "other keys": lambda content: b'{"a": 1}\n',
    "deep": lambda content: b"[" * 100_000,
    "nested": lambda content: content.replace(b"{", b'{"x": ' + NESTED + b", ", 1),
    "long number": lambda content: b'{"a": ' + b"1" * 5000 + b"}\n",
    "infinite": lambda content: re.sub(rb"\b[01]\b", b"1e999", content) + b"\x00",
    "UTF-16": lambda content: content.decode("latin-1").encode("utf-16"),
}
STILL_VALID = {
    ("trackers.json", "other keys"),
    ("log.jsonl", "truncated"),
    ("log.jsonl", "nested"),
    ("stream.jsonl", "truncated"),
    ("stream.jsonl", "empty"),
    ("stream.jsonl", "zeros"),
    ("stream.jsonl", "deep"),
    ("stream.jsonl", "one byte of a pickle"),
    ("unreadable_images.jsonl", "empty"),
    ("log.jsonl", "empty"),
}
"""(File, damage) that leaves a valid file, or one with an incomplete last line."""
IDS = [example[0].name for example in EXAMPLES]


def find_message(example: Example, folder: Path) -> str:
    """Return the message of reading the file; empty if it is valid."""
    try:
        example[3](folder)
    except ResnetTasksError as error:
        return str(error)
    return ""


def test_every_file_has_an_example_that_can_be_read(tmp_path: Path) -> None:
    assert [example[0] for example in EXAMPLES] == list(RUN_FILES)
    for number, example in enumerate(EXAMPLES):
        folder = tmp_path / str(number)
        folder.mkdir()
        example[2](folder)
        example[3](folder)
        assert Path(example[1]).match(example[0].name)


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_damage_is_one_sentence(tmp_path: Path, example: Example) -> None:
    for name, damage in DAMAGES.items():
        if name in NUMBERS and not example[0].kind.startswith("json"):
            continue
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        example[2](folder)
        path = folder / example[1]
        path.write_bytes(damage(path.read_bytes()))
        message = find_message(example, folder)
        if (path.name, name) in STILL_VALID:
            assert not message, (name, message)
            continue
        assert path.name in message or f"{folder} has an unfinished" in message, (name, message)
        assert "; " in message, (name, message)
        assert "\n" not in message.replace(f"\n{path}", ""), (name, message)
        assert "set_int_max_str_digits" not in message, (name, message)


def rename_head(path: Path) -> None:
    path.write_text(path.read_text().replace('"objects"', '"other"', 1))


def remove_point(path: Path) -> None:
    content = json.loads(path.read_text())
    content["heads"]["objects"]["all"] = None
    path.write_text(json.dumps(content))


def write_text_with_impossible_character(path: Path) -> None:
    about = np.frombuffer(b"\xff\xff\xff\x7f", "<U1")[0:1].reshape(())
    np.savez(path, about=about, values=np.zeros((1, 4)))


def write_bytes_in_place_of_array(path: Path) -> None:
    np.savez(path, about=np.array("{}"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("values", b"text")


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"about": "{}"}))


def write_single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def write_zip_without_first_entry(path: Path) -> None:
    path.write_bytes(b"other" + path.read_bytes())


def write_objects(path: Path) -> None:
    np.savez(path, about=np.array([{}], dtype=object), values=np.zeros((1, 4)))


def write_flat_images(path: Path) -> None:
    save_file({"0.images": torch.zeros(4, 4)}, path)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("operating_point.json", rename_head, "the run has no head other"),
        ("operating_point.json", remove_point, "objects has no threshold for all classes together"),
        ("resamples.npz", write_text_with_impossible_character, "'about' is not text"),
        ("resamples.npz", write_bytes_in_place_of_array, "'values' is not an array"),
        ("resamples.npz", write_pickle, "damaged (it is not an NPZ file); "),
        ("resamples.npz", write_single_array, "damaged (it is not an NPZ file); "),
        ("resamples.npz", write_zip_without_first_entry, "damaged (it is not an NPZ file); "),
        ("resamples.npz", write_objects, "(it has Python objects, which are never loaded, in"),
        ("batch.safetensors", write_flat_images, "its tensors do not fit replay.json"),
    ],
)
def test_damage_found_by_fuzzing(
    tmp_path: Path, file: str, damage: Callable[[Path], None], message: str
) -> None:
    example = next(example for example in EXAMPLES if Path(example[1]).name == file)
    example[2](tmp_path)
    damage(tmp_path / example[1])
    told = find_message(example, tmp_path)
    assert message in told
    assert "unsafe" not in told
    assert "allow_pickle" not in told


@pytest.mark.parametrize(
    ("file", "keys", "value", "message"),
    [
        ("operating_point.json", "heads objects all threshold", -5, "expected float >= 0.0 at"),
        ("operating_point.json", "heads objects all f1", 1.5, "expected float <= 1.0 at heads"),
        ("operating_point.json", "heads objects all objects", -1, "expected int >= 0 at heads"),
        ("operating_point.json", "date", "1" * 1001, "expected str of length <= 1000 at date"),
        ("metrics.json", "images", -1, "expected int >= 0 at images"),
        ("metrics.json", "date", "1" * 1001, "expected str of length <= 1000 at date"),
        (
            "metrics.json",
            "metrics objects/AP interval",
            [0.6, 0.4],
            "expected an interval from low to high, got 0.6 to 0.4 at metrics",
        ),
        (
            "metrics.json",
            "metrics objects/AP per_class_interval",
            {"a": None, "b": [2, 1]},
            "expected an interval from low to high, got 2 to 1 at metrics",
        ),
    ],
)
def test_values_out_of_range_are_damage(
    tmp_path: Path, file: str, keys: str, value: object, message: str
) -> None:
    example = next(example for example in EXAMPLES if Path(example[1]).name == file)
    example[2](tmp_path)
    path = tmp_path / example[1]
    content = json.loads(path.read_text())
    *parents, last = keys.split(" ")
    place = content
    for key in parents:
        place = place[key]
    place[last] = value
    path.write_text(json.dumps(content))
    assert f"{path} is damaged ({message}" in find_message(example, tmp_path)


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path, example: Example) -> None:
    example[2](tmp_path)
    path = tmp_path / example[1]
    path.unlink()
    path.mkdir()
    message = find_message(example, tmp_path)
    assert f"{path} is a folder in place of a file; " in message, message


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_a_pipe_in_place_of_a_file_is_named(tmp_path: Path, example: Example) -> None:
    """No command waits for a writer."""
    example[2](tmp_path)
    path = tmp_path / example[1]
    path.unlink()
    os.mkfifo(path)
    message = find_message(example, tmp_path)
    assert str(path) in message
    if example[0].name == "stream.jsonl":  # `predict` opens it for writing
        assert "cannot be written" in message
    else:
        assert re.search(r"cannot be read.*it is a .*pipe.*; ", message), message


def _set_version(path: Path, file: RunFile) -> bool:
    """Write a newer version into a file; return whether the file has a version of its own."""
    if file.kind == "yaml":
        path.write_text(path.read_text().replace("format_version: 1", "format_version: 9"))
    elif file.kind == "safetensors":
        save_file(load_file(path), path, {"format_version": "9"})
    elif file.kind == "torch":
        torch.save({**torch.load(path), "format_version": 9}, path)
    elif file.kind == "npz":
        arrays = dict(np.load(path))
        about = {**json.loads(str(arrays["about"])), file.version_key: 9}
        arrays["about"] = np.array(json.dumps(about))
        np.savez(path, **arrays)
    elif file.kind == "json lines" and file.version_key:
        path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    elif file.version_key:
        path.write_text(json.dumps({**json.loads(path.read_text()), file.version_key: 9}))
    return bool(file.version_key) or file.kind in ("yaml", "safetensors")


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_newer_versions_are_refused(tmp_path: Path, example: Example) -> None:
    file = example[0]
    example[2](tmp_path)
    path = tmp_path / example[1]
    if _set_version(path, file):
        message = find_message(example, tmp_path)
        assert f"{path} was written by a newer version of resnet_tasks" in message
        assert message.endswith("; update resnet_tasks")
    else:
        assert file.version_place


def test_docs_list_every_file() -> None:
    lines = (ROOT / "docs/training.md").read_text(encoding="utf-8").splitlines()
    for file in RUN_FILES:
        (line,) = (line for line in lines if line.startswith(f"| `{file.name}` | {file.content} |"))
        assert line.split("|")[3].split()[0] == str(file.version)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_damage(tmp_path: Path, number: str) -> None:
    """In the files of predictions, of thresholds and of calibrations."""
    for name in ("stream.jsonl", "operating_point.json", "calibration.json"):
        (example,) = (example for example in EXAMPLES if example[0].name == name)
        folder = tmp_path / name
        folder.mkdir()
        example[2](folder)
        path = folder / name
        text = path.read_text()
        path.write_text(re.sub(r"0\.5\b|1\.0\b|\[4, 6\]", number, text, count=1))
        assert path.read_text() != text
        message = find_message(example, folder)
        assert f"{path} is damaged (" in message
        assert f"{number} is not allowed" in message or "number out of range" in message


def test_numbers_of_thousands_of_digits_are_named() -> None:
    line = f'{{"a": {"1" * 5000}}}'
    with pytest.raises(ValueError, match=r"^it has a number of more than 4,300 digits$"):
        read.decode_line(line, dict, accept_nan=True)
    with pytest.raises(ValueError, match=r"^integer value out of range at \[\.\.\.\]$"):
        read.decode_line(line, dict)


def test_files_without_permission_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(read, "read_file_or_pipe", refuse)
    monkeypatch.setattr(checkpoint, "load_torch_file", refuse)
    for name in ("classes.json", "log.jsonl", "checkpoints/last/state.pt", "calibration.json"):
        (example,) = (example for example in EXAMPLES if example[1] == name)
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        example[2](folder)
        message = find_message(example, folder)
        assert f"{folder / name} cannot be read (Permission denied); " in message
