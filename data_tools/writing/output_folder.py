"""Output folder that appears complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_tools.reading.source_folder import format_listing
from resnet_tasks.errors import DataError
from resnet_tasks.files.atomic import replace_folder
from resnet_tasks.files.safe_names import is_inside

CARD = "data_card.md"
"""File that every conversion writes; only folders that contain it are ever replaced."""


@contextmanager
def create_output_folder(out: Path, *, sources: Sequence[Path], overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder next to `out` that replaces it when the block ends without error.

    Args:
        out: Path of the result; must be missing or empty, unless `overwrite` is set.
        sources: Paths that are converted; they must not lie in a folder that is replaced.
        overwrite: Whether to replace the result of an earlier conversion.

    Raises:
        DataError: If `out` exists and may not be replaced.
        RunError: If it cannot be created.
    """
    with replace_folder(out, overwrite=overwrite, remedy="choose another folder") as partial:
        # Checked only now: `replace_folder` may first restore an earlier result to `out`.
        _check_output(out, sources, overwrite)
        yield partial


def place_inside(folder: Path, name: Path) -> Path:
    """Return the output path of an image that the source names.

    Args:
        folder: Folder that the path must not leave.
        name: Relative path, as stated in a file of the source.

    Raises:
        DataError: If the name is absolute or leads out of the folder.
    """
    if not is_inside(name.as_posix()):
        raise DataError(
            f"the source names {str(name)!r}, which leads out of the folder of the images; "
            "rename it there to a relative path without .."
        )
    return folder / name


def _check_output(out: Path, sources: Sequence[Path], overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"the output {out} is a file; choose a folder")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise DataError(
            f"the output folder {out} already contains {format_listing(out)}; choose another "
            "folder, or pass overwrite (--overwrite) to replace an earlier conversion"
        )
    if not (out / CARD).is_file():
        raise DataError(
            f"the output folder {out} contains {format_listing(out)} but no {CARD}, so no "
            "conversion created it and it is not replaced; choose another folder"
        )
    for source in sources:
        if Path(os.path.realpath(source)).is_relative_to(os.path.realpath(out)):
            raise DataError(
                f"the source {source} lies in the output folder {out}, which would be replaced; "
                "choose another output folder"
            )
