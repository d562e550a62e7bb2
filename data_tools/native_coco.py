"""COCO files of others: checked, mended where that is safe, and laid out as all prepared data is.

    ROOT/annotations/instances_val2017.json   one file per split, told by its name; or named
    ROOT/val2017/NAME.jpg                     pictures, anywhere below ROOT

Ids stay those of the publisher, so that results can be handed in. Files whose records are keyed by
id instead of listed (parts of LIVECell) are taken as if they were lists.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_tools.picture_io import picture_size
from data_tools.progress import PictureCount, Progress
from data_tools.source_folder import PICTURE_SUFFIXES, SPLITS, coco_splits, is_file, require_parts
from data_tools.split_summary import SkippedObject, SplitSummary
from resnet_tasks.data.coco import Annotation, CocoFile, ImageRecord, read_coco
from resnet_tasks.data.coco_parsing import require_object
from resnet_tasks.data.json_files import read_json
from resnet_tasks.errors import DataError


def convert_coco(
    source: Path,
    out: Path,
    *,
    annotations: Mapping[str, str] | None = None,
    images: str = ".",
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Writes COCO files anew: complete, with pictures found and sizes compared.

    Missing `iscrowd`, `area`, `bbox` and ids are filled in and counted; objects that cannot be
    used are left out and listed. A picture is looked for under its `file_name`, then by its name
    anywhere below `images`.

    Args:
        source: Folder that holds annotations and pictures.
        out: Folder for `train.json`, `val.json`, `test.json`.
        annotations: Split -> COCO file, relative to the source; default: told by their names.
        images: Folder of the pictures, relative to the source.
        copy_images: Copy the pictures beside the JSON instead of referring to them.
        license_name: Licence of the data, for the JSON; default: what stands there.
        progress: Called with (done, total) after each picture.

    Returns:
        What was written, by split.

    Raises:
        DataError: If a file or picture is missing, or a file has errors that cannot be mended.
    """
    files = _files(source, annotations)
    pictures = _Pictures(source, images)
    with _listed(files, out) as readable:
        parsed = {split: read_coco(file) for split, file in readable.items()}
    count = PictureCount(sum(len(coco.images) for coco in parsed.values()), progress)
    summaries = []
    for split, coco in parsed.items():
        records: list[dict[str, Any]] = []
        taken: set[Path] = set()
        for record in count.over(coco.images):
            path = pictures.find(record)
            taken.add(path)
            records.append(
                _image(path, record, coco, pictures, out, split if copy_images else None)
            )
        info: dict[str, Any] = {
            **coco.info,
            "description": coco.info.get("description") or f"Converted from COCO, {split}",
            "annotated": sorted(coco.annotated),
            "images_root": pictures.source.as_posix(),
        }
        info.pop("sem_seg_root", None)
        if copy_images:
            del info["images_root"]
        _write(out / f"{split}.json", coco, records, info, license_name)
        summaries.append(_summary(split, coco, frozenset(taken)))
    return tuple(summaries)


def _files(source: Path, annotations: Mapping[str, str] | None) -> dict[str, Path]:
    if annotations is None:
        require_parts(source, ())
        return coco_splits(source)
    unknown = [split for split in annotations if split not in SPLITS]
    if unknown or not annotations:
        raise DataError(
            f"annotations has {', '.join(annotations) or 'nothing'}; it names files for "
            f"{', '.join(SPLITS)}"
        )
    require_parts(source, tuple(annotations.values()))
    return {split: source / annotations[split] for split in SPLITS if split in annotations}


@contextmanager
def _listed(files: Mapping[str, Path], out: Path) -> Iterator[dict[str, Path]]:
    """The files, those with keyed records in a form with lists for as long as they are read."""
    readable = dict(files)
    made: list[Path] = []
    try:
        for split, file in files.items():
            with file.open("rb") as stream:
                start = stream.read(1 << 20)
            if b'"annotations": {' not in start and b'"annotations":{' not in start:
                # Cheap, and right for what writes such files: keys stand before a million bytes.
                continue
            content = require_object(file, read_json(file))
            for key in ("images", "annotations"):
                if isinstance(content.get(key), dict):
                    content[key] = list(content[key].values())
            out.mkdir(parents=True, exist_ok=True)
            made.append(out / f".{split}.listed.json")
            made[-1].write_text(json.dumps(content), encoding="utf-8")
            readable[split] = made[-1]
            del content
        yield readable
    finally:
        for file in made:
            file.unlink(missing_ok=True)


