"""Inputs of a prediction: images and videos by path, folder, pattern or list, in a fixed order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_tasks.data.images.find_images import (
    describe_other_files,
    describe_search,
    find_file,
    find_files,
    make_output_names,
)
from resnet_tasks.data.images.image_files import SUFFIXES
from resnet_tasks.errors import DataError
from resnet_tasks.files.regular_files import read_file_or_pipe
from resnet_tasks.files.text_encoding import detect_encoding

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
"""Suffixes of video files."""
_MAX_LIST = 1 << 28
"""Maximum number of bytes of a list file, enough for millions of paths."""


@dataclass(frozen=True)
class Source:
    """Image or video to predict.

    Attributes:
        path: Path of the file.
        name: Name of its output files without suffix, unique among all sources.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """True if the suffix is that of a video; otherwise the source is an image."""
        return self.path.suffix.lower() in VIDEOS


@dataclass(frozen=True)
class Unit:
    """Unit of work: a batch of images that pass through the model together, or one video.

    Attributes:
        number: Index of the unit in the order of the sources, from 0.
        sources: Images of the batch, or the video.
    """

    number: int
    sources: tuple[Source, ...]

    @property
    def video(self) -> Source | None:
        """Video of the unit; None for a batch of images."""
        first = self.sources[0]
        return first if first.is_video else None


def find_sources(
    paths: Iterable[Path], *, recursive: bool = False, list_file: Path | None = None
) -> tuple[list[Source], int]:
    """Find images and videos by path, folder, pattern and list; see `find_files`.

    Args:
        paths: Paths of files, folders, and patterns.
        recursive: Whether to search folders recursively.
        list_file: Path of a text file with one additional path per line, relative to the working
            directory or to the list. Empty lines and lines that begin with # are ignored.

    Returns:
        The sources, and the number of files and folders in the folders that were skipped.

    Raises:
        DataError: If a path does not exist, the list cannot be read, or nothing is found.
    """
    requested_paths = [*paths, *_read_list(list_file)]
    files, num_skipped = find_files(requested_paths, SUFFIXES | VIDEOS, recursive=recursive)
    if not files:
        advice = describe_other_files(requested_paths, recursive=recursive)
        if not (advice or recursive):
            advice = "; use --recursive to search subfolders too"
        raise DataError(
            f"there is no image ({', '.join(sorted(SUFFIXES))}) and no video "
            f"({', '.join(sorted(VIDEOS))}) {describe_search(requested_paths)}"
            f"{advice}"
        )
    return [
        Source(*file_and_name)
        for file_and_name in zip(files, make_output_names(files), strict=True)
    ], num_skipped


def _read_list(list_file: Path | None) -> list[Path]:
    if list_file is None:
        return []
    try:
        content = read_file_or_pipe(list_file, _MAX_LIST)
        encoding = detect_encoding(content)
        # File names need not be valid UTF-8.
        errors = "replace" if encoding == "utf-16" else "surrogateescape"
        text = content.decode(encoding, errors)
        if "\0" in text:
            raise OSError("it contains a zero byte")
    except OSError as error:
        raise DataError(
            f"the list {list_file} cannot be read ({error}); a list is a text file with one path "
            "per line"
        ) from None
    lines = (line.strip() for line in text.splitlines())
    names = [line for line in lines if line and not line.startswith("#")]
    return [_find_listed_path(name, list_file.parent) for name in names]


def _find_listed_path(name: str, folder: Path) -> Path:
    """Return the path that a line of a list means.

    Args:
        name: Line of the list.
        folder: Folder of the list.

    Returns:
        Existing file or folder relative to the working directory, else to `folder`, else the same
        without quotes around the name; if there is none, the line as a path, which may be a
        pattern.
    """
    names = [name, name[1:-1]] if len(name) > 2 and name[0] == name[-1] in "\"'" else [name]
    for candidate in names:
        for path in (Path(candidate), folder / candidate):
            if (existing := path if os.path.lexists(path) else find_file(path)) is not None:
                return existing
    return Path(name)


def group_into_units(sources: Sequence[Source], batch_size: int) -> Iterator[Unit]:
    """Yield batches of up to `batch_size` consecutive images, and each video as a separate unit.

    The composition of the batches depends neither on the position at which a stream is resumed nor
    on the worker that predicts a batch, so the predictions are the same in all cases.
    """
    number, pending = 0, list[Source]()
    for source in sources:
        if pending and (source.is_video or len(pending) == batch_size):
            yield Unit(number, tuple(pending))
            number, pending = number + 1, []
        if source.is_video:
            yield Unit(number, (source,))
            number += 1
        else:
            pending.append(source)
    if pending:
        yield Unit(number, tuple(pending))


def compute_digest(sources: Sequence[Source]) -> str:
    """Return the hex BLAKE2b digest of the absolute paths of the sources, in order."""
    hasher = hashlib.blake2b(digest_size=16)
    for source in sources:
        hasher.update(str(source.path.absolute()).encode("utf-8", "surrogateescape") + b"\0")
    return hasher.hexdigest()
