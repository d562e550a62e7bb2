"""Division of one COCO file into several (train, val and test, or folds) with the same images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.json_records import (
    CocoContent,
    decode_key,
    decode_record,
    open_content,
    write_content,
)
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.coco.top_level import relocate_info
from resnet_tasks.data.splits.splitting import (
    assign_folds,
    count_objects_per_image,
    divide,
    find_groups,
)
from resnet_tasks.data.subgroups.subgroups import (
    MEASURED,
    Subgroups,
    find_subgroups,
    get_attribute,
)
from resnet_tasks.errors import DataError, format_list
from resnet_tasks.files.atomic import (
    open_together,
    remove_files_on_error,
    remove_incomplete_set,
)
from resnet_tasks.files.safe_names import require_file_name
from resnet_tasks.number_formats import Count

By = Literal["random", "class", "group", "group-class"]
USUAL_NAMES = {2: ("train", "val"), 3: ("train", "val", "test")}


@dataclass(frozen=True)
class SplitPlan:
    """Specification of how images are divided.

    Attributes:
        shares: Relative sizes of the parts. None divides into `folds` equal parts.
        folds: Number of parts if `shares` is None.
        by: Criterion. `random`: single images. `class`: similar shares of every class. `group`:
            whole groups. `group-class`: whole groups and similar shares of every class. None:
            `group-class` if there are groups, else `class`.
        names: Names of the parts. Default: train, val, test, or fold0, fold1, ...
        group_key: Key of the image records with the group, instead of `group`.
        group_from: Regular expression for file names. The group consists of the captured parts, or
            of the whole match if nothing is captured.
        ignore_groups: Whether to accept `random` and `class` for a file with groups.
        balance: Key of subgroups that have similar shares in every part; see `find_subgroups`.
        seed: Seed of the division.
    """

    shares: tuple[float, ...] | None = (0.7, 0.15, 0.15)
    folds: int = 5
    by: By | None = None
    names: tuple[str, ...] = ()
    group_key: str | None = None
    group_from: str | None = None
    ignore_groups: bool = False
    seed: int = 0
    balance: str | None = None


@dataclass(frozen=True)
class WrittenSplits:
    """Result of dividing a COCO file.

    Attributes:
        files: Path of each part.
        by: Criterion by which the images were divided.
        images: Number of images in each part.
        groups: Number of groups in each part.
        objects: Class name -> number of objects in each part.
        notes: Remarks for the user.
        subgroups: `key: subgroup` -> number of its images in each part.
    """

    files: tuple[Path, ...]
    by: By
    images: tuple[int, ...]
    groups: tuple[int, ...]
    objects: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()
    subgroups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def split_file(
    path: Path, out: Path, plan: SplitPlan, *, images_root: Path | None = None
) -> WrittenSplits:
    """Write the parts of a COCO file, without moving images and with all unknown keys.

    Args:
        path: Path of the COCO file.
        out: Folder for the parts. Either all parts are written or none.
        plan: Specification of the division. The same plan always gives the same parts.
        images_root: Folder of the images; see `read_coco`.

    Raises:
        DataError: If the file cannot be used, groups would be divided, the plan does not fit the
            file, or a part already exists.
        RunError: If the parts cannot be written.
    """
    names = _resolve_names(plan)
    files = tuple(out / f"{name}.json" for name in names)
    remove_incomplete_set(out)
    for file in files:
        if file.exists():
            raise DataError(f"{file} already exists; choose another folder with --out")
    coco = _assign_groups(read_coco(path, images_root=images_root), plan)
    by = _resolve_criterion(coco, plan)
    subgroups = None if plan.balance is None else _find_balanced_subgroups(coco, plan.balance)
    part, notes = _divide_images(coco, by, plan, subgroups)
    with remove_files_on_error(files):
        _write_files(coco, path, files, part)
        splits = _summarize_splits(coco, by, files, part, notes)
        return splits if subgroups is None else _add_subgroups(splits, subgroups, part)


def _resolve_names(plan: SplitPlan) -> tuple[str, ...]:
    number = plan.folds if plan.shares is None else len(plan.shares)
    if plan.shares is None:
        usual: tuple[str, ...] = tuple(f"fold{i}" for i in range(number))
    else:
        usual = USUAL_NAMES.get(number, ())
    names = plan.names or usual
    if len(names) != number or len({name.lower() for name in names}) != number:
        raise DataError(
            f"{number} parts need {number} different names, got {format_list(names)}; give them "
            "with "
            "--names"
        )
    for name in names:
        require_file_name(name, "split", "--names")
    return names


def _assign_groups(coco: CocoFile, plan: SplitPlan) -> CocoFile:
    """Return the file with the groups that the plan specifies."""
    if plan.group_key is not None and plan.group_from is not None:
        raise DataError("--group-key and --group-from both define groups; give only one of them")
    if plan.group_key is not None:
        groups = [_get_group_by_key(record, plan.group_key) for record in coco.images]
        source = f"the key {plan.group_key!r}"
    elif plan.group_from is not None:
        try:
            pattern = re.compile(plan.group_from)
        except re.error as error:
            raise DataError(
                f"--group-from {plan.group_from!r} is not a valid regular expression: {error}"
            ) from None
        groups = [_match_group(record.file_name, pattern) for record in coco.images]
        source = f"a match of --group-from {plan.group_from!r}"
    else:
        return coco
    without = [r.file_name for r, group in zip(coco.images, groups, strict=True) if group is None]
    if without:
        raise DataError(
            f"{coco.path}: {len(without)} of {len(groups)} images have no group from {source}: "
            f"{format_list(without)}; give groups for all images or for none"
        )
    images = [replace(r, group=group) for r, group in zip(coco.images, groups, strict=True)]
    return replace(coco, images=PackedImages.from_records(images))


def _get_group_by_key(record: ImageRecord, key: str) -> str | None:
    value = get_attribute(record, key)
    return str(value) if isinstance(value, str | int) and value != "" else None


def _match_group(name: str, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(name)
    if match is None:
        return None
    captured = [group for group in match.groups() if group is not None]
    return "/".join(captured) if captured else match.group() or None


def _resolve_criterion(coco: CocoFile, plan: SplitPlan) -> By:
    has_groups = any(record.group is not None for record in coco.images)
    by = plan.by or ("group-class" if has_groups else "class")
    if by.startswith("group") and not has_groups:
        raise DataError(
            f"{coco.path} has no groups to split by; set their source with --group-key or "
            "--group-from, or choose --by class"
        )
    if not by.startswith("group") and has_groups and not plan.ignore_groups:
        raise DataError(
            f"{coco.path} names groups (patients, studies, sequences), and --by {by} would "
            "separate images of a group; choose --by group or --by group-class, or --ignore-groups"
        )
    return by


def _find_balanced_subgroups(coco: CocoFile, key: str) -> Subgroups:
    try:
        return find_subgroups([coco], key)
    except DataError as error:
        raise DataError(f"--by {key} is none of {', '.join(get_args(By))}, and {error}") from None


def _divide_images(
    coco: CocoFile, by: By, plan: SplitPlan, subgroups: Subgroups | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    grouped_coco = coco
    if not by.startswith("group"):
        alone = PackedImages.from_records(replace(record, group=None) for record in coco.images)
        grouped_coco = replace(coco, images=alone)
    groups = find_groups([grouped_coco])
    notes = []
    counts = None
    if by.endswith("class"):
        counts = count_objects_per_image([coco], coco.categories)
        if not counts.any():
            notes.append(
                "no objects are annotated, so classes could not be balanced (pixels of semantic "
                "maps are not counted)"
            )
    if subgroups is not None:
        columns = _encode_one_hot(subgroups)
        counts = columns if counts is None else np.concatenate([counts, columns], axis=1)
    single = sum(record.group is None for record in grouped_coco.images)
    if by.startswith("group") and single:
        notes.append(f"{Count(single):image has} no group; each counts as its own group")
    if plan.shares is None:
        return assign_folds(groups, plan.folds, counts=counts, seed=plan.seed), tuple(notes)
    return divide(groups, plan.shares, counts=counts, seed=plan.seed), tuple(notes)


def _encode_one_hot(subgroups: Subgroups) -> NDArray[np.float64]:
    """Return an `(N, S)` matrix with a 1 in the column of the subgroup of each image."""
    _, columns = np.unique(np.asarray(subgroups.values), return_inverse=True)
    return np.eye(int(columns.max()) + 1)[columns]


def _add_subgroups(
    splits: WrittenSplits, subgroups: Subgroups, part: NDArray[np.int64]
) -> WrittenSplits:
    """Add the numbers of images of each subgroup, and notes on their division."""
    pairs = Counter(zip(subgroups.values, part.tolist(), strict=True))
    counts = {
        f"{subgroups.key}: {name}": tuple(pairs[name, i] for i in range(len(splits.files)))
        for name in subgroups.count_images()
    }
    notes = [*splits.notes, *subgroups.notes]
    if subgroups.key not in MEASURED:
        notes.append(
            f"every part has similar shares of each {subgroups.key!r}; to keep all images of one "
            f"in the same part, use --group-key {subgroups.key}"
        )
    return replace(splits, subgroups=counts, notes=tuple(notes))


def _write_files(
    coco: CocoFile,
    path: Path,
    files: Sequence[Path],
    part: NDArray[np.int64],
) -> None:
    content = open_content(path)
    part_by_image = {r.id: int(p) for r, p in zip(coco.images, part, strict=True)}
    annotation_parts = [
        part_by_image[_get_image_id(annotation)]
        for annotation in content.top.get("annotations") or ()
    ]
    group_by_image = {record.id: record.group for record in coco.images}
    roots = {"images_root": coco.images_root, "sem_seg_root": coco.sem_seg_root}
    info = content.top.get("info")
    with open_together(files) as streams:
        for number, (file, stream) in enumerate(zip(files, streams, strict=True)):
            relocated = relocate_info(info if isinstance(info, dict) else {}, roots, file.parent)
            top = {"info": relocated, **{k: v for k, v in content.top.items() if k != "info"}}
            lists: dict[str, Any] = {
                "images": _iter_images(content, part_by_image, group_by_image, number)
            }
            if isinstance(top.get("annotations"), list):
                pairs = zip(top["annotations"], annotation_parts, strict=True)
                lists["annotations"] = (
                    annotation for annotation, place in pairs if place == number
                )
            write_content(stream, top, lists)


def _iter_images(
    content: CocoContent,
    part_by_image: Mapping[int | str, int],
    group_by_image: Mapping[int | str, str | None],
    number: int,
) -> Iterator[Any]:
    """Yield the image records of one part, with the groups by which they were divided."""
    for entry in content.top["images"]:
        raw = decode_record(entry)
        if part_by_image[raw["id"]] != number:
            continue
        group = group_by_image[raw["id"]]
        is_recorded = group is None or str(raw.get("group")) == group
        yield entry if is_recorded else {**raw, "group": group}


def _get_image_id(entry: Any) -> int | str:
    image_id: int | str = decode_key(entry, "image_id")
    return image_id


def _summarize_splits(
    coco: CocoFile, by: By, files: tuple[Path, ...], part: NDArray[np.int64], notes: tuple[str, ...]
) -> WrittenSplits:
    parts = range(len(files))
    places = part.tolist()
    groups = [{r.group for r, p in zip(coco.images, places, strict=True) if p == i} for i in parts]
    objects: Counter[tuple[int, int]] = Counter()
    counts = count_objects_per_image([coco], coco.categories)
    for i in parts:
        for index, number in enumerate(counts[part == i].sum(axis=0).tolist()):
            objects[index, i] = int(number)
    return WrittenSplits(
        files,
        by,
        tuple(places.count(i) for i in parts),
        tuple(len(part_groups - {None}) for part_groups in groups),
        {name: tuple(objects[k, i] for i in parts) for k, name in enumerate(coco.categories.names)},
        notes,
    )
