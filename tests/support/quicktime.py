"""Tiny QuickTime videos of Motion JPEG whose times, edit list and rotation are chosen."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SIZE = (48, 64)
"""(height, width) of the stored frames."""


def quicktime(
    path: Path,
    durations: Sequence[int],
    *,
    edits: Sequence[tuple[int, int]] = (),
    is_turned: bool = False,
) -> Path:
    """Write gray frames of value 20, 40, ...

    Args:
        path: Path of the file.
        durations: Duration of every frame in milliseconds.
        edits: Edit list: (duration, start in the media or -1 for a pause), milliseconds.
        is_turned: Whether the metadata rotates the frames by 90 degrees.
    """
    height, width = SIZE
    values = [20 * (number + 1) for number in range(len(durations))]
    frames = [_encode_jpeg(value) for value in values]
    number, total = len(frames), sum(durations)
    start = _box("ftyp", b"qt  ", _numbers(0), b"qt  ")
    unit, minus = 1 << 16, (1 << 32) - (1 << 16)
    plain = (unit, 0, 0, 0, unit, 0, 0, 0, 1 << 30)
    turned = (0, unit, 0, minus, 0, 0, height << 16, 0, 1 << 30)
    entry = _box(
        "jpeg",
        bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", width, height),
        _numbers(72 << 16, 72 << 16, 0) + struct.pack(">H32xHh", 1, 24, -1),
    )
    table = _box(
        "stbl",
        _box("stsd", _numbers(0, 1), entry),
        _box("stts", _numbers(0, number, *(n for length in durations for n in (1, length)))),
        _box("stsc", _numbers(0, 1, 1, number, 1)),
        _box("stsz", _numbers(0, 0, number, *map(len, frames))),
        _box("stco", _numbers(0, 1, len(start) + 8)),
    )
    media = _box(
        "mdia",
        _box("mdhd", _numbers(0, 0, 0, 1000, total, 0)),
        _box("hdlr", _numbers(0), b"mhlrvide", bytes(13)),
        _box(
            "minf",
            _box("vmhd", _numbers(1, 0, 0)),
            _box("dinf", _box("dref", _numbers(0, 1), _box("url ", _numbers(1)))),
            table,
        ),
    )
    edit_list = b"".join(struct.pack(">IiI", *edit, unit) for edit in edits)
    track = _box(
        "trak",
        _box(
            "tkhd",
            _numbers(3, 0, 0, 1, 0, total, 0, 0, 0, 0, *(turned if is_turned else plain)),
            _numbers(width << 16, height << 16),
        ),
        _box("edts", _box("elst", _numbers(0, len(edits)), edit_list)) if edits else b"",
        media,
    )
    header = _numbers(0, 0, 0, 1000, total, unit, 1 << 24, 0, 0, *plain, *[0] * 6, 2)
    movie = _box("moov", _box("mvhd", header), track)
    path.write_bytes(start + _box("mdat", *frames) + movie)
    return path


def _encode_jpeg(value: int) -> bytes:
    is_encoded, encoded = cv2.imencode(".jpg", np.full((*SIZE, 3), value, np.uint8))
    assert is_encoded
    return encoded.tobytes()


def _box(kind: str, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind.encode()) + content


def _numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)
