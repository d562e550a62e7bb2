"""Converter for NIfTI volumes with label volumes to 2-D slices with label maps.

See `nifti.layouts` for the folder layouts (Medical Segmentation Decathlon, nnU-Net, plain folders)
and `nifti.volumes` for the orientation of slices. Every slice keeps its spacing; a volume is a
group that splits must keep together. Values are scaled by `scl_slope` and `scl_inter` and never
clipped: all volumes of a dataset are written in one type that their headers determine. Several
channels become the channels of a TIFF. Value 0 is unlabeled, unless `classes` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from data_tools.converters.nifti.layouts import Case, NiftiLayout, read_layout
from data_tools.reading.optional_packages import explain_missing_package
from data_tools.reading.source_folder import SPLITS, hold_out_fraction
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.lossless_images import write_lossless_image
from data_tools.writing.output_folder import place_inside
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.semantic_maps import choose_void_value
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    from data_tools.converters.nifti.value_plan import ValuePlan
    from data_tools.converters.nifti.volumes import Volume

Plane = Literal["axial", "coronal", "sagittal"]


def convert_nifti(  # noqa: PLR0913  # each is an option on the command line
    source: Path,
    out: Path,
    *,
    plane: Plane = "axial",
    classes: Mapping[int, str] | None = None,
    empty_slices: float = 1.0,
    val_fraction: float = 0.0,
    seed: int = 0,
    fill: float | None = None,
    check_affine: bool = True,
    orientation: str | None = None,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert every native split to COCO JSON with label maps.

    Args:
        source: Folder of the dataset.
        out: Folder for the JSON files, `images/` and `semantic/`.
        plane: Anatomical plane of the slices.
        classes: Value in the label volumes -> name, instead of the labels in `dataset.json`.
        empty_slices: Fraction of the slices without any label that `train` keeps, 0 to 1, evenly
            spaced in every volume; `val` and `test` keep all. Skipped slices are counted.
        val_fraction: Fraction of the volumes of `train` that goes to `val`, 0 to below 1, for
            sources without a `val`.
        seed: Seed of the random choice of validation volumes.
        fill: Replacement of values that are not finite; None to refuse them.
        check_affine: Whether to refuse labels whose position in the patient differs from that of
            their volume.
        orientation: Anatomical directions in which the stored axes increase, such as `LAS` or
            `RAS`, for files that state none; None to refuse such files.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each volume.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a volume is missing or damaged, or its labels do not fit it or have an unknown
            value; the message names the file.
    """
    if not 0 <= empty_slices <= 1:
        raise DataError(f"empty_slices is {empty_slices}; it must be a fraction from 0 to 1")
    layout = read_layout(source, classes)
    splits = _choose_splits(layout, val_fraction, seed, source)
    plan, open_volume = _plan_volumes(splits, check_affine=check_affine, orientation=orientation)
    ids = {0: 0, **{value: index for index, value in enumerate(layout.classes, start=1)}}
    if layout.void is not None:
        ids[layout.void] = choose_void_value(len(layout.classes))
    dataset = DatasetWriter(
        out,
        [CategorySpec(name, isthing=False) for name in layout.classes.values()],
        annotated=("semantic",),
        description=f"Converted from NIfTI, {plane} slices, {{split}}",
        license_name=license_name,
    )

    def add_case(writer: CocoWriter, case: Case) -> None:
        empty_fraction = empty_slices if writer.split == "train" else 1.0
        volume = open_volume(case, plane)
        bits = plan.find_bits(case.name)
        attributes = {} if bits is None else {"bits_stored": bits}
        _add_case(writer, volume, ids, empty_fraction, fill, attributes)

    def finish_split(writer: CocoWriter) -> None:
        if plan.mixture is not None and writer.split == "train":
            writer.report.warn(plan.mixture)
        for name in _list_unlabeled(layout, writer.split, splits):
            writer.report.skip(name, "volume", "it has no labels")

    return dataset.write(track_splits(splits, progress), add_case, finish_split)


