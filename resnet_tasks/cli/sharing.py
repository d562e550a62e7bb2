"""`push` and `pull`: upload of runs to a model hub, and download from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from resnet_tasks.cli.app import RunFolder, app
from resnet_tasks.cli.assistance.output import confirm, echo
from resnet_tasks.number_formats import Count

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub")]


@app.command()
def push(
    run: RunFolder,
    repo: Repository,
    public: Annotated[bool, typer.Option("--public", help="Make the repository public")] = False,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="ID", help="License of the shared weights, such as apache-2.0"
        ),
    ] = None,
    data_license: Annotated[
        str | None,
        typer.Option(metavar="ID", help="License of the data, for the model card"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Dataset on the hub, for the model card"),
    ] = None,
    report: Annotated[
        bool,
        typer.Option("--report", help="Include report.html, which contains images of the data"),
    ] = False,
    best: Annotated[
        bool, typer.Option(help="Also share the best checkpoint, next to the last")
    ] = True,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch; default: the main branch")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and show the model card; send nothing")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation")] = False,
) -> None:
    """Upload a run to a Hugging Face hub, private unless --public; no images or predictions."""
    from resnet_tasks.sharing.contents import CARD
    from resnet_tasks.sharing.hub import HubUpload
    from resnet_tasks.sharing.model_card import CardOptions

    options = CardOptions(license_, data_license, dataset)
    parcel = HubUpload.from_run(run, repo, options, best=best, report=report)
    for shared_file in parcel.files:
        echo(f"{shared_file.size:>12,}  {shared_file.name}")
    readers = "public" if public else "private"
    number = f"{Count(len(parcel.files)):file}"
    echo(f"{parcel.size:>12,}  bytes in {number}, to {repo}, {readers}")
    if dry_run:
        card = next(shared_file.content for shared_file in parcel.files if shared_file.name == CARD)
        assert isinstance(card, bytes)
        echo(f"\n{card.decode()}\nnothing was sent (--dry-run)")
        return
    if not yes and sys.stdin.isatty():
        confirm("Send it?", abort=True)
    echo(f"sent: {parcel.upload(public=public, revision=revision)}")


@app.command()
def pull(
    repo: Repository,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="New folder; default: runs/NAME")
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Branch, tag or commit; default: the main branch"),
    ] = None,
) -> None:
    """Download a shared run as a run folder for predict and evaluate; runs none of its code."""
    from resnet_tasks.recipe.load import load_recipe
    from resnet_tasks.sharing.hub import pull as bring

    folder = out or Path("runs") / repo.rpartition("/")[2]
    folder, skipped = bring(repo, folder, revision=revision)
    if skipped:
        echo(f"skipped: {Count(len(skipped)):file does} not belong to a run")
    plugins = load_recipe(folder / "recipe.yaml").plugins
    if plugins:
        echo(
            f"note: the recipe of this run names code ({', '.join(plugins)}), which runs only with "
            "your consent; read the code first"
        )
    echo(f"written to {folder}; try `resnet-tasks predict {folder} IMAGES --out FOLDER`")
