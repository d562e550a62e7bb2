import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from data_tools.catalog import convert, prepare
from data_tools.reading.archives import CHUNK, LONGEST_HEADER, SLACK, UnpackLimits, unpack
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError
from tests.support.damage import damaged_bytes, outcomes
from tests.support.tiny_sources import bccd, kitti

FILES = {"a/one.txt": b"1", "a/b/two.bin": bytes(range(256)) * 20, "empty": b""}
TARS = {"x.tar": "w", "x.tar.gz": "w:gz", "x.tgz": "w:gz", "x.tar.xz": "w:xz", "x.tbz2": "w:bz2"}


def zipped(file: Path, content: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file


def tarred(file: Path, content: dict[str, bytes] = FILES) -> Path:
    with tarfile.open(file, TARS.get(file.name, "w")) as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file


def special(file: Path, kind: bytes, name: str = "bad", link: str = "../../etc/passwd") -> Path:
    with tarfile.open(file, "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        archive.addfile(entry)
    return file


def content(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("name", ["x.zip", "X.ZIP", *TARS])
def test_what_was_packed_comes_out(name: str, tmp_path: Path) -> None:
    archive = tmp_path / name
    (zipped if name.lower().endswith("zip") else tarred)(archive)
    seen: list[tuple[int, int]] = []
    unpack([archive], tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert content(tmp_path / "out") == FILES
    assert len(seen) == 3
    assert all(done <= total == archive.stat().st_size for done, total in seen)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/etc/evil", "a path that leads outside"),
        ("../evil", "a path that leads outside"),
        ("a/../../evil", "a path that leads outside"),
        ("..\\evil", "a path that leads outside"),
        ("C:\\evil", "a path that leads outside"),
        ("a/" + "x" * 300, "not a valid name"),
    ],
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_names_stay_inside(name: str, told: str, pack: object, tmp_path: Path) -> None:
    archive = tmp_path / ("x.zip" if pack is zipped else "x.tar")
    (zipped if pack is zipped else tarred)(archive, {"good": b"1", name: b"2"})
    (tmp_path / "deep" / "er").mkdir(parents=True)
    with pytest.raises(DataError, match=told):
        unpack([archive], tmp_path / "deep" / "er" / "out")
    assert set(content(tmp_path)) <= {archive.name, "deep/er/out/good"}


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"S"],
)
def test_only_plain_files_come_out_of_a_tar(kind: bytes, tmp_path: Path) -> None:
    archive = special(tmp_path / "x.tar", kind)
    with pytest.raises(DataError, match=r"holds 'bad', a link, device|damaged or incomplete"):
        unpack([archive], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_links_and_secrets_in_a_zip(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        opened.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="holds 'link', a link or device"):
        unpack([archive], tmp_path / "out")
    data = bytearray(zipped(tmp_path / "y.zip", {"s": b"1"}).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match="holds 's', which is encrypted"):
        unpack([archive], tmp_path / "other")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_bombs_stop_at_the_limits(pack: object, tmp_path: Path) -> None:
    name = "x.zip" if pack is zipped else "x.tar.xz"
    made = zipped if pack is zipped else tarred
    archive = made(tmp_path / name, {"zeros": bytes(SLACK + CHUNK)})
    assert archive.stat().st_size < SLACK / 200
    with pytest.raises(DataError, match=r"grows beyond 105 MB .*200 times its size"):
        unpack([archive], tmp_path / "out")
    assert (tmp_path / "out" / "zeros").stat().st_size <= SLACK
    archive = made(tmp_path / name, {str(n): b"1" for n in range(20)})
    with pytest.raises(DataError, match="more than 10 files"):
        unpack([archive], tmp_path / "many", limits=UnpackLimits(files=10))
    with pytest.raises(DataError, match="grows beyond 10 bytes"):
        unpack([archive], tmp_path / "large", limits=UnpackLimits(bytes=10))


def test_a_header_cannot_fill_the_memory(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.xz"
    with tarfile.open(archive, "w:xz") as opened:
        entry = tarfile.TarInfo("header")
        entry.type, entry.size = tarfile.XHDTYPE, LONGEST_HEADER + 512
        opened.addfile(entry, io.BytesIO(bytes(entry.size)))
    with pytest.raises(DataError, match="has a header of 16,777,7"):
        unpack([archive], tmp_path / "out")


@pytest.mark.parametrize("name", ["x.zip", *TARS])
def test_every_truncation_is_told(name: str, tmp_path: Path) -> None:
    archive = tmp_path / name
    (zipped if name == "x.zip" else tarred)(archive)
    whole = archive.read_bytes()
    end = len(whole) if name != "x.tar" else 3 * 512 + 512 + 5120 + 1  # padding may be lost
    for length in sorted({0, 1, 100, 511, 512, 513, 1024, 1536, end // 2, end - 1} - {end}):
        archive.write_bytes(whole[: min(length, end - 1)])
        with pytest.raises(DataError, match=r"x\.\w+.* is damaged or incomplete"):
            unpack([archive], tmp_path / f"out{length}")


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz", "x.tbz2"])
def test_damaged_archives_are_refused_or_harmless(name: str, tmp_path: Path) -> None:
    files = {"a/one.txt": b"1", "a/b/two.bin": bytes(range(256)), "empty": b""}
    good = (zipped if name == "x.zip" else tarred)(tmp_path / name, files).read_bytes()
    around = tmp_path / "around"

    def unpacked(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        try:
            unpack([tmp_path / name], around / "out")
        finally:
            assert {each.name for each in around.iterdir()} <= {"out"}
            shutil.rmtree(around)

    unpacked(good)
    is_checked = name.endswith(("xz", "bz2", "gz"))
    outcomes(good, unpacked, damaged_bytes, 100, name, is_checked=is_checked)


def test_names_come_once_but_archives_may_share_a_file(tmp_path: Path) -> None:
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as opened:
        opened.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            opened.writestr("a", "2")
    with pytest.raises(DataError, match="holds 'a' twice"):
        unpack([twice], tmp_path / "out1")
    with pytest.raises(DataError, match="holds 'a' as a file and as a folder"):
        unpack([tarred(tmp_path / "y.tar", {"a": b"", "a/b": b""})], tmp_path / "out2")
    parts = [
        zipped(tmp_path / "one.zip", {"README": b"same", "x": b"1", "__MACOSX/._x": b""}),
        zipped(tmp_path / "two.zip", {"README": b"same", "y": b"2"}),
    ]
    unpack(parts, tmp_path / "out3")
    assert content(tmp_path / "out3") == {"README": b"same", "x": b"1", "y": b"2"}
    for number, other in enumerate((b"some", b"same and more", b"sam")):
        parts[1] = zipped(tmp_path / "two.zip", {"README": other})
        with pytest.raises(
            DataError,
            match="holds 'README', which differs from the same file in an earlier archive",
        ):
            unpack(parts, tmp_path / f"out4{number}")


def archived(folder: Path, files: list[str], archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            if file.is_file() and name.split("/")[0] in files:
                opened.write(file, f"BCCD_Dataset-master/BCCD/{name}")
    return archive


def test_a_data_set_is_prepared_from_its_archives(tmp_path: Path) -> None:
    source = bccd.write(tmp_path / "in")
    parts = [
        archived(source, ["JPEGImages"], tmp_path / "images.zip"),
        archived(source, ["Annotations", "ImageSets"], tmp_path / "labels.zip"),
    ]
    card = prepare("bccd", parts, tmp_path / "out")
    assert [(split.split, split.images) for split in card.splits] == [("train", 2), ("val", 1)]
    assert "- Converted from: images.zip and labels.zip\n" in card.to_markdown()
    assert {each.name for each in tmp_path.iterdir()} == {"in", "out", "labels.zip", "images.zip"}
    train = read_coco(tmp_path / "out" / "train.json")
    train.require_files()
    assert train.images_root == tmp_path / "out"
    assert train.images[0].file_name.startswith("images/train/")


def test_sources_that_do_not_go_together(tmp_path: Path) -> None:
    source = bccd.write(tmp_path / "in")
    whole = archived(source, ["JPEGImages", "Annotations", "ImageSets"], tmp_path / "x.zip")
    images = archived(source, ["JPEGImages"], tmp_path / "y.zip")
    with pytest.raises(
        DataError, match=r"copy_images=false needs images that remain in place, .*x\.zip"
    ):
        convert("voc", whole, tmp_path / "out", copy_images=False)
    with pytest.raises(
        DataError, match=r"several sources must all be archives .*in is not an archive"
    ):
        prepare("bccd", [whole, source], tmp_path / "out")
    with pytest.raises(
        DataError, match=r"lacks Annotations .*; ImageSets/Main .* Clone or download"
    ):
        prepare("bccd", images, tmp_path / "out")
    with pytest.raises(DataError, match=r"there is no archive .*none\.zip; pass an existing file"):
        prepare("bccd", tmp_path / "none.zip", tmp_path / "out")
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"notes\.txt is not a folder"):
        prepare("bccd", tmp_path / "notes.txt", tmp_path / "out")
    assert {each.name for each in tmp_path.iterdir()} == {"in", "x.zip", "y.zip", "notes.txt"}


def test_folders_around_the_source_are_looked_into(tmp_path: Path) -> None:
    kitti.write(tmp_path / "in/top/KITTI")
    archive = Path(shutil.make_archive(str(tmp_path / "kitti"), "zip", tmp_path / "in"))
    for source, out in ((archive, "a"), (tmp_path / "in", "b")):
        card = convert("kitti", source, tmp_path / out)
        assert [split.images for split in card.splits] == [2, 1]
    (tmp_path / "in/top/KITTI/training/label_2/000000.txt").write_text(
        "Auto 0 0 0 1 2 3 4 0 0 0 0 0 0 0\n"
    )
    with pytest.raises(DataError, match=r"in should contain .*; and .*000000\.txt, line 1 has"):
        convert("kitti", tmp_path / "in", tmp_path / "c")
    assert not (tmp_path / "c").exists()
