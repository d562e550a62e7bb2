"""Preparation of known datasets by name, and conversion of other datasets by format.

`resnet-tasks data prepare bccd` runs `prepare("bccd", source, out)`, and `resnet-tasks data convert
voc` runs `convert("voc", source, out)`. Nothing is downloaded. A dataset is described by a small
YAML file in `data_sets/`, or by another such file whose path is given instead of a name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from data_tools.formats import COPY_IMAGES, FORMATS, Format
from data_tools.reading.archives import SUFFIXES, is_archive, unpack_to_temporary_folder
from data_tools.reading.source_folder import find_dataset_folder, is_file, unwrap_folders
from data_tools.writing.data_card import DataCard, DatasetProvenance
from data_tools.writing.dataset_writer import SampleError
from data_tools.writing.output_folder import CARD, create_output_folder
from data_tools.writing.progress import Progress
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count
from resnet_tasks.options import describe_problem
from resnet_tasks.recipe.yaml_text import format_key_path, parse_yaml, read_yaml_text
from resnet_tasks.registry import suggest_nearest

DATASETS_FOLDER = Path(__file__).with_name("data_sets")
"""Folder of the YAML files of the known datasets."""

Source = Path | Sequence[Path] | None
"""Folder, archive, several archives of one dataset, or None for generated datasets."""
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class DatasetSpec:
    """Description of a dataset.

    Attributes:
        name: Stem of its YAML file.
        format: Name of its format, a key of `FORMATS`.
        origin: Title, homepage, license, citation and notes.
        options: Arguments of the converter for this dataset.
        by_hand: Instructions on the files to download; empty if the dataset is generated.
        expects: Relative path in its source, which may contain `*` -> description of the content.
        recipes: Names of the shipped recipes for it.
        verified: Whether the conversion was run on the original files of the publisher.
    """

    name: str
    format: str
    origin: DatasetProvenance
    options: Mapping[str, Any] = field(default_factory=dict)
    by_hand: str = ""
    expects: Mapping[str, str] = field(default_factory=dict)
    recipes: tuple[str, ...] = ()
    verified: bool = False


class DatasetFile(BaseModel):
    """Schema of the YAML file of a dataset; see `DatasetSpec` and `DatasetProvenance`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: Text
    homepage: Text
    license: Text
    citation: Text
    format: Text
    by_hand: str = ""
    expects: dict[Text, Text] = Field(default_factory=dict)
    verified: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    recipes: tuple[Text, ...] = ()
    notes: tuple[Text, ...] = ()


@cache
def load_datasets() -> Mapping[str, DatasetSpec]:
    """Return all shipped datasets by name, in alphabetical order.

    Raises:
        DataError: If one of the files is invalid.
    """
    return {file.stem: read_dataset(file) for file in sorted(DATASETS_FOLDER.glob("*.yaml"))}


def read_dataset(file: Path) -> DatasetSpec:
    """Read the YAML file of a dataset.

    Raises:
        DataError: If the file cannot be read or is invalid. The message lists all problems, one per
            line, with line number, key and value.
        RecipeError: If it is not valid YAML.
    """
    try:
        document = parse_yaml(read_yaml_text(file), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the dataset {file} cannot be read ({error}); pass a YAML file") from None
    try:
        # JSON mode accepts lists for tuples; otherwise it is as strict as Python mode.
        dataset_file = DatasetFile.model_validate_json(json.dumps(document.value))
    except ValidationError as error:
        raise DataError(
            "\n".join(_format_problem(problem, file, document.lines) for problem in error.errors())
        ) from None
    if dataset_file.format not in FORMATS:
        location = f"{file}:{document.lines.get(('format',), 1)}"
        raise DataError(
            f"{location}: format is {dataset_file.format!r}; allowed: {', '.join(FORMATS)}"
            f"{suggest_nearest(dataset_file.format, list(FORMATS))}"
        )
    format_ = FORMATS.get(dataset_file.format)
    if bool(dataset_file.by_hand) != format_.needs_source:
        requirement = "say what to download" if format_.needs_source else "be omitted"
        raise DataError(
            f"{file}: by_hand of a dataset of the format {dataset_file.format!r} must {requirement}"
        )
    return DatasetSpec(
        name=file.stem,
        format=dataset_file.format,
        origin=DatasetProvenance(
            dataset_file.title,
            dataset_file.homepage,
            dataset_file.license,
            dataset_file.citation,
            dataset_file.notes,
        ),
        options=dataset_file.options,
        by_hand=dataset_file.by_hand,
        expects=dataset_file.expects,
        recipes=dataset_file.recipes,
        verified=dataset_file.verified,
    )


def _format_problem(
    problem: ErrorDetails, file: Path, lines: Mapping[tuple[str | int, ...], int]
) -> str:
    path, keys = problem["loc"], DatasetFile.model_fields
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 1)
    return describe_problem(
        problem,
        keys,
        subject=f"{file}:{line}: {format_key_path(path) or 'the dataset'}",
        unknown=f"is unknown; allowed: {', '.join(keys)}",
    )