class _Pictures:
    """Finds pictures inside a folder, by the name of the record or by the file's own."""

    def __init__(self, source: Path, images: str) -> None:
        require_parts(source, (images,))
        self.source = _absolute(source)
        self._root = _absolute(source / images)
        if not self._root.is_relative_to(self.source):
            raise DataError(
                f"images is {images!r}, which leads out of the source {source}; give a folder that "
                "holds annotations and pictures, and name both below it (annotations={train: "
                "FILE} images=FOLDER)"
            )
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, record: ImageRecord) -> Path:
        direct = self._root / record.file_name
        if is_file(direct):
            return direct
        if self._by_name is None:
            self._by_name = {}
            for folder, _, names in os.walk(self._root):
                for name in names:
                    if Path(name).suffix.lower() in PICTURE_SUFFIXES:
                        self._by_name.setdefault(name, []).append(Path(folder, name))
        found = sorted(self._by_name.get(Path(record.file_name).name, []))
        if len(found) != 1:
            several = f"{found[0]} and {found[1]}" if found else "nowhere"
            raise DataError(
                f"the picture {record.file_name} of image {record.id!r} is not in {self._root}; a "
                f"file of that name is {several}: unpack the pictures there, or name their folder "
                "with images=FOLDER"
            )
        return found[0]


def _image(
    path: Path,
    record: ImageRecord,
    coco: CocoFile,
    pictures: _Pictures,
    out: Path,
    copied: str | None,
) -> dict[str, Any]:
    """The record of a picture, which lies at `path`, in the layout of prepared data."""
    size = picture_size(path)
    if size != (record.height, record.width):
        raise DataError(
            f"{coco.path}: image {record.id!r} has height {record.height} and width "
            f"{record.width}, but {path} has {size[0]} and {size[1]}; put the original there"
        )
    name = path.relative_to(pictures.source).as_posix()
    if copied is not None:
        name = _copy(path, out, Path("images", copied, name))
    written = {
        **record.extra,
        "id": record.id,
        "file_name": name,
        "height": record.height,
        "width": record.width,
    }
    semantic = coco.sem_seg_path(record)
    if semantic is not None and record.sem_seg_file_name is not None:
        place = Path("semantic", coco.path.stem.strip("."), record.sem_seg_file_name)
        written["sem_seg_file_name"] = _copy(semantic, out, place)
    if record.group is not None:
        written["group"] = record.group
    if record.spacing is not None:
        written["spacing"] = list(record.spacing)
    return written


def _absolute(path: Path) -> Path:
    """The path from the root without `..`, links kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - pathlib's own way follows links


def _copy(path: Path, out: Path, place: Path) -> str:
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(path, out / place)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; add it") from None
    return place.as_posix()


def _write(
    file: Path,
    coco: CocoFile,
    images: list[dict[str, Any]],
    info: Mapping[str, Any],
    license_name: str,
) -> None:
    """Writes a file record by record: millions of them need no second copy in memory."""
    categories = [
        {
            "id": each.id,
            "name": each.name,
            "isthing": int(each.is_thing),
            "supercategory": each.supercategory,
        }
        for each in coco.categories.categories
    ]
    licenses = [{"id": 1, "name": license_name}] if license_name else []
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.partial")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(f'{{"info": {json.dumps(info)}, "licenses": {json.dumps(licenses)}, ')
        stream.write(f'"categories": {json.dumps(categories)}, "images": {json.dumps(images)}, ')
        stream.write('"annotations": [')
        separator = ""
        for record in coco.images:
            for annotation in coco.annotations[record.id]:
                category_id = coco.categories.ids[annotation.category]
                stream.write(separator + json.dumps(_annotation(annotation, category_id)))
                separator = ", "
        stream.write("]}")
    temporary.replace(file)


def _annotation(annotation: Annotation, category_id: int) -> dict[str, Any]:
    written: dict[str, Any] = {
        "id": annotation.id,
        "image_id": annotation.image_id,
        "category_id": category_id,
    }
    if annotation.bbox is None:
        return written
    written |= {
        "bbox": list(annotation.bbox),
        "area": annotation.area,
        "iscrowd": int(annotation.is_crowd),
    }
    segmentation = annotation.segmentation
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        written["segmentation"] = {"size": list(segmentation["size"]), "counts": text}
    elif segmentation is not None:
        written["segmentation"] = [list(polygon) for polygon in segmentation]
    for key in ("occluded", "truncated"):
        if (value := getattr(annotation, key)) is not None:
            written[key] = value
    return written


def _summary(split: str, coco: CocoFile, pictures: frozenset[Path]) -> SplitSummary:
    names = coco.categories.names
    counts = Counter(
        each.category for record in coco.images for each in coco.annotations[record.id]
    )
    skipped = [
        SkippedObject(coco.path.name.strip("."), f"annotation {each.annotation_id}", each.message)
        for each in coco.problems
        if each.severity == "warning"
    ]
    changed = {
        each.message: each.count for each in coco.problems if each.severity in ("repaired", "note")
    }
    objects = {name: counts[index] for index, name in enumerate(names)}
    return SplitSummary(
        split, len(coco.images), objects, {}, tuple(skipped), changed, pictures=pictures
    )
