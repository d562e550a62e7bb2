"""What is predicted: images and videos by path, folder, pattern or list, in a fixed order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_tasks.data.images.find_images import describe_search, find_files, make_output_names
from resnet_tasks.data.images.image_files import SUFFIXES
from resnet_tasks.errors import DataError
from resnet_tasks.files.regular_files import read_file_or_pipe

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
"""How video files end."""
_MAX_LIST = 1 << 28
"""Bytes; millions of paths."""


@dataclass(frozen=True)
class Source:
    """An image or a video.

    Attributes:
        path: Of the file.
        name: Of what is written for it, without an ending; its own among all sources.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it has frames."""
        return self.path.suffix.lower() in VIDEOS


@dataclass(frozen=True)
class Unit:
    """What is predicted as one: some images that go through the model together, or a video.

    Attributes:
        number: From 0, in the order of the sources.
        sources: Images, or one video.
    """

    number: int
    sources: tuple[Source, ...]

    @property
    def video(self) -> Source | None:
        """The video; None of images."""
        first = self.sources[0]
        return first if first.is_video else None


def find_sources(
    paths: Iterable[Path], *, recursive: bool = False, list_file: Path | None = None
) -> tuple[list[Source], int]:
    """Images and videos by `find_files`, and those that a list names.

    Args:
        paths: Files, folders and patterns.
        recursive: Search folders below folders too.
        list_file: A text file that names one more on each line; empty lines and those that begin
            with # count for nothing.

    Returns:
        The sources, and how many files and folders in the folders were passed over.

    Raises:
        DataError: If a path does not exist, or nothing is found.
    """
    requested_paths = [*paths, *_read_list(list_file)]
    files, num_skipped = find_files(requested_paths, SUFFIXES | VIDEOS, recursive=recursive)
    if not files:
        raise DataError(
            f"there is no image ({', '.join(sorted(SUFFIXES))}) and no video "
            f"({', '.join(sorted(VIDEOS))}) {describe_search(requested_paths)}"
            f"{'' if recursive else '; --recursive searches folders below folders too'}"
        )
    return [
        Source(*file_and_name)
        for file_and_name in zip(files, make_output_names(files), strict=True)
    ], num_skipped


def _read_list(list_file: Path | None) -> list[Path]:
    if list_file is None:
        return []
    try:
        # Names of files need not be UTF-8.
        text = read_file_or_pipe(list_file, _MAX_LIST).decode("utf-8", errors="surrogateescape")
        if "\0" in text:
            raise OSError("it holds a zero byte")
    except OSError as error:
        raise DataError(
            f"the list {list_file} cannot be read ({error}); it is a text file with a path per line"
        ) from None
    lines = (line.strip() for line in text.splitlines())
    return [Path(line) for line in lines if line and not line.startswith("#")]


def group_into_units(sources: Sequence[Source], batch_size: int) -> Iterator[Unit]:
    """Images that follow one another, `batch_size` at a time; each video by itself.

    What goes through the model together does not depend on where a restart begins, nor on who
    predicts it.
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
    """Of the paths, in their order."""
    hasher = hashlib.blake2b(digest_size=16)
    for source in sources:
        hasher.update(str(source.path.absolute()).encode("utf-8", "surrogateescape") + b"\0")
    return hasher.hexdigest()
