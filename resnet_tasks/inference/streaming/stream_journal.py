"""Journal of finished batches in the output folder, from which an interrupted stream resumes.

stream.json      settings and a digest of the sources; a stream is resumed only if they are the same
stream.jsonl     one line per batch: its results, and images that cannot be read

At the end, both are replaced by the final files `<head>.json`, `images.json` and
`unreadable_images.jsonl`. A line is written after the maps and drawings of its batch. A line that
is incomplete because the process was killed is discarded, and its batch is predicted again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from resnet_tasks.errors import RunError
from resnet_tasks.files.atomic import json_text, make_write_error, open_atomic, write_json
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.files.safe_names import require_head_names
from resnet_tasks.run_folder.files import STREAM_LINES, STREAM_SETTINGS
from resnet_tasks.run_folder.read import (
    decode_line,
    make_damage_error,
    make_folder_error,
    read_object,
)

SETTINGS = "stream.json"
LINES = "stream.jsonl"
BAD = "unreadable_images.jsonl"
Key = tuple[int, int]
"""(unit, batch in the unit)."""


@dataclass(frozen=True)
class FrameResult:
    """Results of one image or frame.

    Attributes:
        file_name: Path of the file, as given by the source.
        frame: Number of the frame in its video; None for an image.
        seconds: Time since the beginning of the video, seconds; None for an image.
        size: (height, width), pixels; None if the image cannot be read.
        entries: Head name -> results without image id.
        reason: Reason why the image cannot be read; empty if it can be read.
    """

    file_name: str
    frame: int | None = None
    seconds: float | None = None
    size: tuple[int, int] | None = None
    entries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class BatchResult:
    """Results of images or frames that were predicted together.

    Attributes:
        unit: Number of the unit.
        batch: Number of the batch in the unit.
        frames: Results of the images or frames, in order.
        is_last: Whether this is the last batch of the unit.
        note: Problem of a video as a whole, such as a truncated file; empty if there is none.
        video: Path of the video file, if there is a note.
    """

    unit: int
    batch: int
    frames: tuple[FrameResult, ...] = ()
    is_last: bool = True
    note: str = ""
    video: str = ""

    def to_line(self) -> str:
        """Serialize the results as a line of JSON."""
        return json_text(asdict(self))

    @classmethod
    def from_line(cls, line: bytes | str) -> BatchResult:
        """Parse a line that `to_line` wrote.

        Raises:
            ValueError: If the line is incomplete or has another format.
        """
        value = decode_line(line, STREAM_LINES.schema)
        frames = tuple(_frame_from_json(frame) for frame in value.pop("frames"))
        return cls(frames=frames, **value)


def _frame_from_json(value: dict[str, Any]) -> FrameResult:
    size = value.pop("size", None)
    return FrameResult(size=None if size is None else (size[0], size[1]), **value)


class StreamJournal:
    """Journal of an output folder that this process has locked.

    Args:
        folder: Path of the existing output folder.
        settings: Plain values that determine the results, including a digest of the sources.
        overwrite: Whether to start again, even if there is an unfinished prediction.

    Attributes:
        done_batches: Keys of the finished batches.
        ended_units: Numbers of the finished units.
        num_predicted: Number of predicted images and frames.
        num_unreadable: Number of images, frames and videos that cannot be read.

    Raises:
        RunError: If the folder has an unfinished prediction with other settings.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self._folder = folder
        self._path = folder / LINES
        self._offsets: dict[Key, int] = {}
        self._heads: set[str] = set()  # heads with entries; maps are already written as files
        self.ended_units: set[int] = set()
        self.num_predicted = 0
        self.num_unreadable = 0
        normalized_settings = json.loads(json_text(STREAM_SETTINGS.add_version(settings)))
        if not overwrite and self._path.exists():
            self._require_same_settings(normalized_settings)
            self._restore()
        else:
            self._path.unlink(missing_ok=True)
            write_json(folder / SETTINGS, normalized_settings)
        self._stream = self._open_lines("ab")

    @property
    def done_batches(self) -> frozenset[Key]:
        """Keys of the finished batches."""
        return frozenset(self._offsets)

    def add(self, result: BatchResult) -> None:
        """Append the results of a batch.

        Raises:
            RunError: If the disk is full, or the folder is not writable.
        """
        try:
            offset = self._stream.tell()
            self._stream.write(result.to_line().encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise make_write_error(self._path, error) from None
        self._register(result, offset)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def finish(self, categories: Sequence[Mapping[str, Any]]) -> None:
        """Write the final files from the journal, and remove the journal.

        Args:
            categories: Categories for `images.json`.

        Raises:
            RunError: If an earlier line contains a head name that is not usable as a file name.
        """
        self.close()
        place = f"{self._path} (predict again with --overwrite)"
        require_head_names(self._heads, place, RunError)
        with ExitStack() as files:
            results = {
                head: _JsonListWriter(
                    files.enter_context(open_atomic(self._folder / f"{head}.json"))
                )
                for head in sorted(self._heads)
            }
            images = files.enter_context(open_atomic(self._folder / "images.json"))
            images.write('{"images": ')
            records = _JsonListWriter(images)
            for number, frame in enumerate(self._iterate_frames(), start=1):
                if frame.size is None:
                    continue
                records.add(_build_image_record(number, frame))
                for head, entries in frame.entries.items():
                    for entry in entries:
                        results[head].add({"image_id": number, **entry})
            records.end()
            images.write(f', "categories": {encode_json(list(categories))}}}\n')
            for json_list in results.values():
                json_list.end()
        self._write_unreadable()
        self.discard()

    def discard(self) -> None:
        """Remove the journal, so that the next run starts from the beginning."""
        self.close()
        self._path.unlink()
        (self._folder / SETTINGS).unlink(missing_ok=True)

    def find_first_reason(self) -> str:
        """Return why the first unreadable image cannot be read; empty if all can be read."""
        for line in self._iterate_batches():
            for reason in (line.note, *(frame.reason for frame in line.frames)):
                if reason:
                    return reason
        return ""

    def _write_unreadable(self) -> None:
        path = self._folder / BAD
        if not self.num_unreadable:
            path.unlink(missing_ok=True)
            return
        with open_atomic(path) as stream:
            for line in self._iterate_batches():
                for frame in line.frames:
                    if frame.reason:
                        record = {
                            "file": frame.file_name,
                            "frame": frame.frame,
                            "reason": frame.reason,
                        }
                        stream.write(json_text(record) + "\n")
                if line.note:
                    record = {"file": line.video, "frame": None, "reason": line.note}
                    stream.write(json_text(record) + "\n")

    def _iterate_frames(self) -> Iterator[FrameResult]:
        """Yield all frames in the order of the sources, independent of the order of prediction."""
        for line in self._iterate_batches():
            yield from line.frames

    def _iterate_batches(self) -> Iterator[BatchResult]:
        with self._path.open("rb") as stream:
            for key in sorted(self._offsets):
                stream.seek(self._offsets[key])
                yield BatchResult.from_line(stream.readline())

    def _require_same_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise a `RunError` if the settings of the unfinished prediction differ."""
        remedy = (
            "resume with the same command, start over with --overwrite, or choose another --out"
        )
        stored_settings = read_object(self._folder / SETTINGS, STREAM_SETTINGS)
        changed = [
            key
            for key in {**settings, **stored_settings}
            if stored_settings.get(key) != settings.get(key)
        ]
        if changed:
            changes = "; ".join(
                f"{key} was {stored_settings.get(key)!r}, now {settings.get(key)!r}"
                for key in changed
            )
            raise RunError(
                f"{self._folder} has an unfinished prediction that was started with other "
                f"settings: {changes}; {remedy}"
            )

    def _open_lines(self, mode: Literal["ab", "r+b"]) -> BinaryIO:
        try:
            return self._path.open(mode)
        except IsADirectoryError:
            raise make_folder_error(self._path, STREAM_LINES) from None
        except OSError as error:
            raise make_write_error(self._path, error) from None

    def _restore(self) -> None:
        """Read the finished batches, and truncate an incomplete last line.

        Raises:
            RunError: If a complete line is damaged.
        """
        offset = 0
        with self._open_lines("r+b") as stream:
            for number, raw in enumerate(iter(stream.readline, b""), start=1):
                if not raw.endswith(b"\n"):
                    break
                try:
                    result = BatchResult.from_line(raw)
                except ValueError as error:
                    reason = f"line {number}: {error}"
                    raise make_damage_error(self._path, STREAM_LINES, reason) from None
                self._register(result, offset)
                offset += len(raw)
            stream.truncate(offset)

    def _register(self, result: BatchResult, offset: int) -> None:
        self._offsets[result.unit, result.batch] = offset
        if result.is_last:
            self.ended_units.add(result.unit)
        bad = sum(bool(frame.reason) for frame in result.frames) + bool(result.note)
        self.num_unreadable += bad
        self._heads.update(*(frame.entries for frame in result.frames))
        self.num_predicted += sum(frame.size is not None for frame in result.frames)


class _JsonListWriter:
    """Writer of a JSON list, one entry per line."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._start = "[\n"

    def add(self, value: Mapping[str, Any]) -> None:
        self._stream.write(f"{self._start}{json_text(value)}")
        self._start = ",\n"

    def end(self) -> None:
        self._stream.write("[]\n" if self._start == "[\n" else "\n]\n")


def _build_image_record(number: int, frame: FrameResult) -> dict[str, Any]:
    assert frame.size is not None
    record: dict[str, Any] = {
        "id": number,
        "file_name": frame.file_name,
        "height": frame.size[0],
        "width": frame.size[1],
    }
    if frame.frame is not None:
        record |= {"frame": frame.frame, "seconds": frame.seconds}
    return record
