"""Annotation files of all formats, through their converters."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from data_tools.catalog import read_dataset
from data_tools.converters.nifti.layouts import read_layout
from data_tools.layouts import find_layout
from data_tools.reading.archives import unpack
from resnet_tasks.errors import DataError, RecipeError
from tests.fuzz.forms import damage_gzip, damage_json_text, damage_tar, damage_zip
from tests.fuzz.target import Read, Target, read_file
from tests.support.annotation_sources import CASES
from tests.support.damage import Damage, damaged_json, damaged_yaml
from tests.support.paths import ROOT


def _convert(name: str, folder: Path) -> Read:
    build, convert, _ = CASES[name]
    source, out = folder / "in", folder / "out"
    source.mkdir()
    file = build(source)

    def read(content: bytes) -> object:
        file.write_bytes(content)
        try:
            find_layout(source)
            return convert(source, out)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    return read


def _build_seed(name: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        file = CASES[name][0](Path(folder))
        return {file.name: file.read_bytes()}


def _get_damage(damage: Damage) -> Damage:
    return damage_json_text if damage is damaged_json else damage


def _unpack(folder: Path, suffix: str) -> Read:
    archive, out = folder / f"a{suffix}", folder / "outer" / "out"

    def read(content: bytes) -> None:
        archive.write_bytes(content)
        try:
            unpack([archive], out)
        finally:
            outside = [path for path in folder.rglob("*") if not path.is_relative_to(out.parent)]
            shutil.rmtree(out.parent, ignore_errors=True)
        assert outside == [archive]

    return read


def _pack(suffix: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in/images").mkdir(parents=True)
        (folder / "in/a.txt").write_bytes(b"one\n" * 9)
        (folder / "in/images/b.bin").write_bytes(bytes(range(64)))
        kind = {".zip": "zip", ".tar": "tar", ".tar.gz": "gztar"}[suffix]
        file = Path(shutil.make_archive(str(folder / "seed"), kind, folder / "in"))
        return {file.name: file.read_bytes()}


def _read_description(folder: Path) -> Read:
    for name in ("imagesTr/a.nii", "labelsTr/a.nii"):
        (folder / name).parent.mkdir()
        (folder / name).touch()
    return read_file("dataset.json", lambda path: read_layout(path.parent))(folder)


DESCRIPTION = b"""{
 "labels": {"0": "background", "1": "liver"},
 "training": [{"image": "./imagesTr/a.nii", "label": "./labelsTr/a.nii"}],
 "test": ["./imagesTs/b.nii"], "file_ending": ".nii"
}
"""


def _list_targets() -> list[Target]:
    found = [
        Target(
            f"annotations_{name}",
            partial(_convert, name),
            partial(_build_seed, name),
            _get_damage(damage),
            (DataError, RecipeError),  # of a YAML file that is not valid YAML
        )
        for name, (_, _, damage) in CASES.items()
    ]
    archives: dict[str, Damage] = {
        ".zip": damage_zip,
        ".tar": damage_tar,
        ".tar.gz": damage_gzip(damage_tar),
    }
    found += [
        Target(
            f"archive{suffix.replace('.', '_')}",
            partial(_unpack, suffix=suffix),
            partial(_pack, suffix),
            damage,
            (DataError,),
        )
        for suffix, damage in archives.items()
    ]
    shipped = ROOT / "data_tools/data_sets/bccd.yaml"
    read: Callable[[Path], object] = read_dataset
    found += [
        Target(
            "dataset_yaml",
            read_file("mine.yaml", read),
            lambda: {"bccd.yaml": shipped.read_bytes()},
            damaged_yaml,
            (DataError, RecipeError),
        ),
        Target(
            "nnunet_description",
            _read_description,
            lambda: {"dataset.json": DESCRIPTION},
            damage_json_text,
            (DataError,),
        ),
    ]
    return found


ANNOTATIONS = _list_targets()
