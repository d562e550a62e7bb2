"""A repaired copy of a COCO file, and the list of every change.

Repaired is what has one right answer, or none that anything could use; all else is left and said.
Keys that COCO does not know, and records without findings, stay byte for byte as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from resnet_tasks.data.coco_parsing import ImageReader, find, ids_above, is_box
from resnet_tasks.data.coco_problems import Findings, Id, Place
from resnet_tasks.data.coco_records import ImageRecord
from resnet_tasks.data.coco_streaming import (
    Content,
    decoded,
    moved_info,
    open_content,
    write_content,
)
from resnet_tasks.data.doctor.check import FileCheck, Look, check_coco
from resnet_tasks.data.doctor.mending import ABSENT, AnnotationMender, Note, relative_name
from resnet_tasks.data.picture_files import stored_size
from resnet_tasks.errors import DataError
from resnet_tasks.whole_files import json_text, new_files, whole_file

DROPPED_ANNOTATIONS = ("unknown_image", "unknown_category", "annotation_record", "box_apart")
DROPPED_IMAGES = (
    "missing_file",
    "unreadable_file",
    "wrong_size",
    "turned_size",
    "semantic_map",
    "image_path",
    "bad_spacing",
)
DROPPABLE = (*DROPPED_ANNOTATIONS, *DROPPED_IMAGES)
"""Kinds whose annotations, or whose images with all annotations, can be taken out on request."""


@dataclass(frozen=True)
class Repair:
    """What became of a file.

    Attributes:
        path: The repaired copy.
        changes: The list of changes beside it.
        counts: Number of changes by kind of finding, most frequent first.
        after: What is found in the copy.
    """

    path: Path
    changes: Path
    counts: Mapping[str, int]
    after: FileCheck


def repair(
    path: Path,
    out: Path,
    *,
    look: Look | None = None,
    leave: Collection[str] = (),
    drop: Collection[str] = (),
) -> Repair:
    """Writes a repaired copy of a COCO file, and beside it `<out>.changes.json`.

    Args:
        path: The file; it is not touched.
        out: The copy; its `info` tells where the pictures are from there.
        look: How closely to look; sizes are repaired only where pictures are read.
        leave: Kinds of findings that are not repaired.
        drop: Kinds of findings whose annotations or images are taken out, of `DROPPABLE`.

    Raises:
        DataError: If the file cannot be read at all, a kind is unknown, or a file is in the way.
        RunError: If the copy cannot be written.
    """
    look = look or Look()
    changes = out.with_name(out.name + ".changes.json")
    for each in (out, changes):
        if each.exists():
            raise DataError(f"{each} is already there; choose another name for the repaired copy")
    unknown = [each for each in drop if each not in DROPPABLE]
    if unknown:
        raise DataError(
            f"{', '.join(unknown)} cannot be dropped; what can be: {', '.join(DROPPABLE)}"
        )
    before = check_coco(path, look)
    if before.categories is None:
        raise DataError(
            f"{path} cannot be repaired: {before.problems[0].message.removeprefix(f'{path}: ')}"
        )
    content = open_content(path)
    with new_files((out, changes)):
        with whole_file(out) as copy, whole_file(changes) as listed:
            counts = _write(before, content, copy, _Log(listed), out.parent, leave, drop)
        after = check_coco(out, replace(look, images_root=None))
    return Repair(out, changes, dict(counts.most_common()), after)


class _Log:
    """The list of changes, one a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.counts: Counter[str] = Counter()
        stream.write("[")

    def add(
        self, place: str, raw: Any, kind: str, key: str | None, before: Any, after: Any
    ) -> None:
        """One change; the ids are those before it."""
        entry: dict[str, Any] = {"place": place, "kind": kind}
        if isinstance(raw, dict):
            own = before if key == "id" else raw.get("id")
            is_image = place.startswith("images")
            ids = (own, None) if is_image else (raw.get("image_id"), own)
            entry["image_id"] = before if key == "image_id" else ids[0]
            entry["annotation_id"] = ids[1]
        entry["key"] = key
        entry |= {"before": before, "after": after}
        kept = {name: value for name, value in entry.items() if value is not ABSENT}
        self._stream.write(",\n" if self.counts.total() else "\n")
        self._stream.write(json_text(kept, is_lossless=True))
        self.counts[kind] += 1

    def finish(self) -> None:
        """Ends the list."""
        self._stream.write("\n]\n")


