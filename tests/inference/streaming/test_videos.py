"""Frames of real, odd and broken videos."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from resnet_tasks.errors import DataError
from resnet_tasks.inference.streaming.videos import count_announced_frames, read_frames
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
