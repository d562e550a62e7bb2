"""Repair of a COCO file into a copy, with a list of all changes.

A problem is repaired if it has exactly one correct solution. A record that no reader can use is
removed. All other problems are left unchanged and reported. Keys that COCO does not define, and
records without findings, are copied byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from resnet_tasks.data.coco.field_values import find, generate_new_ids
from resnet_tasks.data.coco.image_reader import ImageReader
from resnet_tasks.data.coco.json_records import (
    CocoContent,
    decode_record,
    open_content,
    write_content,
)
from resnet_tasks.data.coco.problems import Findings, Id, RecordLocation
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.coco.top_level import read_info, relocate_info, resolve_image_folder
from resnet_tasks.data.doctor.check import CheckOptions, FileCheck, check_coco, check_content
from resnet_tasks.data.doctor.record_repairs import (
    ABSENT,
    AnnotationRepairer,
    Note,
    make_relative_name,
)
from resnet_tasks.data.doctor.size_repairs import find_true_sizes
from resnet_tasks.data.doctor.standard_forms import CONVERTIBLE, FormChange, standardize_content
from resnet_tasks.errors import DataError
from resnet_tasks.files.atomic import (
    json_text,
    open_together,
    remove_files_on_error,
    remove_incomplete_set,
)

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
"""Kinds whose annotations, or whose images with all their annotations, can be removed on
request."""
UNSAFE_REPAIRS = {
    "corner_boxes": ("box_beyond_frame",),
    "relative_boxes": ("area_beyond_box", "repeated_object"),
}
"""Finding of another box format -> repairs that would damage such files. Clipping corners as
[x, y, width, height] loses coordinates. Next to fractions, an area in pixels is too large, and
boxes that differ by less than 0.01 look equal."""


@dataclass(frozen=True)
class RepairReport:
    """Result of a repair.

    Attributes:
        path: Path of the repaired copy.
        changes: Path of the list of changes next to it.
        counts: Kind of finding -> number of changes, most frequent first.
        after: Result of checking the copy.
    """

    path: Path
    changes: Path
    counts: Mapping[str, int]
    after: FileCheck


def repair(
    path: Path,
    out: Path,
    *,
    options: CheckOptions | None = None,
    leave: Collection[str] = (),
    drop: Collection[str] = (),
    convert: str | None = None,
) -> RepairReport:
    """Write a repaired copy of a COCO file, and next to it `<out>.changes.json`.

    Args:
        path: Path of the file, which is not modified.
        out: Path of the copy. The folders in its `info` are relative to the new location.
        options: Extent of the check. Sizes are repaired only if images are read.
        leave: Kinds of findings that are not repaired.
        drop: Kinds of findings whose annotations or images are removed, from `DROPPABLE`.
        convert: Finding whose boxes are converted to pixels, from `CONVERTIBLE`.

    Raises:
        DataError: If the file cannot be read, a kind is unknown, or an output file already exists.
        RunError: If the copy cannot be written.
    """
    options = replace(options or CheckOptions(), known_images={})  # the copy has the same images
    changes = out.with_name(out.name + ".changes.json")
    remove_incomplete_set(out.parent)
    for target in (out, changes):
        if target.exists():
            raise DataError(f"{target} already exists; choose another name for the repaired copy")
    unknown = [kind for kind in drop if kind not in DROPPABLE]
    if unknown:
        raise DataError(f"{', '.join(unknown)} cannot be dropped; allowed: {', '.join(DROPPABLE)}")
    if convert not in (None, *CONVERTIBLE):
        raise DataError(f"{convert} cannot be converted; allowed: {', '.join(CONVERTIBLE)}")
    content, form_changes, before = _open_standardized(path, options, leave, convert)
    kinds = {finding.kind for finding in before.findings}
    unsafe = (UNSAFE_REPAIRS[kind] for kind in UNSAFE_REPAIRS if kind in kinds)
    leave = {*leave, *chain.from_iterable(unsafe)}
    with remove_files_on_error((out, changes)):
        with open_together((out, changes)) as (copy, changes_stream):
            log = _ChangeLog(changes_stream)
            for change in form_changes:
                after = ABSENT if change.key is None else change.after
                log.add(
                    change.location, change.record, change.kind, change.key, change.before, after
                )
            counts = _write_repaired(before, content, copy, log, out.parent, leave, drop)
        after = check_coco(out, replace(options, images_root=None))
    return RepairReport(out, changes, dict(counts.most_common()), after)


def _open_standardized(
    path: Path, options: CheckOptions, leave: Collection[str], convert: str | None
) -> tuple[CocoContent, list[FormChange], FileCheck]:
    """Return the content with its values in standard forms, the changes, and the check of it.

    Raises:
        DataError: If the file cannot be read, or its categories cannot be used.
    """
    try:
        content = open_content(path)
        info = read_info(content.top, Findings(path))
        root = resolve_image_folder(path, info, options.images_root)
        content, changes = standardize_content(content, root, leave, convert)
        check = check_content(path, content, options)
    except DataError as error:
        reason = str(error).removeprefix(f"{path}").lstrip(": ")
        raise DataError(f"{path} cannot be repaired: {reason}") from None
    if check.categories is None:
        reason = next(entry.detail for entry in check.findings if entry.kind == "bad_categories")
        raise DataError(f"{path} cannot be repaired: {reason}")
    return content, changes, check


class _ChangeLog:
    """Writer of the list of changes, one per line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.counts: Counter[str] = Counter()
        stream.write("[")

    def add(
        self, location: str, raw: Any, kind: str, key: str | None, before: Any, after: Any
    ) -> None:
        """Write one change, with the ids from before the change."""
        entry: dict[str, Any] = {"place": location, "kind": kind}
        if isinstance(raw, dict):
            own = before if key == "id" else raw.get("id")
            is_image = location.startswith("images")
            ids = (own, None) if is_image else (raw.get("image_id"), own)
            entry["image_id"] = before if key == "image_id" else ids[0]
            entry["annotation_id"] = ids[1]
        entry["key"] = key
        entry |= {"before": before, "after": after}
        present_fields = {name: value for name, value in entry.items() if value is not ABSENT}
        self._stream.write(",\n" if self.counts.total() else "\n")
        self._stream.write(json_text(present_fields, is_lossless=True))
        self.counts[kind] += 1

    def finish(self) -> None:
        """Close the list."""
        self._stream.write("\n]\n")


