"""Fingerprint of a split's files, by which a resumed run notices that its data has changed.

Annotation files are hashed completely. Of each image and label map, the name, the size in bytes and
three blocks are hashed: the first, the middle and the last. A PNG ends with the checksum of its
pixels, and a JPEG is compressed from front to back, so that an edited image differs in its size or
in its last block. Dates are ignored: a copy of the dataset on another machine is the same data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.errors import shorten_name
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.files.regular_files import open_regular_file
from resnet_tasks.number_formats import Count

BLOCK_BYTES = 16 * 1024
"""Bytes of each hashed block; a file of at most three blocks is hashed completely."""
DIGEST_BYTES = 8
THREADS = 8
"""Number of threads that read files; most of the time they wait for the disk."""

NamedPath = tuple[str, Path]


@dataclass(frozen=True)
class FileFingerprint:
    """Fingerprint of an annotation file, its images and its label maps.

    Attributes:
        name: Path of the annotation file relative to the folder of the data; its absolute path if
            it is elsewhere.
        annotations: SHA-256 hex digest of the annotation file; empty if it is a pipe.
        images: Hex digests of the images in file order, concatenated.
        label_maps: Hex digests of the label maps in file order, concatenated.
    """

    name: str
    annotations: str
    images: str
    label_maps: str

    @classmethod
    def from_file(
        cls, file: CocoFile, folder: Path, advance: Callable[[int], None] | None = None
    ) -> Self:
        """Compute the fingerprint of a file.

        Args:
            file: Parsed annotation file.
            folder: Folder of the data.
            advance: Function that is called with the number of images that have been read.
        """
        path = file.path
        is_inside = path.absolute().is_relative_to(folder.absolute())
        return cls(
            path.absolute().relative_to(folder.absolute()).as_posix() if is_inside else str(path),
            compute_sha256(path) if path.is_file() else "",
            _compute_digests(file.iter_images(), advance),
            _compute_digests(file.iter_label_maps(), None),
        )

    def to_json(self) -> dict[str, str]:
        """Return the fingerprint as plain values for JSON."""
        return asdict(self)

    def describe_changes(self, now: FileFingerprint, file: CocoFile) -> list[str]:
        """Describe what has changed since this fingerprint was computed; empty if nothing has.

        Args:
            now: Current fingerprint.
            file: Current annotation file.
        """
        changes = []
        is_same_list = self.annotations == now.annotations
        if not is_same_list:
            changes.append(f"{now.name} has another content")
        kinds = (
            ("image", self.images, now.images, file.iter_images()),
            ("label map", self.label_maps, now.label_maps, file.iter_label_maps()),
        )
        for kind, before, after, paths in kinds:
            if before != after:
                changed_names = _list_changed_names(before, after, paths, is_aligned=is_same_list)
                changes.append(_describe_changed(kind, changed_names, before, after, now.name))
        return changes


def _compute_digests(files: Iterable[NamedPath], advance: Callable[[int], None] | None) -> str:
    digests = []
    with ThreadPoolExecutor(THREADS, thread_name_prefix="fingerprint") as pool:
        for digest in pool.map(_compute_digest, files):
            digests.append(digest)
            if advance is not None:
                advance(1)
    return "".join(digests)


def _compute_digest(file: NamedPath) -> str:
    """Compute the digest of a file's name, size and blocks; of the name if it cannot be read."""
    name, path = file
    hasher = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES)
    try:
        with open_regular_file(path) as stream:
            num_bytes = os.fstat(stream.fileno()).st_size
            hasher.update(f"\0{num_bytes}\0".encode())
            if num_bytes <= 3 * BLOCK_BYTES:
                hasher.update(stream.read(3 * BLOCK_BYTES))
            else:
                for start in (0, (num_bytes - BLOCK_BYTES) // 2, num_bytes - BLOCK_BYTES):
                    stream.seek(start)
                    hasher.update(stream.read(BLOCK_BYTES))
    except OSError:
        hasher.update(b"\0unreadable")
    return hasher.hexdigest()


def _list_changed_names(
    before: str, after: str, paths: Iterable[NamedPath], *, is_aligned: bool
) -> list[str]:
    """List the names of the files that are new or have changed.

    Args:
        before: Earlier digests, concatenated.
        after: Current digests, concatenated.
        paths: Current files, in the order of `after`.
        is_aligned: Whether both lists of digests belong to the same list of files.
    """
    earlier, current = _split_digests(before), _split_digests(after)
    names = [name for name, _ in paths]
    if is_aligned and len(earlier) == len(current):
        rows = zip(names, earlier, current, strict=True)
        return [name for name, old, new in rows if old != new]
    known = set(earlier)
    return [name for name, new in zip(names, current, strict=True) if new not in known]


def _split_digests(digests: str) -> list[str]:
    length = 2 * DIGEST_BYTES
    return [digests[start : start + length] for start in range(0, len(digests), length)]


def _describe_changed(
    kind: str, names: Sequence[str], before: str, after: str, annotations: str
) -> str:
    num_before, num_after = len(_split_digests(before)), len(_split_digests(after))
    total = f"{num_before:,}" if num_before == num_after else f"{num_before:,}, now {num_after:,},"
    if not names:
        return f"of the {total} {kind}s of {annotations}, some were removed or are in another order"
    example = f"such as {shorten_name(names[0], 60)}" if len(names) > 1 else names[0]
    return (
        f"{Count(len(names)):{kind}} of {total} of {annotations} "
        f"{'differs' if len(names) == 1 else 'differ'} ({example})"
    )
