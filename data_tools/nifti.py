"""NIfTI volumes with label volumes as 2-D slices with label maps.

Layouts: see `nifti_layouts` (Medical Segmentation Decathlon, nnU-Net, plain folders); how slices
lie: see `nifti_volumes`. Every slice keeps its spacing; a volume is a group that no split cuts
through. Values are written as they are meant (`scl_slope` and `scl_inter` applied), nothing cut
off: whole numbers in the smallest type that holds the volume, all else as float32. Several channels
become the channels of a TIFF. Value 0 is unlabelled, unless `classes` names it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from data_tools.coco_writer import Category, CocoWriter
from data_tools.deep_pictures import write_deep_picture
from data_tools.nifti_layouts import Case, Layout, read_layout
from data_tools.output_folder import place_inside
from data_tools.progress import PictureCount, Progress
from data_tools.source_folder import SPLITS
from data_tools.split_summary import SplitSummary
from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    from data_tools.nifti_volumes import Volume


def convert_nifti(  # noqa: PLR0913  # each is an option on the command line
    source: Path,
    out: Path,
    *,
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    classes: Mapping[int, str] | None = None,
    empty_slices: float = 1.0,
    val_fraction: float = 0.0,
    seed: int = 0,
    fill: float | None = None,
    check_affine: bool = True,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Converts every native split to COCO JSON with label maps.

    Args:
        source: Folder of the data set.
        out: Folder for the JSON files, `images/` and `semantic/`.
        plane: Of the slices.
        classes: Value in the label volumes -> name, in place of what `dataset.json` says.
        empty_slices: Share of the slices without any label that `train` keeps, 0 to 1, evenly
            spaced in every volume; `val` and `test` keep all. What is left out is counted.
        val_fraction: Share of the volumes of `train` that goes to `val`, 0 to below 1, where there
            is no `val`.
        seed: Of that choice.
        fill: Takes the place of values that are not finite.
        check_affine: Refuse labels that lie elsewhere in the patient than their volume.
        license_name: Licence of the data, for the JSON.
        progress: Called with (done, total) after each volume.

    Returns:
        What was written, by split.

    Raises:
        DataError: If a volume is missing or damaged, its labels do not fit it or have an unknown
            value; the message names the file.
    """
    if not 0 <= empty_slices <= 1:
        raise DataError(f"empty_slices is {empty_slices}; it is a share from 0 to 1")
    layout = read_layout(source, classes)
    splits = _splits(layout, val_fraction, seed, source)
    names = list(layout.classes.values())
    count = PictureCount(sum(map(len, splits.values())), progress)
    summaries = []
    for split, cases in splits.items():
        writer = CocoWriter(
            out,
            split,
            [Category(name, isthing=False) for name in names],
            annotated=("semantic",),
            description=f"Converted from NIfTI, {plane} slices, {split}",
            license_name=license_name,
        )
        ids = {0: 0, **{value: place for place, value in enumerate(layout.classes, start=1)}}
        if layout.void is not None:
            ids[layout.void] = writer.void
        for case in count.over(cases):
            share = empty_slices if split == "train" else 1.0
            # In a function of its own: a volume is gone before the next one is read.
            _add_case(writer, _open(case, plane, check_affine=check_affine), ids, share, fill)
        for name in _unlabelled(layout, split, splits):
            writer.skip(name, "volume", "it has no labels")
        summaries.append(writer.write())
    return tuple(summaries)


def _splits(
    layout: Layout, val_fraction: float, seed: int, source: Path
) -> dict[str, Sequence[Case]]:
    splits: dict[str, Sequence[Case]] = dict(layout.splits)
    if not 0 <= val_fraction < 1 or (val_fraction and "val" in splits):
        raise DataError(
            f"val_fraction is {val_fraction}; it must be at least 0 and below 1, and 0 where "
            f"there is a val as in {source}"
        )
    if val_fraction:
        cases = splits["train"]
        count = min(max(round(len(cases) * val_fraction), 1), len(cases) - 1)
        if count < 1:
            raise DataError(f"{source} has one volume; there is none to spare for val")
        chosen = set(random.Random(seed).sample(range(len(cases)), count))
        splits["train"] = [each for i, each in enumerate(cases) if i not in chosen]
        splits["val"] = [each for i, each in enumerate(cases) if i in chosen]
    return {split: splits[split] for split in SPLITS if split in splits}


def _unlabelled(layout: Layout, split: str, written: Collection[str]) -> Iterator[str]:
    """Volumes without labels; `train` names also those of splits that have none with labels."""
    for other, names in layout.unlabelled.items():
        if other == split:
            yield from names
        elif split == "train" and other not in written:
            yield from (f"{other}: {name}" for name in names)


def _open(
    case: Case, plane: Literal["axial", "coronal", "sagittal"], *, check_affine: bool
) -> Volume:
    # Here, so that formats are listed where nibabel is not installed.
    from data_tools.nifti_volumes import Volume  # noqa: PLC0415

    return Volume(case, plane, check_affine=check_affine)


def _add_case(
    writer: CocoWriter,
    volume: Volume,
    ids: Mapping[int, int],
    empty_slices: float,
    fill: float | None,
) -> None:
    """Adds the slices of a volume that are kept, and counts the others."""
    kept = _kept(volume, ids, empty_slices)
    if left_out := volume.num_slices - len(kept):
        what = f"{left_out} of {volume.num_slices} {volume.plane} slices"
        why = f"they hold no label, and empty_slices is {empty_slices:g}"
        writer.skip(volume.name, what, why)
    for index in kept:
        pixels = volume.picture(index, fill=fill)
        name = Path(volume.name, f"{volume.name}_{volume.plane}_{index:04d}")
        folder = writer.folder / "images" / writer.split
        picture = write_deep_picture(place_inside(folder, name), pixels)
        image_id = writer.add_image(
            picture,
            size=(pixels.shape[0], pixels.shape[1]),
            group=volume.name,
            spacing=volume.spacing,
            attributes={"slice": index, "slice_distance": round(volume.distance, 6)},
        )
        writer.add_semantic(image_id, volume.labels(index, ids))


def _kept(volume: Volume, ids: Mapping[int, int], share: float) -> list[int]:
    """Slices with a label, and an evenly spaced share of the others."""
    empty = [i for i in range(volume.num_slices) if not volume.labels(i, ids).any()]
    count = round(len(empty) * share)
    places = np.linspace(0, len(empty) - 1, count).round().astype(int) if count else ()
    left_out = set(empty) - {empty[place] for place in places}
    return [i for i in range(volume.num_slices) if i not in left_out]
