"""The stream: pictures and frames are read ahead, predicted, drawn and written, batch by batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from resnet_tasks.errors import DataError, RunError
from resnet_tasks.in_use import in_use
from resnet_tasks.names import require_head_names
from resnet_tasks.prediction_files import PredictionWriter
from resnet_tasks.processors import usable_cores
from resnet_tasks.streaming.journal import BAD, BatchResult, FrameResult, Key, StreamJournal
from resnet_tasks.streaming.predictor import StreamPredictor
from resnet_tasks.streaming.reading import ReadBatch, ReadFrame, read_ahead
from resnet_tasks.streaming.sources import Source, Unit, digest, find_sources, units_of
from resnet_tasks.streaming.videos import announced_frames

WRITING = 2
"""Batches that may wait to be drawn and written while the model goes on."""


@dataclass(frozen=True)
class StreamOptions:
    """What is written, and how.

    Attributes:
        score: Detections and labels below are left out; None: see `PredictionWriter`.
        thresholds: Head -> least score of the detections of every label, in place of `score`.
        draw: Write drawings.
        every: Of videos every n-th frame.
        threads: That read, and as many that draw and write; None: what suits the machine.
    """

    score: float | None = None
    thresholds: Mapping[str, Sequence[float]] | None = None
    draw: bool = True
    every: int = 1
    threads: int | None = None


Done = frozenset[Key]
"""Batches that are done, each as (unit, number in it)."""


def predict_units(
    units: Iterable[Unit],
    predictor: StreamPredictor,
    out: Path,
    options: StreamOptions,
    *,
    done: Done = frozenset(),
) -> Generator[BatchResult]:
    """Predicts units; maps and drawings of a batch are written before its result comes.

    The one code path of a single process and of a cluster's.

    Args:
        units: In order.
        predictor: The model.
        out: Gets maps and drawings.
        options: What is written.
        done: Batches that are left out.
    """
    threads = options.threads or suited_threads()
    batches = read_ahead(
        units, predictor, done=done, every=options.every, threads=threads, ahead=WRITING
    )
    writing: deque[tuple[ReadBatch, list[Future[FrameResult]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="write") as pool:
        try:
            for batch in batches:
                predictions = _predicted(batch.frames, predictor)
                jobs = [
                    pool.submit(_written, frame, found, predictor, out, options)
                    for frame, found in zip(batch.frames, predictions, strict=True)
                ]
                writing.append((batch, jobs))
                while len(writing) > WRITING:
                    yield _finished(*writing.popleft())
            while writing:
                yield _finished(*writing.popleft())
        finally:
            batches.close()
            for _, jobs in writing:
                for job in jobs:
                    job.cancel()


def suited_threads() -> int:
    """As many as there are processors, two to eight: readers mostly leave Python's lock alone."""
    return max(2, min(8, usable_cores()))


def _finished(batch: ReadBatch, jobs: Sequence[Future[FrameResult]]) -> BatchResult:
    frames = tuple(job.result() for job in jobs)
    return BatchResult(
        batch.unit,
        batch.batch,
        frames,
        batch.is_last,
        batch.note,
        batch.video if batch.note else "",
    )


def _predicted(
    frames: Sequence[ReadFrame], predictor: StreamPredictor
) -> list[dict[str, Any] | str]:
    """Predictions of a batch; in the place of one that cannot be had, why."""
    pictures = [each.picture for each in frames if each.picture is not None]
    if not pictures:
        return [each.reason for each in frames]
    try:
        found: Iterator[dict[str, Any] | str] = iter(predictor.predict(pictures))
    except DataError as error:
        # Some files are read in parts, when they are predicted: which of them is it?
        is_known = len(pictures) == 1
        found = iter([str(error)] if is_known else [_alone(predictor, p) for p in pictures])
    return [each.reason if each.picture is None else next(found) for each in frames]


def _alone(predictor: StreamPredictor, picture: Any) -> dict[str, Any] | str:
    try:
        return predictor.predict([picture])[0]
    except DataError as error:
        return str(error)


def _written(
    frame: ReadFrame,
    found: dict[str, Any] | str,
    predictor: StreamPredictor,
    out: Path,
    options: StreamOptions,
) -> FrameResult:
    """Writes map and drawing of a frame; its other results."""
    about = (str(frame.source.path), frame.number, frame.seconds)
    if isinstance(found, str):
        return FrameResult(*about, reason=found)
    assert frame.picture is not None
    writer = PredictionWriter(
        out,
        predictor.classes,
        predictor.category_ids,
        least_score=options.score,
        thresholds=options.thresholds,
    )
    writer.write(0, frame.name, found)
    if options.draw:
        writer.draw(frame.name, frame.picture.drawable(), found, frame.picture.size)
    entries = {
        head: [{k: v for k, v in entry.items() if k != "image_id"} for entry in results]
        for head, results in writer.results.items()
    }
    return FrameResult(*about, frame.picture.size, entries)


