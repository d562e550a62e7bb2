"""What is wrong between splits of one data set: what leaks, is absent, or looks alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnet_tasks.data.categories import CategoryMap
from resnet_tasks.data.coco_problems import Findings, Id
from resnet_tasks.data.coco_records import ImageRecord
from resnet_tasks.data.doctor.check import FileCheck, Look, check_coco
from resnet_tasks.data.doctor.likeness import nearest_of_other_splits
from resnet_tasks.data.leaks import group_counts, picture_paths
from resnet_tasks.errors import DataError

SPLIT_NAMES = ("train", "val", "test")


def check_splits(paths: Sequence[Path], look: Look | None = None) -> tuple[FileCheck, ...]:
    """All that is wrong with COCO files that are splits of one data set.

    What is wrong between two of them is a finding of the later one.

    Args:
        paths: The JSONs; one alone is only looked at by itself.
        look: How closely to look.

    Raises:
        DataError: If a file is named twice.
    """
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        again = next(path for path in resolved if resolved.count(path) > 1)
        raise DataError(f"{again} is given more than once; name each split once")
    checks = [check_coco(path, look) for path in paths]
    return tuple(
        _compared(check, checks[:number]) if number else check
        for number, check in enumerate(_with_absent_classes(checks))
    )


def siblings(path: Path) -> list[Path]:
    """The file and the other splits that lie beside it by their usual names."""
    found = [path.with_name(f"{name}.json") for name in SPLIT_NAMES]
    return [path, *(each for each in found if each != path and each.is_file())]


def _with_absent_classes(checks: Sequence[FileCheck]) -> list[FileCheck]:
    return [_class_check(each, [o for o in checks if o is not each]) for each in checks]


def _class_check(check: FileCheck, others: Sequence[FileCheck]) -> FileCheck:
    """With the classes that have objects in another split only."""
    findings = Findings(check.path, keep_all=True)
    if check.categories is None or not check.annotated & {"boxes", "masks", "image"}:
        return check
    for category_id, where in _names_elsewhere(others).items():
        if not check.objects.get(category_id):
            name, split, count = where
            findings.add("absent_class", detail=f"{category_id} {name!r}, {count} in {split}")
    return _joined(check, findings)


def _names_elsewhere(others: Sequence[FileCheck]) -> dict[int, tuple[str, str, int]]:
    """Category id -> its name, the first split that has objects of it, and how many."""
    found: dict[int, tuple[str, str, int]] = {}
    for each in others:
        for category in each.categories.categories if each.categories else ():
            count = each.objects.get(category.id, 0)
            if count:
                found.setdefault(category.id, (category.name, each.path.name, count))
    return dict(sorted(found.items()))


def _compared(check: FileCheck, earlier: Sequence[FileCheck]) -> FileCheck:
    findings = Findings(check.path, keep_all=True)
    _compare_categories(check, earlier, findings)
    _compare_groups(check, earlier, findings)
    _compare_files(check, earlier, findings)
    _compare_looks(check, earlier, findings)
    return _joined(check, findings)


def _compare_categories(check: FileCheck, earlier: Sequence[FileCheck], findings: Findings) -> None:
    maps = [each.categories for each in (*earlier, check) if each.categories is not None]
    try:
        CategoryMap.merged(maps)
    except DataError as error:
        findings.add("categories_differ", detail=str(error))


def _compare_groups(check: FileCheck, earlier: Sequence[FileCheck], findings: Findings) -> None:
    here = group_counts([check])
    others = [(each.path.name, group_counts([each])) for each in earlier]
    first = {record.group: record for record in reversed(check.images)}
    for group, count in here.items():
        shared = [f"{there[group]} in {name}" for name, there in others if group in there]
        if shared:
            detail = f"group {group!r}: {count} picture(s) here, {', '.join(shared)}"
            findings.add("shared_group", first[group].id, detail=detail)


def _compare_files(check: FileCheck, earlier: Sequence[FileCheck], findings: Findings) -> None:
    known: dict[str, tuple[Id, str]] = {}
    for each in earlier:
        for path, record in zip(picture_paths(each), each.images, strict=True):
            known.setdefault(path, (record.id, each.path.name))
    for path, record in zip(picture_paths(check), check.images, strict=True):
        if path in known:
            image_id, name = known[path]
            detail = f"{record.file_name}, image {image_id!r} of {name}"
            findings.add("shared_picture", record.id, detail=detail)


def _compare_looks(check: FileCheck, earlier: Sequence[FileCheck], findings: Findings) -> None:
    if check.hashes is None:
        return
    rows: list[tuple[Path, ImageRecord]] = []
    values, splits = [], []
    for split, each in enumerate((*earlier, check)):
        if each.hashes is not None:
            known = np.flatnonzero(each.hashes.is_known)
            rows += [(each.path, each.images[i]) for i in known.tolist()]
            values.append(each.hashes.values[known])
            # Earlier splits count as one: they have been compared among themselves.
            splits.append(np.full(len(known), int(split == len(earlier))))
    hashes, of_split = np.concatenate(values), np.concatenate(splits)
    for place, other, bits in nearest_of_other_splits(hashes, of_split):
        record, (path, like) = rows[place][1], rows[other]
        told = f"{record.file_name} like {like.file_name}, image {like.id!r} of {path.name}"
        findings.add("near_duplicate", record.id, detail=f"{told}, {bits} of 256 bits apart")


def _joined(check: FileCheck, findings: Findings) -> FileCheck:
    problems = sorted((*findings.problems(), *check.problems), key=lambda each: each.rank)
    return replace(check, problems=tuple(problems), findings=(*check.findings, *findings.all))
