"""Images and DICOM files that CSV tables of boxes refer to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from data_tools.converters.csv.tables import TableImage
from data_tools.converters.dicom.convert import DICOM_SUFFIXES, AddedFrame, add_frames, open_dicom
from data_tools.converters.dicom.gray_plan import GrayPlan
from data_tools.converters.dicom.options import DicomOptions, is_dicom
from data_tools.reading.image_io import measure_stated_size
from data_tools.reading.name_lists import normalize_name
from data_tools.reading.recorded_paths import RecordedPaths, are_same_path
from data_tools.reading.source_folder import IMAGE_SUFFIXES, find_split_folder, make_absolute
from data_tools.writing.coco_writer import CocoWriter
from resnet_tasks.data.images.find_images import find_file, walk_files
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count


@dataclass(frozen=True)
class TableEntry:
    """Image with its entry in a table.

    Attributes:
        path: Path of the image.
        name: Name of the image in the table.
        image: Content of the table for the image.
        table: Path of the table.
    """

    path: Path
    name: str
    image: TableImage
    table: Path

    def join(self, other: TableEntry) -> TableEntry:
        """Return one entry for two names of the same file, with the content of both.

        Raises:
            DataError: If the names have different folders or suffixes, or the groups differ.
        """
        suffixes = {_get_suffix(self.name), _get_suffix(other.name)} - {""}
        if len(suffixes) > 1 or not are_same_path(self.name, other.name):
            raise DataError(
                f"{self.table} has rows for {self.name!r} and {other.name!r}, but only one such "
                f"image exists, {self.path}; add the other image or write the same name"
            )
        first, second = self.image, other.image
        groups = {first.group, second.group} - {None}
        if len(groups) > 1:
            raise DataError(
                f"{self.table} has rows for {self.name!r} and {other.name!r}, which are both "
                f"{self.path}, with the groups {first.group!r} and {second.group!r}; an image "
                "belongs to one group"
            )
        image = TableImage(
            first.readers | second.readers,
            sorted((*first.boxes, *second.boxes), key=lambda box: box.line),
            [*first.invalid, *second.invalid],
            next(iter(groups), None),
            first.size or second.size,
        )
        return replace(self, image=image)


class SourceImage:
    """Image of the source whose group is known before the image is written.

    Args:
        entry: Entry of the image in a table, whose group overrides the group in a DICOM file.
        dicom_options: Options of the conversion from DICOM files to images.
        is_dicom: Whether the file is a DICOM file.
        plan: Gray values of the DICOM files of the dataset; None: from this file alone.

    Raises:
        DataError: If a DICOM file is damaged or does not contain exactly one image.
    """

    def __init__(
        self,
        entry: TableEntry,
        *,
        dicom_options: DicomOptions,
        is_dicom: bool,
        plan: GrayPlan | None = None,
    ) -> None:
        path, group = entry.path, entry.image.group
        self.path, self._name = path, entry.name
        self._table, self._size = entry.table, entry.image.size
        self._dicom = open_dicom(path, dicom_options, plan) if is_dicom else None
        self.group = None if group is None else dicom_options.hash_identity("group", group)
        if self._dicom is not None:
            reason = self._dicom.explain_missing_image()
            if reason is None and self._dicom.num_frames != 1:
                reason = f"it has {Count(self._dicom.num_frames):frame}"
            if reason is not None:
                raise DataError(f"a table names {path}, but {reason}; boxes need one image")
            self.group = self.group or self._dicom.group

    @property
    def unit(self) -> str:
        """Name of the unit that splits must keep together: the group, else the image itself."""
        return self.group or self._name

    def add_to(self, writer: CocoWriter) -> AddedFrame:
        """Add the image to a split.

        Raises:
            DataError: If the image cannot be read.
        """
        if self._dicom is None:
            statement = f"{self._table} describes {self._name} with the size"
            measure_stated_size(self.path, self._size, statement, "its boxes would be misplaced")
            return AddedFrame(writer.add_image(self.path, group=self.group))
        added, *others = add_frames(
            writer, self._dicom, Path(_get_file_name(self._name)), self.group
        )
        if others:
            raise DataError(
                f"a table names {self.path}, but it has {Count(1 + len(others)):frame}; boxes need "
                "one image"
            )
        return added


def find_images(
    recorded_paths: RecordedPaths, split: str, images: Mapping[str, TableImage], table: Path
) -> list[TableEntry]:
    """Return the images of a table with their files, in the order of the table.

    Rows that name one file in several ways, with and without folders, are joined.

    Args:
        recorded_paths: Search in the folder that contains tables and images, with the report of
            paths that were shortened.
        split: Split of the table.
        images: Name of an image -> content of the table for it.
        table: Path of the table, for error messages.

    Raises:
        DataError: If images are missing, two files match the same image, or two names of one file
            have different groups.
    """
    folder = find_folder(recorded_paths.root, split)
    files = list_image_files(folder)
    candidates_by_name = {
        name: _find_exact_path(name, recorded_paths.root) or files.get(get_stem(name), [])
        for name in images
    }
    missing = [name for name, candidates in candidates_by_name.items() if not candidates]
    if missing:
        raise DataError(
            f"{table} has rows for {Count(len(missing)):image} outside {folder}, the first "
            f"{missing[0]!r}; add the images or remove the rows"
        )
    entries: dict[Path, TableEntry] = {}
    for name, candidates in candidates_by_name.items():
        path = recorded_paths.choose(name, candidates, str(table), split)
        entry = TableEntry(path, name, images[name], table)
        entries[path] = entries[path].join(entry) if path in entries else entry
    return list(entries.values())


def _find_exact_path(name: str, root: Path) -> list[Path]:
    """Return the image at a path with folders that a table states; empty if there is none."""
    path = make_absolute(root / name.replace("\\", "/"))
    is_inside = path.is_relative_to(make_absolute(root))
    image = find_file(path) if is_inside and path.parent != make_absolute(root) else None
    return [] if image is None else [image]


def find_folder(source: Path, split: str) -> Path:
    """Return the folder of the images of a split: the folder of its name, else the source."""
    return find_split_folder(source, split) or source


def list_image_files(folder: Path) -> dict[str, list[Path]]:
    """Return images and DICOM files in a folder and its subfolders by NFC name without suffix."""
    files: dict[str, list[Path]] = {}
    for path in walk_files(folder):
        if path.suffix.lower() in (*IMAGE_SUFFIXES, *DICOM_SUFFIXES) or is_dicom(path):
            files.setdefault(get_stem(path.name), []).append(path)
    return files


def _get_suffix(name: str) -> str:
    """Return the suffix of an image or DICOM file in lower case; empty for other names."""
    suffix = Path(name).suffix.lower()
    # The apparent suffix may be the end of a UID such as `1.2.840.113`.
    return suffix if suffix in (*IMAGE_SUFFIXES, *DICOM_SUFFIXES) else ""


def get_stem(name: str) -> str:
    """Return the name of a file in the form NFC, without folders and without image suffix."""
    file_name = _get_file_name(name)
    return normalize_name(file_name[: len(file_name) - len(_get_suffix(file_name))])


def _get_file_name(name: str) -> str:
    """Return the name of a file without folders, which a table may separate as on Windows."""
    return name.replace("\\", "/").rpartition("/")[2]


def are_dicom_files(paths: Iterable[Path]) -> bool:
    """Return whether the images are DICOM files.

    Raises:
        DataError: If only some of them are DICOM files.
    """
    kinds: dict[bool, Path] = {}
    for path in paths:
        kinds.setdefault(path.suffix.lower() not in IMAGE_SUFFIXES, path)
    if len(kinds) > 1:
        raise DataError(
            f"{kinds[True]} is a DICOM file, {kinds[False]} is not; convert them separately"
        )
    return True in kinds