@dataclass(frozen=True)
class Streamed:
    """What a stream has done.

    Attributes:
        good: Pictures and frames predicted.
        bad: Pictures, frames and videos that cannot be read (in part); listed.
        continued: Of the good ones, those of an earlier sitting.
    """

    good: int
    bad: int
    continued: int


@dataclass(frozen=True)
class Wanted:
    """What is to be predicted.

    Attributes:
        paths: Files, folders and patterns.
        recursive: Search folders below folders too.
        listed: A text file that names more, one on each line.
        overwrite: Begin anew where there is an unfinished prediction.
    """

    paths: tuple[Path, ...]
    recursive: bool = False
    listed: Path | None = None
    overwrite: bool = False


Runner = Callable[[Sequence[Unit], Done], Generator[BatchResult]]
"""Predicts units but for batches that are done; in any order."""


def predict_all(
    predictor: StreamPredictor,
    wanted: Wanted,
    out: Path,
    *,
    settings: Mapping[str, Any],
    options: StreamOptions,
    runner: Runner | None = None,
    console: Console | None = None,
) -> Streamed:
    """Predicts pictures and videos into a folder; goes on where an earlier sitting was stopped.

    Args:
        predictor: The model.
        wanted: What to predict.
        out: Is made; see `journal` for what is written.
        settings: What decides the results besides `options`, as plain values: a restart with others
            is refused.
        options: What is written.
        runner: Predicts in the place of `predictor` in this process, such as a cluster.
        console: For progress and notes.

    Raises:
        DataError: If there is no picture, none can be read, results cannot be written, or a head
            has a name that they cannot be written under.
        RunError: If another process predicts into the folder, an unfinished prediction in it was
            made otherwise, or it holds a model, whose files those of a head could replace.
    """
    _require_no_model(out)
    require_head_names(predictor.classes)
    console = console or Console(stderr=True)
    sources, others = find_sources(wanted.paths, recursive=wanted.recursive, listed=wanted.listed)
    if others:
        console.print(f"left out: {others} files and folders that are no pictures")

    def here(units: Sequence[Unit], done: Done) -> Generator[BatchResult]:
        return predict_units(units, predictor, out, options, done=done)

    plain = {key: value for key, value in asdict(options).items() if key != "threads"}
    about = {"batch_size": predictor.batch_size, "sources": len(sources), "digest": digest(sources)}
    with in_use(out):
        journal = StreamJournal(out, {**settings, **plain, **about}, overwrite=wanted.overwrite)
        try:
            streamed = _all(journal, sources, predictor, runner or here, options, console, out)
            journal.finish(predictor.categories)
        finally:
            journal.close()
    if streamed.bad:
        console.print(
            f"left out: {streamed.bad} that cannot be read (in part), listed in {out / BAD}",
            highlight=False,
            markup=False,
        )
    return streamed


def _require_no_model(out: Path) -> None:
    for file, what in (("recipe.yaml", "a run folder"), ("export.json", "an exported model")):
        if (out / file).is_file():
            raise RunError(
                f"{out} is {what}, and predictions could replace its files; choose another --out, "
                f"such as {out / 'predictions'}"
            )


def _all(
    journal: StreamJournal,
    sources: Sequence[Source],
    predictor: StreamPredictor,
    runner: Runner,
    options: StreamOptions,
    console: Console,
    out: Path,
) -> Streamed:
    continued, done = journal.good, journal.done
    if done:
        console.print(
            f"going on in {out}: {continued} pictures and frames are done",
            highlight=False,
            markup=False,
        )
    units = units_of(sources, predictor.batch_size)
    left = [each for each in units if each.number not in journal.ended]
    with (
        _progress(console, sources, options.every, continued) as advance,
        closing(runner(left, done)) as results,
    ):
        for result in results:
            journal.add(result)
            advance(len(result.frames))
    if not journal.good:
        reason = journal.first_reason()
        journal.discard()  # once they are mended, the same command shall read them again
        if len(sources) == 1:
            raise DataError(reason)
        raise DataError(
            f"none of {len(sources)} pictures and videos can be read; the first: {reason}"
        )
    return Streamed(journal.good, journal.bad, continued)


@contextmanager
def _progress(
    console: Console, sources: Sequence[Source], every: int, done: int
) -> Iterator[Callable[[int], None]]:
    """A bar over pictures and frames; gives the function that advances it."""
    if not console.is_terminal:
        yield lambda _: None
        return
    total = sum(-(-announced_frames(s.path) // every) if s.is_video else 1 for s in sources)
    columns = (
        SpinnerColumn(),
        TextColumn("Predicting"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} pictures/s"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, completed=done, rate=0.0)
        started, seen = time.monotonic(), 0

        def advance(number: int) -> None:
            nonlocal seen
            seen += number
            rate = seen / max(time.monotonic() - started, 1e-9)
            bar.update(task, advance=number, rate=rate)

        yield advance
