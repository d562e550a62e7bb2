"""The data sets that can be prepared by name, each a small YAML file, and conversion by format.

`prepare("bccd", source, out)` is what `resnet-tasks data prepare bccd` runs; `convert("voc",
source, out)` is `resnet-tasks data convert voc`. Nothing is downloaded. A data set is a file in
`data_sets/`, or any file of that form whose path is given instead of a name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_tools.archives import SUFFIXES, is_archive, unpacked
from data_tools.data_card import DataCard, Origin
from data_tools.formats import COPY_IMAGES, FORMATS, Format
from data_tools.output_folder import CARD, output_folder
from data_tools.progress import Progress
from data_tools.source_folder import locate, wrapped
from data_tools.split_summary import SplitSummary
from resnet_tasks.errors import DataError
from resnet_tasks.recipe.yaml_text import dotted, parse_yaml
from resnet_tasks.registry import did_you_mean

DATA_SETS = Path(__file__).with_name("data_sets")
"""Folder of the known data sets."""

Source = Path | Sequence[Path] | None
"""A folder, an archive, several archives that belong together, or nothing."""
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class DataSet:
    """One data set known by name.

    Attributes:
        name: Of its file.
        format: Name of its format.
        origin: Where it comes from.
        options: Arguments of the converter that belong to this data set.
        by_hand: What the user must download and do; empty where nothing is needed.
        expects: Relative path that its source has, `*` allowed -> what lies there.
        recipes: Names of the shipped recipes for it.
        verified: Whether this conversion has run on the publisher's own files.
    """

    name: str
    format: str
    origin: Origin
    options: Mapping[str, Any] = field(default_factory=dict)
    by_hand: str = ""
    expects: Mapping[str, str] = field(default_factory=dict)
    recipes: tuple[str, ...] = ()
    verified: bool = False


class DataSetFile(BaseModel):
    """What the YAML of a data set may say; see `DataSet` and `Origin`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: Text
    homepage: Text
    licence: Text
    citation: Text
    format: Text
    by_hand: str = ""
    expects: dict[Text, Text] = Field(default_factory=dict)
    verified: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    recipes: tuple[Text, ...] = ()
    notes: tuple[Text, ...] = ()


@cache
def data_sets() -> Mapping[str, DataSet]:
    """All shipped data sets by name, in order of their names.

    Raises:
        DataError: If one of the files is wrong.
    """
    return {file.stem: read_data_set(file) for file in sorted(DATA_SETS.glob("*.yaml"))}


def read_data_set(file: Path) -> DataSet:
    """Reads the YAML of one data set.

    Raises:
        DataError: With every problem of the file, one a line: line, key, what was given.
        RecipeError: If it is no YAML.
    """
    try:
        document = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the data set {file} cannot be read ({error}); give a YAML file") from None
    try:
        # JSON mode takes lists for tuples and is strict in all else.
        read = DataSetFile.model_validate_json(json.dumps(document.value))
    except ValidationError as error:
        raise DataError(
            "\n".join(_problem(each, file, document.lines) for each in error.errors())
        ) from None
    format_ = FORMATS.get(read.format)
    if bool(read.by_hand) != format_.needs_source:
        wanted = "say what to download" if format_.needs_source else "be left out"
        raise DataError(
            f"{file}: by_hand of a data set of the format {read.format!r} must {wanted}"
        )
    return DataSet(
        name=file.stem,
        format=read.format,
        origin=Origin(read.title, read.homepage, read.licence, read.citation, read.notes),
        options=read.options,
        by_hand=read.by_hand,
        expects=read.expects,
        recipes=read.recipes,
        verified=read.verified,
    )


def _problem(error: Any, file: Path, lines: Mapping[tuple[str | int, ...], int]) -> str:
    path = tuple(error["loc"])
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 1)
    place = f"{file}:{line}: {dotted(path) or 'the data set'}"
    if error["type"] == "extra_forbidden":
        hint = did_you_mean(str(path[-1]), DataSetFile.model_fields)
        return f"{place} is unknown; known are {', '.join(DataSetFile.model_fields)}{hint}"
    if error["type"] == "missing":
        return f"{place} is missing; give it"
    return f"{place}: {error['msg']}; got {error['input']!r}"


def find_data_set(name: str) -> DataSet:
    """The data set called `name`, or described by the YAML file of that path.

    Raises:
        DataError: If there is none, or its file is wrong.
    """
    known = data_sets()
    if name in known:
        return known[name]
    if Path(name).suffix in (".yaml", ".yml"):
        return read_data_set(Path(name))
    hint = did_you_mean(name.lower(), known)
    raise DataError(f"there is no data set {name!r}; there are {', '.join(known)}{hint}")