def _write(
    check: FileCheck,
    content: Content,
    copy: TextIO,
    log: _Log,
    folder: Path,
    leave: Collection[str],
    drop: Collection[str],
) -> Counter[str]:
    work = _Work(check, content, log, frozenset(leave), frozenset(drop))
    top = work.top(folder)
    lists: dict[str, Iterable[Any]] = {"images": work.images()}
    if isinstance(top.get("annotations"), list):
        lists["annotations"] = work.annotations()
    write_content(copy, top, lists)
    log.finish()
    return log.counts


class _Work:
    """One copy in the making: `top`, then `images`, then `annotations`."""

    def __init__(
        self,
        check: FileCheck,
        content: Content,
        log: _Log,
        leave: frozenset[str],
        drop: frozenset[str],
    ) -> None:
        assert check.categories is not None
        self._check = check
        self._content = content
        self._log = log
        self._leave = leave
        self._drop = drop
        self._kinds: dict[Place, set[str]] = {}
        for finding in check.findings:
            if finding.place is not None and finding.kind not in leave:
                self._kinds.setdefault(finding.place, set()).add(finding.kind)
        self._records: dict[Id, ImageRecord] = {}
        for record in check.images:
            self._records.setdefault(record.id, record)
        # A changed size changes what fits into the picture.
        for image_id, (height, width) in _true_sizes(check, content, leave).items():
            self._records[image_id] = replace(self._records[image_id], height=height, width=width)
        self._mender = AnnotationMender(check.categories, self._records, leave, drop, self._new_id)
        self._new_ids: Iterator[int] | None = None
        self._dropped = self._dropped_images()
        self._unread: set[Id] = set()

    def top(self, folder: Path) -> dict[str, Any]:
        """The file's keys, with the `info` of its new place."""
        top = dict(self._content.top)
        info = top.get("info")
        if not isinstance(info, dict):
            if "missing_info" in self._leave:
                return top
            self._log.add("info", None, "missing_info", None, top.get("info", ABSENT), {})
            info = {}
            top = {"info": info, **{key: value for key, value in top.items() if key != "info"}}
        roots = {"images_root": self._check.images_root}
        if any(record.sem_seg_file_name for record in self._check.images):
            roots["sem_seg_root"] = self._check.sem_seg_root
        moved = moved_info(info, roots, folder)
        for key in roots:
            if moved.get(key, ABSENT) != info.get(key, ABSENT):
                self._log.add("info", None, "moved", key, info.get(key, ABSENT), moved[key])
        return {**top, "info": moved}

    def images(self) -> list[Any]:
        """The records of the copy."""
        first: dict[Any, Any] = {}
        has_twins = any("duplicate_image" in kinds for kinds in self._kinds.values())
        kept = []
        for position, entry in enumerate(self._content.top["images"]):
            kinds = self._kinds.get(("images", position), set())
            if not (kinds or has_twins):
                kept.append(entry)
                continue
            raw, place = decoded(entry), f"images[{position}]"
            note = self._note(place, raw)
            twin = find(first, raw.get("id")) if isinstance(raw, dict) else None
            if "duplicate_image" in kinds and twin == raw:
                note("duplicate_image", None, raw, ABSENT)
            elif kinds & self._drop & set(DROPPED_IMAGES):
                note(min(kinds & self._drop), None, raw, ABSENT)
            else:
                if isinstance(raw, dict) and isinstance(raw.get("id"), int | str):
                    first.setdefault(raw["id"], decoded(entry))
                kept.append(raw if self._mended_image(raw, kinds, note) else entry)
        return kept

    def annotations(self) -> Iterator[Any]:
        """The records of the copy; to be asked for after the images."""
        look_at_all = bool(self._dropped or self._unread)
        for position, entry in enumerate(self._content.top["annotations"]):
            kinds = self._kinds.get(("annotations", position), set())
            if not (kinds or look_at_all):
                yield entry
                continue
            raw = decoded(entry)
            image_id = raw.get("image_id") if isinstance(raw, dict) else None
            note = self._note(f"annotations[{position}]", raw)
            if isinstance(image_id, int | str) and image_id in self._dropped:
                note(self._dropped[image_id], None, raw, ABSENT)
                continue
            if isinstance(image_id, int | str) and image_id in self._unread:
                kinds = self._mender.kinds_of(raw)
            before = self._log.counts.total()
            if self._mender.mend(raw, kinds, note):
                yield raw if self._log.counts.total() > before else entry

    def _new_id(self) -> int:
        if self._new_ids is None:  # all are looked through when the first is needed
            self._new_ids = ids_above(self._content.annotation_ids())
        return next(self._new_ids)

    def _note(self, place: str, raw: Any) -> Note:
        return lambda kind, key, before, after: self._log.add(place, raw, kind, key, before, after)

    def _mended_image(self, raw: Any, kinds: Collection[str], note: Note) -> bool:
        if not isinstance(raw, dict):
            return False
        changed = _stated_size(raw, kinds, find(self._records, raw.get("id")), note)
        if "image_path" not in kinds:
            return changed
        roots = (
            ("file_name", self._check.images_root),
            ("sem_seg_file_name", self._check.sem_seg_root),
        )
        for key, root in roots:
            name = raw.get(key)
            made = relative_name(name, root) if isinstance(name, str) else None
            if made is not None and made != name:
                note("image_path", key, name, made)
                raw[key] = made
                changed = True
        # Its annotations have not been looked at while it could not be used.
        record = ImageReader(self._check.images_root, Findings(Path())).read(0, raw)
        if record is not None and self._records.setdefault(record.id, record) is record:
            self._unread.add(record.id)
        return changed

    def _dropped_images(self) -> dict[Id, str]:
        """Images that are taken out, and why; not those whose id another one has, too."""
        found: dict[Id, str] = {}
        twins = {each.image_id for each in self._check.findings if each.kind == "duplicate_image"}
        for each in self._check.findings:
            is_dropped = each.kind in self._drop - self._leave and each.kind in DROPPED_IMAGES
            if is_dropped and each.image_id is not None and each.image_id not in twins:
                found.setdefault(each.image_id, each.kind)
        return found