def _choose_splits(
    layout: NiftiLayout, val_fraction: float, seed: int, source: Path
) -> dict[str, Sequence[Case]]:
    splits: dict[str, Sequence[Case]] = dict(layout.splits)
    if not 0 <= val_fraction < 1 or (val_fraction and "val" in splits):
        raise DataError(
            f"val_fraction is {val_fraction}; it must be at least 0 and below 1, and 0 where "
            f"there is a val split, as in {source}"
        )
    if val_fraction:
        splits |= hold_out_fraction(splits["train"], val_fraction, seed)
        if not splits["val"]:
            raise DataError(f"{source} has only one volume; a val split needs a second one")
    return {split: splits[split] for split in SPLITS if split in splits}


def _list_unlabeled(
    layout: NiftiLayout, split: str, written_splits: Collection[str]
) -> Iterator[str]:
    """Yield the volumes without labels; `train` also lists those of splits that are not written."""
    for other_split, names in layout.unlabeled.items():
        if other_split == split:
            yield from names
        elif split == "train" and other_split not in written_splits:
            yield from (f"{other_split}: {name}" for name in names)


def _plan_volumes(
    splits: Mapping[str, Sequence[Case]], *, check_affine: bool, orientation: str | None
) -> tuple[ValuePlan, Callable[[Case, Plane], Volume]]:
    """Return the plan of the values of all splits, and a function that opens volumes."""
    # Imported here, so that formats can be listed without nibabel.
    with explain_missing_package("nibabel", "NIfTI files"):
        from data_tools.converters.nifti.orientation import (  # noqa: PLC0415
            require_orientation_code,
        )
        from data_tools.converters.nifti.value_plan import ValuePlan  # noqa: PLC0415
        from data_tools.converters.nifti.volumes import Volume  # noqa: PLC0415

    require_orientation_code(orientation)
    plan = ValuePlan(case for cases in splits.values() for case in cases)
    return plan, partial(
        Volume, check_affine=check_affine, orientation=orientation, dtype=plan.dtype
    )


def _add_case(
    writer: CocoWriter,
    volume: Volume,
    ids: Mapping[int, int],
    empty_slices: float,
    fill: float | None,
    attributes: Mapping[str, int],
) -> None:
    """Add the selected slices of a volume, with some attributes, and count the others."""
    kept_indices = _select_slices(volume, ids, empty_slices)
    if num_skipped := volume.num_slices - len(kept_indices):
        description = f"{num_skipped} of {volume.num_slices} {volume.plane} slices"
        reason = f"they hold no labels, and empty_slices is {empty_slices:g}"
        writer.report.skip(volume.name, description, reason)
    for index in kept_indices:
        pixels = volume.read_image(index, fill=fill)
        name = Path(volume.name, f"{volume.name}_{volume.plane}_{index:04d}")
        folder = writer.folder / "images" / writer.split
        image = write_lossless_image(place_inside(folder, name), pixels)
        image_id = writer.add_image(
            image,
            size=(pixels.shape[0], pixels.shape[1]),
            group=volume.name,
            spacing=volume.spacing,
            attributes={
                "slice": index,
                "slice_distance": round(volume.distance, 6),
                **attributes,
            },
        )
        writer.add_semantic(image_id, volume.read_labels(index, ids))
    for repair, files in volume.repairs.items():
        for file in files:
            writer.report.add_repair(repair, f"{file.parent.name}/{file.name}")


def _select_slices(volume: Volume, ids: Mapping[int, int], fraction: float) -> list[int]:
    """Return the indices of slices with a label, and of an evenly spaced fraction of the others."""
    empty = [i for i in range(volume.num_slices) if not volume.read_labels(i, ids).any()]
    count = round(len(empty) * fraction)
    positions = np.linspace(0, len(empty) - 1, count).round().astype(int) if count else ()
    skipped = set(empty) - {empty[position] for position in positions}
    return [i for i in range(volume.num_slices) if i not in skipped]
