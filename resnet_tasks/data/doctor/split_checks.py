"""Checks between the splits of a dataset: leaks, absent classes and near duplicates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.problems import Findings, Id
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.doctor.check import CheckOptions, FileCheck, check_coco
from resnet_tasks.data.doctor.image_similarity import find_near_duplicates
from resnet_tasks.data.images.bit_depths import BitDepths
from resnet_tasks.data.splits.leaks import count_groups, resolve_image_paths
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

SPLIT_NAMES = ("train", "val", "test")


def check_splits(
    paths: Sequence[Path], options: CheckOptions | None = None
) -> tuple[FileCheck, ...]:
    """Find all problems of COCO files that are splits of one dataset.

    A problem between two splits is a finding of the later one.

    Args:
        paths: Paths of the JSON files. A single file is only checked by itself.
        options: Extent of the check.

    Raises:
        DataError: If a file is passed more than once.
    """
    resolved = [
        Path(os.path.realpath(path)) for path in paths
    ]  # `resolve` fails on a loop of links
    if len(set(resolved)) < len(resolved):
        again = next(path for path in resolved if resolved.count(path) > 1)
        raise DataError(f"{again} is passed more than once; pass each split once")
    checks = [check_coco(path, options) for path in paths]
    return tuple(
        _compare_with_earlier(check, checks[:number]) if number else check
        for number, check in enumerate(_add_absent_classes(checks))
    )


def find_sibling_splits(path: Path) -> list[Path]:
    """Return the file and the other splits next to it that have the usual names."""
    candidates = [path.with_name(f"{name}.json") for name in SPLIT_NAMES]
    return [
        path,
        *(candidate for candidate in candidates if candidate != path and candidate.is_file()),
    ]


def _add_absent_classes(checks: Sequence[FileCheck]) -> list[FileCheck]:
    return [_check_absent_classes(check, [o for o in checks if o is not check]) for check in checks]


def _check_absent_classes(check: FileCheck, other_checks: Sequence[FileCheck]) -> FileCheck:
    """Return the check with a finding for every class that has objects only in other splits."""
    findings = Findings(check.path, keep_all=True)
    if check.categories is None or not check.annotated & {"boxes", "masks", "image"}:
        return check
    for category_id, occurrence in _find_classes_elsewhere(other_checks).items():
        if not check.objects.get(category_id):
            name, split, count = occurrence
            findings.add("absent_class", detail=f"{category_id} {name!r}, {count} in {split}")
    return _merge_findings(check, findings)


def _find_classes_elsewhere(other_checks: Sequence[FileCheck]) -> dict[int, tuple[str, str, int]]:
    """Return category id -> name, first split with objects of it, and their number."""
    occurrences: dict[int, tuple[str, str, int]] = {}
    for check in other_checks:
        for category in check.categories.categories if check.categories else ():
            count = check.objects.get(category.id, 0)
            if count:
                occurrences.setdefault(category.id, (category.name, check.path.name, count))
    return dict(sorted(occurrences.items()))


def _compare_with_earlier(check: FileCheck, earlier: Sequence[FileCheck]) -> FileCheck:
    findings = Findings(check.path, keep_all=True)
    _compare_categories(check, earlier, findings)
    _compare_groups(check, earlier, findings)
    _compare_files(check, earlier, findings)
    _compare_hashes(check, earlier, findings)
    _compare_depths(check, earlier, findings)
    return _merge_findings(check, findings)


def _compare_categories(check: FileCheck, earlier: Sequence[FileCheck], findings: Findings) -> None:
    maps = [
        split_check.categories
        for split_check in (*earlier, check)
        if split_check.categories is not None
    ]
    try:
        CategoryMap.merge(maps)
    except DataError as error:
        findings.add("categories_differ", detail=str(error))


def _compare_groups(check: FileCheck, earlier: Sequence[FileCheck], findings: Findings) -> None:
    own_counts = count_groups([check])
    earlier_counts = [
        (earlier_check.path.name, count_groups([earlier_check])) for earlier_check in earlier
    ]
    first = {record.group: record for record in reversed(check.images)}
    for group, count in own_counts.items():
        shared = [
            f"{counts[group]} in {name}" for name, counts in earlier_counts if group in counts
        ]
        if shared:
            detail = f"group {group!r}: {Count(count):image} here, {', '.join(shared)}"
            findings.add("shared_group", first[group].id, detail=detail)


def _compare_files(check: FileCheck, earlier: Sequence[FileCheck], findings: Findings) -> None:
    known_files: dict[str, tuple[Id, str]] = {}
    for earlier_check in earlier:
        for path, record in zip(
            resolve_image_paths(earlier_check), earlier_check.images, strict=True
        ):
            known_files.setdefault(path, (record.id, earlier_check.path.name))
    for path, record in zip(resolve_image_paths(check), check.images, strict=True):
        if path in known_files:
            image_id, name = known_files[path]
            detail = f"{record.file_name}, image {image_id!r} of {name}"
            findings.add("shared_image", record.id, detail=detail)


def _compare_hashes(check: FileCheck, earlier: Sequence[FileCheck], findings: Findings) -> None:
    if check.hashes is None:
        return
    rows: list[tuple[Path, ImageRecord]] = []
    values, splits = [], []
    for split, split_check in enumerate((*earlier, check)):
        if split_check.hashes is not None:
            hashed_indices = np.flatnonzero(split_check.hashes.is_known)
            rows += [(split_check.path, split_check.images[i]) for i in hashed_indices.tolist()]
            values.append(split_check.hashes.values[hashed_indices])
            # Earlier splits count as one split, since they are compared with each other separately.
            splits.append(np.full(len(hashed_indices), int(split == len(earlier))))
    hashes, of_split = np.concatenate(values), np.concatenate(splits)
    for place, other, bits in find_near_duplicates(hashes, of_split):
        record, (path, like) = rows[place][1], rows[other]
        detail = f"{record.file_name} like {like.file_name}, image {like.id!r} of {path.name}"
        findings.add("near_duplicate", record.id, detail=f"{detail}, {bits} of 256 bits apart")


def _compare_depths(check: FileCheck, earlier: Sequence[FileCheck], findings: Findings) -> None:
    """Report splits of different bit depths that are not mixed by themselves."""
    earlier_depths = sum((split_check.depths for split_check in earlier), BitDepths())
    mixture = (earlier_depths + check.depths).describe_mixture()
    is_reported = earlier_depths.describe_mixture() or check.depths.describe_mixture()
    if mixture is not None and not is_reported:
        findings.add("mixed_depths", detail=f"{mixture}, over the splits together")


def _merge_findings(check: FileCheck, findings: Findings) -> FileCheck:
    problems = sorted((*findings.to_problems(), *check.problems), key=lambda problem: problem.rank)
    return replace(check, problems=tuple(problems), findings=(*check.findings, *findings.all))
