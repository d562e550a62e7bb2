"""Prefetching of images and frames: threads decode, a bounded queue keeps the order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.inference.predictor import Prepared
from resnet_tasks.inference.streaming.sources import Source, Unit
from resnet_tasks.inference.streaming.stream_journal import Key
from resnet_tasks.inference.streaming.stream_predictor import StreamPredictor
from resnet_tasks.inference.streaming.videos import read_frames

Item = TypeVar("Item")


@dataclass(frozen=True)
class LoadedFrame:
    """Image or video frame after reading, or the reason why it cannot be read.

    Attributes:
        source: Image or video file.
        image: Image, ready for prediction; None if it cannot be read.
        number: Number of the frame in its video; None for an image.
        seconds: Time since the beginning of the video, seconds; None for an image.
        reason: Reason why it cannot be read; empty if it can be read.
    """

    source: Source
    image: Prepared | None
    number: int | None = None
    seconds: float | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Name of its output files, without suffix."""
        return self.source.name if self.number is None else f"{self.source.name}/{self.number:06d}"


@dataclass(frozen=True)
class LoadedBatch:
    """Images and frames that are predicted together.

    Attributes:
        unit: Number of the unit.
        batch: Number of the batch in the unit.
        frames: Images or frames, in order.
        is_last: Whether this is the last batch of the unit.
        note: Problem of a video as a whole; empty if there is none.
        video: Path of the video file; empty for images.
    """

    unit: int
    batch: int
    frames: tuple[LoadedFrame, ...]
    is_last: bool
    note: str = ""
    video: str = ""


@dataclass(frozen=True)
class _PendingBatch:
    """Batch whose frames are still being read."""

    unit: int
    batch: int
    frames: tuple[Future[LoadedFrame], ...]
    is_last: bool
    note: str = ""
    video: str = ""


def prefetch_batches(
    units: Iterable[Unit],
    predictor: StreamPredictor,
    *,
    done_batches: Set[Key],
    every: int = 1,
    threads: int = 2,
    queue_size: int = 2,
) -> Generator[LoadedBatch]:
    """Read the batches of all units in order, ahead of the model.

    Args:
        units: Units that are not finished.
        predictor: Predictor that reads and prepares images.
        done_batches: Finished batches, as (unit, batch in the unit), which are skipped.
        every: Frame step; every n-th frame of a video is read.
        threads: Number of decoding threads.
        queue_size: Maximum number of batches held in memory, in addition to the one that was
            yielded last.

    Yields:
        Batches in the order of the units.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        planned = _plan_batches(units, predictor, pool, done_batches, every)
        with closing(_prefetch(planned, queue_size)) as stream:
            for pending_batch in stream:
                frames = tuple(future.result() for future in pending_batch.frames)
                yield LoadedBatch(
                    pending_batch.unit,
                    pending_batch.batch,
                    frames,
                    pending_batch.is_last,
                    pending_batch.note,
                    pending_batch.video,
                )


def _plan_batches(
    units: Iterable[Unit],
    predictor: StreamPredictor,
    pool: ThreadPoolExecutor,
    done_batches: Set[Key],
    every: int,
) -> Iterator[_PendingBatch]:
    """Yield batches whose reading has started; runs in its own thread, which decodes videos."""
    for unit in units:
        if unit.video is not None:
            yield from _plan_video(unit.number, unit.video, predictor, pool, done_batches, every)
            continue
        reading = tuple(pool.submit(_read_file, predictor, source) for source in unit.sources)
        yield _PendingBatch(unit.number, 0, reading, is_last=True)


def _plan_video(
    unit: int,
    video: Source,
    predictor: StreamPredictor,
    pool: ThreadPoolExecutor,
    done_batches: Set[Key],
    every: int,
) -> Iterator[_PendingBatch]:
    """Yield the batches of a video, followed by an empty batch that marks its end."""
    size, batch, note = predictor.batch_size, 0, ""
    frames: list[Future[LoadedFrame]] = []
    num_frames = 0
    video_frames = read_frames(
        video.path,
        every=every,
        channels=predictor.preparation.channels,
        is_requested=lambda i: (unit, i // size) not in done_batches,
        max_pixels=predictor.preparation.max_pixels,
    )
    try:
        for frame in video_frames:
            if frame.pixels is not None:
                frames.append(
                    pool.submit(
                        _read_frame, predictor, video, frame.number, frame.seconds, frame.pixels
                    )
                )
            num_frames += 1
            if num_frames % size == 0:
                if frames:
                    yield _PendingBatch(unit, batch, tuple(frames), is_last=False)
                batch, frames = batch + 1, []
    except DataError as error:
        note = str(error)
    if frames:
        yield _PendingBatch(unit, batch, tuple(frames), is_last=False)
    # After a resume, `frames` is empty if the last batch is finished already. An end marker with
    # the number `batch` would then replace that batch in the journal.
    yield _PendingBatch(unit, batch + 1, (), is_last=True, note=note, video=str(video.path))


def _read_file(predictor: StreamPredictor, source: Source) -> LoadedFrame:
    try:
        return LoadedFrame(source, predictor.read(source.path, str(source.path)))
    except DataError as error:
        return LoadedFrame(source, None, reason=str(error))


def _read_frame(
    predictor: StreamPredictor,
    video: Source,
    number: int,
    seconds: float | None,
    pixels: NDArray[Any],
) -> LoadedFrame:
    try:
        image = predictor.read(pixels, f"frame {number} of {video.path}")
    except DataError as error:
        return LoadedFrame(video, None, number, seconds, str(error))
    return LoadedFrame(video, image, number, seconds)


def _prefetch(items: Iterator[Item], queue_size: int) -> Generator[Item]:
    """Yield the items of an iterator that runs in a thread, at most `queue_size` of them ahead.

    An exception of the iterator is raised in place of its next item. When the generator is closed,
    the thread ends.
    """
    ready_queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(
        max(1, queue_size)
    )
    stopped = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            # The timeout lets the thread notice `stopped` while the queue is full.
            with suppress(queue.Full):
                ready_queue.put((item, error), timeout=0.1)
                return

    def fill() -> None:
        try:
            for value in items:
                put(value, None)
                if stopped.is_set():
                    return
            put(None, None)
        except BaseException as error:  # noqa: BLE001  # raised again in the reading thread
            put(None, error)

    thread = threading.Thread(target=fill, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready_queue.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
