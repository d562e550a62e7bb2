"""Frames of a video, read one after another."""

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

# Read when the first video is opened: what is wrong is told by our errors, not on standard error.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
_CAPTURE_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_HAS_OWN_OPTIONS = _CAPTURE_OPTIONS in os.environ

MISSING = 0.02
"""Share of the announced frames that may lack without a word; containers announce roughly."""
_CONTAINERS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\0\0\x01\xba",  # MPEG program stream
    b"\0\0\x01\xb3",  # MPEG video
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMV
    b"G@",  # MPEG transport stream
)
_QUICKTIME_ATOMS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")


@dataclass(frozen=True)
class VideoFrame:
    """A frame.

    Attributes:
        number: In the video, from 0.
        seconds: From its beginning; None where the video names no rate.
        pixels: `(h, w, C)` uint8, RGB or gray, upright; None where it was not wanted.
    """

    number: int
    seconds: float | None
    pixels: NDArray[np.uint8] | None


def count_announced_frames(path: Path) -> int:
    """How many frames a video says it has; 0 where it does not say or cannot be opened."""
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
    """Every n-th frame of a video, in order.

    Frames are always read from the first one on: jumping is not exact in most formats.

    Args:
        path: Of the video.
        every: 1: all frames; n: those whose number n divides.
        channels: 3: RGB; 1: gray.
        is_requested: Whether the i-th of these frames is decoded into pixels; None: all are.
        max_pixels: Most pixels of a frame; None: `MAX_PIXELS`.

    Raises:
        DataError: If it cannot be opened, has no frame or too large ones, or ends before the
            frames that it announces; after those that it has.
    """
    if channels not in (1, 3):
        raise DataError(
            f"{path} is a video, whose frames have 3 channels; the model takes {channels}"
        )
    with _open_capture(path, max_pixels) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number = 0
        while capture.grab():
            if number % every == 0:
                seconds = number / rate if rate > 0 else None
                should_decode = is_requested is None or is_requested(number // every)
                pixels = _decode_pixels(capture, path, number, channels) if should_decode else None
                yield VideoFrame(number, seconds, pixels)
            number += 1
    if number == 0:
        raise DataError(f"video {path} has no frame that can be read; is it whole?")
    if number < (1 - MISSING) * announced:
        raise DataError(
            f"video {path} ends after {number} of the {announced} frames that it announces; the "
            "frames before are predicted"
        )


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
                f"video {path} cannot be opened; OpenCV does not know its format, or it is damaged"
            )
        width, height = (
            int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        refuse_large(path, (height, width), 1, limit)
        yield capture
    finally:
        capture.release()


def _require_video(path: Path) -> None:
    """Check that a file is regular and starts as a container of videos.

    OpenCV would take a playlist for a video, and a single image for one of a sequence, without any
    limit on its size.

    Raises:
        DataError: If it does not.
    """
    try:
        with open_regular_file(path) as stream:
            start = read_start(stream)
    except FileNotFoundError:
        raise DataError(f"video {path} does not exist or is no file") from None
    except OSError as error:
        raise DataError(f"video {path} cannot be read: {error}") from None
    is_avi = start[:4] == b"RIFF" and start[8:12] in (b"AVI ", b"AVIX")
    is_quicktime = start[4:8] in _QUICKTIME_ATOMS
    if not (is_avi or is_quicktime or start.startswith(_CONTAINERS)):
        raise DataError(
            f"video {path} cannot be opened; its content is no video (MP4, MOV, AVI, Matroska, "
            "WebM, MPEG or WMV)"
        )


@contextmanager
def _name_for_opencv(path: Path) -> Iterator[str]:
    """Give a name of a file that OpenCV can take: it crashes on those that are not UTF-8."""
    # From the root, so that no name is taken for an address such as http:// or concat:.
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
    # FFmpeg alone: among the others is one that reads numbered images in place of a video.
    has_ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends()
    # Frames may grow in the middle of a video, which only its decoder sees.
    if not _HAS_OWN_OPTIONS:
        os.environ[_CAPTURE_OPTIONS] = f"max_pixels;{limit}"
    return cv2.VideoCapture(name, cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY)
