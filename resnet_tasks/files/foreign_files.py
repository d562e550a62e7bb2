"""Recognition of files that are given as images but are something else, by content and by name.

Each kind has a remedy for error messages, such as the command that converts it. Addresses (URLs)
are recognized too, because nothing is downloaded.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

from resnet_tasks.files.regular_files import open_regular_file
from resnet_tasks.number_formats import Count

START_LENGTH = 512
"""Number of bytes at the beginning of a file from which its kind is recognized."""
MAX_INSPECTED = 200
"""Number of files of a folder that are opened to describe it in a message."""

_CONVERT_DICOM = "convert it with `resnet-tasks data convert dicom FOLDER OUT`"
_CONVERT_VOLUME = (
    "`resnet-tasks data convert nifti FOLDER OUT` converts volumes with labels to images of their "
    "slices; save the slices of volumes without labels as TIFF"
)
_TO_NIFTI = "convert it to NIfTI (.nii.gz) or save its slices as TIFF"
_DOWNLOAD = "download or copy the image again"


class ForeignKind(NamedTuple):
    """Kind of a file that is not an image of a supported format.

    Attributes:
        name: Name with an article, such as "a DICOM file".
        remedy: Advice for a message; empty for other image formats, which must be converted.
        converter: Format of `data convert` that reads such files; empty if there is none.
    """

    name: str
    remedy: str = ""
    converter: str = ""


_DICOM = ForeignKind("a DICOM file", _CONVERT_DICOM, "dicom")
_NIFTI = ForeignKind("a NIfTI volume", _CONVERT_VOLUME, "nifti")
_NIFTI_PAIR = ForeignKind("a part of a NIfTI volume (.hdr and .img)", _CONVERT_VOLUME, "nifti")
_ANALYZE_PAIR = ForeignKind(
    "a part of an Analyze volume (.hdr and .img), which does not state left and right", _TO_NIFTI
)
_NRRD = ForeignKind("an NRRD volume", _TO_NIFTI)
_META_IMAGE = ForeignKind("a MetaImage volume (.mha, .mhd)", _TO_NIFTI)
_HTML = ForeignKind(
    "a web page (HTML), which a server returned instead of the image", "download the image again"
)
_EMPTY = ForeignKind("empty", _DOWNLOAD)

_SIGNATURES: tuple[tuple[bytes, ForeignKind], ...] = (
    (b"NRRD000", _NRRD),
    (b"ObjectType", _META_IMAGE),
    (b"NDims", _META_IMAGE),
    (
        b"version https://git-lfs",
        ForeignKind(
            "a pointer of Git LFS instead of the image", "run `git lfs pull` in its repository"
        ),
    ),
    (
        b"/annex/objects/",
        ForeignKind(
            "a pointer of git-annex instead of the image", "run `git annex get` in its repository"
        ),
    ),
    (
        b"\0\5\x16\7",
        ForeignKind(
            "a resource fork of macOS (`._` file) without pixels", "use the file without `._`"
        ),
    ),
    (b"#?RADIANCE", ForeignKind("a Radiance HDR image")),
    (b"#?RGBE", ForeignKind("a Radiance HDR image")),
    (b"\x76\x2f\x31\x01", ForeignKind("an OpenEXR image")),
    (b"8BPS", ForeignKind("a Photoshop image")),
    (b"%!PS", ForeignKind("a PostScript file")),
    (b"\xc5\xd0\xd3\xc6", ForeignKind("a PostScript file")),
    (b"%PDF", ForeignKind("a PDF file")),
    (b"\0\0\0\x0cjP  ", ForeignKind("a JPEG 2000 image")),
    (b"\xff\x4f\xff\x51", ForeignKind("a JPEG 2000 image")),
    (b"\0\0\0\x0cJXL ", ForeignKind("a JPEG XL image")),
    (b"\xff\x0a", ForeignKind("a JPEG XL image")),
    (b"SIMPLE  =", ForeignKind("a FITS image")),
    (b"DDS ", ForeignKind("a DDS image")),
    (b"qoif", ForeignKind("a QOI image")),
    (b"\0\0\x01\0", ForeignKind("an icon")),
    (b"\0\0\x01\xba", ForeignKind("an MPEG video")),
    (b"\0\0\x01\xb3", ForeignKind("an MPEG video")),
    (b"\x59\xa6\x6a\x95", ForeignKind("a Sun raster image")),
    (b"\x01\xda", ForeignKind("an SGI image")),
    (b"\x89HDF", ForeignKind("an HDF5 file")),
    (b"PK\x03\x04", ForeignKind("a zip file")),
    (b"PF", ForeignKind("a portable float map")),
    (b"Pf", ForeignKind("a portable float map")),
)
_GZIP = b"\x1f\x8b"
_HEIF_BRANDS = (b"mif1", b"msf1", b"heic", b"heix", b"hevc")
_VOLUME_HEADERS = (348, 540)
"""Lengths of the headers of NIfTI-1 (and Analyze) and NIfTI-2, which are their first integer."""
_NIFTI_MAGIC = {b"n+1\0": _NIFTI, b"n+2\0": _NIFTI, b"ni1\0": _NIFTI_PAIR, b"ni2\0": _NIFTI_PAIR}
_SUFFIXES = (
    ((".dcm", ".dicom"), _DICOM),
    ((".nii", ".nii.gz"), _NIFTI),
    ((".nrrd", ".nhdr"), _NRRD),
    ((".mha", ".mhd"), _META_IMAGE),
)
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)", re.DOTALL)
"""URL; `Path` merges its slashes. Drives of Windows have a single letter."""
_JOINED_ADDRESS = re.compile(
    r"[/\\](https?|ftps?|sftp|s3[an]?|gs|gcs|az|abfss?|wasbs?|hdfs|hf|oss|dbfs|file):/+(.+)",
    re.IGNORECASE | re.DOTALL,
)
"""URL that was joined to a folder."""


def identify_foreign_file(start: bytes, name: str = "") -> ForeignKind | None:
    """Return the kind of a file that is not an image of a supported format; None if unknown.

    Args:
        start: First `START_LENGTH` bytes of the file.
        name: Path of the file, which decides if its content does not.
    """
    if not start:
        return _EMPTY
    kind = _identify_content(start)
    if kind is not None:
        return kind
    lower_name = name.lower()
    for suffixes, named_kind in _SUFFIXES:
        if lower_name.endswith(suffixes):
            return named_kind
    if lower_name.endswith(".img") and (header := _read_header_file(Path(name))):
        return _identify_content(header)
    if not any(start):
        return ForeignKind("incomplete: it begins with zero bytes", _DOWNLOAD)
    return None


def _identify_content(start: bytes) -> ForeignKind | None:
    if start[128:132] == b"DICM":
        return _DICOM
    if (volume := _identify_volume(start)) is not None:
        return volume
    if start.startswith(_GZIP):
        return _identify_volume(_decompress_start(start)) or ForeignKind("a gzip file")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return _HTML
    for signature, kind in _SIGNATURES:
        if start.startswith(signature):
            return kind
    name = None
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        name = "an SVG file"
    elif start[:1] == b"P" and start[1:2] in b"1234567" and start[2:3].isspace():
        name = "a portable any map (PPM, PGM, PBM)"
    elif start[4:8] == b"ftyp":
        name = "a HEIF image" if start[8:12] in _HEIF_BRANDS else "an MP4 or QuickTime video"
    return None if name is None else ForeignKind(name)


def _identify_volume(start: bytes) -> ForeignKind | None:
    """Return the kind of a NIfTI or Analyze file by its header."""
    lengths = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    if not lengths & set(_VOLUME_HEADERS):
        return None
    for magic in (start[344:348], start[4:8]):
        if magic in _NIFTI_MAGIC:
            return _NIFTI_MAGIC[magic]
    return _ANALYZE_PAIR if 348 in lengths else None


def _decompress_start(start: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(start, START_LENGTH)
    except zlib.error:
        return b""


def _read_header_file(image: Path) -> bytes:
    """Return the first bytes of the .hdr file of a .img file; empty if there is none."""
    for suffix in (".hdr", ".HDR"):
        try:
            with open_regular_file(image.with_suffix(suffix)) as stream:
                return stream.read(START_LENGTH)
        except OSError:
            continue
    return b""


def describe_foreign_file(stream: IO[bytes], readable: str) -> str:
    """Describe a file that is not an image of a supported format, with a remedy.

    Args:
        stream: File, which is rewound.
        readable: Names of the supported formats.
    """
    stream.seek(0)
    start = stream.read(START_LENGTH)
    stream.seek(0)
    kind = identify_foreign_file(start, str(getattr(stream, "name", "")))
    name = "its content has no known image format" if kind is None else f"it is {kind.name}"
    remedy = "" if kind is None else kind.remedy
    if kind is None and str(getattr(stream, "name", "")).lower().endswith(".txt"):
        remedy = "if it lists paths of images, pass it to `resnet-tasks predict` with --list"
    return f"{name}; {remedy or f'convert it to {readable}'}"


def describe_foreign_files(files: Iterable[Path], converter: str = "") -> str:
    """Describe the most frequent kind with a remedy among files; empty if there is none.

    Args:
        files: Paths of files, of which the first `MAX_INSPECTED` are opened.
        converter: Format of `data convert` whose files are ignored; empty to ignore none.

    Returns:
        Text such as "12 files, such as a.dcm, are not images: each is a DICOM file; convert ...".
    """
    counts: Counter[ForeignKind] = Counter()
    examples: dict[ForeignKind, str] = {}
    for _, file in zip(range(MAX_INSPECTED), files, strict=False):
        try:
            with open_regular_file(file) as stream:
                kind = identify_foreign_file(stream.read(START_LENGTH), str(file))
        except OSError:
            continue
        is_own = kind is not None and kind.converter == converter != ""
        if kind is not None and kind.remedy and not is_own:
            counts[kind] += 1
            examples.setdefault(kind, file.name)
    if not counts:
        return ""
    kind, number = counts.most_common(1)[0]
    if number == 1:
        return f"{examples[kind]} is {kind.name}; {kind.remedy}"
    return (
        f"{Count(number):file}, such as {examples[kind]}, are not images: each is {kind.name}; "
        f"{kind.remedy}"
    )


def find_address(path: Path | str) -> str | None:
    """Return the URL that a path consists of, also below a folder; None for other paths.

    Args:
        path: Text or path, in which `Path` has merged the slashes of a URL.
    """
    match = _ADDRESS.match(str(path)) or _JOINED_ADDRESS.search(str(path))
    return None if match is None else f"{match[1]}://{match[2]}"


def describe_address(path: Path | str) -> str | None:
    """Return a message for a URL that is given as a path; None for other paths.

    Args:
        path: Text or path, in which `Path` has merged the slashes of a URL.
    """
    address = find_address(path)
    if address is None:
        return None
    scheme, _, local_path = address.partition("://")
    if scheme.lower() == "file":
        return f"{address} is a URL; pass the path /{local_path} instead"
    return (
        f"{address} is a URL, but only local files are read and nothing is downloaded; download "
        "the file and pass its path"
    )
