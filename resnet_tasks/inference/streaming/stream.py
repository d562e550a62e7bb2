"""Stream of images and frames that are prefetched, predicted, drawn and written batch by batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_tasks.errors import DataError, RunError
from resnet_tasks.files.folder_lock import lock_folder
from resnet_tasks.files.safe_names import require_head_names
from resnet_tasks.inference.prediction_writer import PredictionWriter
from resnet_tasks.inference.predictor import Prepared
from resnet_tasks.inference.streaming.prefetch import LoadedBatch, LoadedFrame, prefetch_batches
from resnet_tasks.inference.streaming.sources import (
    Source,
    Unit,
    compute_digest,
    find_sources,
    group_into_units,
)
from resnet_tasks.inference.streaming.stream_journal import (
    BAD,
    BatchResult,
    FrameResult,
    Key,
    StreamJournal,
)
from resnet_tasks.inference.streaming.stream_predictor import StreamPredictor
from resnet_tasks.inference.streaming.videos import count_announced_frames
from resnet_tasks.number_formats import Count
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.cpu_count import count_usable_cores
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.structures.predictions.base import Prediction

WRITING = 2
"""Number of batches that may wait to be drawn and written while the model continues."""


@dataclass(frozen=True)
class StreamOptions:
    """Output options of a stream.

    Attributes:
        score: Minimum score of detections and labels; None: see `PredictionWriter`.
        thresholds: Head name -> minimum detection score of every label; overrides `score`.
        draw: Whether to write drawings.
        every: Frame step; every n-th frame of a video is predicted.
        threads: Number of reading threads, and of writing threads; None: chosen for the machine.
    """

    score: float | None = None
    thresholds: Mapping[str, Sequence[float]] | None = None
    draw: bool = True
    every: int = 1
    threads: int | None = None


FramePrediction = Mapping[str, Prediction] | str
"""Head name -> prediction, or the reason why a frame cannot be predicted."""

DoneBatches = frozenset[Key]
"""Finished batches, each as (unit, batch in the unit)."""


def predict_units(
    units: Iterable[Unit],
    predictor: StreamPredictor,
    out: Path,
    options: StreamOptions,
    *,
    done_batches: DoneBatches = frozenset(),
) -> Generator[BatchResult]:
    """Predict units; maps and drawings of a batch are written before its result is yielded.

    A single process and the workers of a cluster share this code path.

    Args:
        units: Units, in order.
        predictor: Predictor of the images.
        out: Path of the output folder for maps and drawings.
        options: Output options.
        done_batches: Finished batches, which are skipped.

    Yields:
        Results of each batch.
    """
    threads = options.threads or choose_num_threads()
    batches = prefetch_batches(
        units,
        predictor,
        done_batches=done_batches,
        every=options.every,
        threads=threads,
        queue_size=WRITING,
    )
    writing: deque[tuple[LoadedBatch, list[Future[FrameResult]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="write") as pool:
        try:
            for batch in batches:
                predictions = _predict_frames(batch.frames, predictor)
                jobs = [
                    pool.submit(_write_frame, frame, prediction, predictor, out, options)
                    for frame, prediction in zip(batch.frames, predictions, strict=True)
                ]
                writing.append((batch, jobs))
                while len(writing) > WRITING:
                    yield _finish_batch(*writing.popleft())
            while writing:
                yield _finish_batch(*writing.popleft())
        finally:
            batches.close()
            for _, jobs in writing:
                for job in jobs:
                    job.cancel()


def choose_num_threads() -> int:
    """Return the number of usable cores, clipped to 2..8; decoding mostly releases the GIL."""
    return max(2, min(8, count_usable_cores()))


def _finish_batch(batch: LoadedBatch, jobs: Sequence[Future[FrameResult]]) -> BatchResult:
    frames = tuple(job.result() for job in jobs)
    return BatchResult(
        batch.unit,
        batch.batch,
        frames,
        batch.is_last,
        batch.note,
        batch.video if batch.note else "",
    )


def _predict_frames(
    frames: Sequence[LoadedFrame], predictor: StreamPredictor
) -> list[FramePrediction]:
    """Predict a batch; a frame that cannot be predicted gets the reason instead of a prediction."""
    images = [frame.image for frame in frames if frame.image is not None]
    if not images:
        return [frame.reason for frame in frames]
    try:
        predictions: Iterator[FramePrediction] = iter(predictor.predict(images))
    except DataError as error:
        # Files that are read in regions can fail during prediction. Predict the images one by one
        # to find the ones that fail.
        is_known = len(images) == 1
        predictions = iter(
            [str(error)] if is_known else [_predict_single(predictor, p) for p in images]
        )
    return [frame.reason if frame.image is None else next(predictions) for frame in frames]


def _predict_single(predictor: StreamPredictor, image: Prepared) -> FramePrediction:
    try:
        return predictor.predict([image])[0]
    except DataError as error:
        return str(error)


def _write_frame(
    frame: LoadedFrame,
    prediction: FramePrediction,
    predictor: StreamPredictor,
    out: Path,
    options: StreamOptions,
) -> FrameResult:
    """Write the map and drawing of a frame, and return its other results."""
    frame_location = (str(frame.source.path), frame.number, frame.seconds)
    if isinstance(prediction, str):
        return FrameResult(*frame_location, reason=prediction)
    assert frame.image is not None
    writer = PredictionWriter(
        out,
        predictor.classes,
        predictor.category_ids,
        least_score=options.score,
        thresholds=options.thresholds,
        categories=[category["name"] for category in predictor.categories],
    )
    writer.write(0, frame.name, prediction)
    if options.draw:
        writer.draw(frame.name, frame.image.render_overview(), prediction, frame.image.size)
    entries = {
        head: [{k: v for k, v in entry.items() if k != "image_id"} for entry in results]
        for head, results in writer.results.items()
    }
    return FrameResult(*frame_location, frame.image.size, entries)


@dataclass(frozen=True)
class StreamSummary:
    """Counts of a finished stream.

    Attributes:
        num_predicted: Number of predicted images and frames.
        num_unreadable: Number of images, frames and videos that cannot be read (in part); they are
            listed in the output folder.
        num_resumed: Number of predicted images and frames that come from an earlier, interrupted
            run.
    """

    num_predicted: int
    num_unreadable: int
    num_resumed: int


@dataclass(frozen=True)
class PredictionRequest:
    """Images and videos to predict.

    Attributes:
        paths: Files, folders and glob patterns.
        recursive: Whether to search subfolders.
        list_file: Path of a text file with additional paths, one per line.
        overwrite: Whether to start again if the output folder has an unfinished prediction.
    """

    paths: tuple[Path, ...]
    recursive: bool = False
    list_file: Path | None = None
    overwrite: bool = False


Runner = Callable[[Sequence[Unit], DoneBatches], Generator[BatchResult]]
"""Function that predicts units, except their finished batches, in any order."""


def predict_all(
    predictor: StreamPredictor,
    request: PredictionRequest,
    out: Path,
    *,
    settings: Mapping[str, Any],
    options: StreamOptions,
    runner: Runner | None = None,
    console: Console | None = None,
) -> StreamSummary:
    """Predict images and videos into a folder, and resume an interrupted prediction.

    Args:
        predictor: Predictor of the images.
        request: Images and videos to predict.
        out: Path of the output folder, created if needed; see `stream_journal` for its files.
        settings: Plain values, besides `options`, that determine the results; an unfinished
            prediction cannot be resumed with other values.
        options: Output options.
        runner: Function that predicts instead of this process, such as a cluster's; default: this
            process.
        console: Console for progress and notes.

    Raises:
        DataError: If there is no image, no image can be read, results cannot be written, or a
            head's name is not usable as a file name.
        RunError: If another process predicts into the folder, the folder has an unfinished
            prediction with other settings, or it has a model whose files could be overwritten.
    """
    _require_no_model(out)
    require_head_names(predictor.classes)
    console = console or Console(stderr=True)
    sources, num_skipped = find_sources(
        request.paths, recursive=request.recursive, list_file=request.list_file
    )
    if num_skipped:
        console.print(
            f"skipped (not an image): {Count(num_skipped):file or folder|files and folders}"
        )

    def predict_locally(units: Sequence[Unit], done_batches: DoneBatches) -> Generator[BatchResult]:
        return predict_units(units, predictor, out, options, done_batches=done_batches)

    plain = {key: value for key, value in asdict(options).items() if key != "threads"}
    input_settings = {
        "batch_size": predictor.batch_size,
        "sources": len(sources),
        "digest": compute_digest(sources),
    }
    with lock_folder(out):
        journal = StreamJournal(
            out, {**settings, **plain, **input_settings}, overwrite=request.overwrite
        )
        try:
            summary = _predict_sources(
                journal, sources, predictor, runner or predict_locally, options, console, out
            )
            journal.finish(predictor.categories)
        finally:
            journal.close()
    if summary.num_unreadable:
        console.print(
            f"skipped: {summary.num_unreadable} images, frames or videos that cannot be read "
            f"completely; they are listed in {out / BAD}",
            highlight=False,
            markup=False,
        )
    return summary


def _require_no_model(out: Path) -> None:
    for file, description in (
        ("recipe.yaml", "a run folder"),
        ("export.json", "an exported model"),
    ):
        if (out / file).is_file():
            raise RunError(
                f"{out} is {description}, and predictions could replace its files; choose another "
                f"--out, such as {out / 'predictions'}"
            )


def _predict_sources(
    journal: StreamJournal,
    sources: Sequence[Source],
    predictor: StreamPredictor,
    runner: Runner,
    options: StreamOptions,
    console: Console,
    out: Path,
) -> StreamSummary:
    num_resumed, done_batches = journal.num_predicted, journal.done_batches
    if done_batches:
        console.print(
            f"resuming in {out}: {Count(num_resumed):image or frame is|images and frames are} done",
            highlight=False,
            markup=False,
        )
    units = group_into_units(sources, predictor.batch_size)
    remaining = [unit for unit in units if unit.number not in journal.ended_units]
    with (
        _show_progress(console, sources, options.every, num_resumed) as advance,
        closing(runner(remaining, done_batches)) as results,
    ):
        for result in results:
            journal.add(result)
            advance(len(result.frames))
    if not journal.num_predicted:
        reason = journal.find_first_reason()
        journal.discard()  # the same command must read repaired files again
        if len(sources) == 1:
            raise DataError(reason)
        raise DataError(
            f"none of {len(sources)} images and videos can be read; the first problem: {reason}"
        )
    return StreamSummary(journal.num_predicted, journal.num_unreadable, num_resumed)


@contextmanager
def _show_progress(
    console: Console, sources: Sequence[Source], every: int, num_done: int
) -> Iterator[Callable[[int], None]]:
    """Show a progress bar over images and frames, and yield the function that advances it."""
    total, started, num_new = 0, time.monotonic(), 0
    if console.is_terminal:  # reading the lengths of many videos takes time
        total = sum(
            -(-count_announced_frames(s.path) // every) if s.is_video else 1 for s in sources
        )
    with track_progress(console, "Predicting", total, completed=num_done) as advance:

        def advance_frames(number: int) -> None:
            nonlocal num_new
            num_new += number
            rate = num_new / max(time.monotonic() - started, 1e-9)
            advance(number, f"{rate:.1f} images/s")

        yield advance_frames
