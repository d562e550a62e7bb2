"""`data prepare`, `data convert` and `data export`: bring data to COCO format and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_tasks.cli.app import data_app, exit_cleanly_on_signal, show_progress
from resnet_tasks.cli.data_card import print_card
from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    from data_tools.formats import Format
    from resnet_tasks.registry import Registry


FormatOptions = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Options of the format, such as void=11"),
]


@data_app.command()
def prepare(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Known dataset, or your own YAML file; omit it for a list"
        ),
    ] = None,
    options: FormatOptions = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of the unpacked dataset, or its archive (zip, tar); repeat the option "
            "for several archives"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder; default: NAME below $RESNET_TASKS_DATA, else ./data"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result")] = False,
) -> None:
    """Convert a known dataset to COCO format; nothing is downloaded."""
    from data_tools.catalog import find_dataset, load_datasets
    from data_tools.catalog import prepare as run
    from resnet_tasks.recipe.data_root import get_data_root

    if name is None:
        width = max(map(len, load_datasets()))
        for key, dataset in load_datasets().items():
            origin = dataset.origin
            typer.echo(f"{key:{width}}  {origin.title} ({origin.license}); {origin.homepage}")
        return
    folder = out or get_data_root() / find_dataset(name).name
    converter_options = _parse_options(options or [])
    with exit_cleanly_on_signal(folder), show_progress(f"Preparing {name}") as advance:
        card = run(name, source, folder, overwrite=overwrite, progress=advance, **converter_options)
    print_card(card, folder)


@data_app.command()
def convert(
    format_name: Annotated[
        str | None,
        typer.Argument(metavar="[FORMAT]", help="Format; omit it for a list with options"),
    ] = None,
    source: Annotated[Path | None, typer.Argument(help="Folder or archive to read")] = None,
    out: Annotated[Path | None, typer.Argument(help="Folder for the COCO files")] = None,
    options: FormatOptions = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result")] = False,
) -> None:
    """Convert a folder to COCO format."""
    from data_tools.catalog import convert as run
    from data_tools.formats import FORMATS

    if format_name is None:
        _list_formats(FORMATS)
        return
    FORMATS.get(format_name)
    if source is None or out is None:
        raise DataError(
            f"data convert {format_name} needs SOURCE, the data to read, and OUT, a new folder"
        )
    converter_options = _parse_options(options or [])
    with exit_cleanly_on_signal(out), show_progress(f"Converting {source}") as advance:
        card = run(
            format_name, source, out, overwrite=overwrite, progress=advance, **converter_options
        )
    print_card(card, out)


@data_app.command()
def export(
    format_name: Annotated[
        str | None,
        typer.Argument(metavar="[FORMAT]", help="Format; omit it for a list with options"),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Argument(help="COCO JSON, or a folder with train.json, val.json, test.json"),
    ] = None,
    out: Annotated[Path | None, typer.Argument(help="Folder for the result")] = None,
    options: FormatOptions = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Image folder; default: as the file states, else the file's folder"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result")] = False,
) -> None:
    """Write COCO data in another format: YOLO or Pascal VOC."""
    from data_tools.exporters.export import export_coco
    from data_tools.exporters.formats import EXPORTS

    if format_name is None:
        _list_formats(EXPORTS)
        return
    EXPORTS.get(format_name)
    if source is None or out is None:
        raise DataError(
            f"data export {format_name} needs SOURCE, a COCO file, and OUT, a new folder"
        )
    converter_options = _parse_options(options or [])
    with exit_cleanly_on_signal(out), show_progress(f"Exporting {source}") as advance:
        card = export_coco(
            format_name,
            source,
            out,
            images_root=images,
            overwrite=overwrite,
            progress=advance,
            **converter_options,
        )
    print_card(card, out)


def _parse_options(texts: list[str]) -> dict[str, Any]:
    """Parse `key=value` options of a converter, typed as in YAML."""
    from resnet_tasks.recipe.yaml_text import parse_yaml

    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise DataError(f"option {text!r} is not of the form key=value, for example void=11")
        options[key] = parse_yaml(value, f"option {text!r}", number_keys=True).value
    return options


def _list_formats(formats: Registry[Format]) -> None:
    for data_format in map(formats.get, formats):
        typer.echo(
            f"{data_format.name}: {data_format.title}\n    options: "
            f"{', '.join(data_format.options)}"
        )
