"""Streams of images and videos: what is written, what is left out, and where a restart begins."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.files.folder_lock import lock_folder
from resnet_tasks.files.safe_names import RESERVED_HEADS
from resnet_tasks.inference.predictor import Prepared
from resnet_tasks.inference.streaming.sources import find_sources, group_into_units
from resnet_tasks.inference.streaming.stream import (
    PredictionRequest,
    StreamOptions,
    StreamSummary,
    predict_all,
    predict_units,
)
from tests.support.paths import ROOT
from tests.support.streamed import MeanPredictor, image, tree, video


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five images of two sizes, one that is none, and a video of seven frames."""
    folder = tmp_path / "data"
    for i in range(5):
        image(folder / f"{i}.png", 20 + 20 * i, (24, 32) if i < 3 else (40, 32))
    (folder / "2b.jpg").write_bytes(b"no image")
    video(folder / "clip.avi", 7)
    return folder


def predicted(
    out: Path,
    *paths: Path,
    predictor: MeanPredictor | None = None,
    settings: dict[str, Any] | None = None,
    **how: Any,
) -> tuple[StreamSummary, str]:
    """Predicts; what was done and what was said."""
    options = StreamOptions(**{k: how.pop(k) for k in ("score", "draw", "every") if k in how})
    text = io.StringIO()
    done = predict_all(
        predictor or MeanPredictor(),
        PredictionRequest(paths, **how),
        out,
        settings=settings or {"weights": "w"},
        options=options,
        console=Console(file=text, width=500),
    )
    return done, text.getvalue()


