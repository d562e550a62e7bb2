"""One COCO file as several: train, val and test, or folds, that name the same pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco import CocoFile, ImageRecord, read_coco
from resnet_tasks.data.coco_packing import PackedImages
from resnet_tasks.data.coco_problems import listed
from resnet_tasks.data.coco_streaming import (
    Content,
    decoded,
    moved_info,
    open_content,
    write_content,
)
from resnet_tasks.data.splitting import divide, fold_of_each, groups_of, objects_of_each
from resnet_tasks.errors import DataError
from resnet_tasks.names import require_file_name
from resnet_tasks.whole_files import new_files, whole_file

By = Literal["random", "class", "group", "group-class"]
USUAL_NAMES = {2: ("train", "val"), 3: ("train", "val", "test")}


@dataclass(frozen=True)
class SplitPlan:
    """How pictures are divided.

    Attributes:
        shares: Relative sizes of the parts; None: `folds` alike ones.
        folds: Number of parts without `shares`.
        by: `random`: pictures by themselves. `class`: alike shares of every class. `group`: whole
            groups. `group-class`: whole groups, alike shares of every class. None: `group-class`
            where there are groups, else `class`.
        names: Of the parts; default: train, val, test, or fold0, fold1, ...
        group_key: Key of the image records that names the group, in place of `group`.
        group_from: Regular expression; what it captures in (else finds of) a file name is the
            group.
        ignore_groups: Accept `random` and `class` where the file names groups.
        seed: Of the division.
    """

    shares: tuple[float, ...] | None = (0.7, 0.15, 0.15)
    folds: int = 5
    by: By | None = None
    names: tuple[str, ...] = ()
    group_key: str | None = None
    group_from: str | None = None
    ignore_groups: bool = False
    seed: int = 0


@dataclass(frozen=True)
class WrittenSplits:
    """What was written.

    Attributes:
        files: By part.
        by: How pictures were divided.
        pictures: By part.
        groups: By part.
        objects: Class -> number by part.
        notes: What is worth knowing.
    """

    files: tuple[Path, ...]
    by: By
    pictures: tuple[int, ...]
    groups: tuple[int, ...]
    objects: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()


def split_file(
    path: Path, out: Path, plan: SplitPlan, *, images_root: Path | None = None
) -> WrittenSplits:
    """Writes the parts of a COCO file; pictures stay where they are, unknown keys are kept.

    Args:
        path: The file.
        out: Folder for the parts; all appear, or none.
        plan: How to divide; the same plan gives the same parts.
        images_root: As in `read_coco`.

    Raises:
        DataError: If the file cannot be used, groups would be cut, the plan does not fit it, or a
            part is already there.
        RunError: If the parts cannot be written.
    """
    names = _names(plan)
    files = tuple(out / f"{name}.json" for name in names)
    for each in files:
        if each.exists():
            raise DataError(f"{each} is already there; choose another folder with --out")
    coco = _with_groups(read_coco(path, images_root=images_root), plan)
    by = _by(coco, plan)
    part, notes = _divided(coco, by, plan, len(names))
    with new_files(files):
        _write(coco, path, files, part)
        return _summary(coco, by, files, part, notes)


def _names(plan: SplitPlan) -> tuple[str, ...]:
    number = plan.folds if plan.shares is None else len(plan.shares)
    if plan.shares is None:
        usual: tuple[str, ...] = tuple(f"fold{i}" for i in range(number))
    else:
        usual = USUAL_NAMES.get(number, ())
    names = plan.names or usual
    if len(names) != number or len({name.lower() for name in names}) != number:
        raise DataError(
            f"{number} parts need {number} different names, got {listed(names)}; give them with "
            "--names"
        )
    for name in names:
        require_file_name(name, "split", "--names")
    return names


def _with_groups(coco: CocoFile, plan: SplitPlan) -> CocoFile:
    """The file with the groups that the plan names."""
    if plan.group_key is not None and plan.group_from is not None:
        raise DataError("--group-key and --group-from both name groups; give one of them")
    if plan.group_key is not None:
        found = [_group_at(record, plan.group_key) for record in coco.images]
        source = f"a key {plan.group_key!r}"
    elif plan.group_from is not None:
        try:
            pattern = re.compile(plan.group_from)
        except re.error as error:
            raise DataError(
                f"--group-from {plan.group_from!r} is no regular expression: {error}"
            ) from None
        found = [_group_in(record.file_name, pattern) for record in coco.images]
        source = f"what --group-from {plan.group_from!r} looks for"
    else:
        return coco
    without = [r.file_name for r, group in zip(coco.images, found, strict=True) if group is None]
    if without:
        raise DataError(
            f"{coco.path}: {len(without)} of {len(found)} pictures are without {source}: "
            f"{listed(without)}; name groups for all, or for none"
        )
    images = [replace(r, group=group) for r, group in zip(coco.images, found, strict=True)]
    return replace(coco, images=PackedImages.of(images))


def _group_at(record: ImageRecord, key: str) -> str | None:
    value = record.group if key == "group" else record.extra.get(key)
    return str(value) if isinstance(value, str | int) and value != "" else None


def _group_in(name: str, pattern: re.Pattern[str]) -> str | None:
    found = pattern.search(name)
    if found is None:
        return None
    captured = [each for each in found.groups() if each is not None]
    return "/".join(captured) if captured else found.group() or None


def _by(coco: CocoFile, plan: SplitPlan) -> By:
    has_groups = any(record.group is not None for record in coco.images)
    by = plan.by or ("group-class" if has_groups else "class")
    if by.startswith("group") and not has_groups:
        raise DataError(
            f"{coco.path} names no groups, so that it cannot be split by them; say where they are "
            "with --group-key or --group-from, or choose --by class"
        )
    if not by.startswith("group") and has_groups and not plan.ignore_groups:
        raise DataError(
            f"{coco.path} names groups (patients, studies, sequences), and --by {by} would cut "
            "through them; choose --by group or --by group-class, or --ignore-groups"
        )
    return by


def _divided(
    coco: CocoFile, by: By, plan: SplitPlan, number: int
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    whole = coco
    if not by.startswith("group"):
        alone = PackedImages.of(replace(each, group=None) for each in coco.images)
        whole = replace(coco, images=alone)
    groups = groups_of([whole])
    notes = []
    counts = None
    if by.endswith("class"):
        counts = objects_of_each([coco], coco.categories)
        if not counts.any():
            notes.append(
                "no objects are annotated, so that classes could not be balanced (pixels of "
                "semantic maps are not counted)"
            )
    single = sum(record.group is None for record in whole.images)
    if by.startswith("group") and single:
        notes.append(f"{single} pictures have no group; each is taken by itself")
    if plan.shares is None:
        return fold_of_each(groups, number, counts=counts, seed=plan.seed), tuple(notes)
    return divide(groups, plan.shares, counts=counts, seed=plan.seed), tuple(notes)


class _OfImage(msgspec.Struct):
    image_id: int | str


def _write(
    coco: CocoFile,
    path: Path,
    files: Sequence[Path],
    part: NDArray[np.int64],
) -> None:
    content = open_content(path)
    part_of = {r.id: int(p) for r, p in zip(coco.images, part, strict=True)}
    of_annotation = [part_of[_image_id(each)] for each in content.top.get("annotations") or ()]
    group_of = {record.id: record.group for record in coco.images}
    roots = {"images_root": coco.images_root, "sem_seg_root": coco.sem_seg_root}
    info = content.top.get("info")
    with ExitStack() as all_or_none:
        for number, file in enumerate(files):
            moved = moved_info(info if isinstance(info, dict) else {}, roots, file.parent)
            top = {"info": moved, **{k: v for k, v in content.top.items() if k != "info"}}
            lists: dict[str, Any] = {"images": _images(content, part_of, group_of, number)}
            if isinstance(top.get("annotations"), list):
                pairs = zip(top["annotations"], of_annotation, strict=True)
                lists["annotations"] = (each for each, place in pairs if place == number)
            write_content(all_or_none.enter_context(whole_file(file)), top, lists)


def _images(
    content: Content,
    part_of: Mapping[int | str, int],
    group_of: Mapping[int | str, str | None],
    number: int,
) -> Iterator[Any]:
    """The records of one part, with the groups by which they were divided."""
    for entry in content.top["images"]:
        raw = decoded(entry)
        if part_of[raw["id"]] != number:
            continue
        group = group_of[raw["id"]]
        is_told = group is None or str(raw.get("group")) == group
        yield entry if is_told else {**raw, "group": group}


def _image_id(entry: Any) -> int | str:
    if isinstance(entry, msgspec.Raw):
        try:
            return msgspec.json.decode(entry, type=_OfImage).image_id
        except msgspec.MsgspecError:
            entry = decoded(entry)
    found: int | str = entry["image_id"]
    return found


def _summary(
    coco: CocoFile, by: By, files: tuple[Path, ...], part: NDArray[np.int64], notes: tuple[str, ...]
) -> WrittenSplits:
    parts = range(len(files))
    places = part.tolist()
    groups = [{r.group for r, p in zip(coco.images, places, strict=True) if p == i} for i in parts]
    objects: Counter[tuple[int, int]] = Counter()
    counts = objects_of_each([coco], coco.categories)
    for i in parts:
        for index, number in enumerate(counts[part == i].sum(axis=0).tolist()):
            objects[index, i] = int(number)
    return WrittenSplits(
        files,
        by,
        tuple(places.count(i) for i in parts),
        tuple(len(each - {None}) for each in groups),
        {name: tuple(objects[k, i] for i in parts) for k, name in enumerate(coco.categories.names)},
        notes,
    )
