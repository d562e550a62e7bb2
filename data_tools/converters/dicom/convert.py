"""Converter for DICOM: single files, series and multi-frame files, as images of full depth.

    ROOT/**/*                  any files, with or without suffix
    ROOT/train/**, val/, test/ native splits, if there are such folders (or `valid`, `Train`, ...)

Every frame becomes a separate image in the output. Files that are not DICOM, contain no image or
repeat an instance are skipped and listed in the data card. No name, date or id of a patient is
written: groups are hashes, and attributes are modality, view and side. However, files keep their
names (a file `DOE_JOHN.dcm` gives `DOE_JOHN.png`) unless `hashed_names` is set, and text that is
burnt into the pixels remains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from data_tools.converters.dicom.gray_plan import GrayPlan
from data_tools.converters.dicom.options import DicomOptions, Group, Padding, Values, is_dicom
from data_tools.reading.optional_packages import explain_missing_package
from data_tools.reading.source_folder import find_split_folders, format_listing, require_parts
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.lossless_images import write_lossless_image
from data_tools.writing.output_folder import place_inside
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.images.find_images import walk_files
from resnet_tasks.errors import DataError
from resnet_tasks.files.foreign_files import describe_foreign_files
from resnet_tasks.number_formats import Count

if TYPE_CHECKING:
    from data_tools.converters.dicom.frames import DicomFile

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic")


def convert_dicom(  # noqa: PLR0913  # each is an option on the command line
    source: Path,
    out: Path,
    *,
    classes: Sequence[str] = ("object",),
    values: Values = "modality",
    group: Group = "patient",
    salt: str = "",
    hashed_names: bool = False,
    longest_side: int | None = None,
    padding: Padding = "darkest",
    damaged: Literal["stop", "skip"] = "stop",
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert DICOM files to images and COCO JSON without annotations.

    Args:
        source: Folder of files and folders.
        out: Folder for the JSON files and `images/`.
        classes: Names of the classes that will be annotated; the JSON declares no annotations.
        values: Gray values to write: `modality` (HU in CT), `stored` in the file, `voi` (the file's
            window, 0..65535), or a window as a pair (level, width).
        group: Unit that splits must keep together.
        salt: Secret that is mixed into the hashes of ids, so that nobody can verify a guessed id.
        hashed_names: Whether to name images and skipped files by hashes of their paths.
        longest_side: Maximum height and width in pixels; larger images are shrunk. None: no limit.
        padding: `darkest` gives pixels that hold the file's padding value the darkest value of the
            other pixels; `keep` leaves them.
        damaged: `stop` at a damaged file, or `skip` and list it.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each file.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If there is no DICOM image, or one is damaged or cannot be decoded.
    """
    _import_reader()  # an error that no file causes comes first
    options = DicomOptions(values, group, salt, longest_side, padding)
    splits = {
        split: list(walk_files(folder)) for split, folder in find_dicom_folders(source).items()
    }
    dataset = DatasetWriter(
        out,
        [CategorySpec(name) for name in classes],
        annotated=(),
        description="Converted from DICOM, {split}",
        license_name=license_name,
    )
    instances: set[bytes] = set()
    open_file = partial(open_dicom, options=options)
    plan = GrayPlan.from_files((file for files in splits.values() for file in files), open_file)

    def add_file(writer: CocoWriter, file: Path) -> None:
        # Relative to the source, because series often differ only in their folders.
        name = file.relative_to(source).as_posix()
        name = options.hash_identity("file", name) if hashed_names else name
        try:
            reason = _add_file(writer, file, Path(name), partial(open_file, plan=plan), instances)
        except DataError as error:
            if damaged == "stop":
                raise DataError(f"{error}; pass damaged=skip to skip such files") from None
            # The message of the error names the file, which hashed names must hide.
            reason = name if hashed_names else str(error)
        if reason:
            writer.report.skip(name, "file", reason)

    def finish_split(writer: CocoWriter) -> None:
        if plan.has_mixed_depths and writer.split == next(iter(splits)):
            writer.report.warn(plan.describe_mixed_depths())

    summaries = dataset.write(track_splits(splits, progress), add_file, finish_split)
    if not any(summary.images for summary in summaries):
        advice = describe_foreign_files(walk_files(source), "dicom")
        raise DataError(
            f"{source} contains no DICOM image; found {format_listing(source)}"
            f"{': ' if advice else ''}{advice}{_describe_first_skipped(summaries)}"
        )
    return summaries