def _stated_size(
    raw: dict[str, Any], kinds: Collection[str], record: ImageRecord | None, note: Note
) -> bool:
    """Whether height and width have been set to those of the picture."""
    kind = next((each for each in ("missing_size", "wrong_size") if each in kinds), "")
    if not kind or record is None:
        return False
    wanted = {"height": record.height, "width": record.width}
    if all(raw.get(key) == value for key, value in wanted.items()):
        return False
    for key, value in wanted.items():
        note(kind, key, raw.get(key, ABSENT), value)
        raw[key] = value
    return True


def _true_sizes(
    check: FileCheck, content: Content, leave: Collection[str]
) -> dict[Id, tuple[int, int]]:
    """Sizes of pictures whose records are wrong beyond doubt.

    That is where nothing is drawn on the picture, or where height and width are exchanged: all
    boxes lie inside the true size, and one reaches beyond the stated one.
    """
    wrong = {each.image_id for each in check.findings if each.kind == "wrong_size"}
    if "wrong_size" in leave:
        return {}
    found: dict[Id, tuple[int, int]] = {}
    stated = {}
    for record in check.images:
        size = stored_size(check.images_root / record.file_name) if record.id in wrong else None
        if size is not None:
            found[record.id] = size
            stated[record.id] = (record.height, record.width)
    drawn: set[Id] = set()
    proven: set[Id] = set()
    doubtful: set[Id] = set()
    for raw in content.entries("annotations") if found else ():
        size = find(found, raw.get("image_id")) if isinstance(raw, dict) else None
        box, mask = (raw.get("bbox"), raw.get("segmentation")) if size is not None else (None, None)
        if size is None or not (box or mask):
            continue
        image_id = raw["image_id"]
        drawn.add(image_id)
        is_swapped = stated[image_id] == size[::-1]
        fits_mask = not isinstance(mask, dict) or mask.get("size") == list(size)
        if not (is_swapped and fits_mask and is_box(box) and _fits(box, size)):
            doubtful.add(image_id)
        elif not _fits(box, stated[image_id]):
            proven.add(image_id)
    return {
        image_id: size
        for image_id, size in found.items()
        if image_id not in drawn or (image_id in proven and image_id not in doubtful)
    }


def _fits(box: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    x, y, width, height = box
    return min(x, y) >= -1 and x + width <= size[1] + 1 and y + height <= size[0] + 1
