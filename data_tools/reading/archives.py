"""Unpacking of zip and tar archives: plain files only, inside one folder, within limits.

Absolute paths, `..`, links of both kinds, devices, repeated names, encrypted entries and anything
beyond `LIMITS` are refused. Bytes are counted while they are read. The sizes that an archive claims
are only used to refuse it early.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from resnet_tasks.errors import DataError
from resnet_tasks.files.partial_paths import (
    create_partial_path,
    release_partial_path,
    remove_path,
)
from resnet_tasks.number_formats import format_bytes

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
CHUNK = 1 << 20
LONGEST_HEADER = 16 << 20
"""Largest number of bytes that tarfile may read at once; a larger header would fill the memory."""
SLACK = 100 << 20
"""Unpacked bytes up to which `UnpackLimits.ratio` is not enforced: small archives compress very
well when their files are regular."""
DRIVE = re.compile(r"[A-Za-z]:")
ARCHIVE_ERRORS = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, struct.error, ValueError, OverflowError),
)
"""Exceptions that the standard library raises for invalid archives."""

Report = Callable[[int, int], None]
"""Function called with (done, total) bytes of all archives."""


@dataclass(frozen=True)
class UnpackLimits:
    """Limits on the content of an archive.

    Attributes:
        bytes: Total size of all unpacked files, in bytes.
        files: Number of files.
        ratio: Unpacked bytes per byte of the archive.
    """

    bytes: int = 2 << 40
    files: int = 5_000_000
    ratio: float = 200.0


LIMITS = UnpackLimits()
"""Default limits, above the largest public image datasets (two terabytes) and low enough to stop a
decompression bomb."""


def is_archive(source: Path) -> bool:
    """Return whether a path has the suffix of an archive and is not a folder."""
    return source.name.lower().endswith(SUFFIXES) and not source.is_dir()


@contextmanager
def unpack_to_temporary_folder(
    archives: Sequence[Path], sibling: Path, *, progress: Report | None = None
) -> Iterator[Path]:
    """Unpack archives into a temporary folder, yield it, and remove it at the end.

    Args:
        archives: Files with one of `SUFFIXES`.
        sibling: Path next to which the temporary folder is created.
        progress: Function called with the bytes read so far and the bytes of all archives.

    Raises:
        DataError: If an archive is missing, damaged, unsafe or too large.
    """
    folder = create_partial_path(sibling)
    try:
        unpack(archives, folder, progress=progress)
        yield folder
    finally:
        remove_path(folder)
        release_partial_path(folder)


def unpack(
    archives: Sequence[Path],
    folder: Path,
    *,
    limits: UnpackLimits = LIMITS,
    progress: Report | None = None,
) -> None:
    """Unpack several archives into one new folder.

    A file that several archives contain must be identical in all of them.

    Args:
        archives: Files with one of `SUFFIXES`.
        folder: Path of the folder to create; it must not exist. After an error its content is
            partial and must be removed.
        limits: Limits that apply to each archive separately.
        progress: Function called with the bytes read so far and the bytes of all archives.

    Raises:
        DataError: If an archive is missing, damaged, unsafe or too large. The message names the
            archive and its entry.
    """
    for archive in archives:
        if not archive.is_file():
            raise DataError(f"there is no archive {archive}; pass an existing file")
    total = sum(archive.stat().st_size for archive in archives)
    folder.mkdir(parents=True)
    bytes_before = 0
    for archive in archives:
        size = archive.stat().st_size
        unpacker = _ArchiveUnpacker(archive, folder, limits, size)
        steps = _unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar
        try:
            for bytes_done in steps(unpacker):
                if progress is not None:
                    progress(bytes_before + min(bytes_done, size), total)
        except NotImplementedError as error:
            raise unpacker.make_error(
                f"uses an unsupported kind of compression ({error})"
            ) from None
        except ARCHIVE_ERRORS as error:
            raise _make_damage_error(archive, error) from None
        except OSError as error:
            # EINVAL: a seek to an impossible offset. Errors of bzip2 itself have no errno.
            if error.errno not in (errno.EINVAL, None):
                raise
            raise _make_damage_error(archive, error) from None
        bytes_before += size


def _make_damage_error(archive: Path, error: Exception) -> DataError:
    return DataError(f"the archive {archive} is damaged or incomplete ({error}); download it again")


class _ArchiveUnpacker:
    """Checks and counters for the unpacking of one archive into a folder."""

    def __init__(self, archive: Path, folder: Path, limits: UnpackLimits, packed: int) -> None:
        self.archive = archive
        self.folder = folder
        self.total = 0
        self._files: set[Path] = set()
        self._limits = limits
        self._packed = packed
        self._most = min(limits.bytes, max(SLACK, int(limits.ratio * packed)))

    def add_bytes(self, number: int) -> None:
        """Count unpacked bytes and refuse the archive when they exceed the limit."""
        self.total += number
        if self.total > self._most:
            limits = self._limits
            raise self.make_error(
                f"of {format_bytes(self._packed)} grows beyond {format_bytes(self._most)} (the "
                f"limits are {limits.ratio:g} times its size and {format_bytes(limits.bytes)})"
            )

    def make_error(self, reason: str) -> DataError:
        """Return the error for an archive that is refused."""
        return DataError(
            f"the archive {self.archive} {reason}, so it is not unpacked; if you trust the "
            "archive, unpack it yourself and pass the folder"
        )

    def resolve_target(self, name: str) -> Path | None:
        """Return the target path of an entry; None for the folder itself and macOS metadata."""
        plain = name.replace("\\", "/")
        parts = [part for part in plain.split("/") if part not in ("", ".")]
        if plain.startswith("/") or DRIVE.match(plain) or "\0" in plain or ".." in parts:
            raise self.make_error(f"holds {name!r}, a path that leads outside")
        if not parts or parts[0] == "__MACOSX" or parts[-1].startswith("._"):
            return None
        return self.folder.joinpath(*parts)

    def make_folder(self, folder: Path) -> None:
        """Create a folder and its parents."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise self.make_error(
                f"holds {self._format_name(folder)!r} as a file and as a folder"
            ) from None
        except OSError as error:
            raise self._translate_name_error(error, folder) from None

    def write(self, stream: IO[bytes], target: Path, *, is_counted: bool = False) -> None:
        """Write one file.

        Args:
            stream: Content of the file.
            target: Path to write to.
            is_counted: Whether `stream` counts its bytes itself.
        """
        if len(self._files) >= self._limits.files:
            raise self.make_error(f"holds more than {self._limits.files:,} files")
        self.make_folder(target.parent)
        try:
            if target in self._files or target.is_dir():
                raise self.make_error(f"holds {self._format_name(target)!r} twice")
            self._files.add(target)
            self._copy(stream, target, is_counted=is_counted)
        except OSError as error:
            raise self._translate_name_error(error, target) from None

    def _copy(self, stream: IO[bytes], target: Path, *, is_counted: bool) -> None:
        # An earlier archive may contain the same file: compare instead of writing it again.
        earlier = target.exists()
        with target.open("rb" if earlier else "xb") as file:
            while chunk := stream.read(CHUNK):
                if not is_counted:
                    self.add_bytes(len(chunk))
                if not earlier:
                    file.write(chunk)
                elif file.read(len(chunk)) != chunk:
                    raise self._make_difference_error(target)
            if earlier and file.read(1):
                raise self._make_difference_error(target)

    def _make_difference_error(self, target: Path) -> DataError:
        return self.make_error(
            f"holds {self._format_name(target)!r}, "
            "which differs from the same file in an earlier archive"
        )

    def _format_name(self, target: Path) -> str:
        return target.relative_to(self.folder).as_posix()

    def _translate_name_error(self, error: OSError, target: Path) -> Exception:
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ):
            return self.make_error(
                f"holds {self._format_name(target)[:80]!r}…, "
                "which is not a valid name on this file system"
            )
        return error


