"""`push` and `pull`: upload of runs to a model hub, and download from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from resnet_tasks.cli.app import RunFolder, app

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub")]


@app.command()
def push(
    run: RunFolder,
    repo: Repository,
    public: Annotated[bool, typer.Option("--public", help="For everybody to read")] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="Of the shared weights, as apache-2.0")
    ] = None,
    data_license: Annotated[
        str | None, typer.Option(help="Of the data, for the model card")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="The data on the hub, for the card")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="With report.html, which holds images of the data")
    ] = False,
    best: Annotated[bool, typer.Option(help="With the best checkpoint beside the last")] = True,
    revision: Annotated[str | None, typer.Option(help="Branch; default: the main one")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and show the card")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
) -> None:
    """Share a run on a Hugging Face hub, privately unless --public; no images, no predictions."""
    from resnet_tasks.sharing.contents import CARD
    from resnet_tasks.sharing.hub import HubUpload
    from resnet_tasks.sharing.model_card import CardOptions

    options = CardOptions(license_, data_license, dataset)
    parcel = HubUpload.from_run(run, repo, options, best=best, report=report)
    for shared_file in parcel.files:
        typer.echo(f"{shared_file.size:>12,}  {shared_file.name}")
    readers = "for everybody to read" if public else "private"
    number = f"{len(parcel.files)} files"
    typer.echo(f"{parcel.size:>12,}  bytes in {number}, to {repo}, {readers}")
    if dry_run:
        card = next(shared_file.content for shared_file in parcel.files if shared_file.name == CARD)
        assert isinstance(card, bytes)
        typer.echo(f"\n{card.decode()}\nnothing was sent (--dry-run)")
        return
    if not yes and sys.stdin.isatty():
        typer.confirm("Send it?", abort=True)
    typer.echo(f"sent: {parcel.upload(public=public, revision=revision)}")


@app.command()
def pull(
    repo: Repository,
    out: Annotated[Path | None, typer.Option(help="Folder to make; default: runs/NAME")] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; default: the main branch")
    ] = None,
) -> None:
    """Bring a shared run here as a run folder, for predict and evaluate; runs no code of it."""
    from resnet_tasks.recipe.load import load_recipe
    from resnet_tasks.sharing.hub import pull as bring

    folder = out or Path("runs") / repo.rpartition("/")[2]
    folder, left_out = bring(repo, folder, revision=revision)
    if left_out:
        typer.echo(f"left out: {len(left_out)} files that are no part of a run")
    plugins = load_recipe(folder / "recipe.yaml").plugins
    if plugins:
        typer.echo(
            f"note: its recipe names code ({', '.join(plugins)}), which runs only with your "
            "consent; read it first"
        )
    typer.echo(f"written to {folder}; try `resnet-tasks predict {folder} IMAGES --out FOLDER`")
