"""`data`: bring data to COCO format, check and measure it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_tasks.cli.app import MISTAKE, Overrides, bar, data
from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    from data_tools.data_card import DataCard
    from data_tools.formats import Format
    from resnet_tasks.data.coco_records import CheckReport
    from resnet_tasks.registry import Registry

SHOWN_PROBLEMS = 10
"""Problems of one kind that `data check` prints before it counts the rest."""


@data.command()
def prepare(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Data set, or a YAML of your own; leave it out for a list"
        ),
    ] = None,
    options: Overrides = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder that the data set was unpacked to, or its archive (zip, tar); several "
            "archives by repeating it"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Result; default: NAME below $RESNET_TASKS_DATA, else below ./data"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result")] = False,
) -> None:
    """Convert a data set known by name; nothing is downloaded."""
    from data_tools.catalogue import data_sets, find_data_set
    from data_tools.catalogue import prepare as run
    from resnet_tasks.recipe.places import data_base

    if name is None:
        width = max(map(len, data_sets()))
        for key, each in data_sets().items():
            about = each.origin
            typer.echo(f"{key:{width}}  {about.title} ({about.licence}); {about.homepage}")
        return
    folder = out or data_base() / find_data_set(name).name
    given = _options(options or [])
    with bar(f"Preparing {name}") as advance:
        card = run(name, source, folder, overwrite=overwrite, progress=advance, **given)
    say_card(card, folder)


@data.command()
def convert(
    format_name: Annotated[
        str | None,
        typer.Argument(metavar="[FORMAT]", help="Leave it out for a list with options"),
    ] = None,
    source: Annotated[Path | None, typer.Argument(help="Folder or archive to read")] = None,
    out: Annotated[Path | None, typer.Argument(help="Folder for the COCO files")] = None,
    options: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result")] = False,
) -> None:
    """Convert a folder to COCO format."""
    from data_tools.catalogue import convert as run
    from data_tools.formats import FORMATS

    if format_name is None:
        _list_formats(FORMATS)
        return
    FORMATS.get(format_name)
    if source is None or out is None:
        raise DataError(f"data convert {format_name} needs a SOURCE to read and OUT, a new folder")
    given = _options(options or [])
    with bar(f"Converting {source}") as advance:
        card = run(format_name, source, out, overwrite=overwrite, progress=advance, **given)
    say_card(card, out)


@data.command()
def export(
    format_name: Annotated[
        str | None,
        typer.Argument(metavar="[FORMAT]", help="Leave it out for a list with options"),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Argument(help="COCO JSON, or a folder with train.json, val.json, test.json"),
    ] = None,
    out: Annotated[Path | None, typer.Argument(help="Folder for the result")] = None,
    options: Overrides = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures; default: what the file says, else its own"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result")] = False,
) -> None:
    """Write COCO data in another format: YOLO or Pascal VOC."""
    from data_tools.exporting import EXPORTS, export_coco

    if format_name is None:
        _list_formats(EXPORTS)
        return
    EXPORTS.get(format_name)
    if source is None or out is None:
        raise DataError(
            f"data export {format_name} needs a COCO file to read and OUT, a new folder"
        )
    given = _options(options or [])
    with bar(f"Exporting {source}") as advance:
        card = export_coco(
            format_name,
            source,
            out,
            images_root=images,
            overwrite=overwrite,
            progress=advance,
            **given,
        )
    say_card(card, out)


@data.command()
def check(
    file: Annotated[Path, typer.Argument(help="COCO JSON")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures; default: what the file says, else its own"),
    ] = None,
    read_images: Annotated[
        bool, typer.Option("--read-images", help="Also decode every picture")
    ] = False,
) -> None:
    """Say everything that is wrong with a COCO file; exits with 2 if it cannot be used."""
    from resnet_tasks.data.coco import check_coco

    report = check_coco(file, images_root=images, read_images=read_images)
    _say_report(report)
    if not report.is_usable:
        raise typer.Exit(MISTAKE)


@data.command()
def stats(
    file: Annotated[Path, typer.Argument(help="COCO JSON")],
    overrides: Overrides = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures; default: what the file says, else its own"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also draw it, as a PNG")] = None,
) -> None:
    """Measure channels, sizes, objects and class pixels of a COCO file.

    KEY=VALUE may set data.channels and data.intensity as in a recipe.
    """
    from rich.console import Console

    from resnet_tasks.assemble import intensity_of
    from resnet_tasks.data.coco import read_coco
    from resnet_tasks.data.statistics import dataset_statistics
    from resnet_tasks.data.statistics_report import draw_statistics, print_statistics
    from resnet_tasks.recipe.load import load_data_steps

    steps = load_data_steps(overrides or [])
    intensity = intensity_of(steps.intensity)
    coco = read_coco(file, images_root=images)
    coco.require_files()
    with bar(f"Reading {file}") as advance:
        found = dataset_statistics(
            coco, channels=steps.channels, intensity=intensity, advance=advance
        )
    print_statistics(
        found,
        Console(highlight=False),
        title=str(file),
        channels=steps.channels,
        intensity=intensity,
    )
    if out is not None:
        draw_statistics(found, out)
        typer.echo(f"drawn: {out}")


def _options(texts: list[str]) -> dict[str, Any]:
    """`key=value` options of a converter, typed by YAML."""
    from resnet_tasks.recipe.yaml_text import parse_yaml

    given: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise DataError(f"option {text!r} is not of the form key=value, for example void=11")
        given[key] = parse_yaml(value, f"option {text!r}").value
    return given


def _list_formats(formats: Registry[Format]) -> None:
    for each in map(formats.get, formats):
        typer.echo(f"{each.name}: {each.title}\n    options: {', '.join(each.options)}")


def say_card(card: DataCard, folder: Path) -> None:
    """Prints what a converted data set holds and where it lies."""
    for split in card.splits:
        objects = ", ".join(f"{name} {count}" for name, count in split.objects.items())
        typer.echo(f"{split.split}: {split.images} pictures; objects: {objects or 'none'}")
    if card.num_skipped:
        typer.echo(f"left out: {card.num_skipped} objects, listed in the data card")
    typer.echo(f"written to {folder}; data card: {folder / 'data_card.md'}")


def _say_report(report: CheckReport) -> None:
    seen: dict[str, int] = {}
    for problem in report.problems:
        seen[problem.kind] = seen.get(problem.kind, 0) + 1
        if seen[problem.kind] <= SHOWN_PROBLEMS:
            typer.echo(f"{problem.severity}: {problem.kind}: {problem.message}")
    for kind, count in seen.items():
        if count > SHOWN_PROBLEMS:
            typer.echo(f"{kind}: {count - SHOWN_PROBLEMS} more of this kind")
    if report.coco is not None:
        typer.echo(
            f"{report.path}: {len(report.coco.images)} pictures, "
            f"{', '.join(report.coco.categories.names)}; {len(report.problems)} problems"
        )