def _unpack_zip(unpacker: _ArchiveUnpacker) -> Iterator[int]:
    """Unpack a zip archive and yield the number of packed bytes done after each file."""
    with zipfile.ZipFile(unpacker.archive) as zip_file:
        entries = zip_file.infolist()
        _require_space(unpacker, sum(entry.file_size for entry in entries))
        bytes_done = 0
        for entry in entries:
            name = entry.orig_filename  # zipfile cuts `filename` at a zero byte
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unpacker.make_error(f"holds {name!r}, a link or device")
            if entry.flag_bits & 1:
                raise unpacker.make_error(f"holds {name!r}, which is encrypted")
            target = unpacker.resolve_target(name)
            if target is None:
                continue
            if entry.is_dir():
                unpacker.make_folder(target)
                continue
            with zip_file.open(entry) as stream:
                unpacker.write(stream, target)
            bytes_done += entry.compress_size
            yield bytes_done


def _unpack_tar(unpacker: _ArchiveUnpacker) -> Iterator[int]:
    """Unpack a tar archive and yield the number of packed bytes done after each file."""
    with unpacker.archive.open("rb") as packed:
        stream = _CountingStream(_decompress_stream(unpacker.archive, packed), unpacker)
        # tarfile gets the decompressed stream: its own decompression reads headers without bound.
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every entry; millions would fill the memory
                if not (entry.isreg() or entry.isdir()) or entry.issparse():
                    raise unpacker.make_error(
                        f"holds {entry.name!r}, a link, device or sparse file"
                    )
                target = unpacker.resolve_target(entry.name)
                if target is None:
                    continue
                if entry.isdir():
                    unpacker.make_folder(target)
                    continue
                content = tar.extractfile(entry)
                assert content is not None  # a regular file has content
                unpacker.write(content, target, is_counted=True)
                yield packed.tell()
            # tarfile stops silently at a damaged or truncated header. A complete archive ends
            # with a block of zeros.
            if stream.last_chunk != bytes(tarfile.BLOCKSIZE):
                raise EOFError("its end is not that of a tar file")
            while stream.read(CHUNK):  # the checksum is at the end of the compressed file
                pass


