"""Frames of a video, read one after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError

# Read when the first video is opened: what is wrong is told by our errors, not on standard error.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

MISSING = 0.02
"""Share of the announced frames that may lack without a word; containers announce roughly."""


@dataclass(frozen=True)
class VideoFrame:
    """A frame.

    Attributes:
        number: In the video, from 0.
        seconds: From its beginning; None where the video names no rate.
        pixels: `(h, w, C)` uint8, RGB or grey, upright; None where it was not wanted.
    """

    number: int
    seconds: float | None
    pixels: NDArray[np.uint8] | None


def announced_frames(path: Path) -> int:
    """How many frames a video says it has; 0 where it does not say or cannot be opened."""
    try:
        with _opened(path) as capture:
            return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    except DataError:
        return 0


def read_frames(
    path: Path, *, every: int = 1, channels: int = 3, wanted: Callable[[int], bool] | None = None
) -> Iterator[VideoFrame]:
    """Every n-th frame of a video, in order.

    Frames are always read from the first one on: jumping is not exact in most formats.

    Args:
        path: Of the video.
        every: 1: all frames; n: those whose number n divides.
        channels: 3: RGB; 1: grey.
        wanted: Whether the i-th of these frames is decoded into pixels; None: all are.

    Raises:
        DataError: If it cannot be opened, has no frame, or ends before the frames that it
            announces; after those that it has.
    """
    if channels not in (1, 3):
        raise DataError(
            f"{path} is a video, whose frames have 3 channels; the model takes {channels}"
        )
    with _opened(path) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number = 0
        while capture.grab():
            if number % every == 0:
                seconds = number / rate if rate > 0 else None
                is_wanted = wanted is None or wanted(number // every)
                pixels = _pixels(capture, path, number, channels) if is_wanted else None
                yield VideoFrame(number, seconds, pixels)
            number += 1
    if number == 0:
        raise DataError(f"video {path} has no frame that can be read; is it whole?")
    if number < (1 - MISSING) * announced:
        raise DataError(
            f"video {path} ends after {number} of the {announced} frames that it announces; the "
            "frames before are predicted"
        )


def _pixels(
    capture: cv2.VideoCapture, path: Path, number: int, channels: int
) -> NDArray[np.uint8] | None:
    done, frame = capture.retrieve()
    if not done or frame is None or frame.size == 0:
        raise DataError(f"frame {number} of video {path} cannot be decoded; is the file damaged?")
    if frame.ndim == 2 or channels == 1:
        grey = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        return np.asarray(grey if channels == 1 else np.repeat(grey[:, :, None], 3, axis=2))
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise DataError(f"video {path} does not exist or is no file")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError(
                f"video {path} cannot be opened; OpenCV does not know its format, or it is damaged"
            )
        yield capture
    finally:
        capture.release()
