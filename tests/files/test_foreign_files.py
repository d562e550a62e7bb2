"""Files that are given as images but are something else, and URLs."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from resnet_tasks.files.foreign_files import (
    START_LENGTH,
    describe_address,
    describe_foreign_file,
    describe_foreign_files,
    find_address,
    identify_foreign_file,
)


def volume(magic: bytes, order: str = "<") -> bytes:
    header = bytearray(struct.pack(f"{order}i", 348).ljust(348, b"\0"))
    header[344:348] = magic
    return bytes(header)


NIFTI_2 = struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(500)
DICOM = bytes(128) + b"DICM" + bytes(400)
KINDS = {
    "NIfTI": (volume(b"n+1\0"), "a NIfTI volume", "data convert nifti FOLDER OUT"),
    "big endian": (volume(b"n+1\0", ">"), "a NIfTI volume", "data convert nifti"),
    "NIfTI-2": (NIFTI_2, "a NIfTI volume", "data convert nifti"),
    "gzip": (gzip.compress(volume(b"n+1\0")), "a NIfTI volume", "data convert nifti"),
    "pair": (volume(b"ni1\0"), "a part of a NIfTI volume (.hdr and .img)", "data convert nifti"),
    "Analyze": (volume(b"\0\0\0\0"), "a part of an Analyze volume", "convert it to NIfTI"),
    "DICOM": (DICOM, "a DICOM file", "data convert dicom FOLDER OUT"),
    "DICOM with a TIFF preamble": (b"II*\0" + DICOM[4:], "a DICOM file", "convert dicom"),
    "NRRD": (b"NRRD0004\ntype: short", "an NRRD volume", "convert it to NIfTI"),
    "MetaImage": (b"ObjectType = Image\nNDims = 3", "a MetaImage volume", "convert it to NIfTI"),
    "HTML": (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "a web page (HTML)", "download the image"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS", "lfs pull"),
    "annex": (b"/annex/objects/MD5E-s1", "a pointer of git-annex", "git annex get"),
    "fork": (b"\0\5\x16\7\0\2\0\0Mac OS X", "a resource fork of macOS", "without `._`"),
    "empty": (b"", "empty", "download or copy"),
    "zeros": (bytes(512), "incomplete: it begins with zero bytes", "download or copy"),
    "gzip of text": (gzip.compress(b"text"), "a gzip file", ""),
    "damaged gzip": (b"\x1f\x8b\x08" + bytes(20), "a gzip file", ""),
    "SVG": (b'<?xml version="1.0"?>\n<svg width="2">', "an SVG file", ""),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_kinds_are_recognized_by_content(name: str) -> None:
    content, kind_name, remedy = KINDS[name]
    kind = identify_foreign_file(content[:START_LENGTH])
    assert kind is not None
    assert kind.name.startswith(kind_name)
    assert remedy in kind.remedy
    assert bool(kind.remedy) == bool(remedy)


@pytest.mark.parametrize(
    ("name", "kind_name"),
    [("a.DCM", "a DICOM file"), ("b.nii.gz", "a NIfTI volume"), ("c.mhd", "a MetaImage volume")],
)
def test_names_decide_if_the_content_does_not(name: str, kind_name: str) -> None:
    kind = identify_foreign_file(b"unknown content", name)
    assert kind is not None
    assert kind.name.startswith(kind_name)
    assert identify_foreign_file(b"unknown content", "c.png") is None


def test_voxels_of_a_pair_are_recognized_by_their_header_file(tmp_path: Path) -> None:
    voxels = tmp_path / "a.img"
    voxels.write_bytes(bytes(600))
    kind = identify_foreign_file(bytes(512), str(voxels))
    assert kind is not None
    assert kind.name.startswith("incomplete")
    (tmp_path / "a.hdr").write_bytes(volume(b"ni1\0"))
    kind = identify_foreign_file(bytes(512), str(voxels))
    assert kind is not None
    assert kind.name.startswith("a part of a NIfTI volume")


def test_most_frequent_kind_of_a_folder(tmp_path: Path) -> None:
    names = {"a.dcm": DICOM, "b": DICOM, "c.nii": volume(b"n+1\0"), "notes.txt": b"text"}
    for name, content in names.items():
        (tmp_path / name).write_bytes(content)
    files = [*sorted(tmp_path.iterdir()), tmp_path / "gone"]
    text = describe_foreign_files(files)
    assert text.startswith("2 files, such as a.dcm, are not images: each is a DICOM file; ")
    assert describe_foreign_files(files, "dicom").startswith("c.nii is a NIfTI volume; ")
    assert describe_foreign_files([tmp_path / "notes.txt"]) == ""


@pytest.mark.parametrize(
    "text", ["https://a.org/b.jpg?x=1", "s3://bucket/b.png", "gs://bucket/b.png", "HTTP://a.org/b"]
)
def test_urls_are_recognized_after_path_merged_their_slashes(text: str) -> None:
    assert find_address(text) == find_address(Path(text)) == text
    assert find_address(Path("/data/images") / text) == text
    message = describe_address(Path(text))
    assert message is not None
    assert message.startswith(f"{text} is a URL, but only local files are read")


def test_file_urls_and_other_paths() -> None:
    assert describe_address(Path("file:///tmp/a.png")) == (
        "file://tmp/a.png is a URL; pass the path /tmp/a.png instead"
    )
    for path in ("a.png", "C:/a.png", "/data/a:b/c.png", "10:30.png", "scan: 3/a.png", "http:"):
        assert describe_address(Path(path)) is None, path


@pytest.mark.parametrize(("name", "is_list"), [("list.txt", True), ("a.xyz", False)])
def test_text_files_may_be_lists_of_images(tmp_path: Path, name: str, is_list: bool) -> None:
    (tmp_path / name).write_text("a.png\nb.png\n")
    with (tmp_path / name).open("rb") as stream:
        message = describe_foreign_file(stream, "PNG")
    assert message.startswith("its content has no known image format; ")
    assert message.endswith("with --list") == is_list
    assert message.endswith("convert it to PNG") != is_list