def _decompress_stream(archive: Path, packed: IO[bytes]) -> IO[bytes]:
    name = archive.name.lower()
    openers: dict[str, Any] = {"gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}
    for ending, opener in openers.items():
        if name.endswith((f".{ending}", f".t{ending}", f".t{ending[:-1]}")):
            stream: IO[bytes] = opener(packed, "rb")
            return stream
    return packed


class _CountingStream(io.RawIOBase):
    """Stream over the bytes of a tar that refuses huge reads.

    It counts bytes by the farthest position reached, so that bytes read twice count once.
    """

    last_chunk = b""
    """Bytes returned by the latest read."""

    def __init__(self, raw: IO[bytes], unpacker: _ArchiveUnpacker) -> None:
        self._raw = raw
        self._unpacker = unpacker

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise self._unpacker.make_error(f"has a header of {size:,} bytes")
        self.last_chunk = self._raw.read(size)
        self._update_total()
        return self.last_chunk

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # A decompressor reads everything that it skips. Seek in steps, so that the limit applies.
        while whence == io.SEEK_SET and offset - self._raw.tell() > LONGEST_HEADER:
            if not self._raw.read(LONGEST_HEADER):
                break
            self._update_total()
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _update_total(self) -> None:
        self._unpacker.add_bytes(max(self._raw.tell() - self._unpacker.total, 0))


def _require_space(unpacker: _ArchiveUnpacker, required_bytes: int) -> None:
    free_bytes = shutil.disk_usage(unpacker.folder).free
    if required_bytes > free_bytes:
        raise DataError(
            f"the archive {unpacker.archive} needs {format_bytes(required_bytes)} unpacked, "
            f"but only {format_bytes(free_bytes)} are free in {unpacker.folder.parent}; make room "
            "or choose another output folder"
        )
