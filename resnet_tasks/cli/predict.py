"""`predict`: predictions of a run or an exported model for images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_tasks.cli.app import (
    Calibrated,
    CheckpointOption,
    TileOverlap,
    Tiles,
    Trust,
    Tta,
    app,
    build_window_options,
    confirm_plugins,
    open_run,
)
from resnet_tasks.cli.assistance.completion import complete_models
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.cli.explicit_parameters import find_explicit_parameters, format_options
from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    from resnet_tasks.inference.streaming.stream import PredictionRequest, StreamOptions

_EXPORT_PARAMETERS = {
    *("run", "images", "out", "score", "max_pixels"),
    *("listed", "recursive", "overwrite", "draw", "every", "trust_plugins"),
}


@app.command()
def predict(
    ctx: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Folder written by finetune or export",
            autocompletion=complete_models,
        ),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES",
            help="Images, videos, folders, or quoted patterns such as 'scans/*.png'",
        ),
    ] = None,
    listed: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Text file with further paths, one per line"),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also search subfolders of folders")
    ] = False,
    every: Annotated[
        int, typer.Option(metavar="N", min=1, help="Predict every N-th frame of a video")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the results; default: RUN/predictions"),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Restart an interrupted prediction from the beginning"),
    ] = False,
    draw: Annotated[
        bool, typer.Option(help="Write each image with its predictions drawn over it")
    ] = True,
    score: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            min=0,
            max=1,
            help="Minimum score of the detections; default: the score_threshold of the head",
        ),
    ] = None,
    operating_point: Annotated[
        bool,
        typer.Option(
            "--operating-point",
            help="Use the score thresholds that `resnet-tasks operating-point` wrote",
        ),
    ] = False,
    checkpoint: CheckpointOption = "last",
    calibrated: Calibrated = False,
    tta: Tta = None,
    tiles: Tiles = None,
    overlap: TileOverlap = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Reject images of more pixels; default: data.max_pixels of the recipe",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Predict on the Ray cluster at ADDRESS; local: start one here"
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of processes on the cluster; default: one per GPU, else one per node",
        ),
    ] = None,
    trust_plugins: Trust = False,
) -> None:
    """Predict images and videos: COCO results, label maps, drawings; resumes if interrupted.

    Example: resnet-tasks predict runs/quickstart photos/ clip.mp4 --out predictions --score 0.5
    """
    if not images and listed is None:
        raise DataError("nothing to predict: give images, videos or folders, or --list FILE")
    if actors is not None and ray is None:
        raise DataError("--actors requires a Ray cluster; also give --ray ADDRESS (or --ray local)")
    if operating_point and score is not None:
        raise DataError(
            "--score and --operating-point both set the minimum score; give one of them"
        )
    if operating_point and (calibrated or tta):
        raise DataError(
            "--operating-point holds thresholds for plain scores, but --calibrated and --tta "
            "change the scores; omit these options, or give --score instead of --operating-point"
        )
    loaded_run = None if (run / "export.json").exists() else open_run(run, trust_plugins)

    from resnet_tasks.inference.streaming.stream import (
        PredictionRequest,
        StreamOptions,
        predict_all,
    )

    folder = out or run / "predictions"
    request = PredictionRequest(tuple(images or ()), recursive, listed, overwrite)
    if loaded_run is None:
        options = StreamOptions(score, draw=draw, every=every)
        _predict_exported(
            ctx,
            run,
            request,
            folder,
            options=options,
            max_pixels=max_pixels,
            trust_plugins=trust_plugins,
        )
        return

    from resnet_tasks.runs.inference_options import InferenceOptions

    thresholds = None
    if operating_point:
        from resnet_tasks.runs.operating_points import load_thresholds

        thresholds = load_thresholds(loaded_run, checkpoint)
    inference = InferenceOptions(
        calibrated, tta.value if tta else None, build_window_options(tiles, overlap)
    )
    inference_settings = (checkpoint, inference, max_pixels)
    options = StreamOptions(score, thresholds, draw=draw, every=every)
    runner = None
    if ray is not None:
        from resnet_tasks.inference.streaming.cluster import RayCluster
        from resnet_tasks.runs.run_predictor import RunPredictorFactory

        predictor = RunPredictorFactory(
            run.absolute(), *inference_settings, trust_plugins=trust_plugins
        )
        runner = RayCluster(ray, actors).create_runner(predictor, folder, options)
    predict_all(
        loaded_run.build_stream_predictor(*inference_settings),
        request,
        folder,
        settings=loaded_run.get_stream_settings(*inference_settings),
        options=options,
        runner=runner,
    )
    echo(f"written to {folder}")


def _predict_exported(
    ctx: typer.Context,
    export: Path,
    request: PredictionRequest,
    out: Path,
    *,
    options: StreamOptions,
    max_pixels: int | None,
    trust_plugins: bool,
) -> None:
    """Predict with an exported model, without loading torch (unless a plugin does).

    Raises:
        DataError: If an option is given that only a run supports.
    """
    unsupported = sorted(find_explicit_parameters(ctx) - _EXPORT_PARAMETERS)
    if unsupported:
        raise DataError(
            f"{export} is an exported model, which does not support {format_options(unsupported)}; "
            "use the run folder instead"
        )
    from resnet_tasks.exported.exported_model import ExportedModel
    from resnet_tasks.exported.manifest import Manifest
    from resnet_tasks.exported.plugins import list_missing_parts
    from resnet_tasks.inference.streaming.stream import predict_all

    manifest = Manifest.read(export)
    plugins = manifest.plugins if list_missing_parts(manifest) else ()
    trusted = confirm_plugins(f"Export {export}", plugins, trust_plugins)
    model = ExportedModel.open(export, trust_plugins=trusted)
    predict_all(
        model.to_stream_predictor(max_pixels),
        request,
        out,
        settings=model.get_stream_settings(max_pixels),
        options=options,
    )
    echo(f"written to {out}")