def test_images_and_frames_are_written(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    done, said = predicted(out, data)
    assert done == StreamSummary(num_predicted=12, num_unreadable=1, num_resumed=0)
    assert (
        f"skipped: 1 images, frames or videos that cannot be read completely; they are "
        f"listed in {out}" in said
    )
    listed = json.loads((out / "images.json").read_text())["images"]
    names = [(Path(each["file_name"]).name, each.get("frame"), each["id"]) for each in listed]
    assert names == [
        ("0.png", None, 1),
        ("1.png", None, 2),
        ("2.png", None, 3),
        ("3.png", None, 5),
        ("4.png", None, 6),
        *(("clip.avi", i, 7 + i) for i in range(7)),
    ]
    assert [each["height"] for each in listed[:5]] == [24, 24, 24, 40, 40]
    results = json.loads((out / "objects.json").read_text())
    assert [each["image_id"] for each in results] == [each["id"] for each in listed]
    assert {each["category_id"] for each in results} == {90}
    assert [each["score"] for each in results[:3]] == pytest.approx(
        [30 / 255, 60 / 255, 90 / 255], abs=1e-5
    )
    assert results[0]["bbox"] == [1.0, 2.0, 15.0, 10.0]
    bright = read_label_map(out / "scene" / "4.png")
    assert bright.shape == (40, 32)
    assert (bright[:, :16] == 1).all()
    assert (bright[:, 16:] == 2).all()
    assert len(list((out / "overlays").glob("*.png"))) == 5
    assert sorted(each.name for each in (out / "overlays/clip").iterdir()) == [
        f"{i:06d}.png" for i in range(7)
    ]
    assert (out / "scene/clip/000006.png").is_file()
    (bad,) = (out / "unreadable_images.jsonl").read_text().splitlines()
    assert json.loads(bad)["file"].endswith("2b.jpg")
    assert not list(out.glob("stream.*"))


class Watching(MeanPredictor):
    """Notes which files lie in the output folder while it predicts."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out = out
        self.names: set[str] = set()

    def predict(self, images: Sequence[Prepared]) -> list[dict[str, Any]]:
        self.names |= {each.name for each in self.out.iterdir()}
        return super().predict(images)


def test_no_head_can_be_called_as_what_lies_beside_its_files(tmp_path: Path, data: Path) -> None:
    """Files and folders of the stream, as it makes them, are the reserved names and no others."""
    watching = Watching(tmp_path / "out")
    predicted(tmp_path / "out", data, predictor=watching)
    names = watching.names | {each.name for each in (tmp_path / "out").iterdir()}
    beside = {name.partition(".")[0] for name in names if not name.startswith(".lock")}
    assert beside - set(watching.classes) == set(RESERVED_HEADS) - {"backbone", "pyramid"}


@pytest.mark.parametrize("name", ["../../x", "Images"])
def test_heads_whose_files_would_lie_elsewhere(tmp_path: Path, data: Path, name: str) -> None:
    class Named(MeanPredictor):
        classes: ClassVar = {name: ("a",)}

    before = tree(tmp_path)
    with pytest.raises(DataError, match="the head name"):
        predicted(tmp_path / "a" / "out", data, predictor=Named())
    assert tree(tmp_path) == before
    assert not (tmp_path / "a").exists()


def test_options(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    predicted(out, data / "clip.avi", score=0.1, draw=False, every=3)
    listed = json.loads((out / "images.json").read_text())["images"]
    assert [each["frame"] for each in listed] == [0, 3, 6]
    results = json.loads((out / "objects.json").read_text())
    assert [each["image_id"] for each in results] == [2, 3]  # 10 / 255 lies below
    assert not (out / "overlays").exists()
    assert (out / "scene/clip/000003.png").is_file()


def test_batches_are_of_neighbors(tmp_path: Path, data: Path) -> None:
    model = MeanPredictor(batch_size=4)
    predicted(tmp_path / "out", data, predictor=model)
    # Four files of which one is none, two files, and seven frames.
    assert model.seen == [3, 2, 4, 3]


def own_threads() -> list[str]:
    """Names of the threads that a stream has left behind."""
    names = [each.name for each in threading.enumerate()]
    return [each for each in names if each.startswith(("read", "write"))]


class _Stops(MeanPredictor):
    """Stops in its n-th batch, as Ctrl-C would."""

    left = 0

    def predict(self, images: Sequence[Prepared]) -> list[dict[str, Any]]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().predict(images)


@pytest.mark.parametrize("batches", [0, 1, 2, 4, 5, 6])
def test_a_restart_goes_on_and_ends_with_the_same_files(
    tmp_path: Path, data: Path, batches: int
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    model = MeanPredictor()
    predicted(whole, data, predictor=model)
    assert len(model.seen) == 7
    first = _Stops()
    first.left = batches
    with pytest.raises(KeyboardInterrupt):
        predicted(out, data, predictor=first)
    assert (out / "stream.jsonl").is_file()
    second = MeanPredictor()
    _, said = predicted(out, data, predictor=second)
    kept = max(0, batches - 2)  # two may wait to be written
    assert ("resuming in" in said) == (kept > 0)
    assert len(second.seen) <= 7 - kept
    assert tree(out) == tree(whole)


def test_other_settings_and_other_images_are_refused(tmp_path: Path, data: Path) -> None:
    out, first = tmp_path / "out", _Stops()
    first.left = 4
    with pytest.raises(KeyboardInterrupt):
        predicted(out, data, predictor=first)
    with pytest.raises(
        RunError, match=r"started with other settings: score was None, now 0\.3; resume with"
    ):
        predicted(out, data, score=0.3)
    with pytest.raises(RunError, match=r"weights was 'w', now 'v'"):
        predicted(out, data, settings={"weights": "v"})
    image(data / "new.png", 10)
    with pytest.raises(RunError, match=r"sources was 7, now 8"):
        predicted(out, data)
    done, _ = predicted(out, data, overwrite=True)
    assert done.num_predicted == 13
    # What is finished is not gone on with: the next prediction is one of its own.
    done, _ = predicted(out, data / "0.png", score=0.3)
    assert done == StreamSummary(1, 0, 0)
    assert len(json.loads((out / "images.json").read_text())["images"]) == 1
    assert not (out / "unreadable_images.jsonl").exists()


def test_a_folder_is_predicted_into_by_one(tmp_path: Path, data: Path) -> None:
    with lock_folder(tmp_path / "out"), pytest.raises(RunError, match="is in use by"):
        predicted(tmp_path / "out", data)


def test_where_nothing_can_be_read_the_first_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    (tmp_path / "b.mp4").write_bytes(b"no")
    both = [tmp_path / "a.png", tmp_path / "b.mp4"]
    with pytest.raises(
        DataError, match=r"none of 2 images .* can be read; the first problem: .*a\.png"
    ):
        predicted(tmp_path / "out", *both)
    with pytest.raises(DataError, match=r"^video .*b\.mp4 cannot be opened"):
        predicted(tmp_path / "out", both[1])
    image(both[0], 100)  # mended
    done, _ = predicted(tmp_path / "out", *both)
    assert done == StreamSummary(num_predicted=1, num_unreadable=1, num_resumed=0)


def test_a_video_that_is_cut_off_is_predicted_and_told(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.avi", 40).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    done, _ = predicted(tmp_path / "out", cut)
    assert 5 < done.num_predicted < 35
    assert done.num_unreadable == 1
    (bad,) = (tmp_path / "out/unreadable_images.jsonl").read_text().splitlines()
    assert "ends after" in json.loads(bad)["reason"]


def test_an_error_of_the_folder_ends_it(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "scene").write_text("in the way")
    with pytest.raises((DataError, OSError)):
        predicted(out, data)
    assert not own_threads()


def test_reading_is_ahead_but_bounded(tmp_path: Path) -> None:
    for i in range(40):
        image(tmp_path / f"{i:02d}.png", 100)
    lock, open_now, most = threading.Lock(), 0, 0

    class Counting(MeanPredictor):
        def read(self, source: Any, name: str) -> Prepared:
            nonlocal open_now, most
            with lock:
                open_now += 1
                most = max(most, open_now)
            return super().read(source, name)

        def predict(self, images: Sequence[Prepared]) -> list[dict[str, Any]]:
            nonlocal open_now
            time.sleep(0.02)
            with lock:
                open_now -= len(images)
            return super().predict(images)

    sources, _ = find_sources([tmp_path])
    results = predict_units(
        group_into_units(sources, 2), Counting(), tmp_path / "out", StreamOptions(draw=False)
    )
    assert sum(len(each.frames) for each in results) == 40
    # The batch in work, the one that is handed over, two in the queue, and one before it.
    assert 4 <= most <= 10
    assert not own_threads()


def test_a_stream_that_is_left_ends_its_threads(tmp_path: Path, data: Path) -> None:
    sources, _ = find_sources([data])
    results = predict_units(
        group_into_units(sources, 2), MeanPredictor(), tmp_path / "out", StreamOptions()
    )
    next(results)
    results.close()
    assert not own_threads()


def test_bugs_of_a_model_are_not_taken_for_unreadable_images(tmp_path: Path, data: Path) -> None:
    class Broken(MeanPredictor):
        def predict(self, images: Sequence[Prepared]) -> list[dict[str, Any]]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        predicted(tmp_path / "out", data, predictor=Broken())

    class Wrong(MeanPredictor):
        def read(self, source: Any, name: str) -> Prepared:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        predicted(tmp_path / "other", data, predictor=Wrong())
    assert not own_threads()


def test_what_is_read_late_fails_alone(tmp_path: Path, data: Path) -> None:
    """As files do that are read in parts while they are predicted."""

    class Late(MeanPredictor):
        def read(self, source: Any, name: str) -> Prepared:
            return replace(super().read(source, name), inputs=name)

        def predict(self, images: Sequence[Prepared]) -> list[dict[str, Any]]:
            if any("1.png" in each.inputs for each in images):
                raise DataError("1.png is damaged further below")
            whole = [replace(each, inputs=each.image.regions.read_all()) for each in images]
            return super().predict(whole)

    done, _ = predicted(tmp_path / "out", data / "0.png", data / "1.png", predictor=Late())
    assert (done.num_predicted, done.num_unreadable) == (1, 1)


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.support.streamed import MeanPredictor
from resnet_tasks.inference.streaming.stream import StreamOptions, PredictionRequest, predict_all
class Slow(MeanPredictor):
    def predict(self, images):
        time.sleep(0.03)
        return super().predict(images)
request = PredictionRequest((Path({data!r}),))
predict_all(Slow(), request, Path({out!r}), settings={{"weights": "w"}}, options=StreamOptions())
"""


def test_killed_and_restarted_equals_uninterrupted(tmp_path: Path) -> None:
    """SIGKILL among the images and inside the video; then the end."""
    data, out = tmp_path / "data", tmp_path / "out"
    for i in range(14):
        image(data / f"{i:02d}.png", 10 + 8 * i)
    video(data / "clip.avi", 21)
    predicted(tmp_path / "whole", data)
    paths = [str(ROOT)]
    code = CHILD.format(paths=paths, data=str(data), out=str(out))
    kills, journal = 0, out / "stream.jsonl"
    for wanted in (600, 3600):
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < end:
            if journal.exists() and journal.stat().st_size >= wanted:
                os.kill(child.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        _, told = child.communicate()
        assert child.returncode == -signal.SIGKILL, told.decode()
        kills += 1
    assert kills == 2
    done, said = predicted(out, data)
    assert 8 <= done.num_resumed < done.num_predicted == 35
    assert "resuming in" in said
    assert tree(out) == tree(tmp_path / "whole")
