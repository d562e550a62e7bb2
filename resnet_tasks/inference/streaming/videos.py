"""Sequential reading of video frames."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.decoding import MAX_PIXELS
from resnet_tasks.data.images.image_formats import read_start
from resnet_tasks.data.images.size_limits import refuse_large
from resnet_tasks.errors import DataError
from resnet_tasks.files.regular_files import open_regular_file

# FFmpeg reads this variable when the first video is opened. Problems are reported as exceptions of
# this package, not by FFmpeg on standard error.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
_CAPTURE_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_HAS_OWN_OPTIONS = _CAPTURE_OPTIONS in os.environ

MISSING = 0.02
"""Fraction of the announced frames that may be missing without an error; containers announce only
approximate numbers."""
_ELEMENTARY_STREAM = b"\0\0\x01\xb3"
"""Start of MPEG video without a container, and therefore without timestamps."""
_CONTAINERS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\0\0\x01\xba",  # MPEG program stream
    _ELEMENTARY_STREAM,
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMV
    b"G@",  # MPEG transport stream
)
_QUICKTIME_ATOMS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")


@dataclass(frozen=True)
class VideoFrame:
    """Video frame.

    Attributes:
        number: Number of the frame in the video, from 0.
        seconds: Time since the first frame of the video by the timestamps of its container,
            seconds; None if the video has neither timestamps nor a frame rate.
        pixels: `(h, w, C)` uint8, RGB or gray, upright; None if the pixels were not requested.
    """

    number: int
    seconds: float | None
    pixels: NDArray[np.uint8] | None


def count_announced_frames(path: Path) -> int:
    """Return the number of frames in a video's header; 0 if it is unknown or not readable."""
    try:
        with _open_capture(path) as capture:
            return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    except DataError:
        return 0