def _describe_first_skipped(summaries: Sequence[SplitSummary]) -> str:
    """Return the reason why the first file was skipped, as the end of a sentence."""
    skipped = [record for summary in summaries for record in summary.skipped]
    if not skipped:
        return ""
    more = f"; {Count(len(skipped) - 1):other file was} skipped too" if skipped[1:] else ""
    return f" ({skipped[0].file}: {skipped[0].reason}{more})"


def find_dicom_folders(source: Path) -> dict[str, Path]:
    """Return the folders of native splits, or the source itself as `train`.

    Raises:
        DataError: If the source is not a folder, or two folders are named after the same split.
    """
    require_parts(source, ())
    folders = find_split_folders(source)
    return folders if "train" in folders else {"train": source}


def _add_file(
    writer: CocoWriter,
    file: Path,
    name: Path,
    open_file: Callable[[Path], DicomFile],
    instances: set[bytes],
) -> str | None:
    """Add the frames of a file; return the reason if nothing was added, else None."""
    if not is_dicom(file):
        return "it is not a DICOM file"
    dicom = open_file(file)
    if reason := dicom.explain_missing_image():
        return reason
    if not add_frames(writer, dicom, name, dicom.group, instances):
        return "an earlier file has the same instance id and the same pixels"
    return None


def open_dicom(file: Path, options: DicomOptions, plan: GrayPlan | None = None) -> DicomFile:
    """Open a DICOM file and read its header.

    Args:
        file: Path of the file.
        options: Options of the conversion from DICOM files to images.
        plan: Gray values of the dataset; None: from this file alone.

    Raises:
        DataError: If the file is damaged, or pydicom is not installed.
    """
    dicom = _import_reader()(file, options)
    if plan is not None:
        dicom.dtype, dicom.has_mixed_depths = plan.dtype, plan.has_mixed_depths
    return dicom


def _import_reader() -> type[DicomFile]:
    """Return the reader, which is imported late so that formats can be listed without pydicom."""
    with explain_missing_package("pydicom", "DICOM files"):
        from data_tools.converters.dicom.frames import DicomFile  # noqa: PLC0415
    return DicomFile


class AddedFrame(NamedTuple):
    """Image that was written.

    Attributes:
        image_id: Id of the image in its COCO file.
        scale: (y, x) factors by which the image was shrunk, at most 1.
    """

    image_id: int
    scale: tuple[float, float] = (1.0, 1.0)


def add_frames(
    writer: CocoWriter,
    dicom: DicomFile,
    name: Path,
    group: str | None,
    instances: set[bytes] | None = None,
) -> list[AddedFrame]:
    """Write the frames of a DICOM file as images of a split.

    Args:
        writer: Writer of the split.
        dicom: DICOM file.
        name: Relative path of the images; a suffix `.dcm`, `.dicom` or `.dic` is removed.
        group: Group of the images.
        instances: Digests of the files added so far, to which the digest of this file is added.

    Returns:
        All added frames; none for a file whose instance id and first frame are in `instances`.

    Raises:
        DataError: If the pixels cannot be decoded.
    """
    stem = name.with_suffix("") if name.suffix.lower() in DICOM_SUFFIXES else name
    added: list[AddedFrame] = []
    for frame in dicom.iterate_frames():
        if not added and dicom.instance and instances is not None:
            # The id alone does not suffice: careless anonymization gives many files the same id.
            instance_key = f"{dicom.instance} {dicom.num_frames}".encode()
            digest = hashlib.blake2b(instance_key + frame.pixels.tobytes(), digest_size=16).digest()
            if digest in instances:
                return []
            instances.add(digest)
        frame_path = stem if frame.index is None else stem / f"{frame.index:04d}"
        base = _find_free_name(place_inside(writer.folder / "images" / writer.split, frame_path))
        image = write_lossless_image(base, frame.pixels, is_color=frame.is_color)
        size = (frame.pixels.shape[0], frame.pixels.shape[1])
        image_id = writer.add_image(
            image, size=size, group=group, spacing=frame.spacing, attributes=frame.attributes
        )
        if frame.spacing is None:
            writer.report.add_pixel_aspect(frame.aspect)
        added.append(AddedFrame(image_id, frame.scale))
    for repair in dicom.repairs:
        writer.report.add_repair(repair, name.as_posix())
    return added


def _find_free_name(base: Path) -> Path:
    """Return `base`, with a number appended if `a.dcm` and `a.dicom` are in the same folder."""
    name, number = base, 2
    while any(name.with_name(name.name + suffix).exists() for suffix in (".png", ".tif")):
        name, number = base.with_name(f"{base.name}_{number}"), number + 1
    return name
