"""`data prepare`, `data convert` and `data export`: bring data to COCO format and back."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from resnet_tasks.cli.app import data_app, exit_cleanly_on_signal, show_progress
from resnet_tasks.cli.assistance.completion import (
    complete_datasets,
    complete_export_formats,
    complete_format_options,
    complete_formats,
)
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.cli.data_card import print_card
from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    from data_tools.formats import Format
    from resnet_tasks.registry import Registry


FormatOptions = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Options of the format, such as copy_images=true or classes=[car,bus]; --help after "
        "the name of the format explains them",
        autocompletion=complete_format_options,
    ),
]


class _FormatCommand(TyperCommand):
    """Command whose help ends with the options of the format that its arguments name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words, because --help is handled before the other arguments."""
        ctx.meta[__name__] = [arg for arg in args if not arg.startswith("-")]
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the options of the format, or the list of formats."""
        words = ctx.meta[__name__]
        text = self.describe(words[0] if words else None, formatter.width)
        formatter.write(f"\n{text}\n")

    def describe(self, name: str | None, width: int) -> str:
        """Describe the options of a format, or all formats.

        Args:
            name: First argument; None if there is none.
            width: Characters per line.
        """
        raise NotImplementedError


class _ConvertCommand(_FormatCommand):
    """`data convert`, with its formats."""

    def describe(self, name: str | None, width: int) -> str:
        from data_tools.formats import FORMATS

        if name is None:
            return _describe_formats(FORMATS, "convert", width)
        return _describe_format(FORMATS.get(name), width)


class _ExportCommand(_FormatCommand):
    """`data export`, with its formats."""

    def describe(self, name: str | None, width: int) -> str:
        from data_tools.exporters.formats import EXPORTS

        if name is None:
            return _describe_formats(EXPORTS, "export", width)
        return _describe_format(EXPORTS.get(name), width)


class _PrepareCommand(_FormatCommand):
    """`data prepare`, with its datasets."""

    def describe(self, name: str | None, width: int) -> str:
        from data_tools.catalog import find_dataset
        from data_tools.formats import FORMATS

        if name is None:
            return _describe_datasets(width)
        dataset = find_dataset(name)
        text = _describe_format(FORMATS.get(dataset.format), width, dataset.options)
        if not dataset.by_hand:
            return text
        return "\n".join([*_wrap(f"Source: {dataset.by_hand}.", width), "", text])


@data_app.command(cls=_PrepareCommand)
def prepare(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Known dataset, or YAML file that describes your own; omit it for a list",
            autocompletion=complete_datasets,
        ),
    ] = None,
    options: FormatOptions = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Folder of the unpacked dataset, or its archive (zip, tar); repeat the option "
            "for several archives",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="New folder for the COCO files; default: NAME in $RESNET_TASKS_DATA, else in "
            "./data",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier result")
    ] = False,
) -> None:
    """Convert a known dataset to COCO format; nothing is downloaded.

    Example: resnet-tasks data prepare bccd --source BCCD_Dataset/BCCD
    """
    from data_tools.catalog import find_dataset
    from data_tools.catalog import prepare as run
    from resnet_tasks.recipe.data_root import get_data_root

    if name is None:
        echo(_describe_datasets(_get_width()))
        return
    folder = out or get_data_root() / find_dataset(name).name
    converter_options = _parse_options(options or [])
    with exit_cleanly_on_signal(folder), show_progress(f"Preparing {name}") as advance:
        card = run(name, source, folder, overwrite=overwrite, progress=advance, **converter_options)
    print_card(card, folder)


@data_app.command(cls=_ConvertCommand)
def convert(
    format_name: Annotated[
        str | None,
        typer.Argument(
            metavar="FORMAT",
            help="Name of a format; omit it for a list",
            autocompletion=complete_formats,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="SOURCE", help="Folder or archive (zip, tar) to read"),
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="New folder for the COCO files")
    ] = None,
    options: FormatOptions = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier result")
    ] = False,
) -> None:
    """Convert a folder or archive of annotated images to COCO format.

    Example: resnet-tasks data convert voc VOCdevkit/VOC2012 data/voc copy_images=true
    """
    from data_tools.catalog import convert as run
    from data_tools.formats import FORMATS

    if format_name is None:
        echo(_describe_formats(FORMATS, "convert", _get_width()))
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


@data_app.command(cls=_ExportCommand)
def export(
    format_name: Annotated[
        str | None,
        typer.Argument(
            metavar="FORMAT",
            help="Name of a format; omit it for a list",
            autocompletion=complete_export_formats,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE", help="COCO JSON, or folder with train.json, val.json, test.json"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="New folder for the result")
    ] = None,
    options: FormatOptions = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Image folder; default: as the file states, else the folder of the file",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier result")
    ] = False,
) -> None:
    """Write COCO data in another format: YOLO or Pascal VOC.

    Example: resnet-tasks data export yolo data/cells cells_yolo shapes=polygons
    """
    from data_tools.exporters.export import export_coco
    from data_tools.exporters.formats import EXPORTS

    if format_name is None:
        echo(_describe_formats(EXPORTS, "export", _get_width()))
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


def _describe_datasets(width: int) -> str:
    from data_tools.catalog import load_datasets
    from resnet_tasks.option_help import format_rows

    rows = [
        (name, [f"{dataset.origin.title} ({dataset.origin.license})", dataset.origin.homepage])
        for name, dataset in load_datasets().items()
    ]
    hint = "Source and options of a dataset: resnet-tasks data prepare NAME --help"
    return "\n".join(["Datasets:", format_rows(rows, width), "", *_wrap(hint, width)])


def _describe_formats(formats: Registry[Format], command: str, width: int) -> str:
    from resnet_tasks.option_help import format_rows

    rows = [
        (entry.name, [entry.title, f"options: {', '.join(entry.options)}"])
        for entry in map(formats.get, formats)
    ]
    hint = f"Meaning and defaults of the options: resnet-tasks data {command} FORMAT --help"
    return "\n".join(["Formats:", format_rows(rows, width), "", *_wrap(hint, width)])


def _describe_format(
    data_format: Format, width: int, defaults: Mapping[str, Any] | None = None
) -> str:
    """Describe the options of a format.

    Args:
        data_format: Format.
        width: Characters per line.
        defaults: Defaults that replace those of the format.
    """
    from resnet_tasks.option_help import format_options

    introduction = f"{data_format.name}: {data_format.title}\n{data_format.notes}"
    paragraphs = [line for text in introduction.splitlines() for line in _wrap(text, width)]
    options = format_options(data_format.describe_options(defaults), width)
    return "\n".join([*paragraphs, "", "KEY=VALUE options:", options])


def _wrap(text: str, width: int) -> list[str]:
    from resnet_tasks.option_help import wrap

    return wrap(text, width)


def _get_width() -> int:
    return shutil.get_terminal_size().columns
