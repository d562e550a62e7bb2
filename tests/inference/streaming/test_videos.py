"""Frames of real, odd and broken videos."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from resnet_tasks.errors import DataError
from resnet_tasks.inference.streaming.videos import (
    _FrameClock,
    count_announced_frames,
    read_frames,
)
from tests.support.quicktime import quicktime
from tests.support.streamed import video


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_frames_come_in_order_with_number_and_time(tmp_path: Path, name: str) -> None:
    path = video(tmp_path / name, 7)
    frames = list(read_frames(path))
    assert count_announced_frames(path) == 7
    assert [each.number for each in frames] == list(range(7))
    assert [each.seconds for each in frames] == pytest.approx([i / 10 for i in range(7)])
    for each in frames:
        assert each.pixels is not None
        assert each.pixels.shape == (48, 64, 3)
        assert each.pixels.mean() == pytest.approx(10 * (each.number + 1), abs=4)


def test_every_third_and_only_what_is_wanted(tmp_path: Path) -> None:
    path = video(tmp_path / "a.avi", 8)
    frames = list(read_frames(path, every=3, is_requested=lambda i: i != 1))
    assert [(each.number, each.pixels is None) for each in frames] == [
        (0, False),
        (3, True),
        (6, False),
    ]
    (gray, *_) = read_frames(path, channels=1)
    assert gray.pixels is not None
    assert gray.pixels.shape == (48, 64)


def test_colors_are_red_green_blue(tmp_path: Path) -> None:
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
    writer.write(np.full((48, 64, 3), (0, 0, 250), np.uint8))
    writer.release()
    (frame,) = read_frames(path)
    assert frame.pixels is not None
    assert frame.pixels[20, 20, 0] > 200 > frame.pixels[20, 20, 2]


def test_what_is_no_video_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("this is no video")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    for path in (text, empty):
        with pytest.raises(DataError, match=f"video .*{path.name} cannot be opened"):
            list(read_frames(path))
        assert count_announced_frames(path) == 0
    with pytest.raises(DataError, match="does not exist or is not a file"):
        list(read_frames(tmp_path / "gone.mp4"))
    with pytest.raises(DataError, match="frames have 3 channels, but the model takes 5"):
        list(read_frames(text, channels=5))
    assert capfd.readouterr().err == ""


def test_a_video_without_frames(tmp_path: Path) -> None:
    path = video(tmp_path / "none.avi", 0)
    with pytest.raises(DataError, match=r"none\.avi (has no readable frame|cannot be opened)"):
        list(read_frames(path))


def test_a_video_that_is_cut_off_gives_what_it_has(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.avi", 40).read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(whole[: len(whole) // 2])
    found: list[int] = []
    with pytest.raises(
        DataError, match=r"ends after \d+ of the 40 frames that its header announces"
    ):
        found.extend(each.number for each in read_frames(path))
    assert 5 < len(found) < 35
    assert found == list(range(len(found)))


def test_what_opencv_would_take_for_a_video_is_refused(tmp_path: Path) -> None:
    """A numbered image, which it reads as one of a sequence, and a playlist of other files."""
    done, encoded = cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))
    assert done
    (tmp_path / "a0.mp4").write_bytes(encoded.tobytes())
    (tmp_path / "b.mp4").write_text("#EXTM3U\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n")
    for name in ("a0.mp4", "b.mp4"):
        with pytest.raises(
            DataError, match=rf"{name} cannot be opened; its content is not a video"
        ):
            list(read_frames(tmp_path / name))


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_frames_larger_than_allowed_are_refused(tmp_path: Path, name: str) -> None:
    path = video(tmp_path / name, 3)
    with pytest.raises(DataError, match=r"has 64 x 48 pixels, more than the limit of 3,071"):
        list(read_frames(path, max_pixels=3071))
    assert len(list(read_frames(path, max_pixels=3072))) == 3


def test_frames_that_grow_are_not_decoded(tmp_path: Path) -> None:
    """The container declares 64 x 48 pixels, its frames 20,000 x 20,000."""
    content = bytearray(video(tmp_path / "a.avi", 3).read_bytes())
    start = b"\xff\xc0\x00\x11\x08"  # of a JPEG's frame header; height and width follow
    assert content.count(start) == 3
    place = content.find(start)
    while place >= 0:
        struct.pack_into(">HH", content, place + len(start), 20_000, 20_000)
        place = content.find(start, place + 1)
    path = tmp_path / "grown.avi"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"grown\.avi has no readable frame"):
        list(read_frames(path))


def test_names_are_no_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video(tmp_path / "a.avi", 2).rename(tmp_path / "concat:a.avi")
    monkeypatch.chdir(tmp_path)
    assert len(list(read_frames(Path("concat:a.avi")))) == 2


DURATIONS = (100, 100, 100, 100, 1600, 100, 2900, 100, 100, 100)
TIMES = [0.0, 0.1, 0.2, 0.3, 0.4, 2.0, 2.1, 5.0, 5.1, 5.2]
"""Beginning of each frame with these durations, seconds."""


@pytest.mark.parametrize(
    ("edits", "is_turned", "shape"),
    [
        ((), False, (48, 64, 3)),
        ([(2000, -1), (5300, 0)], False, (48, 64, 3)),  # the first frame after a pause of 2 s
        ((), True, (64, 48, 3)),
    ],
)
def test_times_at_a_variable_rate_are_those_of_the_container(
    tmp_path: Path, edits: list[tuple[int, int]], is_turned: bool, shape: tuple[int, int, int]
) -> None:
    path = quicktime(tmp_path / "a.mov", DURATIONS, edits=edits, is_turned=is_turned)
    frames = list(read_frames(path))
    assert [frame.seconds for frame in frames] == TIMES
    for number, frame in enumerate(frames):
        assert frame.pixels is not None
        assert frame.pixels.shape == shape
        assert frame.pixels.mean() == pytest.approx(20 * (number + 1), abs=2)


def test_the_times_of_every_third_frame_at_a_variable_rate(tmp_path: Path) -> None:
    frames = read_frames(quicktime(tmp_path / "a.mov", DURATIONS), every=3)
    assert [(frame.number, frame.seconds) for frame in frames] == [
        (0, 0.0),
        (3, 0.3),
        (6, 2.1),
        (9, 5.2),
    ]


def test_a_trimmed_video_starts_at_its_first_visible_frame(tmp_path: Path) -> None:
    """The header counts 10 frames, of which the edit list shows those from 0.5 s to 0.9 s."""
    path = quicktime(tmp_path / "a.mov", [100] * 10, edits=[(400, 500)])
    frames = []
    with pytest.raises(
        DataError,
        match=r"ends after 4 of the 10 frames that its header announces; .* or it was trimmed and "
        "its header still counts the removed frames",
    ):
        frames.extend(read_frames(path))
    assert [frame.seconds for frame in frames] == [0.0, 0.1, 0.2, 0.3]
    assert frames[0].pixels is not None
    assert frames[0].pixels.mean() == pytest.approx(20 * 6, abs=2)


def test_a_quicktime_video_cut_off_at_a_variable_rate(tmp_path: Path) -> None:
    """The last two frames are missing, which is 4 % of the time but 20 % of the frames."""
    path = quicktime(tmp_path / "a.mov", DURATIONS)
    content = path.read_bytes()
    start = content.rindex(b"\xff\xd8", 0, content.rindex(b"\xff\xd8"))
    end = content.index(b"moov") - 4
    path.write_bytes(content[:start] + bytes(end - start) + content[end:])
    with pytest.raises(DataError, match="ends after 8 of the 10 frames"):
        list(read_frames(path))


def test_frames_that_were_dropped_from_an_avi_are_not_missing(tmp_path: Path) -> None:
    """An AVI has empty chunks for dropped frames; its header counts them."""
    content = video(tmp_path / "a.avi", 10).read_bytes()
    chunks = [place for place in range(len(content) - 4) if content[place : place + 4] == b"00dc"]
    frames = [place for place in chunks if content[place + 8 : place + 10] == b"\xff\xd8"]
    assert len(frames) == 10
    end = frames[2] + 8 + struct.unpack_from("<I", content, frames[2] + 4)[0]
    empty = b"00dc" + bytes(4) + b"JUNK" + struct.pack("<I", end - frames[2] - 16)
    path = tmp_path / "dropped.avi"
    path.write_bytes(content[: frames[2]] + empty + content[frames[2] + 16 :])
    read = list(read_frames(path))
    assert [frame.seconds for frame in read] == pytest.approx(
        [0.0, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    )


@pytest.mark.parametrize(
    ("rate", "has_timestamps", "timestamps", "expected"),
    [
        (10.0, True, [0, 40, 200], [0.0, 0.04, 0.2]),
        (25.0, True, [80, 120, 160], [0.0, 0.04, 0.08]),  # the decoder delays the first frame
        (10.0, True, [0, 0, 0], [0.0, 0.1, 0.2]),  # OpenCV's value without timestamps
        (10.0, True, [0, 500, 100, 900], [0.0, 0.5, 0.6, 0.9]),  # one goes back
        (10.0, False, [0, 80, 40], [0.0, 0.1, 0.2]),
        (0.0, False, [0, 80, 40], [None, None, None]),
        (0.0, True, [0, 80, 40], [0.0, 0.08, None]),
    ],
)
def test_times_of_frames_with_and_without_timestamps(
    rate: float, has_timestamps: bool, timestamps: list[float], expected: list[float | None]
) -> None:
    clock = _FrameClock(rate, has_timestamps=has_timestamps)
    assert [clock.compute_seconds(timestamp) for timestamp in timestamps] == expected
