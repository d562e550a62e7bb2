"""Compressed volumes: flipped bits, cut-off files, and headers that promise too much."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest

from data_tools.converters.nifti import gzip_voxels as nifti_gzip
from data_tools.converters.nifti.convert import convert_nifti
from data_tools.converters.nifti.layouts import Case
from data_tools.converters.nifti.volumes import Volume
from resnet_tasks.errors import DataError
from tests.support.paths import SHARED

CASES = SHARED / "cases"


def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, (16, 12, 8)).astype(np.int16)


def plain(tmp_path: Path, array: np.ndarray | None = None) -> bytes:
    """Bytes of an uncompressed volume."""
    file = tmp_path / "plain.nii"
    nibabel.save(nibabel.Nifti1Image(values() if array is None else array, np.eye(4)), file)
    return file.read_bytes()


def compressed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def opened(tmp_path: Path, content: bytes, name: str = "v.nii.gz") -> Volume:
    file = tmp_path / name
    file.write_bytes(content)
    labels = tmp_path / "l.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((16, 12, 8), np.uint8), np.eye(4)), labels)
    return Volume(Case("v", (file,), labels), "axial")


def flipped(content: bytes, place: int, bit: int = 0) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def stored(volume: Volume) -> np.ndarray:
    return np.stack([volume.read_image(i) for i in range(volume.num_slices)])


def test_every_flipped_bit_is_refused_or_harmless(tmp_path: Path) -> None:
    content = compressed(plain(tmp_path))
    expected = stored(opened(tmp_path, content))
    harmless = []
    places = [*range(12), *range(12, len(content), 97), *range(len(content) - 9, len(content))]
    for place in places:
        for bit in (0, 5):
            refusal = ""
            try:
                found = stored(opened(tmp_path, flipped(content, place, bit)))
            except DataError as error:
                refusal = str(error)
            if refusal:
                assert "v.nii.gz cannot be read: " in refusal, (place, bit)
                assert "fetch the file again" in refusal, (place, bit)
                continue
            np.testing.assert_array_equal(found, expected)
            harmless.append(place)
    # FTEXT of the flags, the time, the compression level and the system say nothing of the voxels,
    # nor do the bits that fill the last byte before the trailer.
    assert set(harmless) <= {3, 4, 5, 6, 7, 8, 9, len(content) - 9}


@pytest.mark.parametrize("place", [-8, -5, -4, -1])
def test_a_flipped_trailer_is_a_checksum_that_does_not_match(tmp_path: Path, place: int) -> None:
    """CRC-32 in the first four bytes of the trailer, length in the others."""
    with pytest.raises(DataError, match=r"v\.nii\.gz cannot be read: its gzip checksum does not"):
        opened(tmp_path, flipped(compressed(plain(tmp_path)), place))


def test_labels_are_verified_too(tmp_path: Path) -> None:
    image = tmp_path / "v.nii"
    image.write_bytes(plain(tmp_path))
    labels = tmp_path / "l.nii.gz"
    content = compressed(plain(tmp_path, np.zeros((16, 12, 8), np.uint8)))
    labels.write_bytes(flipped(content, -6))
    with pytest.raises(DataError, match=r"l\.nii\.gz cannot be read: its gzip checksum"):
        Volume(Case("v", (image,), labels), "axial")


def test_pairs_of_header_and_voxels_are_verified(tmp_path: Path) -> None:
    image = tmp_path / "v.img.gz"
    pair = nibabel.Nifti1Pair(values(), np.eye(4))
    nibabel.save(pair, image)
    labels = tmp_path / "l.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((16, 12, 8), np.uint8), np.eye(4)), labels)
    case = Case("v", (image,), labels)
    np.testing.assert_array_equal(
        stored(Volume(case, "axial")), stored(opened(tmp_path, compressed(plain(tmp_path))))
    )
    header = tmp_path / "v.hdr.gz"
    whole = header.read_bytes()
    header.write_bytes(compressed(gzip.decompress(whole) + bytes(1 << 17))[:-8] + bytes(8))
    with pytest.raises(DataError, match=r"v\.hdr\.gz cannot be read: its gzip checksum"):
        Volume(case, "axial")  # an end that no reader of headers comes to
    header.write_bytes(whole)
    image.write_bytes(flipped(image.read_bytes(), -6))
    with pytest.raises(DataError, match=r"v\.img\.gz cannot be read: its gzip checksum"):
        Volume(case, "axial")


def test_another_format_by_a_flipped_bit_is_told_as_damage(tmp_path: Path) -> None:
    """Without the magic word of its header a volume counts as Analyze 7.5."""
    content = compressed(plain(tmp_path))
    other = plain(tmp_path).replace(b"n+1\0", b"\0\0\0\0", 1)
    with pytest.raises(DataError, match=r"no NIfTI volume|cannot be read"):
        opened(tmp_path, compressed(other))
    with pytest.raises(DataError, match=r"v\.nii\.gz cannot be read: its gzip checksum"):
        opened(tmp_path, compressed(other)[:-8] + content[-8:])


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 400])
def test_cut_off_files_are_refused(tmp_path: Path, cut: int) -> None:
    with pytest.raises(DataError, match=r"v\.nii\.gz cannot be read: it is truncated.* again"):
        opened(tmp_path, compressed(plain(tmp_path))[:-cut])


def test_several_members_are_one_file(tmp_path: Path) -> None:
    content = plain(tmp_path)
    parts = [compressed(content[:100]), compressed(content[100:2000]), compressed(content[2000:])]
    expected = stored(opened(tmp_path, content, "v.nii"))
    np.testing.assert_array_equal(stored(opened(tmp_path, b"".join(parts))), expected)
    padded = b"".join(parts) + bytes(512)  # as tapes and some archivers leave it
    np.testing.assert_array_equal(stored(opened(tmp_path, padded)), expected)
    parts[1] = flipped(parts[1], -7)
    with pytest.raises(DataError, match="checksum does not match"):
        opened(tmp_path, b"".join(parts))


def test_an_empty_last_member_is_verified(tmp_path: Path) -> None:
    content = compressed(plain(tmp_path))
    assert stored(opened(tmp_path, content + compressed(b""))).shape == (8, 12, 16)
    with pytest.raises(DataError, match="checksum does not match"):
        opened(tmp_path, content + flipped(compressed(b""), -8))


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"v\.nii\.gz .*not gzip data follow the end.* again"):
        opened(tmp_path, compressed(plain(tmp_path)) + b"<html>")


def test_names_that_contradict_the_content(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"v\.nii\.gz .* it is not gzip data, although its name"):
        opened(tmp_path, plain(tmp_path))
    with pytest.raises(DataError, match=r"v\.nii cannot .* is gzip data; rename it to v\.nii\.gz"):
        opened(tmp_path, compressed(plain(tmp_path)), "v.nii")


def sized(content: bytes, *sides: int) -> bytes:
    """The volume with other sides in its header."""
    changed = bytearray(content)
    struct.pack_into(f"<{1 + len(sides)}h", changed, 40, len(sides), *sides)
    return bytes(changed)


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = compressed(sized(plain(tmp_path), 32000, 32000, 32000))
    monkeypatch.setattr(nifti_gzip.np, "empty", None)  # nothing may be allocated
    with pytest.raises(DataError, match=r"promises 65,536,000,000,000 bytes of voxels, more than"):
        opened(tmp_path, content)


def test_a_volume_beyond_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 3000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    with pytest.raises(DataError, match=r"needs .* of memory, but only 3.00 kB are"):
        opened(tmp_path, compressed(plain(tmp_path)))


def test_fewer_voxels_than_promised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds 3,072 bytes .* promises 4,608 \(16 x 12 x 12 of"):
        opened(tmp_path, compressed(sized(plain(tmp_path), 16, 12, 12)))


def test_what_follows_the_voxels_is_read_within_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti_gzip, "MAX_TRAILING", 1000)
    content = plain(tmp_path)
    assert stored(opened(tmp_path, compressed(content + bytes(1000)))).shape == (8, 12, 16)
    with pytest.raises(DataError, match="more than 1,000 bytes follow its last voxel"):
        opened(tmp_path, compressed(content + bytes(1001)))


def test_a_first_voxel_far_behind_is_refused(tmp_path: Path) -> None:
    content = bytearray(plain(tmp_path))
    struct.pack_into("<f", content, 108, 2.0e9)
    with pytest.raises(DataError, match=r"the first voxel at byte 2,000,000,000, the limit is"):
        opened(tmp_path, compressed(bytes(content)))


def test_the_shared_case(tmp_path: Path) -> None:
    source = CASES / "26g-middle" / "in"
    if not source.is_dir():
        pytest.skip("the shared cases are not here")
    with pytest.raises(DataError, match=r"images/c\.nii\.gz .* checksum does not match.* again"):
        convert_nifti(source, tmp_path / "out", classes={1: "one"})