def read_frames(
    path: Path,
    *,
    every: int = 1,
    channels: int = 3,
    is_requested: Callable[[int], bool] | None = None,
    max_pixels: int | None = None,
) -> Iterator[VideoFrame]:
    """Read every n-th frame of a video, in order.

    All frames are read from the first one on, because seeking is inexact in most formats.

    Args:
        path: Path of the video file.
        every: Frame step; frames whose number is divisible by it are yielded.
        channels: Number of channels, 3 (RGB) or 1 (gray).
        is_requested: Predicate on the index of a yielded frame that returns whether to convert it
            to pixels; None: all are converted.
        max_pixels: Maximum number of pixels of a frame; None: `MAX_PIXELS`.

    Yields:
        Frames in order.

    Raises:
        DataError: If the video cannot be opened, has no frame or too large frames, or ends before
            the announced number of frames (raised after the existing frames).
    """
    if channels not in (1, 3):
        raise DataError(
            f"{path} is a video, whose frames have 3 channels, but the model takes {channels}"
        )
    with _open_capture(path, max_pixels) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        clock = _FrameClock(rate, has_timestamps=not _starts_with(path, _ELEMENTARY_STREAM))
        number, position = 0, 0.0
        while capture.grab():
            milliseconds = capture.get(cv2.CAP_PROP_POS_MSEC)
            seconds = clock.compute_seconds(milliseconds)
            # The number of frames up to this one at a constant rate, since the first timestamp of
            # the container. It is negative if the container has no timestamps.
            position = max(milliseconds * rate / 1000, capture.get(cv2.CAP_PROP_PTS)) + 1
            if number % every == 0:
                should_decode = is_requested is None or is_requested(number // every)
                pixels = _decode_pixels(capture, path, number, channels) if should_decode else None
                yield VideoFrame(number, seconds, pixels)
            number += 1
    if number == 0:
        raise DataError(f"video {path} has no readable frame; is the file complete?")
    # Most containers announce their duration times their frame rate, whatever the number of frames.
    reached = number if _counts_frames(path) else max(number, position)
    if reached < (1 - MISSING) * announced:
        raise DataError(
            f"video {path} ends after {number} of the {announced} frames that its header "
            "announces; the frames before the end are predicted. Either the file is incomplete, or "
            "it was trimmed and its header still counts the removed frames"
        )


class _FrameClock:
    """Times of consecutive frames since the first one.

    Args:
        rate: Nominal number of frames per second; 0 if unknown.
        has_timestamps: Whether the container has timestamps.
    """

    def __init__(self, rate: float, *, has_timestamps: bool) -> None:
        self._rate = rate
        self._has_timestamps = has_timestamps
        self._start = 0.0
        self._seconds: float | None = None

    def compute_seconds(self, milliseconds: float) -> float | None:
        """Return the time of the next frame in seconds, rounded to microseconds.

        A frame whose timestamp is missing or does not increase follows its predecessor at the
        nominal rate, or has no time if the rate is unknown.

        Args:
            milliseconds: Timestamp of the frame in milliseconds.
        """
        if self._seconds is None:
            # AVI times begin late by the delay of the decoder.
            self._start, self._seconds = milliseconds, 0.0
            return 0.0 if self._has_timestamps or self._rate > 0 else None
        seconds = (milliseconds - self._start) / 1000
        if not self._has_timestamps or seconds <= self._seconds:
            if self._rate <= 0:
                return None
            seconds = self._seconds + 1 / self._rate
        self._seconds = seconds
        return round(seconds, 6)


def _decode_pixels(
    capture: cv2.VideoCapture, path: Path, number: int, channels: int
) -> NDArray[np.uint8] | None:
    is_decoded, frame = capture.retrieve()
    if not is_decoded or frame is None or frame.size == 0:
        raise DataError(f"frame {number} of video {path} cannot be decoded; is the file damaged?")
    if frame.ndim == 2 or channels == 1:
        gray = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        return np.asarray(gray if channels == 1 else np.repeat(gray[:, :, None], 3, axis=2))
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


@contextmanager
def _open_capture(path: Path, max_pixels: int | None = None) -> Iterator[cv2.VideoCapture]:
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    _require_video(path)
    with _name_for_opencv(path) as name:
        capture = _capture(name, limit)
    try:
        if not capture.isOpened():
            raise DataError(
                f"video {path} cannot be opened; OpenCV does not support the format, or the file "
                "is damaged"
            )
        width, height = (
            int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        refuse_large(path, (height, width), 1, limit)
        yield capture
    finally:
        capture.release()


def _require_video(path: Path) -> None:
    """Check that a file is regular and starts like a video container.

    OpenCV would accept a playlist as a video, and a single image as part of an image sequence,
    without any limit on its size.

    Raises:
        DataError: If the file is not regular or not a video container.
    """
    try:
        with open_regular_file(path) as stream:
            start = read_start(stream)
    except FileNotFoundError:
        raise DataError(f"video {path} does not exist or is not a file") from None
    except OSError as error:
        raise DataError(f"video {path} cannot be read: {error}") from None
    is_avi = start[:4] == b"RIFF" and start[8:12] in (b"AVI ", b"AVIX")
    is_quicktime = start[4:8] in _QUICKTIME_ATOMS
    if not (is_avi or is_quicktime or start.startswith(_CONTAINERS)):
        raise DataError(
            f"video {path} cannot be opened; its content is not a video (MP4, MOV, AVI, Matroska, "
            "WebM, MPEG or WMV)"
        )


def _starts_with(path: Path, start: bytes) -> bool:
    with open_regular_file(path) as stream:
        return read_start(stream).startswith(start)


def _counts_frames(path: Path) -> bool:
    """Return whether the header has the number of frames: MP4 and MOV that are not fragmented."""
    with open_regular_file(path) as stream:
        if read_start(stream)[4:8] not in _QUICKTIME_ATOMS:
            return False
        position = 0
        while len(header := stream.read(16)) >= 8 and header[4:8] != b"moof":
            size = int.from_bytes(header[:4], "big")
            if size == 1:  # the size has 64 bits and follows the name
                size = int.from_bytes(header[8:16], "big")
            if size < 8:  # 0: the atom reaches to the end of the file
                return True
            position += size
            stream.seek(position)
        return header[4:8] != b"moof"


@contextmanager
def _name_for_opencv(path: Path) -> Iterator[str]:
    """Yield a name of the file that OpenCV accepts: it crashes on names that are not UTF-8."""
    # An absolute path is never parsed as an address such as http:// or concat:.
    name = str(path.absolute())
    try:
        name.encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, "video")
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield name


def _capture(name: str, limit: int) -> cv2.VideoCapture:
    # Only FFmpeg: another backend reads numbered images instead of a video.
    has_ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends()
    # The frame size may grow in the middle of a video, which only the decoder can limit.
    if not _HAS_OWN_OPTIONS:
        os.environ[_CAPTURE_OPTIONS] = f"max_pixels;{limit}"
    return cv2.VideoCapture(name, cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY)
