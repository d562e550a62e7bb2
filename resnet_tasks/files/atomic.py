"""Atomic writing of result files and folders: they appear complete or not at all.

A result is written next to its final path, under a name that no other writer uses
(`partial_paths`), and is renamed when it is complete. If the process is killed, either the earlier
or the new result remains. A folder is replaced in two renames; between them, the earlier folder has
a temporary name. A set of files is renamed one by one (`open_together`).
"""

from __future__ import annotations

import codecs
import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from resnet_tasks.errors import RunError, get_first_line
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.files.partial_paths import (
    FILE_LIST,
    PREVIOUS_SUFFIX,
    create_partial_path,
    release_partial_path,
    remove_path,
    undo_placing,
)
from resnet_tasks.foreign_text import escape_character

ESCAPED = "escape_undecodable"
"""Name of the codec error handler `escape_undecodable`, for text that may contain file names."""
FILE_SET = "files"
"""Name in place of a result's for the unfinished folder of a set of files."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def make_folder(
    folder: Path, result: Path | None = None, *, remedy: str = "choose another --out"
) -> None:
    """Create a folder for results and its missing parents; an existing folder stays as it is.

    Args:
        folder: Path of the folder.
        result: Path that the error message names; default: `folder`.
        remedy: End of the error message.

    Raises:
        RunError: If the folder cannot be created, or the path is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"folder {result or folder} cannot be created ({error.strerror}); {remedy}"
        ) from None


@contextmanager
def open_atomic(path: Path) -> Iterator[TextIO]:
    """Open a text file that appears under its name only when it is complete.

    Raises:
        RunError: If the disk is full, or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replace_file(path) as partial,
            partial.open("w", encoding="utf-8", errors=ESCAPED) as stream,
        ):
            yield stream
    except OSError as error:
        raise make_write_error(path, error) from None


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield the path to write a file to; the file takes the name `path` when the block ends.

    The new file is on disk before it replaces an earlier one. After an error it is removed.

    Args:
        path: Path of the file, in a folder that exists.

    Raises:
        OSError: If the file cannot be written.
    """
    partial = create_partial_path(path)
    try:
        yield partial
        sync_file(partial)
        partial.replace(path)
    except BaseException:
        remove_path(partial)
        raise
    finally:
        release_partial_path(partial)


@contextmanager
def open_together(paths: Sequence[Path]) -> Iterator[tuple[TextIO, ...]]:
    """Open new text files of one folder that appear under their names when all are complete.

    They cannot be renamed in one step. If the process is killed in between, the next set that is
    written to the folder removes those that have appeared.

    Args:
        paths: Paths of files that do not exist, in the same folder.

    Raises:
        RunError: If one of them exists, the disk is full, or the folder cannot be written to.
    """
    place = paths[0]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = create_partial_path(place.with_name(FILE_SET))
        try:
            partial.mkdir()
            with ExitStack() as files:
                yield tuple(
                    files.enter_context(
                        (partial / path.name).open("w", encoding="utf-8", errors=ESCAPED)
                    )
                    for path in paths
                )
            _place_files(partial, paths)
            remove_path(partial)
        except BaseException:
            undo_placing(partial)
            remove_path(partial)
            raise
        finally:
            release_partial_path(partial)
    except OSError as error:
        raise make_write_error(place, error) from None


def remove_incomplete_set(folder: Path) -> None:
    """Remove what a killed process left behind in a folder while it wrote a set of files.

    `open_together` does this too; call this function before checking which files exist.
    """
    release_partial_path(create_partial_path(folder / FILE_SET))