def prepare(
    name: str,
    source: Source,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> DataCard:
    """Converts a data set known by name and writes its data card.

    Args:
        name: Of a shipped data set, or the path of a YAML file that describes one.
        source: Folder that the data set was unpacked to, its archive, or several archives (zip,
            tar, tar.gz, tar.xz, tar.bz2), whose pictures are then copied; `None` for those that are
            drawn.
        out: Folder for the result; appears when complete.
        overwrite: Replace an earlier conversion in `out`.
        progress: Called with (done, total) after each picture; before that with the bytes of
            archives.
        **options: Options of the data set's format that replace its own.

    Returns:
        The card, which is also `out/data_card.md`.

    Raises:
        DataError: If the name, an option or anything in the source is wrong.
    """
    data_set = find_data_set(name)
    format_ = FORMATS.get(data_set.format)
    typed = format_.typed({**data_set.options, **options}, f"data set {data_set.name}")
    return _run(data_set, format_, source, out, overwrite, progress, typed)


def convert(
    format_name: str,
    source: Source,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> DataCard:
    """Converts a folder of a known format and writes its data card.

    Args:
        format_name: Key of `FORMATS`.
        source: Folder, archive or archives to read, as for `prepare`; `None` for formats that are
            drawn.
        out: Folder for the result; appears when complete.
        overwrite: Replace an earlier conversion in `out`.
        progress: As for `prepare`.
        **options: Options of the format (`FORMATS.get(format_name).options`).

    Returns:
        The card, which is also `out/data_card.md`.

    Raises:
        DataError: If an option or anything in the source is wrong.
        ResnetTasksError: If there is no such format.
    """
    format_ = FORMATS.get(format_name)
    typed = format_.typed(options, "options")
    origin = Origin(out.name, licence=str(options.get("license_name") or "not stated"))
    nameless = DataSet(out.name, format_name, origin, verified=format_.verified)
    return _run(nameless, format_, source, out, overwrite, progress, typed)


def _run(
    data_set: DataSet,
    format_: Format,
    source: Source,
    out: Path,
    overwrite: bool,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> DataCard:
    sources = [source] if isinstance(source, Path) else list(source or ())
    if format_.needs_source and not sources:
        remedy = f": {data_set.by_hand}" if data_set.by_hand else ""
        raise DataError(
            f"{data_set.name} needs a source, the folder that the data set was unpacked to or its "
            f"archive{remedy}"
        )
    if not format_.needs_source and sources:
        raise DataError(f"{data_set.name} is drawn, not read; leave out the source {sources[0]}")
    with output_folder(out, sources=sources, overwrite=overwrite) as folder:
        if not sources:
            splits = format_.convert(folder, progress=progress, **options)
            where = _drawn(options)
        else:
            with _opened(sources, format_, out, progress, options) as (opened, settings):
                found = locate(opened, data_set.expects, data_set.by_hand)
                _require_outside(out, found)
                splits = _converted(format_, found, folder, progress, settings)
                where = " and ".join(str(each.resolve()) for each in sources)
                if opened == sources[0]:
                    where = str(found.resolve())
        _require_apart(splits)
        card = DataCard(data_set.name, data_set.origin, where, splits, data_set.verified)
        (folder / CARD).write_text(card.markdown(), encoding="utf-8")
    return card


def _converted(
    format_: Format,
    source: Path,
    folder: Path,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> tuple[SplitSummary, ...]:
    """Converts a source, or what it wraps in folders that hold nothing else.

    Raises:
        DataError: What is wrong with the source, and with the innermost that was tried.
    """
    told: list[str] = []
    for place in (source, *wrapped(source)):
        try:
            return format_.convert(place, folder, progress=progress, **options)
        except DataError as error:
            told.append(str(error))
            if any(folder.iterdir()):  # it got further than to look for its parts
                break
    raise DataError("; and ".join(dict.fromkeys((told[0], told[-1]))))


def _require_outside(out: Path, source: Path) -> None:
    """Refuses an output that the next conversion would read as part of its source."""
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"the output folder {out} lies inside the source {source}, whose pictures a later "
            "conversion would take its copies for; choose a folder outside of it"
        )


def _require_apart(splits: Sequence[SplitSummary]) -> None:
    """Refuses splits that share pictures: what is judged would have been taught."""
    for one, other in combinations(splits, 2):
        if shared := sorted(one.pictures & other.pictures):
            raise DataError(
                f"{len(shared)} pictures are in {one.split} and in {other.split}, the first "
                f"{shared[0]}; splits must not share pictures: take them out of one of the two"
            )


@contextmanager
def _opened(
    sources: Sequence[Path],
    format_: Format,
    out: Path,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The folder to convert and the options to do it with.

    What is unpacked from an archive goes away in the end, so that its pictures must be copied.
    """
    archives = [each for each in sources if is_archive(each)]
    if not archives and len(sources) == 1:
        yield sources[0], options
        return
    if len(archives) < len(sources):
        odd = next(each for each in sources if each not in archives)
        raise DataError(
            f"several sources must all be archives ({', '.join(SUFFIXES)}), and {odd} is none; "
            "unpack them all into one folder and give that"
        )
    if COPY_IMAGES in format_.options and options.get(COPY_IMAGES) is False:
        raise DataError(
            f"{COPY_IMAGES}=false needs pictures that stay, but those of {archives[0]} are "
            "unpacked for the conversion only; unpack it yourself and give the folder, or leave "
            f"{COPY_IMAGES} out"
        )
    copied = {COPY_IMAGES: True} if COPY_IMAGES in format_.options else {}
    with unpacked(archives, out, progress=progress) as folder:
        try:
            yield folder, {**options, **copied}
        except DataError as error:  # the folder is gone when the message is read
            called = " + ".join(map(str, archives))
            raise DataError(str(error).replace(str(folder), called)) from error


def _drawn(options: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"nothing; drawn with {settings or 'the default settings'}"
