"""Converter for COCO files of other publishers, checked and repaired, to the internal layout.

    ROOT/annotations/instances_val2017.json   one file per split, found by its name or by option
    ROOT/val2017/NAME.jpg                     images, anywhere below ROOT

The publisher's ids are kept, so that results can be submitted. Files with records keyed by id
instead of listed (parts of LIVECell) are read as if they were lists.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_tools.converters.coco_extra_fields import CocoExtraFields
from data_tools.reading.class_names import describe_similar_names
from data_tools.reading.coco_splits import find_coco_splits
from data_tools.reading.image_io import measure_image_size
from data_tools.reading.recorded_paths import RecordedPaths
from data_tools.reading.source_folder import (
    SPLITS,
    is_file,
    make_absolute,
    require_parts,
)
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import (
    SkippedObject,
    SplitSummary,
    describe_ignored_classes,
)
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.data.doctor.repeated_objects import describe_repeated_objects
from resnet_tasks.data.images.find_images import FileNameIndex, find_file
from resnet_tasks.errors import DataError
from resnet_tasks.files.atomic import open_atomic
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.files.safe_names import is_inside
from resnet_tasks.number_formats import Count

LICENSE_ID = 1
"""Id of the license that the option `license_name` states for all images."""


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
    """Rewrite COCO files in complete form, with images found and sizes compared.

    Missing `iscrowd`, `area`, `bbox` and ids are filled in and counted. Fields that are not
    interpreted, such as `license`, `coco_url`, `attributes` and `keypoints`, are copied. Objects
    that cannot be used are skipped and listed. An image is looked up by its `file_name`, then by
    its base name anywhere below `images`. The folders of a name that leads out of the source are
    never read.

    Args:
        source: Folder that contains annotations and images, or a COCO file in the folder of its
            images.
        out: Folder for `train.json`, `val.json`, `test.json`.
        annotations: Split -> COCO file, relative to the source; default: files found by their
            names.
        images: Folder of the images, relative to the source.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON; default: the licenses that the
            file states.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a file or image is missing, or a file has errors that cannot be repaired.
    """
    files = _find_files(source, annotations)
    source = source if source.is_dir() else source.parent
    image_finder = _CocoImageFinder(source, images)
    # Names that lead out of the source are only compared by their last part.
    coco_by_split = {
        split: read_coco(file, accept_keyed=True, allow_outside=True)
        for split, file in files.items()
    }
    for coco in coco_by_split.values():
        coco.require_pixel_boxes()
    extra_by_split = {split: CocoExtraFields.from_file(file) for split, file in files.items()}
    images_by_split = {split: coco.images for split, coco in coco_by_split.items()}
    summaries: list[SplitSummary] = []
    for split, image_records in track_splits(images_by_split, progress).items():
        coco, extra = coco_by_split[split], extra_by_split[split]
        records: list[dict[str, Any]] = []
        names_by_path: dict[Path, str] = {}
        for record in image_records:
            path = image_finder.find(record, files[split].parent, split)
            if (first_name := names_by_path.setdefault(path, record.file_name)) != record.file_name:
                raise DataError(
                    f"{coco.path} names the images {first_name} and {record.file_name}, but only "
                    f"one such image exists, {path}; add the other image"
                )
            image_record = _build_image_record(
                path, record, coco, image_finder, out, split if copy_images else None
            )
            fields = extra.images.get(record.id, {})
            if license_name and "license" in fields:
                fields = {**fields, "license": LICENSE_ID}
            records.append({**fields, **image_record})
        info: dict[str, Any] = {
            **coco.info,
            "description": coco.info.get("description") or f"Converted from COCO, {split}",
            "annotated": sorted(coco.annotated),
            "images_root": image_finder.source.as_posix(),
        }
        info.pop("sem_seg_root", None)
        if copy_images:
            del info["images_root"]
        if license_name:
            extra = replace(extra, licenses=[{"id": LICENSE_ID, "name": license_name}])
        _write_coco(out / f"{split}.json", coco, records, info, extra)
        # The splits usually share their classes, so that one warning is enough.
        names = () if summaries else coco.categories.names
        summary = _summarize_split(split, coco, frozenset(names_by_path), names)
        shortened = image_finder.recorded_paths.describe_shortened(split)
        summaries.append(replace(summary, warnings=(*summary.warnings, *shortened)))
    return tuple(summaries)


def _find_files(source: Path, annotations: Mapping[str, str] | None) -> dict[str, Path]:
    if annotations is None:
        if not is_file(source):
            require_parts(source, ())
        return find_coco_splits(source)
    unknown = [split for split in annotations if split not in SPLITS]
    if unknown or not annotations:
        raise DataError(
            f"annotations names the splits {', '.join(annotations) or 'nothing'}; allowed: "
            f"{', '.join(SPLITS)}"
        )
    require_parts(source, tuple(annotations.values()))
    return {split: source / annotations[split] for split in SPLITS if split in annotations}


class _CocoImageFinder:
    """Finder of images inside a folder, by `file_name` or by the name of the file alone."""

    def __init__(self, source: Path, images: str) -> None:
        require_parts(source, (images,))
        self.source = make_absolute(source)
        self._root = make_absolute(source / images)
        if not self._root.is_relative_to(self.source):
            raise DataError(
                f"images is {images!r}, which leads out of the source {source}; pass a folder that "
                "contains annotations and images, and name both relative to it "
                "(annotations={train: FILE} images=FOLDER)"
            )
        self._by_name = FileNameIndex(self._root)
        self.recorded_paths = RecordedPaths(self.source)

    def find(self, record: ImageRecord, json_folder: Path, split: str) -> Path:
        name, is_safe = record.file_name, is_inside(record.file_name)
        for folder in (self._root, make_absolute(json_folder)) if is_safe else ():
            # Windows separates folders by a backslash, which is part of a name elsewhere.
            for path in dict.fromkeys((folder / name, folder / name.replace("\\", "/"))):
                if (file := find_file(path)) is not None:
                    return file
        candidates = self._by_name.find(name)
        if candidates and not is_safe:
            return self.recorded_paths.choose(name, candidates, f"image {record.id!r}", split)
        if len(candidates) != 1:
            owners = "two files there have" if candidates else "no file there has"
            examples = f" ({candidates[0]} and {candidates[1]})" if candidates else ""
            raise DataError(
                f"the file {name} of image {record.id!r} is not in {self._root}, and {owners} that "
                f"name{examples}; unpack the images there, or set their folder with images=FOLDER"
            )
        return candidates[0]


def _build_image_record(
    path: Path,
    record: ImageRecord,
    coco: CocoFile,
    image_finder: _CocoImageFinder,
    out: Path,
    copy_split: str | None,
) -> dict[str, Any]:
    """Return the record of the image at `path` in the internal layout."""
    size = measure_image_size(path)
    if size != (record.height, record.width):
        raise DataError(
            f"{coco.path}: image {record.id!r} has height {record.height} and width "
            f"{record.width}, but {path} has {size[0]} and {size[1]}; restore the original image"
        )
    name = path.relative_to(image_finder.source).as_posix()
    if copy_split is not None:
        name = _copy_file(path, out, Path("images", copy_split, name))
    image_record: dict[str, Any] = {
        "id": record.id,
        "file_name": name,
        "height": record.height,
        "width": record.width,
    }
    semantic = coco.sem_seg_path(record)
    if semantic is not None and record.sem_seg_file_name is not None:
        if not is_inside(record.sem_seg_file_name):
            raise DataError(
                f"{coco.path}: the semantic map of image {record.id!r} is "
                f"{record.sem_seg_file_name}, which is absolute or outside the folder; write a "
                "path relative to the folder"
            )
        target = Path("semantic", coco.path.stem, record.sem_seg_file_name)
        image_record["sem_seg_file_name"] = _copy_file(semantic, out, target)
    if record.group is not None:
        image_record["group"] = record.group
    if record.spacing is not None:
        image_record["spacing"] = list(record.spacing)
    return image_record


def _copy_file(path: Path, out: Path, target: Path) -> str:
    (out / target).parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(path, out / target)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; add it") from None
    return target.as_posix()


def _write_coco(
    file: Path,
    coco: CocoFile,
    images: list[dict[str, Any]],
    info: Mapping[str, Any],
    extra: CocoExtraFields,
) -> None:
    """Write a COCO file one annotation at a time, without a second copy of them in memory."""
    categories = [
        {
            **extra.categories.get(category.id, {}),
            "id": category.id,
            "name": category.name,
            "isthing": int(category.is_thing),
            "supercategory": category.supercategory,
        }
        for category in coco.categories.categories
    ]
    with open_atomic(file) as stream:
        top = {"info": info, "licenses": extra.licenses, **extra.top}
        stream.write(f"{encode_json(top)[:-1]}, ")
        stream.write(f'"categories": {encode_json(categories)}, "images": {encode_json(images)}, ')
        stream.write('"annotations": [')
        separator = ""
        for record in coco.images:
            for annotation in coco.annotations[record.id]:
                category_id = coco.categories.ids[annotation.category]
                fields = extra.annotations.get(annotation.id, {})
                entry = {**fields, **_build_annotation(annotation, category_id)}
                stream.write(separator + encode_json(entry))
                separator = ", "
        stream.write("]}")


def _build_annotation(annotation: Annotation, category_id: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": annotation.id,
        "image_id": annotation.image_id,
        "category_id": category_id,
    }
    if annotation.bbox is None:
        return record
    record |= {
        "bbox": list(annotation.bbox),
        "area": annotation.area,
        "iscrowd": int(annotation.is_crowd),
    }
    segmentation = annotation.segmentation
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        record["segmentation"] = {"size": list(segmentation["size"]), "counts": text}
    elif segmentation is not None:
        record["segmentation"] = [list(polygon) for polygon in segmentation]
    for key in ("occluded", "truncated"):
        if (value := getattr(annotation, key)) is not None:
            record[key] = value
    return record


def _summarize_split(
    split: str, coco: CocoFile, images: frozenset[Path], checked_names: Iterable[str]
) -> SplitSummary:
    names = coco.categories.names
    counts: Counter[int] = Counter()
    crowd_counts: Counter[int] = Counter()
    for record in coco.images:
        for annotation in coco.annotations[record.id]:
            counts[annotation.category] += 1
            crowd_counts[annotation.category] += annotation.is_crowd
    ignored_classes = [
        category.name
        for index, category in enumerate(coco.categories.categories)
        if category.is_thing and 0 < counts[index] == crowd_counts[index]
    ]
    skipped = [
        SkippedObject(
            coco.path.name, _describe_skipped(problem.annotation_id, problem.kind), problem.message
        )
        for problem in coco.problems
        if problem.severity == "warning"
    ]
    changed = {
        problem.message: problem.count
        for problem in coco.problems
        if problem.severity in ("repaired", "note")
    }
    objects = {name: counts[index] for index, name in enumerate(names)}
    return SplitSummary(
        split,
        len(coco.images),
        objects,
        {},
        tuple(skipped),
        changed,
        warnings=(
            *describe_similar_names(checked_names),
            *coco.require_pixel_boxes(),
            *describe_repeated_objects(coco),
            *_describe_repairable(coco),
            *describe_ignored_classes(ignored_classes),
        ),
        image_paths=images,
    )


def _describe_skipped(annotation_id: object, kind: str) -> str:
    # The object of a segmentation that cannot be used keeps its box.
    return f"{'mask of ' if kind == 'bad_segmentation' else ''}annotation {annotation_id}"


def _describe_repairable(coco: CocoFile) -> list[str]:
    """Return a sentence on the skipped boxes and masks that a repair of the file may keep."""
    descriptions = {"bad_segmentation": "skipped mask", "empty_box": "skipped box"}
    counts = Counter(problem.kind for problem in coco.problems)
    return [
        f"{coco.path} has {Count(counts[kind]):{description}|{description}s}, which "
        f"`resnet-tasks data check {coco.path} --fix COPY` may repair"
        for kind, description in descriptions.items()
        if counts[kind]
    ]