def _place_files(partial: Path, paths: Sequence[Path]) -> None:
    """Rename the files of a set; see `open_together`."""
    identities = {}
    for path in paths:
        sync_file(partial / path.name)
        status = (partial / path.name).stat()
        identities[path.name] = [status.st_size, status.st_mtime_ns]
    (partial / FILE_LIST).write_text(encode_json(identities), encoding="utf-8")
    sync_file(partial / FILE_LIST)
    for path in paths:
        if path.exists():
            raise RunError(f"{path} already exists; remove it or choose another --out")
        (partial / path.name).rename(path)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on disk.

    Without this a power failure after a rename could leave an empty file.
    """
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextmanager
def replace_folder(
    folder: Path,
    *,
    overwrite: bool = True,
    previous: Path | None = None,
    remedy: str = "choose another --out",
) -> Iterator[Path]:
    """Yield an empty folder, which takes the name `folder` when the block ends.

    After an error the new folder is removed, and an earlier `folder` stays or is moved back.

    Args:
        folder: Path of the result.
        overwrite: Whether to replace a folder that is not empty.
        previous: Path of the earlier folder between the two renames, so that readers find it if the
            process is killed there; default: a hidden name, from which the next writer moves it
            back.
        remedy: End of the error messages.

    Raises:
        OSError: If a folder cannot be renamed.
        RunError: If the new folder cannot be created, or `folder` may not be replaced.
    """
    if folder.name in ("", ".."):  # such as the working folder
        folder = Path(os.path.abspath(folder))  # noqa: PTH100 - links are not followed
    partial = create_partial_path(folder)
    previous = previous or partial.with_suffix(PREVIOUS_SUFFIX)
    is_placed = False
    # The folder is made inside the block that removes it: a signal may arrive right after `mkdir`.
    try:
        make_folder(partial, folder, remedy=remedy)
        yield partial
        while not _try_rename(partial, folder):
            if not overwrite and any(folder.iterdir()):
                raise RunError(f"{folder} already exists; remove it or {remedy}")
            # A folder cannot replace another one atomically: the earlier one is moved aside first.
            remove_path(previous)
            with suppress(FileNotFoundError):  # another process has moved it
                folder.rename(previous)
        is_placed = True
    finally:
        remove_path(partial)
        if not is_placed and not folder.exists():
            with suppress(OSError):
                previous.rename(folder)
        # Where the new folder is missing after all, another writer has just moved it aside.
        if is_placed or folder.exists():
            remove_path(previous)
        release_partial_path(partial)


def _try_rename(partial: Path, folder: Path) -> bool:
    """Rename a folder, or return False if there is another one that is not empty."""
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY or folder.is_dir():
            return False
        raise
    return True


@contextmanager
def remove_files_on_error(paths: Sequence[Path]) -> Iterator[None]:
    """Remove new files, and the folders created for them, if the block raises.

    Args:
        paths: Paths of files that do not exist yet.
    """
    folders = [parent for path in paths for parent in path.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for folder in dict.fromkeys(folders):
            with suppress(OSError):  # it was never created, or another process uses it
                folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old text or the new text, never a part.

    Raises:
        RunError: If the disk is full, or the folder cannot be written to.
    """
    with open_atomic(path) as stream:
        stream.write(text)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON with `write_text`; NaN and infinity are written as null."""
    write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: object, *, indent: int | None = None, is_lossless: bool = False) -> str:
    r"""Return a value as JSON that encodes to UTF-8.

    File names are not always UTF-8. Python represents the undecodable bytes as lone surrogates,
    which UTF-8 cannot encode. They are written as `\xe9`, as `ls` shows them.

    Args:
        value: Value of JSON-compatible types; numbers that are not finite are written as null.
        indent: Spaces per nesting level, as for `json.dumps`; None: one line.
        is_lossless: Whether to write `\udce9` instead, which Python reads back and stricter
            readers reject.
    """
    text = encode_json(value, indent=indent, ensure_ascii=False)
    if text.isascii():
        return text
    if is_lossless:
        return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    # A backslash inside a JSON string must itself be escaped.
    return _SURROGATE.sub(lambda match: "\\" + escape_character(match[0]), text)


def escape_undecodable(error: UnicodeError) -> tuple[str, int]:
    r"""Escape characters that an encoding lacks; an undecodable byte of a file name becomes `\xe9`.

    Args:
        error: Error that the codec reports.

    Returns:
        The replacement text, and the position after the escaped characters, as `codecs` expects.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(escape_character, error.object[error.start : error.end])), error.end


codecs.register_error(ESCAPED, escape_undecodable)


def make_write_error(path: Path, error: Exception) -> RunError:
    """Return the error for a file that cannot be written."""
    reason = getattr(error, "strerror", None) or get_first_line(error)
    return RunError(
        f"{path} cannot be written ({reason}); free space on that disk, or make sure that the "
        "folder exists and is writable"
    )
