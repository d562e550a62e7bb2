"""Names of files that are not UTF-8, from reading to results, drawings and the console."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from resnet_tasks.errors import DataError
from resnet_tasks.inference.streaming.sources import find_sources
from resnet_tasks.inference.streaming.videos import count_announced_frames, read_frames
from tests.support.paths import ROOT
from tests.support.random_runs import LIGHT, random_run
from tests.support.streamed import image, video

PREDICTING = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.support.streamed import MeanPredictor
from resnet_tasks.inference.streaming.stream import StreamOptions, PredictionRequest, predict_all
request = PredictionRequest(tuple(map(Path, sys.argv[2:])))
done = predict_all(MeanPredictor(), request, Path(sys.argv[1]), settings={{}},
                   options=StreamOptions())
print(done.num_predicted, done.num_unreadable)
"""


def renamed(path: Path, name: bytes) -> Path:
    """Rename a file within its folder."""
    try:
        return path.rename(path.with_name(os.fsdecode(name)))
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image, a file that is none, and a video, all with names that are not UTF-8."""
    folder = tmp_path / "data"
    renamed(image(folder / "a.png", 50), b"caf\xe9.png")
    (folder / "b.png").write_bytes(b"no image")
    renamed(folder / "b.png", b"na\xefve.png")
    renamed(video(folder / "v.avi", 2), b"vid\xe9o.avi")
    return folder


def test_they_are_predicted_and_drawn(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out"
    code = PREDICTING.format(paths=[str(ROOT)])
    child = subprocess.run(
        [sys.executable, "-c", code, os.fsencode(out), os.fsencode(folder)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (child.returncode, child.stdout) == (0, b"3 1\n"), child.stderr.decode()
    written = {os.fsencode(each.relative_to(out)) for each in out.rglob("*.png")}
    for head in (b"overlays", b"scene"):
        names = (b"caf\xe9.png", b"vid\xe9o/000000.png", b"vid\xe9o/000001.png")
        assert written >= {head + b"/" + name for name in names}
    images = msgspec.json.decode((out / "images.json").read_bytes())["images"]
    names = [Path(each["file_name"]).name for each in images]
    assert names == ["caf\\xe9.png", "vid\\xe9o.avi", "vid\\xe9o.avi"]
    msgspec.json.decode((out / "objects.json").read_bytes())
    (bad,) = (out / "unreadable_images.jsonl").read_bytes().splitlines()
    bad = msgspec.json.decode(bad)
    assert bad["file"].endswith("na\\xefve.png")
    assert "na\\xefve.png is not an image that can be read" in bad["reason"]


def test_a_list_may_name_them(tmp_path: Path, folder: Path) -> None:
    listed = tmp_path / "list"
    listed.write_bytes(os.fsencode(folder) + b"/caf\xe9.png\n")
    sources, _ = find_sources([], list_file=listed)
    assert [os.fsencode(each.path.name) for each in sources] == [b"caf\xe9.png"]
    listed.write_bytes("a.png\n".encode("utf-16-le"))  # without byte order mark
    with pytest.raises(DataError, match=r"list cannot be read \(it contains a zero byte\)"):
        find_sources([], list_file=listed)


def test_videos_are_read_through_a_link_that_goes_away(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(links))
    (path,) = folder.glob("*.avi")
    assert count_announced_frames(path) == 2
    frames = list(read_frames(path))
    assert [each.pixels.shape for each in frames if each.pixels is not None] == [(48, 64, 3)] * 2
    assert list(links.iterdir()) == []


@pytest.mark.slow
def test_the_command_line_prints_them(
    tmp_path: Path, folder: Path, draw_cells: Callable[..., Path]
) -> None:
    run = random_run(
        tmp_path / "run", draw_cells(train=2, val=2, size=(96, 96)), "quickstart", LIGHT
    )
    os.mkfifo(tmp_path / "pipe.jpg")
    out = os.fsencode(tmp_path) + b"/r\xe9sultat"

    def predict(*arguments: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "resnet_tasks", "predict", str(run.directory), *arguments]
        return subprocess.run(command, capture_output=True, check=False, timeout=100, cwd=ROOT)

    done = predict(os.fsencode(folder), b"--out", out)
    assert done.returncode == 0, done.stderr.decode()
    assert b"r\\xe9sultat" in done.stdout
    assert json.loads(Path(os.fsdecode(out), "images.json").read_text())["images"]
    alone = predict(os.fsencode(folder) + b"/na\xefve.png", b"--out", out + b"2")
    assert alone.returncode == 2
    assert b"na\\xefve.png is not an image" in alone.stderr
    pipe = predict(os.fsencode(tmp_path / "pipe.jpg"), b"--out", os.fsencode(tmp_path / "p"))
    assert pipe.returncode == 2
    assert b"it is a named pipe (FIFO); only regular files are read" in pipe.stderr
