"""`data check`, `data split`, `data stats` and `data preview`: inspect and divide COCO datasets."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from resnet_tasks.cli.app import MISTAKE, data_app, exit_cleanly_on_signal, show_progress
from resnet_tasks.cli.assistance.completion import complete_overrides, complete_split_criteria
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import describe_folder
from resnet_tasks.number_formats import Count

if TYPE_CHECKING:
    from resnet_tasks.data.coco.dataset_file import CocoFile
    from resnet_tasks.data.subgroups.subgroups import Subgroups

UNCLEAN = 1
"""Exit code of `data check --strict` for files that are usable but not clean."""


@data_app.command()
def check(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="COCO JSON; several files are splits of one dataset"),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Image folder; default: as the file states, else the folder of the file",
        ),
    ] = None,
    read_images: Annotated[
        bool, typer.Option("--read-images", help="Also decode every image, which takes time")
    ] = False,
    with_splits: Annotated[
        bool,
        typer.Option(
            "--with-splits", help="Also check train.json, val.json and test.json next to FILE"
        ),
    ] = False,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Accept absolute paths and .. in file names")
    ] = False,
    json_report: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="JSON file for all findings")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 if there is a warning or a repair")
    ] = False,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT",
            help="New file for a repaired copy; the changes are listed in OUT.changes.json",
        ),
    ] = None,
    leave: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FINDING",
            help="With --fix: kind of finding that is not repaired; repeat the option for several",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FINDING",
            help="With --fix: kind of finding whose annotations or images are removed; repeat the "
            "option for several",
        ),
    ] = None,
    convert: Annotated[
        str | None,
        typer.Option(
            metavar="FINDING",
            help="With --fix: format of boxes to convert to pixels, relative_boxes or corner_boxes",
        ),
    ] = None,
) -> None:
    """Report all problems in COCO files and between splits.

    The exit code is 0 if the files are usable and 2 if not. With --strict it is 1 if they are
    usable, but have warnings or were repaired in memory. With --fix, the exit code
    describes the repaired copy.
    """
    from resnet_tasks.data.doctor.check import CheckOptions
    from resnet_tasks.data.doctor.repair import repair
    from resnet_tasks.data.doctor.report import (
        drop_fix_hints,
        print_checks,
        print_errors,
        print_repair,
        write_findings,
    )
    from resnet_tasks.data.doctor.split_checks import check_splits, find_sibling_splits
    from resnet_tasks.runtime.console import Console

    if with_splits and len(files) > 1:
        raise DataError(
            "--with-splits searches next to one FILE; pass either one file or all splits"
        )
    paths = find_sibling_splits(files[0]) if with_splits else files
    for folder in filter(Path.is_dir, paths):
        raise DataError(describe_folder(folder))
    if fix is not None and len(paths) > 1:
        raise DataError(
            "--fix repairs one FILE; repair each file separately, then check them together"
        )
    if fix is None and (leave or drop or convert):
        raise DataError("--leave, --drop and --convert control --fix OUT; add --fix OUT")
    fixing = nullcontext() if fix is None else exit_cleanly_on_signal(fix)
    with fixing, show_progress("Reading images") as advance:
        look = CheckOptions(
            images,
            read_images=read_images,
            hash_images=read_images and len(paths) > 1,
            allow_outside=allow_outside,
            advance=advance,
        )
        if fix is None:
            checks = check_splits(paths, look)
        else:
            repair_outcome = repair(
                paths[0],
                fix,
                options=look,
                leave=leave or (),
                drop=drop or (),
                convert=convert,
            )
            checks = (drop_fix_hints(repair_outcome.after),)
    console = Console(highlight=False)
    if fix is not None:
        print_repair(repair_outcome, console)
    print_checks(checks, console)
    try:
        if json_report is not None:
            with exit_cleanly_on_signal(json_report):
                write_findings(checks, json_report)
            echo(f"findings: {json_report}")
    finally:  # errors last, where the reader of a terminal starts
        print_errors(checks, console)
    if not all(file_check.is_usable for file_check in checks):
        raise typer.Exit(MISTAKE)
    if strict and not all(file_check.is_clean for file_check in checks):
        raise typer.Exit(UNCLEAN)


@data_app.command()
def split(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="COCO JSON")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the split files")],
    fractions: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="Fractions of train, val and test; default: 0.7,0.15,0.15"
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of equal folds, instead of --fractions"),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="CRITERION",
            help="random, class (balanced), group (never divided) or group-class; or a key as for "
            "`evaluate --by`, whose subgroups are balanced as well; default: group-class if there "
            "are groups, else class",
            autocompletion=complete_split_criteria,
        ),
    ] = None,
    group_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Key of the image records that holds the group, such as study or attributes.site",
        ),
    ] = None,
    group_from: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Pattern whose capture group in a file name is the group, such as '(p[0-9]+)_'",
        ),
    ] = None,
    ignore_groups: Annotated[
        bool, typer.Option("--ignore-groups", help="Allow random and class to divide groups")
    ] = False,
    names: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Names of the parts; default: train,val,test, or fold0, fold1, ... for --folds",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed of the split")] = 0,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Image folder; default: as the file states, else the folder of the file",
        ),
    ] = None,
) -> None:
    """Split a COCO file into train, val and test, or into folds; images are not moved."""
    from resnet_tasks.data.doctor.report import print_splits
    from resnet_tasks.data.splits.write_splits import By, SplitPlan, split_file
    from resnet_tasks.runtime.console import Console

    if fractions is not None and folds is not None:
        raise DataError("--fractions and --folds exclude each other; give one of them")
    split_fractions = None if folds is not None else _parse_fractions(fractions or "0.7,0.15,0.15")
    criterion = next((name for name in get_args(By) if name == by), None)
    plan = SplitPlan(
        split_fractions,
        folds or 0,
        criterion,
        tuple(name.strip() for name in names.split(",")) if names else (),
        group_key,
        group_from,
        ignore_groups,
        seed,
        balance=by if criterion is None else None,
    )
    with exit_cleanly_on_signal(out):
        written_splits = split_file(file, out, plan, images_root=images)
    print_splits(written_splits, Console(highlight=False))


def _parse_fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(fraction) for fraction in text.split(","))
    except ValueError:
        raise DataError(
            f"--fractions {text} is not a list of numbers such as 0.7,0.15,0.15"
        ) from None


@data_app.command()
def stats(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="COCO JSON")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="data.channels=N, or keys of data.intensity such as data.intensity.type=window; "
            "`resnet-tasks recipes keys data.intensity` lists them",
            autocompletion=complete_overrides,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Image folder; default: as the file states, else the folder of the file",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PNG file for a chart; default: none")
    ] = None,
    json_report: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="JSON file for the statistics, with every class and size; default: none",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Also count the images and objects of every subgroup, by a key as for `evaluate "
            "--by`; can be repeated",
        ),
    ] = None,
) -> None:
    """Measure channels, sizes, objects and class pixels of a COCO file."""
    from resnet_tasks.assemble.datasets import build_intensity
    from resnet_tasks.data.coco.read import read_coco
    from resnet_tasks.data.statistics.measure import compute_dataset_statistics
    from resnet_tasks.data.statistics.report import (
        draw_statistics,
        is_shortened,
        print_statistics,
        write_statistics,
    )
    from resnet_tasks.data.statistics.subgroup_counts import print_subgroups
    from resnet_tasks.recipe.load import load_data_settings
    from resnet_tasks.runtime.console import Console
    from resnet_tasks.visualization.colors import build_palette

    steps = load_data_settings(overrides or [])
    intensity = build_intensity(steps.intensity)
    coco = read_coco(file, images_root=images)
    coco.require_files()
    try:
        notes = coco.require_pixel_boxes()
    except DataError as error:  # boxes do not affect the other statistics
        notes = [str(error)]
    for note in notes:
        echo(f"warning: {note}", err=True)
    divisions = _find_divisions(coco, by or ())
    with show_progress(f"Reading {file}") as advance:
        statistics = compute_dataset_statistics(
            coco, channels=steps.channels, intensity=intensity, advance=advance
        )
    print_statistics(
        statistics,
        Console(highlight=False),
        title=str(file),
        channels=steps.channels,
        intensity=intensity,
    )
    statistics.subgroups = print_subgroups(coco, divisions, Console(highlight=False))
    if json_report is not None:
        write_statistics(statistics, json_report)
        echo(f"statistics: {json_report}")
    elif is_shortened(statistics):
        echo("all classes and image sizes: add --json FILE")
    if out is not None:
        names = coco.categories.names
        draw_statistics(statistics, out, dict(zip(names, build_palette(names), strict=True)))
        echo(f"drawn: {out}")


def _find_divisions(coco: CocoFile, keys: Sequence[str]) -> list[Subgroups]:
    """Divide the images by each key, before the statistics, which a wrong key would waste."""
    from resnet_tasks.data.subgroups.subgroups import find_subgroups

    if not keys:
        return []
    with show_progress("Dividing the images") as advance:
        return [find_subgroups([coco], key, advance=advance) for key in dict.fromkeys(keys)]


@data_app.command()
def preview(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="COCO JSON")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="PNG file for the contact sheet")],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Image folder; default: as the file states, else the folder of the file",
        ),
    ] = None,
    category: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Only images with this class")
    ] = None,
    problems: Annotated[
        bool,
        typer.Option(
            "--problems", help="Only images in which `resnet-tasks data check` finds problems"
        ),
    ] = False,
    number: Annotated[
        int, typer.Option(metavar="N", min=1, max=400, help="Maximum number of images")
    ] = 24,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the choice of images")] = 0,
) -> None:
    """Draw a contact sheet: images with boxes, masks, semantic maps, names and ids."""
    from resnet_tasks.data.coco.read import read_coco
    from resnet_tasks.data.datasets.coco_dataset import CocoDataset
    from resnet_tasks.data.doctor.check import CheckOptions, check_coco
    from resnet_tasks.visualization.contact_sheet import choose_images, draw_sheet
    from resnet_tasks.visualization.thumbnails import write_image

    if problems and category is not None:
        raise DataError("--problems and --class both select the images; give one of them")
    coco = read_coco(file, images_root=images)
    dataset = CocoDataset([coco], categories=coco.categories, cache=False)
    notes: dict[int, str] = {}
    if problems:
        indices_by_id = {dataset.image_id(i): i for i in range(len(dataset))}
        for finding in check_coco(file, CheckOptions(images_root=images)).findings:
            if finding.image_id in indices_by_id:
                notes.setdefault(indices_by_id[finding.image_id], finding.kind.replace("_", " "))
        if not notes:
            raise DataError(f"{file}: data check finds no problem in an image that can be drawn")
        indices = sorted(notes)[:number]
    else:
        indices = choose_images(dataset, number=number, seed=seed, category=category)
    write_image(out, draw_sheet(dataset, indices, notes))
    echo(f"drawn: {out} ({Count(len(indices)):image})")