def find_dataset(name: str) -> DatasetSpec:
    """Return a shipped dataset by name, or the dataset that a YAML file describes.

    Args:
        name: Name of a shipped dataset, or path of a YAML file.

    Raises:
        DataError: If there is no such dataset, or its file is invalid.
    """
    datasets = load_datasets()
    if name in datasets:
        return datasets[name]
    if Path(name).suffix in (".yaml", ".yml"):
        return read_dataset(Path(name))
    hint = suggest_nearest(name.lower(), datasets)
    raise DataError(f"there is no dataset {name!r}; available: {', '.join(datasets)}{hint}")


def prepare(
    name: str,
    source: Source,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> DataCard:
    """Convert a known dataset and write its data card.

    Args:
        name: Name of a shipped dataset, or path of a YAML file that describes one.
        source: Folder that the dataset was unpacked to, its archive, or several archives (zip,
            tar, tar.gz, tar.xz, tar.bz2), whose images are then copied; None for generated
            datasets.
        out: Path of the output folder, which is created when the conversion is complete.
        overwrite: Whether to replace an earlier conversion in `out`.
        progress: Function called with (done, total), first for the bytes of archives, then after
            each image.
        **options: Options of the dataset's format, which override those of the dataset.

    Returns:
        The data card, which is also written to `out/data_card.md`.

    Raises:
        DataError: If the name, an option or the source is invalid.
    """
    dataset = find_dataset(name)
    format_ = FORMATS.get(dataset.format)
    validated_options = format_.validate_options(
        {**dataset.options, **options}, f"dataset {dataset.name}"
    )
    return _convert_sources(dataset, format_, source, out, overwrite, progress, validated_options)


def convert(
    format_name: str,
    source: Source,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> DataCard:
    """Convert a folder of a known format and write its data card.

    Args:
        format_name: Name of the format, a key of `FORMATS`.
        source: Folder, archive or archives to read, see `prepare`; None for formats that are
            generated.
        out: Path of the output folder, which is created when the conversion is complete.
        overwrite: Whether to replace an earlier conversion in `out`.
        progress: Function called with (done, total); see `prepare`.
        **options: Options of the format (`FORMATS.get(format_name).options`).

    Returns:
        The data card, which is also written to `out/data_card.md`.

    Raises:
        DataError: If an option or the source is invalid.
        ResnetTasksError: If there is no such format.
    """
    format_ = FORMATS.get(format_name)
    validated_options = format_.validate_options(options)
    origin = DatasetProvenance(out.name, license=str(options.get("license_name") or "not stated"))
    nameless = DatasetSpec(out.name, format_name, origin, verified=format_.verified)
    return _convert_sources(nameless, format_, source, out, overwrite, progress, validated_options)


def _convert_sources(
    dataset: DatasetSpec,
    format_: Format,
    source: Source,
    out: Path,
    overwrite: bool,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> DataCard:
    sources = [source] if isinstance(source, Path) else list(source or ())
    if format_.needs_source and not sources:
        remedy = f": {dataset.by_hand}" if dataset.by_hand else ""
        raise DataError(
            f"{dataset.name} needs a source, the folder that the dataset was unpacked to or its "
            f"archive{remedy}"
        )
    if not format_.needs_source and sources:
        raise DataError(f"{dataset.name} is generated, not read; omit the source {sources[0]}")
    format_.require_options(options)
    with create_output_folder(out, sources=sources, overwrite=overwrite) as folder:
        if not sources:
            splits = format_.convert(folder, progress=progress, **options)
            source_description = _describe_generation(options)
        else:
            with _open_sources(sources, format_, out, progress, options) as (
                source_folder,
                settings,
            ):
                dataset_folder = source_folder
                if dataset.expects or not is_file(source_folder):
                    dataset_folder = find_dataset_folder(
                        source_folder, dataset.expects, dataset.by_hand
                    )
                _require_outside(out, dataset_folder)
                splits = _convert_unwrapped(format_, dataset_folder, folder, progress, settings)
                source_description = " and ".join(os.path.realpath(path) for path in sources)
                if source_folder == sources[0]:
                    source_description = os.path.realpath(dataset_folder)
        _require_disjoint(splits)
        card = DataCard(dataset.name, dataset.origin, source_description, splits, dataset.verified)
        (folder / CARD).write_text(card.to_markdown(), encoding="utf-8")
    return card


def _convert_unwrapped(
    format_: Format,
    source: Path,
    folder: Path,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> tuple[SplitSummary, ...]:
    """Convert a source folder, or a folder nested in it as the only entry of its parent.

    Raises:
        DataError: If no folder can be converted. The message has the errors of the source and of
            the innermost folder that was tried.
    """
    messages: list[str] = []
    for candidate in (source, *unwrap_folders(source)):
        try:
            return format_.convert(candidate, folder, progress=progress, **options)
        except DataError as error:
            messages.append(str(error))
            # The converter recognized the folder and failed later.
            if isinstance(error, SampleError) or any(folder.iterdir()):
                break
    raise DataError("; and ".join(dict.fromkeys((messages[0], messages[-1]))))


def _require_outside(out: Path, source: Path) -> None:
    """Reject an output folder that the next conversion would read as part of its source."""
    folder = source.parent if is_file(source) else source
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(folder)):
        raise DataError(
            f"the output folder {out} lies inside the source {source}, so that a later conversion "
            "would read its copies as source images; choose a folder outside the source"
        )


def _require_disjoint(splits: Sequence[SplitSummary]) -> None:
    """Reject splits that share images, which would leak training images into the evaluation."""
    for one, other in combinations(splits, 2):
        if shared := sorted(one.image_paths & other.image_paths):
            raise DataError(
                f"{Count(len(shared)):image is} in {one.split} and in {other.split}, the first "
                f"{shared[0]}; splits must not share images: remove them from one of the two"
            )


@contextmanager
def _open_sources(
    sources: Sequence[Path],
    format_: Format,
    out: Path,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the folder to convert and the options of the conversion; archives are unpacked.

    Unpacked archives are deleted at the end, so that their images must be copied.
    """
    archives = [path for path in sources if is_archive(path)]
    if not archives and len(sources) == 1:
        yield sources[0], options
        return
    if len(archives) < len(sources):
        folder_source = next(path for path in sources if path not in archives)
        raise DataError(
            f"several sources must all be archives ({', '.join(SUFFIXES)}), but {folder_source} is "
            "not an archive; unpack all archives into one folder and pass that folder"
        )
    if COPY_IMAGES in format_.options and options.get(COPY_IMAGES) is False:
        raise DataError(
            f"{COPY_IMAGES}=false needs images that remain in place, but those of {archives[0]} "
            "are unpacked only for the conversion; unpack the archive yourself and pass the "
            f"folder, or omit {COPY_IMAGES}"
        )
    copy_options = {COPY_IMAGES: True} if COPY_IMAGES in format_.options else {}
    with unpack_to_temporary_folder(archives, out, progress=progress) as folder:
        try:
            yield folder, {**options, **copy_options}
        except DataError as error:  # the message must not name the temporary folder
            called = " + ".join(map(str, archives))
            raise DataError(str(error).replace(str(folder), called)) from error


def _describe_generation(options: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"no source; generated with {settings or 'the default settings'}"