def _write_repaired(
    check: FileCheck,
    content: CocoContent,
    copy: TextIO,
    log: _ChangeLog,
    folder: Path,
    leave: Collection[str],
    drop: Collection[str],
) -> Counter[str]:
    work = _RepairedCopy(check, content, log, frozenset(leave), frozenset(drop))
    top = work.build_top_level(folder)
    lists: dict[str, Iterable[Any]] = {"images": work.repair_images()}
    if isinstance(top.get("annotations"), list):
        lists["annotations"] = work.iter_annotations()
    write_content(copy, top, lists)
    log.finish()
    return log.counts


class _RepairedCopy:
    """State of a repair: call `build_top_level`, `repair_images`, `iter_annotations` in order."""

    def __init__(
        self,
        check: FileCheck,
        content: CocoContent,
        log: _ChangeLog,
        leave: frozenset[str],
        drop: frozenset[str],
    ) -> None:
        assert check.categories is not None
        self._check = check
        self._content = content
        self._log = log
        self._leave = leave
        self._drop = drop
        self._kinds: dict[RecordLocation, set[str]] = {}
        for finding in check.findings:
            if finding.location is not None and finding.kind not in leave:
                self._kinds.setdefault(finding.location, set()).add(finding.kind)
        self._records: dict[Id, ImageRecord] = {}
        for record in check.images:
            self._records.setdefault(record.id, record)
        # Annotations are checked against the corrected size.
        for image_id, (height, width) in find_true_sizes(check, content, leave).items():
            self._records[image_id] = replace(self._records[image_id], height=height, width=width)
        self._repairer = AnnotationRepairer(
            check.categories, self._records, leave, drop, self._make_new_id
        )
        self._new_ids: Iterator[int] | None = None
        self._dropped = self._find_dropped_images()
        self._unchecked: set[Id] = set()

    def build_top_level(self, folder: Path) -> dict[str, Any]:
        """Return the top-level keys, with the `info` for the new location."""
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
        relocated = relocate_info(info, roots, folder)
        for key in roots:
            if relocated.get(key, ABSENT) != info.get(key, ABSENT):
                self._log.add("info", None, "moved", key, info.get(key, ABSENT), relocated[key])
        return {**top, "info": relocated}

    def repair_images(self) -> list[Any]:
        """Return the image records of the copy."""
        first: dict[Any, Any] = {}
        has_twins = any("duplicate_image" in kinds for kinds in self._kinds.values())
        kept_records = []
        for position, entry in enumerate(self._content.top["images"]):
            kinds = self._kinds.get(("images", position), set())
            if not (kinds or has_twins):
                kept_records.append(entry)
                continue
            raw, location = decode_record(entry), f"images[{position}]"
            note = self._make_note(location, raw)
            twin = find(first, raw.get("id")) if isinstance(raw, dict) else None
            if "duplicate_image" in kinds and twin == raw:
                note("duplicate_image", None, raw, ABSENT)
            elif kinds & self._drop & set(DROPPED_IMAGES):
                note(min(kinds & self._drop), None, raw, ABSENT)
            else:
                if isinstance(raw, dict) and isinstance(raw.get("id"), int | str):
                    first.setdefault(raw["id"], decode_record(entry))
                kept_records.append(raw if self._repair_image(raw, kinds, note) else entry)
        return kept_records

    def iter_annotations(self) -> Iterator[Any]:
        """Yield the annotation records of the copy. Call `repair_images` first."""
        check_all = bool(self._dropped or self._unchecked)
        for position, entry in enumerate(self._content.top["annotations"]):
            kinds = self._kinds.get(("annotations", position), set())
            if not (kinds or check_all):
                yield entry
                continue
            raw = decode_record(entry)
            image_id = raw.get("image_id") if isinstance(raw, dict) else None
            note = self._make_note(f"annotations[{position}]", raw)
            if isinstance(image_id, int | str) and image_id in self._dropped:
                note(self._dropped[image_id], None, raw, ABSENT)
                continue
            if isinstance(image_id, int | str) and image_id in self._unchecked:
                kinds = self._repairer.find_problem_kinds(raw)
            before = self._log.counts.total()
            if self._repairer.repair(raw, kinds, note):
                yield raw if self._log.counts.total() > before else entry

    def _make_new_id(self) -> int:
        if self._new_ids is None:  # created on first use, since it scans the ids of all annotations
            self._new_ids = generate_new_ids(self._content.iter_annotation_ids())
        return next(self._new_ids)

    def _make_note(self, location: str, raw: Any) -> Note:
        return lambda kind, key, before, after: self._log.add(
            location, raw, kind, key, before, after
        )

    def _repair_image(self, raw: Any, kinds: Collection[str], note: Note) -> bool:
        if not isinstance(raw, dict):
            return False
        changed = _set_true_size(raw, kinds, find(self._records, raw.get("id")), note)
        if "image_path" not in kinds:
            return changed
        roots = (
            ("file_name", self._check.images_root),
            ("sem_seg_file_name", self._check.sem_seg_root),
        )
        for key, root in roots:
            name = raw.get(key)
            relative_path = make_relative_name(name, root) if isinstance(name, str) else None
            if relative_path is not None and relative_path != name:
                note("image_path", key, name, relative_path)
                raw[key] = relative_path
                changed = True
        # The annotations of an unusable image have not been checked yet.
        record = ImageReader(self._check.images_root, Findings(Path())).read(0, raw)
        if record is not None and self._records.setdefault(record.id, record) is record:
            self._unchecked.add(record.id)
        return changed

    def _find_dropped_images(self) -> dict[Id, str]:
        """Return id -> reason of the removed images, except ids that another image shares."""
        drop_reasons: dict[Id, str] = {}
        twins = {
            finding.image_id
            for finding in self._check.findings
            if finding.kind == "duplicate_image"
        }
        for finding in self._check.findings:
            is_dropped = finding.kind in self._drop - self._leave and finding.kind in DROPPED_IMAGES
            if is_dropped and finding.image_id is not None and finding.image_id not in twins:
                drop_reasons.setdefault(finding.image_id, finding.kind)
        return drop_reasons


def _set_true_size(
    raw: dict[str, Any], kinds: Collection[str], record: ImageRecord | None, note: Note
) -> bool:
    """Set height and width to those of the image file and return whether they changed."""
    kind = next(
        (size_kind for size_kind in ("missing_size", "wrong_size") if size_kind in kinds), ""
    )
    if not kind or record is None:
        return False
    true_size = {"height": record.height, "width": record.width}
    if all(raw.get(key) == value for key, value in true_size.items()):
        return False
    for key, value in true_size.items():
        note(kind, key, raw.get(key, ABSENT), value)
        raw[key] = value
    return True
